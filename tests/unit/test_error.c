/* Errors: one sentence, one exit code. */
#include "support.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"

static char long_text[2 * ERROR_TEXT_MAX];

static int fill_long_text(void **state)
{
	(void)state;
	memset(long_text, 'x', sizeof(long_text) - 1);
	return 0;
}

static void set_keeps_code_and_sentence_and_returns_minus_one(void **state)
{
	struct error err = {0};

	(void)state;
	assert_int_equal(error_set(&err, EXIT_CONFIG, "port %d is %s", 7, "taken"), -1);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_string_equal(err.text, "port 7 is taken");
}

static void errno_gets_its_sentence_behind_and_stays(void **state)
{
	struct error err = {0};

	(void)state;
	errno = ENOENT;
	assert_int_equal(error_errno(&err, "cannot open %s", "x"), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(err.code, EXIT_FAILED);
	assert_string_equal(err.text, "cannot open x: No such file or directory");
}

static void a_refused_permission_has_its_own_exit_code(void **state)
{
	const int refusals[] = {EACCES, EPERM};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(refusals); i++) {
		struct error err = {0};

		errno = refusals[i];
		error_errno(&err, "no");
		assert_int_equal(err.code, EXIT_PERMISSION);
	}
}

static void a_prefix_goes_in_front_and_leaves_the_code(void **state)
{
	struct error err = {0};

	(void)state;
	error_set(&err, EXIT_USAGE, "it is wrong");
	assert_int_equal(error_prefix(&err, "option %c: ", 'p'), -1);
	assert_int_equal(err.code, EXIT_USAGE);
	assert_string_equal(err.text, "option p: it is wrong");
}

static void texts_that_do_not_fit_are_cut(void **state)
{
	struct error err = {0};

	(void)state;
	error_set(&err, EXIT_FAILED, "%s", long_text);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	errno = EIO;
	error_errno(&err, "%s", long_text);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	error_prefix(&err, "%s", long_text);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
}

static void a_full_text_takes_a_prefix_and_loses_its_end(void **state)
{
	struct error err = {0};

	(void)state;
	error_set(&err, EXIT_FAILED, "%s", long_text);
	error_prefix(&err, "front: ");
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	assert_memory_equal(err.text, "front: xxx", 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_keeps_code_and_sentence_and_returns_minus_one),
		cmocka_unit_test(errno_gets_its_sentence_behind_and_stays),
		cmocka_unit_test(a_refused_permission_has_its_own_exit_code),
		cmocka_unit_test(a_prefix_goes_in_front_and_leaves_the_code),
		cmocka_unit_test(texts_that_do_not_fit_are_cut),
		cmocka_unit_test(a_full_text_takes_a_prefix_and_loses_its_end),
	};

	support_limit_time(30);
	return cmocka_run_group_tests(tests, fill_long_text, NULL);
}
