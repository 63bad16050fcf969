/* Messages on their way to a target. */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static int capture(void **state)
{
	(void)state;
	support_log_capture();
	log_set_level(LOG_LEVEL_NOTICE);
	return 0;
}

static int let_go(void **state)
{
	(void)state;
	log_set_output(NULL);
	log_copy_to_stderr(false);
	return 0;
}

/* ---- Levels --------------------------------------------------------------------------------- */

static void less_severe_messages_than_the_level_are_dropped(void **state)
{
	(void)state;
	log_error("an error");
	log_notice("a notice");
	log_info("an info");
	assert_string_equal(support_log_text(), "an error\na notice\n");
	log_set_level(LOG_LEVEL_INFO);
	log_info("another");
	log_debug("a detail");
	assert_string_equal(support_log_text(), "an error\na notice\nanother\n");
}

static int count_calls(int *calls)
{
	return ++*calls;
}

static void the_arguments_of_a_level_that_is_off_are_not_evaluated(void **state)
{
	int calls = 0;

	(void)state;
	log_debug("%d", count_calls(&calls));
	assert_int_equal(calls, 0);
	log_warning("%d", count_calls(&calls));
	assert_int_equal(calls, 1);
}

static void level_names_go_both_ways(void **state)
{
	(void)state;
	for (int level = LOG_LEVEL_CRITICAL; level <= LOG_LEVEL_DEBUG; level++)
		assert_int_equal(log_level_parse(log_level_name((enum log_level)level)), level);
	assert_int_equal(log_level_parse("warn"), -1);
	assert_int_equal(log_level_parse(""), -1);
}

/* ---- Lines ---------------------------------------------------------------------------------- */

static void a_message_cannot_forge_a_second_line(void **state)
{
	(void)state;
	log_notice("name is %s", "x\nechod[1]: all is well\x1b[2J");
	assert_string_equal(support_log_text(), "name is x\\x0aechod[1]: all is well\\x1b[2J\n");
}

static void a_long_message_is_cut(void **state)
{
	char text[3 * LOG_LINE_MAX];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	log_notice("%s", text);
	assert_int_equal(strlen(support_log_text()), LOG_LINE_MAX - 1 + 1);
	capture(NULL);
	memset(text, '\n', sizeof(text) - 1);
	log_notice("%s", text);
	assert_in_range(strlen(support_log_text()), LOG_LINE_MAX - 4, LOG_LINE_MAX);
}

static void break_errno(enum log_level level, const char *line, size_t len)
{
	(void)level;
	(void)line;
	(void)len;
	errno = EXDEV;
}

static void errno_is_the_same_after_logging(void **state)
{
	static const struct log_output breaker = {break_errno, break_errno};

	(void)state;
	log_set_output(&breaker);
	errno = ENOENT;
	log_write(LOG_LEVEL_ERROR, "one");
	assert_int_equal(errno, ENOENT);
	log_write_quietly(LOG_LEVEL_ERROR, "two");
	assert_int_equal(errno, ENOENT);
	log_write_in_signal(LOG_LEVEL_ERROR, "three", 5);
	assert_int_equal(errno, ENOENT);
}

static void percent_m_is_the_error_of_the_caller(void **state)
{
	(void)state;
	errno = ENOENT;
	log_error("failed: %m");
	assert_string_equal(support_log_text(), "failed: No such file or directory\n");
}

static void without_an_output_nothing_happens(void **state)
{
	(void)state;
	log_set_output(NULL);
	log_error("nobody hears it");
	log_write_in_signal(LOG_LEVEL_CRITICAL, "nor this", 8);
	assert_string_equal(support_log_text(), "");
}

static void a_signal_handler_s_line_goes_to_the_same_output(void **state)
{
	(void)state;
	log_write_in_signal(LOG_LEVEL_CRITICAL, "killed by signal 11", 19);
	assert_string_equal(support_log_text(), "killed by signal 11\n");
}

/* ---- The launching terminal ----------------------------------------------------------------- */

static int log_to_stderr(void *arg)
{
	if (dup2(*(int *)arg, STDERR_FILENO) < 0)
		return 1;
	log_copy_to_stderr(true);
	log_notice("a notice\n");
	log_set_level(LOG_LEVEL_INFO);
	log_info("an info");
	log_write_quietly(LOG_LEVEL_ERROR, "a quiet error");
	log_copy_to_stderr(false);
	log_error("a late error");
	return 0;
}

static void before_ready_notices_and_worse_also_reach_stderr(void **state)
{
	char text[256] = "";
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(support_in_child(log_to_stderr, &ends[1]), 0);
	close(ends[1]);
	assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
	close(ends[0]);
	assert_string_equal(text, "echod: a notice\\x0a\n");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, capture, let_go)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(less_severe_messages_than_the_level_are_dropped),
		TEST(the_arguments_of_a_level_that_is_off_are_not_evaluated),
		TEST(level_names_go_both_ways),
		TEST(a_message_cannot_forge_a_second_line),
		TEST(a_long_message_is_cut),
		TEST(errno_is_the_same_after_logging),
		TEST(percent_m_is_the_error_of_the_caller),
		TEST(without_an_output_nothing_happens),
		TEST(a_signal_handler_s_line_goes_to_the_same_output),
		TEST(before_ready_notices_and_worse_also_reach_stderr),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
