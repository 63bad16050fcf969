/* The one table of all settings. */
#include "support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/logtarget.h"
#include "conf/keys.h"
#include "serve/proto.h"

union sections {
	struct conf global;
	struct conf_log log;
	struct conf_service service;
};

static const struct conf_key *key_of(enum key_section section, const char *name)
{
	const struct conf_key *key = conf_key_find(section, name);

	if (key == NULL)
		fail_msg("there is no key '%s'", name);
	return key;
}

static void assert_refused(const struct conf_key *key, void *base, const char *value,
			   const char *text)
{
	struct error err = {0};

	if (conf_key_set_text(key, base, value, &err) != -1)
		fail_msg("%s = '%s' is taken", key->name, value);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, text);
}

static void assert_set(const struct conf_key *key, void *base, const char *value)
{
	struct error err = {0};

	if (conf_key_set_text(key, base, value, &err) != 0)
		fail_msg("%s = '%s': %s", key->name, value, err.text);
}

/* ---- The table ------------------------------------------------------------------------------ */

static void every_key_has_a_sentence_and_a_default_in_one_way(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];
		size_t len = strlen(key->sentence);

		if (len < 10 || key->sentence[len - 1] != '.' ||
		    strchr(key->sentence, '\n') != NULL)
			fail_msg("the sentence of %s is none: '%s'", key->name, key->sentence);
		if ((key->initial == NULL) == (key->initial_said == NULL))
			fail_msg("%s needs a default, or words that say it", key->name);
	}
}

static void every_key_stands_once_in_its_section(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_key_count; i++) {
		assert_true(conf_keys[i].section < KEY_SECTIONS);
		assert_ptr_equal(conf_key_find(conf_keys[i].section, conf_keys[i].name),
				 &conf_keys[i]);
		for (size_t k = 0; k < i; k++)
			if (conf_keys[i].type != KEY_LISTEN && conf_keys[k].type != KEY_LISTEN &&
			    conf_keys[i].section == conf_keys[k].section)
				assert_int_not_equal(conf_keys[i].offset, conf_keys[k].offset);
	}
}

static void every_number_has_a_range_with_its_default_inside(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];
		union sections base = {0};

		if (!conf_key_is_number(key))
			continue;
		assert_true(key->min < key->max);
		/* The range is checked on the way. */
		if (key->initial != NULL)
			assert_set(key, &base, key->initial);
		else
			assert_string_equal(key->name, "nice");
	}
}

static void only_services_have_settings_for_one_kind(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];

		if (key->section != KEY_SERVICE)
			assert_int_equal(key->whom, KEY_FOR_ANY);
		/* The printed defaults stand in one list: there, this tells them apart. */
		if ((strncmp(key->sentence, "Programs: ", 10) == 0) !=
		    (key->whom == KEY_FOR_PROGRAM))
			fail_msg("the sentence of %s does not say for whom it is", key->name);
	}
}

static void every_choice_has_its_list_and_its_default_in_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];
		union sections base = {0};

		assert_int_equal(key->type == KEY_CHOICE, key->choices != NULL);
		if (key->type != KEY_CHOICE)
			continue;
		assert_set(key, &base, key->initial);
		free(*(char **)((char *)&base + key->offset));
	}
}

static void every_protocol_level_and_facility_that_can_be_chosen_exists(void **state)
{
	const struct conf_key *protocol = key_of(KEY_SERVICE, "protocol");
	const struct conf_key *level = key_of(KEY_LOG, "level");
	const struct conf_key *facility = key_of(KEY_LOG, "facility");

	(void)state;
	for (const char *const *choice = protocol->choices; *choice != NULL; choice++)
		if (proto_find(*choice) == NULL)
			fail_msg("there is no protocol %s", *choice);
	for (const char *const *choice = level->choices; *choice != NULL; choice++)
		if (log_level_parse(*choice) < 0)
			fail_msg("there is no level %s", *choice);
	for (const char *const *choice = facility->choices; *choice != NULL; choice++)
		if (logtarget_facility(*choice) < 0)
			fail_msg("there is no facility %s", *choice);
}

static void all_defaults_can_be_set_and_freed(void **state)
{
	(void)state;
	for (int section = 0; section < KEY_SECTIONS; section++) {
		union sections base = {0};

		assert_int_equal(conf_keys_set_defaults((enum key_section)section, &base), 0);
		if (section == KEY_SERVICE) {
			assert_string_equal(base.service.protocol, "line");
			assert_int_equal(base.service.max_lines, 1);
			assert_int_equal(base.service.max_line, 65536);
			assert_int_equal(base.service.limits.max_pending, 256 * 1024);
			assert_int_equal(base.service.limits.idle_timeout, 300000);
			assert_true(base.service.nodelay);
			assert_null(base.service.user);
			assert_null(base.service.group);
			assert_true(base.service.nice == CONF_NICE_GLOBAL);
			assert_null(base.service.command);
			assert_null(base.service.environment);
			assert_string_equal(base.service.directory, "/");
			assert_int_equal(base.service.umask, 022);
			assert_string_equal(base.service.restart, "always");
			assert_int_equal(base.service.stop_signal, SIGTERM);
			assert_int_equal(base.service.stop_timeout, 10000);
		}
		if (section == KEY_GLOBAL)
			assert_int_equal(base.global.watchdog, 10000);
		conf_keys_free((enum key_section)section, &base);
	}
}

/* ---- Finding -------------------------------------------------------------------------------- */

static void a_key_is_known_in_its_own_section_only(void **state)
{
	(void)state;
	assert_non_null(conf_key_find(KEY_GLOBAL, "nice"));
	assert_null(conf_key_find(KEY_LOG, "nice"));
	assert_null(conf_key_find(KEY_SERVICE, "watchdog"));
	assert_ptr_not_equal(conf_key_find(KEY_SERVICE, "nice"), conf_key_find(KEY_GLOBAL, "nice"));
	assert_null(conf_key_find(KEY_GLOBAL, "Nice"));
	assert_null(conf_key_find(KEY_GLOBAL, ""));
}

static void a_misspelt_key_has_its_nearest_of_the_section(void **state)
{
	(void)state;
	assert_string_equal(conf_key_nearest(KEY_SERVICE, "maxlines"), "max_lines");
	assert_string_equal(conf_key_nearest(KEY_SERVICE, "max_lin"), "max_line");
	assert_string_equal(conf_key_nearest(KEY_SERVICE, "idletimeout"), "idle_timeout");
	assert_string_equal(conf_key_nearest(KEY_GLOBAL, "pid_file"), "pidfile");
	assert_string_equal(conf_key_nearest(KEY_LOG, "levle"), "level");
	assert_null(conf_key_nearest(KEY_LOG, "max_lines"));
	assert_null(conf_key_nearest(KEY_GLOBAL, "colour"));
}

/* ---- Setting -------------------------------------------------------------------------------- */

static void times_sizes_and_numbers_are_stored_in_their_units(void **state)
{
	union sections base = {0};

	(void)state;
	assert_set(key_of(KEY_SERVICE, "idle_timeout"), &base, "90");
	assert_int_equal(base.service.limits.idle_timeout, 90000);
	assert_set(key_of(KEY_SERVICE, "idle_timeout"), &base, "500ms");
	assert_int_equal(base.service.limits.idle_timeout, 500);
	assert_set(key_of(KEY_SERVICE, "max_line"), &base, "1M");
	assert_int_equal(base.service.max_line, 1048576);
	assert_set(key_of(KEY_SERVICE, "workers"), &base, "4");
	assert_int_equal(base.service.workers, 4);
	assert_set(key_of(KEY_SERVICE, "nodelay"), &base, "true");
	assert_true(base.service.nodelay);
	assert_set(key_of(KEY_SERVICE, "nodelay"), &base, "false");
	assert_false(base.service.nodelay);
}

static void both_ends_of_a_range_belong_to_it(void **state)
{
	const struct conf_key *nice = key_of(KEY_GLOBAL, "nice");
	struct conf conf = {0};
	struct error err = {0};

	(void)state;
	assert_set(nice, &conf, "-20");
	assert_int_equal(conf.nice, -20);
	assert_set(nice, &conf, "19");
	assert_refused(nice, &conf, "20", "nice must be between -20 and 19, not 20");
	assert_refused(nice, &conf, "-21", "not -21");
	assert_int_equal(conf_key_set_number(nice, &conf, 20, &err), -1);
	assert_int_equal(conf.nice, 19);
	assert_int_equal(conf_key_set_number(nice, &conf, 7, &err), 0);
	assert_int_equal(conf.nice, 7);
}

static void a_range_is_said_in_the_unit_of_the_key(void **state)
{
	union sections base = {0};

	(void)state;
	assert_refused(key_of(KEY_SERVICE, "max_line"), &base, "17M",
		       "max_line must be between 2 and 16M, not 17M");
	assert_refused(key_of(KEY_SERVICE, "idle_timeout"), &base, "366d",
		       "between 0 and 365d, not 366d");
	assert_refused(key_of(KEY_GLOBAL, "start_timeout"), &base, "99ms",
		       "between 100ms and 10m, not 99ms");
	assert_refused(key_of(KEY_SERVICE, "max_lines"), &base, "-1",
		       "max_lines must be at least 0, not -1");
}

static void a_plain_number_for_a_time_is_seconds_and_never_wraps(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "idle_timeout");
	const int64_t wrong[] = {-1, INT64_MAX, INT64_MIN, INT64_MAX / 1000 + 1, 31536001};
	struct conf_service service = {0};
	struct error err = {0};

	(void)state;
	assert_int_equal(conf_key_set_number(key, &service, 5, &err), 0);
	assert_int_equal(service.limits.idle_timeout, 5000);
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		assert_int_equal(conf_key_set_number(key, &service, wrong[i], &err), -1);
		assert_int_equal(err.code, EXIT_CONFIG);
	}
	assert_int_equal(service.limits.idle_timeout, 5000);
}

static void what_is_no_value_of_the_type_is_said(void **state)
{
	union sections base = {0};

	(void)state;
	assert_refused(key_of(KEY_SERVICE, "idle_timeout"), &base, "soon", "'soon' is not a time");
	assert_refused(key_of(KEY_SERVICE, "max_line"), &base, "large", "'large' is not a size");
	assert_refused(key_of(KEY_SERVICE, "workers"), &base, "4k", "'4k' is not a whole number");
	assert_refused(key_of(KEY_SERVICE, "nodelay"), &base, "yes",
		       "must be true or false, not 'yes'");
	assert_refused(key_of(KEY_GLOBAL, "pidfile"), &base, "echod.pid",
		       "must be an absolute path");
	assert_refused(key_of(KEY_GLOBAL, "pidfile"), &base, "", "pidfile is empty");
	assert_refused(key_of(KEY_SERVICE, "protocol"), &base, "lien", "did you mean 'line'?");
	assert_refused(key_of(KEY_SERVICE, "protocol"), &base, "http", "it is one of line, echo");
	assert_refused(key_of(KEY_LOG, "facility"), &base, "zzzzzzzz", "local6, local7");
}

static void a_time_that_can_be_off_is_nothing_or_in_its_range(void **state)
{
	const struct conf_key *key = key_of(KEY_GLOBAL, "watchdog");
	struct conf conf = {0};
	struct error err = {0};

	(void)state;
	assert_set(key, &conf, "1");
	assert_int_equal(conf.watchdog, 1000);
	assert_set(key, &conf, "1d");
	assert_int_equal(conf.watchdog, 86400000);
	assert_set(key, &conf, "0");
	assert_int_equal(conf.watchdog, 0);
	assert_int_equal(conf_key_set_number(key, &conf, 5, &err), 0);
	assert_int_equal(conf.watchdog, 5000);
	assert_refused(key, &conf, "999ms",
		       "watchdog must be 0 (off) or between 1 and 1d, not 999ms");
	assert_refused(key, &conf, "86401", "not 86401s");
	assert_refused(key, &conf, "-1", "'-1' is not a time");
	assert_int_equal(conf_key_set_number(key, &conf, -1, &err), -1);
	assert_int_equal(conf.watchdog, 5000);
}

static void a_mode_is_octal(void **state)
{
	static const char *const wrong[] = {"", "8", "0o22", "-1", "u=rw", " 22", "22 ", "0x12"};
	const struct conf_key *key = key_of(KEY_SERVICE, "umask");
	struct conf_service service = {0};

	(void)state;
	assert_set(key, &service, "022");
	assert_int_equal(service.umask, 18);
	assert_set(key, &service, "77");
	assert_int_equal(service.umask, 077);
	assert_set(key, &service, "0");
	assert_int_equal(service.umask, 0);
	assert_set(key, &service, "0777");
	assert_int_equal(service.umask, 0777);
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		assert_refused(key, &service, wrong[i], "is not a mode; write octal digits");
	assert_refused(key, &service, "1777", "umask must be between 000 and 777, not 1777");
	assert_refused(key, &service, "7777777777777777777777777", "is not a mode");
	assert_int_equal(service.umask, 0777);
}

static void a_stop_signal_can_end_a_process(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "stop_signal");
	struct conf_service service = {0};
	struct error err = {0};

	(void)state;
	assert_set(key, &service, "SIGINT");
	assert_int_equal(service.stop_signal, SIGINT);
	assert_set(key, &service, "kill");
	assert_int_equal(service.stop_signal, SIGKILL);
	assert_set(key, &service, "10");
	assert_int_equal(service.stop_signal, 10);
	assert_int_equal(conf_key_set_number(key, &service, 15, &err), 0);
	assert_int_equal(service.stop_signal, SIGTERM);
	assert_refused(key, &service, "SIGSTOP", "stop_signal cannot be SIGSTOP: it halts");
	assert_refused(key, &service, "cont", "stop_signal cannot be SIGCONT");
	assert_refused(key, &service, "0", "'0' is not a signal; write \"SIGTERM\"");
	assert_refused(key, &service, "SIGFOO", "'SIGFOO' is not a signal");
	assert_refused(key, &service, "", "'' is not a signal");
	assert_int_equal(conf_key_set_number(key, &service, 0, &err), -1);
	assert_contains(err.text, "stop_signal must be between 1 and 64, not 0");
	assert_int_equal(conf_key_set_number(key, &service, SIGSTOP, &err), -1);
	assert_int_equal(conf_key_set_number(key, &service, INT64_C(0x10000000f), &err), -1);
	assert_int_equal(service.stop_signal, SIGTERM);
}

static void a_service_s_name_is_short_and_plain(void **state)
{
	static const char *const good[] = {"a",	      "line", "line-2",
					   "A.b_c-d", "0",    "12345678901234567890123456789012"};
	static const char *const wrong[] = {
		".a",  "-a",  "_a",	  "a b",
		"a/b", "a\n", "\xc3\xa4", "123456789012345678901234567890123"};
	const struct conf_key *key = key_of(KEY_SERVICE, "name");
	struct conf_service service = {0};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		assert_set(key, &service, good[i]);
		assert_string_equal(service.name, good[i]);
	}
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		assert_refused(key, &service, wrong[i], "is not 1 to 32 letters");
	free(service.name);
}

static void a_refused_value_changes_nothing(void **state)
{
	union sections base = {0};
	char *before;

	(void)state;
	assert_set(key_of(KEY_SERVICE, "protocol"), &base, "echo");
	before = base.service.protocol;
	assert_refused(key_of(KEY_SERVICE, "protocol"), &base, "http", "");
	assert_ptr_equal(base.service.protocol, before);
	assert_string_equal(before, "echo");
	conf_keys_free(KEY_SERVICE, &base);
}

/* ---- Addresses ------------------------------------------------------------------------------ */

static void a_list_of_addresses_has_commas_between(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "listen");
	struct conf_service service = {0};

	(void)state;
	assert_set(key, &service, "*:7,[::1]:8,localhost:9");
	assert_int_equal(service.listen_count, 3);
	assert_string_equal(service.listen[1].text, "[::1]:8");
	assert_string_equal(service.listen[1].endpoint.host, "::1");
	assert_int_equal(service.listen[2].endpoint.port, 9);
	assert_set(key, &service, "*:10");
	assert_int_equal(service.listen_count, 1);
	conf_listen_clear(&service);
	assert_int_equal(service.listen_count, 0);
	assert_null(service.listen);
}

static void a_wrong_address_in_a_list_is_named(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "listen");
	struct conf_service service = {0};

	(void)state;
	assert_refused(key, &service, "*:7,nowhere", "the address 'nowhere': there is no port");
	assert_refused(key, &service, "*:7,", "the address ''");
	assert_refused(key, &service, "", "the address ''");
	conf_listen_clear(&service);
}

static void a_refused_list_of_addresses_changes_nothing(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "listen");
	struct conf_service service = {0};
	size_t left;

	(void)state;
	assert_set(key, &service, "*:7,*:8");
	assert_refused(key, &service, "*:9,nowhere", "nowhere");
	left = service.listen_count;
	conf_listen_clear(&service);
	assert_int_equal(left, 2);
}

/* ---- Lists of words ------------------------------------------------------------------------- */

static void a_list_of_words_has_commas_between(void **state)
{
	const struct conf_key *command = key_of(KEY_SERVICE, "command");
	const struct conf_key *environment = key_of(KEY_SERVICE, "environment");
	struct conf_service service = {0};

	(void)state;
	assert_set(command, &service, "/bin/x,-a,,b c");
	assert_string_equal(service.command[0], "/bin/x");
	assert_string_equal(service.command[1], "-a");
	assert_string_equal(service.command[2], "");
	assert_string_equal(service.command[3], "b c");
	assert_null(service.command[4]);
	assert_set(command, &service, "/bin/y");
	assert_string_equal(service.command[0], "/bin/y");
	assert_null(service.command[1]);
	assert_set(environment, &service, "A=1,_b2=,C=x=y");
	assert_string_equal(service.environment[1], "_b2=");
	assert_string_equal(service.environment[2], "C=x=y");
	assert_null(service.environment[3]);
	conf_keys_free(KEY_SERVICE, &service);
	assert_null(service.command);
	assert_null(service.environment);
}

static void a_command_begins_with_an_absolute_path(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "command");
	struct conf_service service = {0};

	(void)state;
	assert_set(key, &service, "/bin/x,y");
	assert_refused(key, &service, "sleep,1", "command must be an absolute path, not 'sleep'");
	assert_refused(key, &service, "", "command must be an absolute path, not ''");
	/* A refused list changes nothing. */
	assert_string_equal(service.command[0], "/bin/x");
	assert_string_equal(service.command[1], "y");
	conf_keys_free(KEY_SERVICE, &service);
}

static void a_variable_has_a_name_and_stands_once(void **state)
{
	static const char *const wrong[] = {"", "A", "=x", "1A=x", "A-B=x", "A B=x", "\xc3\xa4=x"};
	const struct conf_key *key = key_of(KEY_SERVICE, "environment");
	struct conf_service service = {0};

	(void)state;
	assert_set(key, &service, "A=1,AB=2,a=3");
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		assert_refused(key, &service, wrong[i], "is not NAME=value");
	assert_refused(key, &service, "A=1,B=2,A=", "the variable 'A' stands here twice");
	assert_string_equal(service.environment[2], "a=3");
	conf_keys_free(KEY_SERVICE, &service);
}

static void a_cleared_command_is_still_one(void **state)
{
	const struct conf_key *key = key_of(KEY_SERVICE, "command");
	struct conf_service service = {0};

	(void)state;
	assert_false(conf_is_program(&service));
	conf_key_clear(key, &service);
	assert_false(conf_is_program(&service));
	assert_int_equal(conf_program_mark(&service), 0);
	assert_true(conf_is_program(&service));
	assert_set(key, &service, "/bin/x,y");
	conf_key_clear(key, &service);
	assert_true(conf_is_program(&service));
	assert_null(service.command[0]);
	conf_key_free_list(key, &service);
	assert_false(conf_is_program(&service));
}

/* ---- For whom a setting is, and what the machine has ---------------------------------------- */

static void a_setting_of_the_other_kind_is_said(void **state)
{
	char *command[] = {NULL};
	const struct conf_service program = {.command = command}, speaker = {0};
	struct error err = {0};

	(void)state;
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];

		if (key->section != KEY_SERVICE) {
			assert_int_equal(conf_key_check_kind(key, NULL, &err), 0);
			continue;
		}
		assert_int_equal(conf_key_check_kind(key, &program, &err),
				 key->whom == KEY_FOR_PROTOCOL ? -1 : 0);
		assert_int_equal(conf_key_check_kind(key, &speaker, &err),
				 key->whom == KEY_FOR_PROGRAM ? -1 : 0);
	}
}

static void what_this_machine_lacks_is_stored_and_said_when_looked_for(void **state)
{
	static const struct {
		const char *name;
		const char *value;
		const char *sentence;
	} lacking[] = {
		{"user", "no-such-user", "there is no user 'no-such-user'"},
		{"user", "root", "workers must not run as root"},
		{"group", "no-such-group", "there is no group 'no-such-group'"},
		{"group", "root", "workers must not run in root's group"},
		{"directory", "/nonexistent",
		 "the directory '/nonexistent' cannot be used: No such file or directory"},
		{"directory", "/dev/null",
		 "the directory '/dev/null' cannot be used: Not a directory"},
		{"command", "/nonexistent/x",
		 "the command '/nonexistent/x' cannot be executed: No such file or directory"},
		{"command", "/etc/passwd/x",
		 "the command '/etc/passwd/x' cannot be executed: Not a directory"},
		{"command", "/etc", "the command '/etc' cannot be executed: Is a directory"},
		{"command", "/etc/passwd",
		 "the command '/etc/passwd' cannot be executed: Permission denied"},
		{"command", "/dev/null",
		 "the command '/dev/null' cannot be executed: Permission denied"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lacking); i++) {
		const struct conf_key *key = key_of(KEY_SERVICE, lacking[i].name);
		struct conf_service service = {0};
		struct error err = {0};

		assert_int_equal(conf_key_look(key, &service, &err), 0);
		assert_set(key, &service, lacking[i].value);
		assert_int_equal(conf_key_look(key, &service, &err), -1);
		assert_int_equal(err.code, EXIT_CONFIG);
		assert_contains(err.text, lacking[i].sentence);
		conf_keys_free(KEY_SERVICE, &service);
	}
}

static void what_this_machine_has_is_found(void **state)
{
	static const char *const found[][2] = {
		{"user", "nobody"},    {"group", "daemon"},
		{"directory", "/etc"}, {"command", "/bin/sh,-c,exit"},
		{"user", "root"},      {"group", "root"}};
	struct conf_service service = {0};
	struct error err = {0};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(found); i++) {
		const struct conf_key *key = key_of(KEY_SERVICE, found[i][0]);

		/* The command came before root, who is for programs only. */
		assert_set(key, &service, found[i][1]);
		if (conf_key_look(key, &service, &err) != 0)
			fail_msg("%s", err.text);
	}
	conf_keys_free(KEY_SERVICE, &service);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_key_has_a_sentence_and_a_default_in_one_way),
		cmocka_unit_test(every_key_stands_once_in_its_section),
		cmocka_unit_test(every_number_has_a_range_with_its_default_inside),
		cmocka_unit_test(only_services_have_settings_for_one_kind),
		cmocka_unit_test(every_choice_has_its_list_and_its_default_in_it),
		cmocka_unit_test(every_protocol_level_and_facility_that_can_be_chosen_exists),
		cmocka_unit_test(all_defaults_can_be_set_and_freed),
		cmocka_unit_test(a_key_is_known_in_its_own_section_only),
		cmocka_unit_test(a_misspelt_key_has_its_nearest_of_the_section),
		cmocka_unit_test(times_sizes_and_numbers_are_stored_in_their_units),
		cmocka_unit_test(both_ends_of_a_range_belong_to_it),
		cmocka_unit_test(a_range_is_said_in_the_unit_of_the_key),
		cmocka_unit_test(a_plain_number_for_a_time_is_seconds_and_never_wraps),
		cmocka_unit_test(what_is_no_value_of_the_type_is_said),
		cmocka_unit_test(a_time_that_can_be_off_is_nothing_or_in_its_range),
		cmocka_unit_test(a_mode_is_octal),
		cmocka_unit_test(a_stop_signal_can_end_a_process),
		cmocka_unit_test(a_service_s_name_is_short_and_plain),
		cmocka_unit_test(a_refused_value_changes_nothing),
		cmocka_unit_test(a_list_of_addresses_has_commas_between),
		cmocka_unit_test(a_wrong_address_in_a_list_is_named),
		cmocka_unit_test(a_refused_list_of_addresses_changes_nothing),
		cmocka_unit_test(a_list_of_words_has_commas_between),
		cmocka_unit_test(a_command_begins_with_an_absolute_path),
		cmocka_unit_test(a_variable_has_a_name_and_stands_once),
		cmocka_unit_test(a_cleared_command_is_still_one),
		cmocka_unit_test(a_setting_of_the_other_kind_is_said),
		cmocka_unit_test(what_this_machine_lacks_is_stored_and_said_when_looked_for),
		cmocka_unit_test(what_this_machine_has_is_found),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
