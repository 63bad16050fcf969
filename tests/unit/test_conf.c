/* From the text to the one read-only struct, with everything that is wrong said at once. */
#include "support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/conf.h"
#include "serve/proto.h"

#define SERVICE "services = ( { name = \"line\"; listen = [ \"*:30333\" ]; } );\n"

struct fixture {
	char *directory;
	char path[SUPPORT_PATH_MAX];
	struct conf_errors errors;
	struct conf *conf;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (f == NULL || support_make_directory((void **)&f->directory) < 0)
		return -1;
	support_join(f->path, f->directory, "echod.conf");
	/* Whoever runs the test has a run directory. */
	setenv("XDG_RUNTIME_DIR", f->directory, 1);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int result = support_remove_directory((void **)&f->directory);

	conf_errors_free(&f->errors);
	conf_free(f->conf);
	free(f);
	return result;
}

/* Parse a text (NULL: no file) under a command line. Forgets what was parsed before. */
static void parse_under(struct fixture *f, const char *text, const struct conf_overrides *overrides)
{
	struct conf_source *source;

	conf_errors_free(&f->errors);
	conf_free(f->conf);
	if (text != NULL)
		support_write_file(f->path, text);
	source = conf_source_load(text != NULL ? f->path : NULL, &f->errors);
	assert_non_null(source);
	f->conf = conf_parse(source, overrides, &f->errors);
	conf_source_free(source);
	assert_non_null(f->conf);
}

static void parse(struct fixture *f, const char *text)
{
	const struct conf_overrides none = {0};

	parse_under(f, text, &none);
}

static void parse_set(struct fixture *f, const char *text, const char *key, const char *value)
{
	const struct conf_override setting = {key, value};
	const struct conf_overrides overrides = {.settings = &setting, .setting_count = 1};

	parse_under(f, text, &overrides);
}

static void parse_listen(struct fixture *f, const char *text, const char *listen, int port)
{
	const struct conf_overrides overrides = {
		.listen = &listen, .listen_count = listen != NULL, .port = port};

	parse_under(f, text, &overrides);
}

static void assert_right(const struct fixture *f)
{
	if (f->errors.count > 0)
		fail_msg("%s", f->errors.lines[0]);
}

/* Error number `i` is at this line of the file, and says `text`. */
static void assert_error_at(const struct fixture *f, size_t i, unsigned line, const char *text)
{
	char front[SUPPORT_PATH_MAX + 32];

	assert_true(i < f->errors.count);
	snprintf(front, sizeof(front), "%s:%u: ", f->path, line);
	if (strncmp(f->errors.lines[i], front, strlen(front)) != 0)
		fail_msg("'%s' is not at line %u", f->errors.lines[i], line);
	assert_contains(f->errors.lines[i], text);
}

/* The text has one error, at this line. */
static void assert_wrong(struct fixture *f, const char *text, unsigned line, const char *sentence)
{
	parse(f, text);
	if (f->errors.count > 1)
		fail_msg("a second error: %s", f->errors.lines[1]);
	assert_error_at(f, 0, line, sentence);
}

/* The one error comes from elsewhere: "command line", "control", … */
static void assert_one_error(const struct fixture *f, const char *where, const char *text)
{
	if (f->errors.count > 1)
		fail_msg("a second error: %s", f->errors.lines[1]);
	assert_int_equal(f->errors.count, 1);
	assert_int_equal(strncmp(f->errors.lines[0], where, strlen(where)), 0);
	assert_contains(f->errors.lines[0], text);
}

/* ---- What is right -------------------------------------------------------------------------- */

static void without_a_file_one_line_service_answers_on_port_30333_of_all_addresses(void **state)
{
	struct fixture *f = *state;

	parse(f, NULL);
	assert_right(f);
	assert_int_equal(f->conf->service_count, 1);
	assert_string_equal(f->conf->services[0].name, "line");
	assert_string_equal(f->conf->services[0].protocol, "line");
	assert_int_equal(f->conf->services[0].max_lines, 1);
	assert_int_equal(f->conf->services[0].listen_count, 1);
	assert_string_equal(f->conf->services[0].listen[0].text, "*:30333");
	assert_string_equal(f->conf->services[0].where, "the built-in service");
	assert_int_equal(f->conf->drain_timeout, 30000);
	assert_string_equal(f->conf->log.target, "syslog");
	assert_null(f->conf->user);
	assert_false(f->conf->nice_set);
}

static void a_file_without_services_keeps_the_built_in_one(void **state)
{
	struct fixture *f = *state;

	parse(f, "drain_timeout = 5;\n");
	assert_right(f);
	assert_int_equal(f->conf->service_count, 1);
	assert_int_equal(f->conf->drain_timeout, 5000);
}

static void every_type_of_value_is_read(void **state)
{
	struct fixture *f = *state;

	parse(f, "pidfile = \"/run/x.pid\"; control = \"/run/y.sock\"; nice = -5;\n"
		 "drain_timeout = \"500ms\"; retire_timeout = 1.5; start_timeout = 5L;\n"
		 "log = { target = \"file:/tmp/x\"; facility = \"local3\"; level = \"debug\"; };\n"
		 "services = ( { name = \"e\"; protocol = \"echo\";\n"
		 "  listen = ( \"*:7\", \"[::1]:8\" );\n"
		 "  nodelay = false; max_lines = 5000000000L; max_line = \"1k\";\n"
		 "  max_pending = 0x2000; },\n"
		 "  { name = \"l\"; listen = \"*:9\"; } );\n");
	assert_right(f);
	assert_string_equal(f->conf->pidfile, "/run/x.pid");
	assert_string_equal(f->conf->control, "/run/y.sock");
	assert_int_equal(f->conf->nice, -5);
	assert_true(f->conf->nice_set);
	assert_int_equal(f->conf->drain_timeout, 500);
	assert_int_equal(f->conf->retire_timeout, 1500);
	assert_int_equal(f->conf->start_timeout, 5000);
	assert_string_equal(f->conf->log.facility, "local3");
	assert_int_equal(f->conf->service_count, 2);
	assert_int_equal(f->conf->services[0].listen_count, 2);
	assert_false(f->conf->services[0].nodelay);
	assert_true(f->conf->services[0].max_lines == 5000000000);
	assert_int_equal(f->conf->services[0].max_line, 1024);
	assert_int_equal(f->conf->services[0].limits.max_pending, 8192);
	assert_string_equal(f->conf->services[1].listen[0].text, "*:9");
}

static void the_control_socket_is_beside_the_pidfile(void **state)
{
	struct fixture *f = *state;

	parse(f, "pidfile = \"/run/x.pid\";\n");
	assert_string_equal(f->conf->control, "/run/x.sock");
	parse(f, "pidfile = \"/run/x\";\n");
	assert_string_equal(f->conf->control, "/run/x.sock");
	parse(f, "pidfile = \"/.pid\";\n");
	assert_string_equal(f->conf->control, "/.sock");
	assert_right(f);
}

static int default_pidfile_of_a_user(void *arg)
{
	struct conf_errors errors = {0};
	const struct conf_overrides none = {0};
	struct conf_source *source = conf_source_load(NULL, &errors);
	struct conf *conf;
	char wanted[SUPPORT_PATH_MAX];

	if (geteuid() == 0)
		CHILD_CHECK(chmod(arg, 0777) == 0 && setresuid(65534, 65534, 65534) == 0);
	conf = conf_parse(source, &none, &errors);
	support_join(wanted, arg, "echod.pid");
	CHILD_CHECK(errors.count == 0 && strcmp(conf->pidfile, wanted) == 0);
	conf_free(conf);
	/* Never /tmp: without a run directory the error names the option. */
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	conf = conf_parse(source, &none, &errors);
	if (errors.count == 0)
		CHILD_CHECK(strncmp(conf->pidfile, "/run/user/", 10) == 0);
	else
		CHILD_CHECK(errors.count == 1 && strstr(errors.lines[0], "-P FILE") != NULL);
	conf_free(conf);
	conf_source_free(source);
	conf_errors_free(&errors);
	return 0;
}

static void an_ordinary_users_pidfile_is_in_the_users_run_directory(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(support_in_child(default_pidfile_of_a_user, f->directory), 0);
}

static void roots_pidfile_is_in_the_run_directory_of_the_build(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0)
		skip();
	parse(f, NULL);
	assert_string_equal(f->conf->pidfile, ECHOD_RUNDIR "/echod.pid");
	assert_string_equal(f->conf->control, ECHOD_RUNDIR "/echod.sock");
}

/* ---- What is wrong -------------------------------------------------------------------------- */

static void all_errors_are_said_at_once_in_their_order(void **state)
{
	struct fixture *f = *state;

	parse(f, "colour = 1;\n"
		 "nice = 99;\n"
		 "log = { level = \"loud\"; };\n"
		 "services = (\n"
		 "  { name = \"a\";\n"
		 "    listen = [ \"*:7\" ];\n"
		 "    max_line = \"1T\"; },\n"
		 "  { protocol = \"line\";\n"
		 "    listen = [ \"*:70000\" ]; } );\n");
	assert_int_equal(f->errors.count, 6);
	assert_error_at(f, 0, 1, "there is no setting 'colour'");
	assert_error_at(f, 1, 2, "nice must be between -20 and 19, not 99");
	assert_error_at(f, 2, 3, "level 'loud' is not known");
	assert_error_at(f, 3, 7, "'1T' is not a size");
	assert_error_at(f, 4, 9, "the port 70000 is not between 0 and 65535");
	assert_error_at(f, 5, 8, "the service has no name");
}

static void lines_are_those_of_the_included_file(void **state)
{
	struct fixture *f = *state;
	char path[SUPPORT_PATH_MAX], wanted[SUPPORT_PATH_MAX + 8];

	support_join(path, f->directory, "one.conf");
	support_write_file(path, "\n\nnice = 99;\n");
	parse(f, "# words\n@include \"one.conf\"\ncolour = 1;\n" SERVICE);
	snprintf(wanted, sizeof(wanted), "%s:3: ", path);
	assert_int_equal(f->errors.count, 2);
	assert_contains(f->errors.lines[0], wanted);
	assert_error_at(f, 1, 3, "colour");
}

static void a_misspelt_key_has_a_suggestion(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "pid_file = \"/run/x\";\n", 1,
		     "no setting 'pid_file'; did you mean 'pidfile'?");
	assert_wrong(f, "\nlgo = { };\n", 2, "did you mean 'log'?");
	assert_wrong(f, "service = ( );\n", 1, "did you mean 'services'?");
	assert_wrong(f, "log = {\n levle = \"debug\"; };\n", 2,
		     "no setting 'levle' here; did you mean 'level'?");
	assert_wrong(f, "services = ( { name = \"a\"; listen = [ \"*:7\" ];\n maxlines = 2; } );\n",
		     2, "did you mean 'max_lines'?");
}

static void a_key_in_the_wrong_place_is_unknown_there(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "max_lines = 1;\n", 1,
		     "there is no setting 'max_lines' here: it is for a service, inside of ");
	assert_wrong(f, "level = \"info\";\n", 1,
		     "there is no setting 'level' here: it is for the log, inside of log ");
	assert_wrong(f, "log = { nice = 1; };\n", 1,
		     "there is no setting 'nice' here: it is for the daemon, outside of log and ");
	assert_wrong(f, "log = { colour = 1; };\n", 1, "there is no setting 'colour' here");
}

static void a_value_of_the_wrong_type_is_said(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "nice = \"5\";\n", 1, "nice must be a whole number");
	assert_wrong(f, "nice = 1.0;\n", 1, "nice must be a whole number");
	assert_wrong(f, "drain_timeout = true;\n", 1, "drain_timeout must be a time");
	assert_wrong(f, "pidfile = 1;\n", 1, "pidfile must be a string");
	assert_wrong(f, "pidfile = { };\n", 1, "pidfile must be a string");
	assert_wrong(f, "log = \"syslog\";\n", 1, "log must be a group");
	assert_wrong(f, "log = { level = 3; };\n", 1, "level must be a string");
	assert_wrong(f, "services = { };\n", 1, "services must be a list of groups");
	assert_wrong(f, "services = ( 1, { name = \"a\"; listen = \"*:7\"; } );\n", 1,
		     "a service is a group");
}

static void a_value_of_the_wrong_type_in_a_service_is_said(void **state)
{
	static const struct {
		const char *setting;
		const char *sentence;
	} wrong[] = {
		{"nodelay = 1;", "nodelay must be true or false"},
		{"nodelay = \"true\";", "nodelay must be true or false"},
		{"max_line = 1.5;", "max_line must be a size"},
		{"workers = \"2\";", "workers must be a whole number"},
		{"idle_timeout = [ 1 ];", "idle_timeout must be a time"},
		{"protocol = false;", "protocol must be a string"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		char text[256];

		snprintf(text, sizeof(text),
			 "services = ( { name = \"a\"; listen = \"*:7\";\n%s } );\n",
			 wrong[i].setting);
		assert_wrong(f, text, 2, wrong[i].sentence);
	}
}

static void addresses_that_are_no_strings_are_said(void **state)
{
	struct fixture *f = *state;

	parse(f, "services = ( { name = \"a\";\nlisten = ( 7, \"*:8\",\n true ); } );\n");
	assert_int_equal(f->errors.count, 2);
	assert_error_at(f, 0, 2, "listen must be a list of strings");
	assert_error_at(f, 1, 3, "listen must be a list of strings");
	assert_wrong(f, "services = ( { name = \"a\";\nlisten = 7; } );\n", 2,
		     "listen must be a list of strings");
	assert_wrong(f, "services = ( { name = \"a\";\nlisten = { }; } );\n", 2,
		     "listen must be a list of strings");
}

static void a_value_out_of_its_range_is_said(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "nice = -21;\n", 1, "between -20 and 19, not -21");
	assert_wrong(f, "drain_timeout = -1;\n", 1, "between 0 and 1d, not -1");
	assert_wrong(f, "drain_timeout = 86401;\n", 1, "not 86401s");
	assert_wrong(f, "drain_timeout = 9223372036854775807L;\n", 1,
		     "drain_timeout is out of range");
	assert_wrong(f, "drain_timeout = 1e300;\n", 1, "drain_timeout");
	assert_wrong(f, "start_timeout = \"99ms\";\n", 1, "between 100ms and 10m, not 99ms");
	assert_wrong(f, "max_retiring = 0;\n", 1, "between 1 and 100000, not 0");
	assert_wrong(f, "watchdog = 0.5;\n", 1,
		     "watchdog must be 0 (off) or between 1 and 1d, not 500ms");
}

static void a_fraction_of_a_millisecond_does_not_become_never(void **state)
{
	struct fixture *f = *state;

	/* 0 means "no limit" in retire_timeout. */
	parse(f, "retire_timeout = 0.0004;\n");
	if (f->errors.count == 0)
		assert_int_not_equal(f->conf->retire_timeout, 0);
}

static void numbers_that_libconfig_misreads_are_errors(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "max_retiring = 1;\nretire_timeout = 4294967300;\n", 2,
		     "4294967300 does not fit");
	assert_wrong(f, "nice = 4294967295;\n", 1, "4294967295 does not fit");
	/* Read as 32 bits, it is -1: a nice that would be taken. */
	parse(f, "nice = 0xFFFFFFFF;\n");
	assert_int_equal(f->errors.count > 0, 1);
}

static void a_syntax_error_is_said_with_its_line(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "nice = 1;\nmax_retiring 2;\n", 2, "syntax error");
	assert_wrong(f, "nice = 1;\n\nnice = 2;\n", 3, "duplicate setting name");
}

static void an_end_that_comes_too_early_is_said_with_the_last_line(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "nice = 1;\nservices = (\n", 2, "syntax error");
	assert_wrong(f, "nice = 1;\nservices = (", 2, "syntax error");
}

/* ---- Services ------------------------------------------------------------------------------- */

static void a_name_given_twice_is_said_with_both_lines(void **state)
{
	struct fixture *f = *state;
	char first[SUPPORT_PATH_MAX + 32];

	assert_wrong(f,
		     "services = (\n"
		     "  { name = \"a\"; listen = [ \"*:7\" ]; },\n"
		     "  { name = \"b\"; listen = [ \"*:8\" ]; },\n"
		     "  { name = \"a\"; listen = [ \"*:9\" ]; } );\n",
		     4, "the service 'a' is already defined at ");
	snprintf(first, sizeof(first), "%s:2", f->path);
	assert_contains(f->errors.lines[0], first);
}

static void an_address_given_twice_is_said_with_both_lines(void **state)
{
	struct fixture *f = *state;
	char first[SUPPORT_PATH_MAX + 32];

	assert_wrong(f,
		     "services = (\n"
		     "  { name = \"a\"; listen = [ \"*:7\", \"*:8\" ]; },\n"
		     "\n"
		     "  { name = \"b\"; listen = [ \"*:9\", \"tcp:*:8\" ]; } );\n",
		     4, "the address 'tcp:*:8' is already used at ");
	snprintf(first, sizeof(first), "%s:2", f->path);
	assert_contains(f->errors.lines[0], first);
}

static void an_address_that_is_written_in_two_ways_is_one(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "services = (\n{ name = \"a\"; listen = [ \"*:7\", \"0.0.0.0:7\" ]; } );\n",
		     2, "the address '0.0.0.0:7' is already used");
	assert_wrong(f,
		     "services = (\n{ name = \"a\"; device = \"lo\";"
		     " listen = [ \"*:7\", \"*%lo:7\" ]; } );\n",
		     2, "the address '*%lo:7' is already used");
}

static void the_files_of_the_daemon_are_no_addresses_of_a_service(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f,
		     "control = \"/run/c\"; services = (\n{ name = \"a\"; listen = [ "
		     "\"unix:/run/c\" ]; } );\n",
		     2, "the address 'unix:/run/c' is the path of the control socket");
	assert_wrong(f,
		     "pidfile = \"/run/p\"; services = (\n{ name = \"a\"; listen = [ "
		     "\"unix:/run/p\" ]; } );\n",
		     2, "the address 'unix:/run/p' is the path of the pidfile");
	assert_wrong(
		f,
		"log = { target = \"file:/run/l\"; }; services = (\n{ name = \"a\"; listen = [ "
		"\"unix:/run/l\" ]; } );\n",
		2, "the address 'unix:/run/l' is the path of the log");
}

static void an_address_given_twice_in_one_service_is_said(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "services = (\n{ name = \"a\"; listen = [ \"*:7\", \"*:7\" ]; } );\n", 2,
		     "the address '*:7' is already used");
	parse(f, "services = ( { name = \"a\"; listen = [ \"*:7\", \"*:8\", \"[::1]:7\" ]; } );\n");
	assert_right(f);
}

static void a_service_needs_a_name_and_an_address(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "services = (\n { listen = [ \"*:7\" ]; } );\n", 2,
		     "the service has no name");
	assert_wrong(f, "services = (\n { name = \"a\"; } );\n", 2, "the service has no listen");
	assert_wrong(f, "services = ( { name = \"a\";\n listen = [ ]; } );\n", 2,
		     "listen is empty");
	assert_wrong(f, "services = ( { name = \"a b\";\n listen = \"*:7\"; } );\n", 1,
		     "the name 'a b'");
	assert_wrong(f, "services = ( );\n", 1, "services is empty");
}

static void a_user_or_group_that_is_not_there_is_said(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "\nuser = \"no-such-user\";\n", 2, "there is no user 'no-such-user'");
	assert_wrong(f, "\ngroup = \"no-such-group\";\n", 2, "there is no group 'no-such-group'");
	assert_wrong(f, "\nuser = \"root\";\n", 2, "workers must not run as root");
	parse_set(f, SERVICE, "user", "root");
	assert_one_error(f, "command line: ", "workers must not run as root");
	parse(f, "user = \"nobody\";\n");
	assert_right(f);
	assert_string_equal(f->conf->user, "nobody");
}

/* ---- Programs ------------------------------------------------------------------------------- */

static void a_program_needs_a_command_and_no_address(void **state)
{
	struct fixture *f = *state;
	const struct conf_service *service;

	parse(f, "services = ( { name = \"p\"; command = [ \"/bin/sh\" ]; } );\n");
	assert_right(f);
	assert_int_equal(f->conf->service_count, 1);
	service = &f->conf->services[0];
	assert_true(conf_is_program(service));
	assert_string_equal(service->command[0], "/bin/sh");
	assert_null(service->command[1]);
	assert_null(service->environment);
	assert_null(service->user);
	assert_null(service->group);
	assert_true(service->nice == CONF_NICE_GLOBAL);
	assert_string_equal(service->directory, "/");
	assert_int_equal(service->umask, 022);
	assert_string_equal(service->restart, "always");
	assert_int_equal(service->stop_signal, SIGTERM);
	assert_int_equal(service->stop_timeout, 10000);
	assert_int_equal(service->listen_count, 0);
	parse(f, SERVICE);
	assert_false(conf_is_program(&f->conf->services[0]));
}

static void every_setting_of_a_program_is_read(void **state)
{
	struct fixture *f = *state;
	const struct conf_service *service;

	/* The command comes last: what the others may be depends on it all the same. */
	parse(f, "watchdog = \"1m\";\n"
		 "services = ( { name = \"p\"; user = \"root\"; group = \"root\"; nice = -3;\n"
		 "  environment = ( \"A=1\", \"B=\" ); directory = \"/etc\"; umask = \"077\";\n"
		 "  restart = \"on-failure\"; stop_signal = \"int\"; stop_timeout = \"500ms\";\n"
		 "  command = [ \"/bin/sh\", \"-c\", \"\" ]; } );\n");
	assert_right(f);
	assert_int_equal(f->conf->watchdog, 60000);
	service = &f->conf->services[0];
	assert_string_equal(service->user, "root");
	assert_string_equal(service->group, "root");
	assert_int_equal(service->nice, -3);
	assert_string_equal(service->environment[0], "A=1");
	assert_string_equal(service->environment[1], "B=");
	assert_null(service->environment[2]);
	assert_string_equal(service->directory, "/etc");
	assert_int_equal(service->umask, 077);
	assert_string_equal(service->restart, "on-failure");
	assert_int_equal(service->stop_signal, SIGINT);
	assert_int_equal(service->stop_timeout, 500);
	assert_string_equal(service->command[2], "");
	assert_null(service->command[3]);
}

static void user_group_and_nice_are_for_services_with_a_protocol_too(void **state)
{
	struct fixture *f = *state;

	parse(f, "services = ( { name = \"a\"; listen = \"*:7\"; user = \"nobody\";\n"
		 "group = \"daemon\"; nice = 5; } );\n");
	assert_right(f);
	assert_string_equal(f->conf->services[0].user, "nobody");
	assert_string_equal(f->conf->services[0].group, "daemon");
	assert_int_equal(f->conf->services[0].nice, 5);
	assert_false(f->conf->nice_set);
	assert_wrong(f, "services = ( { name = \"a\"; listen = \"*:7\";\nuser = \"root\"; } );\n",
		     2, "workers must not run as root");
	assert_wrong(f, "services = ( { name = \"a\"; listen = \"*:7\";\ngroup = \"root\"; } );\n",
		     2, "workers must not run in root's group");
}

static void a_program_and_a_service_with_a_protocol_go_together(void **state)
{
	struct fixture *f = *state;

	parse(f, "services = ( { name = \"a\"; listen = [ \"*:7\" ]; },\n"
		 "  { name = \"p\"; command = \"/bin/sh\"; },\n"
		 "  { name = \"q\"; command = \"/bin/sh\"; } );\n");
	assert_right(f);
	assert_int_equal(f->conf->service_count, 3);
	assert_wrong(f,
		     "services = ( { name = \"a\"; listen = [ \"*:7\" ]; },\n"
		     "  { name = \"a\"; command = \"/bin/sh\"; } );\n",
		     2, "the service 'a' is already defined");
}

/* Each in a line of its own: the error is there. */
static void a_setting_of_the_other_kind_is_wrong_in_its_line(void **state)
{
	static const char *const of_protocols[] = {
		"listen = [ \"*:7\" ];", "workers = 1;",       "backlog = 1;",
		"defer_accept = 1;",	 "keepalive = 1;",     "nodelay = true;",
		"max_lines = 1;",	 "max_line = 2;",      "max_pending = \"4k\";",
		"idle_timeout = 1;",	 "write_timeout = 1;",
	};
	static const char *const of_programs[] = {
		"environment = [ ];",	"directory = \"/\";",	     "umask = \"0\";",
		"restart = \"never\";", "stop_signal = \"SIGHUP\";", "stop_timeout = 1;",
	};
	struct fixture *f = *state;
	char text[256];

	for (size_t i = 0; i < COUNT_OF(of_protocols); i++) {
		snprintf(text, sizeof(text),
			 "services = ( { name = \"p\"; command = \"/bin/sh\";\n%s } );\n",
			 of_protocols[i]);
		assert_wrong(f, text, 2,
			     " is for services with a protocol, and this one has a command");
	}
	for (size_t i = 0; i < COUNT_OF(of_programs); i++) {
		snprintf(text, sizeof(text),
			 "services = ( { name = \"a\"; listen = \"*:7\";\n%s } );\n",
			 of_programs[i]);
		assert_wrong(f, text, 2, " is for services with a command, and this one has none");
	}
}

static void a_service_has_a_protocol_or_a_command_and_not_both(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f,
		     "services = ( { name = \"p\";\nprotocol = \"line\";\n"
		     "command = \"/bin/sh\"; } );\n",
		     2, "a service has a protocol or a command, not both");
	assert_wrong(f,
		     "services = ( { name = \"p\";\ncommand = \"/bin/sh\";\n"
		     "protocol = \"echo\"; } );\n",
		     3, "a service has a protocol or a command, not both");
}

static void a_wrong_setting_of_a_program_is_said(void **state)
{
	static const struct {
		const char *setting;
		const char *sentence;
	} wrong[] = {
		{"umask = 022;", "umask must be octal digits in quotes, as in \"022\""},
		{"umask = \"999\";", "umask: '999' is not a mode"},
		{"umask = \"1000\";", "umask must be between 000 and 777, not 1000"},
		{"stop_signal = \"SIGSTOP\";", "stop_signal cannot be SIGSTOP"},
		{"stop_signal = \"SIGBYE\";", "stop_signal: 'SIGBYE' is not a signal"},
		{"stop_signal = 0;", "stop_signal must be between 1 and 64, not 0"},
		{"stop_signal = 1.5;", "stop_signal must be a signal, as in \"SIGTERM\""},
		{"stop_timeout = \"2d\";", "stop_timeout must be between 0 and 1d, not 2d"},
		{"restart = \"onfailure\";", "did you mean 'on-failure'?"},
		{"restart = true;", "restart must be a string in quotes"},
		{"directory = \"tmp\";", "directory must be an absolute path, not 'tmp'"},
		{"directory = \"/nonexistent\";", "cannot be used: No such file or directory"},
		{"directory = \"/etc/passwd\";", "cannot be used: Not a directory"},
		{"environment = [ 1 ];", "environment must be a list of strings"},
		{"environment = { };", "environment must be a list of strings"},
		{"environment = [ \"A\" ];", "environment: 'A' is not NAME=value"},
		{"environment = [ \"A=1\", \"A=2\" ];", "the variable 'A' stands here twice"},
		{"user = \"no-such-user\";", "there is no user 'no-such-user'"},
		{"group = \"no-such-group\";", "there is no group 'no-such-group'"},
		{"nice = 20;", "nice must be between -20 and 19, not 20"},
		{"comand = \"x\";", "no setting 'comand' here; did you mean 'command'?"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		char text[256];

		snprintf(text, sizeof(text),
			 "services = ( { name = \"p\"; command = \"/bin/sh\";\n%s } );\n",
			 wrong[i].setting);
		assert_wrong(f, text, 2, wrong[i].sentence);
	}
}

static void a_wrong_command_is_said_once(void **state)
{
	static const struct {
		const char *setting;
		const char *sentence;
	} wrong[] = {
		{"command = [ ];", "command is empty"},
		{"command = ( );", "command is empty"},
		{"command = 5;", "command must be a list of strings, as in [ \"/usr/"},
		{"command = { };", "command must be a list of strings"},
		{"command = ( 5, \"--loop\" );", "command must be a list of strings"},
		{"command = ( \"/bin/sh\", 5, \"x\" );", "command must be a list of strings"},
		{"command = [ \"sh\", \"-c\" ];", "command must be an absolute path, not 'sh'"},
		{"command = \"\";", "command must be an absolute path, not ''"},
		{"command = \"/usr/bin/sensr\";",
		 "the command '/usr/bin/sensr' cannot be executed: No such file or directory"},
		{"command = \"/etc/passwd\";",
		 "the command '/etc/passwd' cannot be executed: Permission denied"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		char text[256];

		/* What is for programs stays right beside it. */
		snprintf(
			text, sizeof(text),
			"services = ( { name = \"p\"; restart = \"never\"; user = \"root\";\n%s } );\n",
			wrong[i].setting);
		assert_wrong(f, text, 2, wrong[i].sentence);
		assert_true(conf_is_program(&f->conf->services[0]));
	}
}

static void each_wrong_variable_is_said_in_its_line(void **state)
{
	struct fixture *f = *state;

	parse(f, "services = ( { name = \"p\"; command = \"/bin/sh\"; environment = (\n"
		 "  \"1A=x\",\n  \"B=1\",\n  true,\n  \"B=2\" ); } );\n");
	assert_int_equal(f->errors.count, 3);
	assert_error_at(f, 0, 2, "environment: '1A=x' is not NAME=value");
	assert_error_at(f, 1, 4, "environment must be a list of strings, as in [ \"LANG=C\" ]");
	assert_error_at(f, 2, 5, "the variable 'B' stands here twice");
}

/* A running daemon must know what it was started with, even when that has vanished. */
static void what_this_machine_lacks_stays_as_written(void **state)
{
	struct fixture *f = *state;

	parse(f, "user = \"no-such-user\";\n"
		 "services = ( { name = \"p\"; user = \"no-such-user\"; directory = \"/no/such\";\n"
		 "  command = [ \"/no/such/command\", \"x\" ]; } );\n");
	assert_int_equal(f->errors.count, 4);
	assert_string_equal(f->conf->user, "no-such-user");
	assert_string_equal(f->conf->services[0].user, "no-such-user");
	assert_string_equal(f->conf->services[0].directory, "/no/such");
	assert_string_equal(f->conf->services[0].command[0], "/no/such/command");
	assert_string_equal(f->conf->services[0].command[1], "x");
}

static void settings_of_a_program_can_be_set_on_the_command_line(void **state)
{
	const char *text = "services = ( { name = \"p\"; command = \"/bin/sh\"; } );\n";
	struct fixture *f = *state;

	parse_set(f, text, "services.p.command", "/bin/ls,-l,/");
	assert_right(f);
	assert_string_equal(f->conf->services[0].command[2], "/");
	parse_set(f, text, "services.p.environment", "A=1,B=2");
	assert_right(f);
	assert_string_equal(f->conf->services[0].environment[1], "B=2");
	parse_set(f, text, "services.p.umask", "077");
	assert_right(f);
	assert_int_equal(f->conf->services[0].umask, 077);
	parse_set(f, text, "services.p.stop_signal", "QUIT");
	assert_right(f);
	assert_int_equal(f->conf->services[0].stop_signal, SIGQUIT);
	parse_set(f, text, "services.p.nice", "7");
	assert_right(f);
	assert_int_equal(f->conf->services[0].nice, 7);
	assert_false(f->conf->nice_set);
	parse_set(f, text, "services.p.user", "root");
	assert_right(f);
	parse_set(f, SERVICE, "watchdog", "0");
	assert_right(f);
	assert_int_equal(f->conf->watchdog, 0);
}

static void a_wrong_setting_of_a_program_on_the_command_line_is_said(void **state)
{
	static const struct {
		const char *key;
		const char *value;
		const char *sentence;
	} wrong[] = {
		{"services.p.listen", "*:7",
		 "listen is for services with a protocol, and this one has a command"},
		{"services.p.protocol", "line", "a service has a protocol or a command, not both"},
		{"services.p.command", "sh", "command must be an absolute path, not 'sh'"},
		{"services.p.command", "/no/such", "the command '/no/such' cannot be executed"},
		{"services.p.directory", "/no/such", "the directory '/no/such' cannot be used"},
		{"services.p.umask", "9", "umask: '9' is not a mode"},
		{"services.p.stop_signal", "STOP", "stop_signal cannot be SIGSTOP"},
		{"services.p.environment", "", "environment: '' is not NAME=value"},
		{"services.p.user", "no-such-user", "there is no user 'no-such-user'"},
		{"services.a.stop_signal", "HUP",
		 "stop_signal is for services with a command, and this one has none"},
		{"services.a.command", "/bin/sh",
		 "command can be set only for a service that has one in the file already"},
		{"services.a.user", "root", "workers must not run as root"},
		{"watchdog", "0.5", "watchdog must be 0 (off) or between 1 and 1d, not 500ms"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		parse_set(f,
			  "services = ( { name = \"p\"; command = \"/bin/sh\"; },\n"
			  "  { name = \"a\"; listen = \"*:7\"; } );\n",
			  wrong[i].key, wrong[i].value);
		assert_one_error(f, "command line: ", wrong[i].sentence);
	}
}

static void a_control_path_that_no_socket_can_have_is_said(void **state)
{
	struct fixture *f = *state;
	char text[256];

	snprintf(text, sizeof(text), "pidfile = \"/run/x\"; control = \"/%0106d\";\n", 0);
	parse(f, text);
	assert_right(f);
	snprintf(text, sizeof(text), "pidfile = \"/run/x\"; control = \"/%0107d\";\n", 0);
	parse(f, text);
	assert_one_error(f, "control: ", "longer than 107 bytes");
	parse(f, "pidfile = \"/run/x\"; control = \"/run/x\";\n");
	assert_one_error(f, "control: ", "must differ");
}

/* ---- The log's target ----------------------------------------------------------------------- */

static void a_daemon_cannot_log_to_stderr(void **state)
{
	struct fixture *f = *state;
	const struct conf_overrides foreground = {.foreground = true};

	parse(f, "log = { target = \"stderr\"; };\n");
	assert_one_error(f, f->path, "needs the foreground (-F)");
	parse_under(f, "log = { target = \"stderr\"; };\n", &foreground);
	assert_right(f);
}

static void the_foreground_logs_to_stderr_unless_told_otherwise(void **state)
{
	struct fixture *f = *state;
	const struct conf_override setting = {"log.target", "syslog"};
	const struct conf_overrides foreground = {.foreground = true};
	const struct conf_overrides told = {
		.foreground = true, .settings = &setting, .setting_count = 1};

	parse_under(f, SERVICE, &foreground);
	assert_string_equal(f->conf->log.target, "stderr");
	parse_under(f, "log = { target = \"syslog\"; };\n", &foreground);
	assert_string_equal(f->conf->log.target, "syslog");
	parse_under(f, SERVICE, &told);
	assert_string_equal(f->conf->log.target, "syslog");
	assert_right(f);
}

static void a_log_target_of_no_kind_is_said(void **state)
{
	struct fixture *f = *state;

	assert_wrong(f, "log = {\ntarget = \"file:echod.log\"; };\n", 2,
		     "must name an absolute path");
	assert_wrong(f, "log = {\ntarget = \"console\"; };\n", 2,
		     "is none of \"syslog\", \"stderr\", \"file:PATH\"");
	assert_wrong(f, "log = {\ntarget = \"\"; };\n", 2, "target is empty");
}

/* ---- The command line ----------------------------------------------------------------------- */

static void settings_of_the_command_line_go_over_the_file(void **state)
{
	struct fixture *f = *state;

	parse_set(f, "drain_timeout = 5;\n" SERVICE, "drain_timeout", "2m");
	assert_right(f);
	assert_int_equal(f->conf->drain_timeout, 120000);
	parse_set(f, SERVICE, "log.level", "debug");
	assert_string_equal(f->conf->log.level, "debug");
	parse_set(f, SERVICE, "services.line.max_lines", "0");
	assert_int_equal(f->conf->services[0].max_lines, 0);
	parse_set(f, SERVICE, "services.line.listen", "*:7,*:8");
	assert_int_equal(f->conf->services[0].listen_count, 2);
	parse_set(f, NULL, "services.line.idle_timeout", "1s");
	assert_int_equal(f->conf->services[0].limits.idle_timeout, 1000);
	parse_set(f, SERVICE, "nice", "3");
	assert_true(f->conf->nice_set);
	assert_right(f);
}

static void a_service_with_a_dot_in_its_name_can_be_set(void **state)
{
	struct fixture *f = *state;

	parse_set(f, "services = ( { name = \"a.b\"; listen = \"*:7\"; } );\n",
		  "services.a.b.max_lines", "9");
	assert_right(f);
	assert_int_equal(f->conf->services[0].max_lines, 9);
}

static void a_wrong_setting_of_the_command_line_is_said(void **state)
{
	static const struct {
		const char *key;
		const char *value;
		const char *sentence;
	} wrong[] = {
		{"drain_timout", "5",
		 "there is no setting 'drain_timout'; did you mean 'drain_timeout'?"},
		{"drain_timeout", "soon", "'soon' is not a time"},
		{"drain_timeout", "2d", "not 2d"},
		{"log.nice", "1", "there is no setting 'nice'"},
		{"level", "info", "there is no setting 'level'; write log.level"},
		{"max_lines", "1",
		 "there is no setting 'max_lines'; write services.NAME.max_lines"},
		{"log.", "1", "there is no setting ''"},
		{"", "1", "there is no setting ''"},
		{"services.echo.workers", "1", "there is no service 'echo'"},
		{"services.workers", "1", "write a setting as key, log.key or services.NAME.key"},
		{"services..workers", "1", "write a setting as key, log.key or services.NAME.key"},
		{"line.workers", "1", "write a setting as key, log.key or services.NAME.key"},
		{"services.line.listen", "*", "the address '*': there is no port"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		parse_set(f, SERVICE, wrong[i].key, wrong[i].value);
		assert_one_error(f, "command line: ", wrong[i].sentence);
	}
}

static void p_and_l_are_for_the_built_in_service(void **state)
{
	static const struct {
		const char *listen;
		int port;
		const char *text;
	} cases[] = {
		{NULL, 7, "*:7"},
		{"127.0.0.1", 0, "127.0.0.1:30333"},
		{"127.0.0.1", 7, "127.0.0.1:7"},
		{"::1", 7, "[::1]:7"},
		{"[::1]", 7, "[::1]:7"},
		{"[::1]:8", 7, "[::1]:8"},
		{"localhost:8", 7, "localhost:8"},
		{"tcp:*:8", 7, "tcp:*:8"},
		{"*", 0, "*:30333"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		parse_listen(f, NULL, cases[i].listen, cases[i].port);
		assert_right(f);
		assert_int_equal(f->conf->services[0].listen_count, 1);
		assert_string_equal(f->conf->services[0].listen[0].text, cases[i].text);
	}
}

static void p_and_l_are_refused_where_the_file_has_services(void **state)
{
	struct fixture *f = *state;

	parse_listen(f, SERVICE, NULL, 7);
	assert_one_error(f, "command line: ", "-p and -l are for the built-in service");
	parse_listen(f, SERVICE, "::1", 0);
	assert_one_error(f, "command line: ", "-p and -l are for the built-in service");
}

static void a_wrong_p_or_l_is_said(void **state)
{
	struct fixture *f = *state;
	char too_long[400];

	memset(too_long, 'x', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = '\0';
	parse_listen(f, NULL, NULL, 65536);
	assert_one_error(f, "command line: ", "not between 0 and 65535");
	parse_listen(f, NULL, "", 7);
	assert_one_error(f, "command line: ", "there is no host");
	parse_listen(f, NULL, "host:", 7);
	assert_one_error(f, "command line: ", "there is no port");
	parse_listen(f, NULL, too_long, 7);
	assert_one_error(f, "command line: ", "too long");
}

/* ---- The printed defaults ------------------------------------------------------------------- */

static void the_printed_defaults_are_a_configuration_that_names_every_key(void **state)
{
	struct fixture *f = *state;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	conf_print_defaults(out);
	assert_int_equal(fclose(out), 0);
	parse(f, text);
	/* All else has a default. */
	assert_int_equal(f->errors.count, 2);
	assert_contains(f->errors.lines[0], "the service has no name");
	assert_contains(f->errors.lines[1], "the service has no listen");
	assert_contains(text, "# pidfile: echod.pid in the run directory");
	assert_contains(text, "drain_timeout = 30;");
	assert_contains(text, "    max_line = \"64k\";");
	assert_contains(text, "    nodelay = true;");
	/* Beside a protocol, they would be wrong. */
	assert_contains(text, "    # umask = \"022\";");
	assert_contains(text, "    # stop_signal = \"SIGTERM\";");
	assert_contains(text, "    # stop_timeout = 10;");
	free(text);
}

static void the_default_file_is_in_sysconfdir(void **state)
{
	(void)state;
	assert_string_equal(conf_default_path(), ECHOD_SYSCONFDIR "/echod.conf");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(without_a_file_one_line_service_answers_on_port_30333_of_all_addresses),
		TEST(a_file_without_services_keeps_the_built_in_one),
		TEST(every_type_of_value_is_read),
		TEST(the_control_socket_is_beside_the_pidfile),
		TEST(an_ordinary_users_pidfile_is_in_the_users_run_directory),
		TEST(roots_pidfile_is_in_the_run_directory_of_the_build),
		TEST(all_errors_are_said_at_once_in_their_order),
		TEST(lines_are_those_of_the_included_file),
		TEST(a_misspelt_key_has_a_suggestion),
		TEST(a_key_in_the_wrong_place_is_unknown_there),
		TEST(a_value_of_the_wrong_type_is_said),
		TEST(a_value_of_the_wrong_type_in_a_service_is_said),
		TEST(addresses_that_are_no_strings_are_said),
		TEST(a_value_out_of_its_range_is_said),
		TEST(a_fraction_of_a_millisecond_does_not_become_never),
		TEST(numbers_that_libconfig_misreads_are_errors),
		TEST(a_syntax_error_is_said_with_its_line),
		TEST(an_end_that_comes_too_early_is_said_with_the_last_line),
		TEST(a_name_given_twice_is_said_with_both_lines),
		TEST(an_address_given_twice_is_said_with_both_lines),
		TEST(an_address_given_twice_in_one_service_is_said),
		TEST(an_address_that_is_written_in_two_ways_is_one),
		TEST(the_files_of_the_daemon_are_no_addresses_of_a_service),
		TEST(a_service_needs_a_name_and_an_address),
		TEST(a_user_or_group_that_is_not_there_is_said),
		TEST(a_program_needs_a_command_and_no_address),
		TEST(every_setting_of_a_program_is_read),
		TEST(user_group_and_nice_are_for_services_with_a_protocol_too),
		TEST(a_program_and_a_service_with_a_protocol_go_together),
		TEST(a_setting_of_the_other_kind_is_wrong_in_its_line),
		TEST(a_service_has_a_protocol_or_a_command_and_not_both),
		TEST(a_wrong_setting_of_a_program_is_said),
		TEST(a_wrong_command_is_said_once),
		TEST(each_wrong_variable_is_said_in_its_line),
		TEST(what_this_machine_lacks_stays_as_written),
		TEST(settings_of_a_program_can_be_set_on_the_command_line),
		TEST(a_wrong_setting_of_a_program_on_the_command_line_is_said),
		TEST(a_control_path_that_no_socket_can_have_is_said),
		TEST(a_daemon_cannot_log_to_stderr),
		TEST(the_foreground_logs_to_stderr_unless_told_otherwise),
		TEST(a_log_target_of_no_kind_is_said),
		TEST(settings_of_the_command_line_go_over_the_file),
		TEST(a_service_with_a_dot_in_its_name_can_be_set),
		TEST(a_wrong_setting_of_the_command_line_is_said),
		TEST(p_and_l_are_for_the_built_in_service),
		TEST(p_and_l_are_refused_where_the_file_has_services),
		TEST(a_wrong_p_or_l_is_said),
		TEST(the_printed_defaults_are_a_configuration_that_names_every_key),
		TEST(the_default_file_is_in_sysconfdir),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
