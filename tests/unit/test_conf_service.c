/* Programs that no file names, and when two programs are the very same. */
#include "support.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "conf/keys.h"

static char shell[] = "/bin/sh", option[] = "-c", commas[] = "a,b", no_such[] = "/no/such";
static char *const words[] = {shell, option, commas, NULL};
static char *const missing[] = {no_such, NULL};

static struct conf_service *make(const char *user, const char *restart)
{
	struct error err = {0};
	struct conf_service *service = conf_program_new("p", words, user, restart, true, &err);

	if (service == NULL)
		fail_msg("%s", err.text);
	return service;
}

static void assert_refused(const char *name, char *const *command, const char *user,
			   const char *restart, bool check, const char *text)
{
	struct error err = {0};

	assert_null(conf_program_new(name, command, user, restart, check, &err));
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, text);
}

/* ---- A program that no file names ----------------------------------------------------------- */

static void a_new_program_has_the_defaults_of_a_file(void **state)
{
	struct conf_service *service = make(NULL, NULL);

	(void)state;
	assert_true(conf_is_program(service));
	assert_string_equal(service->name, "p");
	assert_string_equal(service->where, "echod add");
	assert_string_equal(service->command[0], "/bin/sh");
	assert_string_equal(service->command[2], "a,b");
	assert_null(service->command[3]);
	assert_null(service->user);
	assert_null(service->group);
	assert_true(service->nice == CONF_NICE_GLOBAL);
	assert_null(service->environment);
	assert_string_equal(service->directory, "/");
	assert_int_equal(service->umask, 022);
	assert_string_equal(service->restart, "always");
	assert_int_equal(service->stop_signal, SIGTERM);
	assert_int_equal(service->stop_timeout, 10000);
	assert_int_equal(service->listen_count, 0);
	conf_service_free(service);
	conf_service_free(NULL);
}

static void a_new_program_has_its_user_and_its_restart(void **state)
{
	struct conf_service *service = make("root", "never");

	(void)state;
	assert_string_equal(service->user, "root");
	assert_string_equal(service->restart, "never");
	conf_service_free(service);
}

static void a_new_program_is_checked_as_in_a_file(void **state)
{
	char *const none[] = {NULL};
	char *const relative[] = {shell + 5, NULL};

	(void)state;
	for (int check = 0; check < 2; check++) {
		assert_refused("a b", words, NULL, NULL, check, "the name 'a b'");
		assert_refused("", words, NULL, NULL, check, "name is empty");
		assert_refused("p", none, NULL, NULL, check, "command is empty");
		assert_refused("p", NULL, NULL, NULL, check, "command is empty");
		assert_refused("p", relative, NULL, NULL, check, "must be an absolute path");
		assert_refused("p", words, "", NULL, check, "user is empty");
		assert_refused("p", words, NULL, "sometimes", check, "restart 'sometimes'");
	}
	assert_refused("p", missing, NULL, NULL, true, "the command '/no/such' cannot be executed");
	assert_refused("p", words, "no-such-user", NULL, true, "there is no user 'no-such-user'");
}

static void what_has_vanished_is_not_looked_for_without_the_check(void **state)
{
	struct error err = {0};
	struct conf_service *service =
		conf_program_new("p", missing, "no-such-user", "never", false, &err);

	(void)state;
	assert_non_null(service);
	assert_string_equal(service->command[0], "/no/such");
	assert_string_equal(service->user, "no-such-user");
	conf_service_free(service);
}

/* ---- Equal programs ------------------------------------------------------------------------- */

static void set(struct conf_service *service, const char *name, const char *value)
{
	struct error err = {0};

	if (conf_key_set_text(conf_key_find(KEY_SERVICE, name), service, value, &err) < 0)
		fail_msg("%s", err.text);
}

static void programs_with_the_same_settings_are_equal(void **state)
{
	struct conf_service *a = make("nobody", "never"), *b = make("nobody", "never");

	(void)state;
	assert_true(conf_program_equal(a, b));
	assert_true(conf_program_equal(a, a));
	set(a, "environment", "A=1,B=2");
	set(b, "environment", "A=1,B=2");
	assert_true(conf_program_equal(a, b));
	conf_service_free(a);
	conf_service_free(b);
}

static void every_setting_of_programs_makes_a_difference(void **state)
{
	static const char *const other[][2] = {
		{"name", "q"},		{"user", "nobody"},
		{"group", "daemon"},	{"nice", "0"},
		{"command", "/bin/sh"}, {"command", "/bin/sh,-c,a,b,c"},
		{"environment", "A=1"}, {"directory", "/etc"},
		{"umask", "0"},		{"restart", "on-failure"},
		{"stop_signal", "INT"}, {"stop_timeout", "11"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(other); i++) {
		struct conf_service *a = make(NULL, NULL), *b = make(NULL, NULL);

		set(b, other[i][0], other[i][1]);
		if (conf_program_equal(a, b) || conf_program_equal(b, a))
			fail_msg("%s makes no difference", other[i][0]);
		conf_service_free(a);
		conf_service_free(b);
	}
	/* None was forgotten above. */
	for (size_t i = 0; i < conf_key_count; i++) {
		bool listed = conf_keys[i].section != KEY_SERVICE ||
			      conf_keys[i].whom == KEY_FOR_PROTOCOL;

		for (size_t k = 0; k < COUNT_OF(other); k++)
			listed |= strcmp(other[k][0], conf_keys[i].name) == 0;
		if (!listed)
			fail_msg("%s is not tested", conf_keys[i].name);
	}
}

static void a_value_of_a_list_and_its_order_make_a_difference(void **state)
{
	struct conf_service *a = make(NULL, NULL), *b = make(NULL, NULL);

	(void)state;
	set(a, "environment", "A=1,B=2");
	set(b, "environment", "A=1,B=3");
	assert_false(conf_program_equal(a, b));
	set(b, "environment", "B=2,A=1");
	assert_false(conf_program_equal(a, b));
	set(b, "environment", "A=1");
	assert_false(conf_program_equal(a, b));
	conf_service_free(a);
	conf_service_free(b);
}

static void what_is_not_of_programs_makes_no_difference(void **state)
{
	struct conf_service *a = make(NULL, NULL), *b = make(NULL, NULL);

	(void)state;
	set(a, "protocol", "echo");
	set(a, "listen", "*:7");
	set(a, "workers", "9");
	set(a, "nodelay", "false");
	free(a->where);
	a->where = strdup("echod.conf:3");
	assert_true(conf_program_equal(a, b));
	/* An empty list, as in [ ], is the same as none. */
	set(a, "environment", "A=1");
	conf_key_clear(conf_key_find(KEY_SERVICE, "environment"), a);
	assert_true(conf_program_equal(a, b));
	assert_true(conf_program_equal(b, a));
	conf_service_free(a);
	conf_service_free(b);
}

static void what_is_no_program_equals_nothing(void **state)
{
	struct conf_service *a = make(NULL, NULL);
	struct conf_service speaker;

	(void)state;
	assert_int_equal(conf_service_init(&speaker, "here"), 0);
	assert_false(conf_program_equal(NULL, NULL));
	assert_false(conf_program_equal(a, NULL));
	assert_false(conf_program_equal(NULL, a));
	assert_false(conf_program_equal(a, &speaker));
	assert_false(conf_program_equal(&speaker, &speaker));
	conf_service_clear(&speaker);
	conf_service_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_program_has_the_defaults_of_a_file),
		cmocka_unit_test(a_new_program_has_its_user_and_its_restart),
		cmocka_unit_test(a_new_program_is_checked_as_in_a_file),
		cmocka_unit_test(what_has_vanished_is_not_looked_for_without_the_check),
		cmocka_unit_test(programs_with_the_same_settings_are_equal),
		cmocka_unit_test(every_setting_of_programs_makes_a_difference),
		cmocka_unit_test(a_value_of_a_list_and_its_order_make_a_difference),
		cmocka_unit_test(what_is_not_of_programs_makes_no_difference),
		cmocka_unit_test(what_is_no_program_equals_nothing),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
