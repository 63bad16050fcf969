/* The environment of the daemon. In children: each has its own. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/environment.h"

static const char *const kept[] = {
	"PATH",		 "TZ", "LANG", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "JOURNAL_STREAM",
	"ECHOD_HANDOVER"};

static size_t count(void)
{
	size_t n = 0;

	while (environ != NULL && environ[n] != NULL)
		n++;
	return n;
}

static bool is(const char *name, const char *value)
{
	const char *found = getenv(name);

	return found != NULL && strcmp(found, value) == 0;
}

static int clean_many(void *arg)
{
	static const char *const dropped[] = {"LD_PRELOAD", "HOME", "IFS", "LD_LIBRARY_PATH",
					      "PATHX"};
	char value[32];

	(void)arg;
	clearenv();
	for (size_t i = 0; i < COUNT_OF(kept); i++) {
		snprintf(value, sizeof(value), "value %zu", i);
		setenv(kept[i], value, 1);
	}
	for (size_t i = 0; i < COUNT_OF(dropped); i++)
		setenv(dropped[i], "evil", 1);
	environment_clean();
	for (size_t i = 0; i < COUNT_OF(kept); i++) {
		snprintf(value, sizeof(value), "value %zu", i);
		CHILD_CHECK(is(kept[i], value));
	}
	for (size_t i = 0; i < COUNT_OF(dropped); i++)
		CHILD_CHECK(getenv(dropped[i]) == NULL);
	CHILD_CHECK(count() == COUNT_OF(kept));
	return 0;
}

static void only_the_names_on_the_list_survive_with_their_values(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(clean_many, NULL), 0);
}

static int clean_without_path(void *arg)
{
	(void)arg;
	clearenv();
	setenv("HOME", "/root", 1);
	environment_clean();
	CHILD_CHECK(count() == 1);
	CHILD_CHECK(is("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
	return 0;
}

static void without_a_path_a_sane_one_is_set(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(clean_without_path, NULL), 0);
}

static int clean_raw(void *arg)
{
	/* What execve hands over need not be tidy. */
	static char no_equals[] = "PATH", empty[] = "", twice[] = "TZ=a", again[] = "TZ=b";
	static char *raw[] = {no_equals, empty, twice, again, NULL};

	(void)arg;
	environ = raw;
	environment_clean();
	CHILD_CHECK(is("TZ", "a"));
	CHILD_CHECK(getenv("PATH") != NULL);
	CHILD_CHECK(count() == 2);
	return 0;
}

static void an_untidy_environment_becomes_a_tidy_one(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(clean_raw, NULL), 0);
}

static int clean_secret(void *arg)
{
	static char secret[] = "PASSWORD=swordfish", path[] = "PATH=/bin";
	static char *raw[] = {secret, path, NULL};

	(void)arg;
	environ = raw;
	environment_clean();
	CHILD_CHECK(is("PATH", "/bin"));
	for (size_t i = 0; i < sizeof(secret); i++)
		CHILD_CHECK(secret[i] == '\0');
	return 0;
}

static void what_is_dropped_is_wiped_from_memory(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(clean_secret, NULL), 0);
}

static int clean_nothing(void *arg)
{
	(void)arg;
	clearenv();
	environment_clean();
	CHILD_CHECK(count() == 1);
	return 0;
}

static void no_environment_at_all_will_do(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(clean_nothing, NULL), 0);
}

static int clean_empty_values(void *arg)
{
	(void)arg;
	clearenv();
	setenv("PATH", "", 1);
	setenv("TZ", "", 1);
	environment_clean();
	CHILD_CHECK(is("PATH", "") && is("TZ", ""));
	return 0;
}

static void an_empty_value_is_a_value(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(clean_empty_values, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_the_names_on_the_list_survive_with_their_values),
		cmocka_unit_test(without_a_path_a_sane_one_is_set),
		cmocka_unit_test(an_untidy_environment_becomes_a_tidy_one),
		cmocka_unit_test(what_is_dropped_is_wiped_from_memory),
		cmocka_unit_test(no_environment_at_all_will_do),
		cmocka_unit_test(an_empty_value_is_a_value),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
