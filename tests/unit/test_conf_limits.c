/* Settings of who may come and how much, of the line protocol, of proxies and of sockets. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/keys.h"

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

static void parse_set(struct fixture *f, const char *text, const char *key, const char *value)
{
	const struct conf_override setting = {key, value};
	const struct conf_overrides overrides = {.settings = &setting,
						 .setting_count = key != NULL};
	struct conf_source *source;

	conf_errors_free(&f->errors);
	conf_free(f->conf);
	support_write_file(f->path, text);
	source = conf_source_load(f->path, &f->errors);
	assert_non_null(source);
	f->conf = conf_parse(source, &overrides, &f->errors);
	conf_source_free(source);
	assert_non_null(f->conf);
}

static void assert_right(const struct fixture *f, const char *text)
{
	if (f->errors.count > 0)
		fail_msg("%s: %s", text, f->errors.lines[0]);
}

/* In the global section. Line 2. */
static const struct conf *parse_global(struct fixture *f, const char *setting)
{
	char text[1024];

	snprintf(text, sizeof(text), "\n%s\n", setting);
	parse_set(f, text, NULL, NULL);
	return f->conf;
}

/* In a service. Line 2. */
static const struct conf_service *parse_service(struct fixture *f, const char *setting)
{
	char text[1024];

	snprintf(text, sizeof(text), "services = ( { name = \"a\"; listen = \"*:7\";\n%s } );\n",
		 setting);
	parse_set(f, text, NULL, NULL);
	assert_int_equal(f->conf->service_count, 1);
	return &f->conf->services[0];
}

static const struct conf_service *service_with(struct fixture *f, const char *setting)
{
	const struct conf_service *service = parse_service(f, setting);

	assert_right(f, setting);
	return service;
}

/* There is one error, at this line. */
static void assert_wrong(const struct fixture *f, const char *setting, unsigned line,
			 const char *sentence)
{
	char front[SUPPORT_PATH_MAX + 32];

	if (f->errors.count != 1)
		fail_msg("%s: %zu errors; %s", setting, f->errors.count,
			 f->errors.count > 1 ? f->errors.lines[1] : "");
	snprintf(front, sizeof(front), "%s:%u: ", f->path, line);
	assert_contains(f->errors.lines[0], front);
	assert_contains(f->errors.lines[0], sentence);
}

/* The field of a setting, in a struct that has it. */
static int64_t number_of(enum key_section section, const char *name, const void *base)
{
	const struct conf_key *key = conf_key_find(section, name);

	assert_non_null(key);
	assert_true(conf_key_is_number(key));
	return *(int64_t *)conf_key_field(key, base);
}

/* ---- Limits, of the daemon and of each service ------------------------------------------------
 */

static const struct {
	const char *setting;
	const char *name;
	int64_t value;
} limits[] = {
	{"max_load = 8;", "max_load", 800},
	{"max_load = 2.5;", "max_load", 250},
	{"max_load = 0.01;", "max_load", 1},
	{"max_load = 0;", "max_load", 0},
	{"max_load = 100000;", "max_load", 10000000},
	{"max_connections = 10000;", "max_connections", 10000},
	{"max_connections = 1000000000;", "max_connections", 1000000000},
	{"max_connections_per_source = 20;", "max_connections_per_source", 20},
	{"max_connections_per_prefix = 200;", "max_connections_per_prefix", 200},
	{"max_connection_rate = 1000;", "max_connection_rate", 1000},
	{"max_connection_rate_per_source = 5;", "max_connection_rate_per_source", 5},
	{"max_byte_rate = \"1M\";", "max_byte_rate", 1048576},
	{"max_byte_rate = 4096;", "max_byte_rate", 4096},
	{"max_byte_rate = \"1024G\";", "max_byte_rate", INT64_C(1) << 40},
	{"max_byte_rate_per_source = \"64k\";", "max_byte_rate_per_source", 65536},
	{"max_request_rate = 100;", "max_request_rate", 100},
	{"max_request_rate_per_source = 300;", "max_request_rate_per_source", 300},
	{"max_datagram_rate = 0;", "max_datagram_rate", 0},
	{"max_datagram_rate = 50;", "max_datagram_rate", 50},
	{"max_pending = \"4k\";", "max_pending", 4096},
	{"idle_timeout = \"2m\";", "idle_timeout", 120000},
	{"write_timeout = 0.5;", "write_timeout", 500},
	{"first_byte_timeout = \"300ms\";", "first_byte_timeout", 300},
	{"lifetime = \"365d\";", "lifetime", INT64_C(365) * 86400000},
};

static void limits_are_for_the_daemon_and_for_each_service(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(limits); i++) {
		const struct conf_service *service;
		const struct conf *conf = parse_global(f, limits[i].setting);

		assert_right(f, limits[i].setting);
		assert_true(number_of(KEY_GLOBAL, limits[i].name, conf) == limits[i].value);
		service = service_with(f, limits[i].setting);
		assert_true(number_of(KEY_SERVICE, limits[i].name, service) == limits[i].value);
	}
}

static void what_is_not_written_is_no_limit(void **state)
{
	struct fixture *f = *state;
	const struct conf_limits *global, *own;
	struct conf_limits none = {0};

	parse_service(f, "");
	global = &f->conf->limits;
	own = &f->conf->services[0].limits;
	assert_memory_equal(global, &none, sizeof(none));
	assert_int_equal(own->max_datagram_rate, 10000);
	assert_int_equal(own->max_pending, 262144);
	assert_int_equal(own->idle_timeout, 300000);
	assert_int_equal(own->write_timeout, 60000);
	none.max_datagram_rate = own->max_datagram_rate;
	none.max_pending = own->max_pending;
	none.idle_timeout = own->idle_timeout;
	none.write_timeout = own->write_timeout;
	assert_memory_equal(own, &none, sizeof(none));
}

static void a_wrong_limit_is_said_in_both_places(void **state)
{
	static const struct {
		const char *setting;
		const char *sentence;
	} wrong[] = {
		{"max_load = -1;", "max_load must be between 0 and 100000, not -1"},
		{"max_load = 100000.01;", "between 0 and 100000, not 100000.01"},
		{"max_load = 1.005;", "max_load: '1.005' is not a load; write 8 or 2.5"},
		{"max_load = 1e300;", "is not a load"},
		{"max_load = \"8\";", "max_load must be a number such as 8 or 2.5"},
		{"max_load = true;", "max_load must be a number such as 8 or 2.5"},
		{"max_load = 9223372036854775807L;", "max_load is out of range"},
		{"max_connections = -1;", "must be between 0 and 1000000000, not -1"},
		{"max_connections = 1000000001;", "between 0 and 1000000000, not 1000000001"},
		{"max_connections = \"10\";", "max_connections must be a whole number"},
		{"max_connections_per_source = 1.5;", "must be a whole number"},
		{"max_connections_per_prefix = true;", "must be a whole number"},
		{"max_connection_rate = [ 1 ];", "must be a whole number"},
		{"max_connection_rate_per_source = -5;", "must be between 0 and 1000000000"},
		{"max_byte_rate = \"1T\";", "max_byte_rate: '1T' is not a size"},
		{"max_byte_rate = \"1025G\";", "must be between 0 and 1024G, not 1025G"},
		{"max_byte_rate_per_source = 1.5;", "must be a size"},
		{"max_request_rate = \"1/s\";", "must be a whole number"},
		{"max_request_rate_per_source = -1;", "not -1"},
		{"max_datagram_rate = -1;", "not -1"},
		{"max_pending = 4095;", "between 4k and 1G, not 4095"},
		{"idle_timeout = \"366d\";", "between 0 and 365d, not 366d"},
		{"write_timeout = \"soon\";", "'soon' is not a time"},
		{"first_byte_timeout = -1;", "between 0 and 365d, not -1"},
		{"lifetime = true;", "lifetime must be a time"},
		{"max_conections = 1;", "did you mean 'max_connections'?"},
		{"first_byte_timout = 1;", "did you mean 'first_byte_timeout'?"},
		{"access_time = [ ];", "did you mean 'access_times'?"},
		{"acces = [ ];", "did you mean 'access'?"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		parse_global(f, wrong[i].setting);
		assert_wrong(f, wrong[i].setting, 2, wrong[i].sentence);
		parse_service(f, wrong[i].setting);
		assert_wrong(f, wrong[i].setting, 2, wrong[i].sentence);
	}
}

/* A service without a bound of its memory would not be one. */
static void only_the_daemon_s_max_pending_can_be_off(void **state)
{
	struct fixture *f = *state;

	parse_global(f, "max_pending = 0;");
	assert_right(f, "max_pending");
	parse_global(f, "max_pending = 1;");
	assert_wrong(f, "max_pending", 2, "must be 0 (off) or between 4k and 1G, not 1");
	parse_service(f, "max_pending = 0;");
	assert_wrong(f, "max_pending", 2, "must be between 4k and 1G, not 0");
}

static void limits_can_be_set_on_the_command_line(void **state)
{
	struct fixture *f = *state;

	parse_set(f, "", "max_load", "2.25");
	assert_right(f, "max_load");
	assert_int_equal(f->conf->limits.max_load, 225);
	parse_set(f, "", "services.line.max_load", "4");
	assert_right(f, "max_load");
	assert_int_equal(f->conf->services[0].limits.max_load, 400);
	parse_set(f, "", "services.line.max_load", "x");
	assert_contains(f->errors.lines[0], "command line: max_load: 'x' is not a load");
	parse_set(f, "", "services.line.max_byte_rate", "1M");
	assert_right(f, "max_byte_rate");
	parse_set(f, "", "max_connections", "9");
	assert_right(f, "max_connections");
	assert_int_equal(f->conf->limits.max_connections, 9);
}

/* ---- Access -----------------------------------------------------------------------------------
 */

static void each_access_rule_knows_its_line(void **state)
{
	struct fixture *f = *state;
	const struct access_list *list;
	char where[SUPPORT_PATH_MAX + 16];

	list = &service_with(f, "access = (\n\"allow 10.0.0.0/8\",\n\n\"deny *\" );")
			->limits.access;
	assert_int_equal(list->count, 2);
	assert_string_equal(list->rules[0].text, "allow 10.0.0.0/8");
	snprintf(where, sizeof(where), "%s:3", f->path);
	assert_string_equal(list->rules[0].where, where);
	snprintf(where, sizeof(where), "%s:5", f->path);
	assert_string_equal(list->rules[1].where, where);
	assert_int_equal(f->conf->limits.access.count, 0);
	list = &parse_global(f, "access = \"deny 192.0.2.0/24\";")->limits.access;
	assert_right(f, "access");
	assert_int_equal(list->count, 1);
	snprintf(where, sizeof(where), "%s:2", f->path);
	assert_string_equal(list->rules[0].where, where);
	assert_int_equal(service_with(f, "access = [ ];")->limits.access.count, 0);
}

/* libconfig counts what stands behind a string, too. */
static void the_last_rule_is_not_where_the_list_ends(void **state)
{
	static const char *const texts[] = {
		"access = [\n\"allow 10.0.0.0/8\",\n\"deny *\"\n\n];",
		"access = (\n\"allow 10.0.0.0/8\",\n\"deny *\"\n# the end\n);",
		"access = [\n\"deny *\", \"allow 10.0.0.0/8\",\n\"deny *\"\n];",
		"access = [\n\n\"deny *\"\n];",
	};
	struct fixture *f = *state;
	char where[SUPPORT_PATH_MAX + 16];

	snprintf(where, sizeof(where), "%s:4", f->path);
	for (size_t i = 0; i < COUNT_OF(texts); i++) {
		const struct access_list *list = &parse_global(f, texts[i])->limits.access;

		assert_right(f, texts[i]);
		assert_string_equal(list->rules[list->count - 1].where, where);
	}
	parse_service(f, "access = [\n\"allow 10.0.0.0/8\",\n\"deny all\"\n\n];");
	assert_wrong(f, "access", 4, "'all' is not known");
}

static void access_of_the_command_line_takes_the_place_of_the_file_s(void **state)
{
	const char *text =
		"services = ( { name = \"a\"; listen = \"*:7\"; access = [ \"deny *\" ]; } );\n";
	struct fixture *f = *state;
	const struct access_list *list;

	parse_set(f, text, "services.a.access", "allow 10.0.0.0/8, deny *");
	assert_right(f, "access");
	list = &f->conf->services[0].limits.access;
	assert_int_equal(list->count, 2);
	assert_string_equal(list->rules[0].where, "command line");
	assert_string_equal(list->rules[1].text, "deny *");
	parse_set(f, text, "access", "deny ::1");
	assert_right(f, "access");
	assert_int_equal(f->conf->limits.access.count, 1);
	assert_int_equal(f->conf->services[0].limits.access.count, 1);
	parse_set(f, text, "services.a.access", "allow 10.0.0.0/8,dney *");
	assert_int_equal(f->errors.count, 1);
	assert_contains(
		f->errors.lines[0],
		"command line: access: the rule 'dney *': 'dney' is not known; did you mean");
	assert_string_equal(f->conf->services[0].limits.access.rules[0].text, "deny *");
}

static void each_wrong_access_rule_is_said_in_its_line(void **state)
{
	struct fixture *f = *state;
	char front[SUPPORT_PATH_MAX + 32];

	parse_service(f, "access = (\n\"allow 10.0.0.1/8\",\n\"deny *\",\n7,\n\"allow all\" );");
	assert_int_equal(f->errors.count, 3);
	snprintf(front, sizeof(front), "%s:3: access: ", f->path);
	assert_contains(f->errors.lines[0], front);
	assert_contains(f->errors.lines[0], "has bits behind its prefix; write 10.0.0.0/8");
	assert_contains(f->errors.lines[1],
			":5: access must be a list of strings, as in [ \"allow");
	assert_contains(f->errors.lines[2], ":6: access: the rule 'allow all': 'all' is not known");
	parse_service(f, "access = true;");
	assert_wrong(f, "access", 2, "access must be a list of strings");
	parse_service(f, "access = { };");
	assert_wrong(f, "access", 2, "access must be a list of strings");
	parse_global(f, "access = [ \"\" ];");
	assert_wrong(f, "access", 2, "the rule '': it is empty");
}

/* Served on after a restart, such a configuration must not allow more than before. */
static void a_rule_of_a_user_who_has_vanished_stays_in_the_list(void **state)
{
	struct fixture *f = *state;
	const struct access_list *list;

	list = &parse_service(f, "access = [ \"allow uid:no-such-user\" ];")->limits.access;
	assert_wrong(f, "access", 2, "there is no user 'no-such-user'");
	assert_int_equal(list->count, 1);
	parse_set(f, "", "access", "allow uid:root,allow gid:no-such-group,deny *");
	assert_int_equal(f->errors.count, 1);
	assert_contains(f->errors.lines[0], "there is no group 'no-such-group'");
	assert_int_equal(f->conf->limits.access.count, 3);
}

static void access_times_are_read(void **state)
{
	struct fixture *f = *state;
	const struct schedule *times;

	times = &service_with(f, "access_times = [ \"Mon-Fri 08:00-18:00\", \"Sat 10:00-12:00\" ];")
			 ->limits.access_times;
	assert_int_equal(times->count, 2);
	assert_int_equal(times->windows[1].from, 600);
	times = &parse_global(f, "access_times = \"22:00-06:00\";")->limits.access_times;
	assert_right(f, "access_times");
	assert_int_equal(times->count, 1);
	parse_set(f, "", "services.line.access_times", "Sun 00:00-24:00,Mon 08:00-09:00");
	assert_right(f, "access_times");
	assert_int_equal(f->conf->services[0].limits.access_times.count, 2);
	parse_service(f, "access_times = [ \"Mon-Fri\" ];");
	assert_wrong(f, "access_times", 2, "access_times: the times 'Mon-Fri': it has no hours");
	parse_service(f, "access_times = 8;");
	assert_wrong(f, "access_times", 2, "as in [ \"Mon-Fri 08:00-18:00\" ]");
	parse_set(f, "", "access_times", "8-18");
	assert_contains(f->errors.lines[0], "command line: access_times: the times '8-18'");
}

/* ---- Of services with a protocol ---------------------------------------------------------------
 */

static void the_defaults_change_nothing(void **state)
{
	const struct conf_service *service = service_with(*state, "");

	assert_string_equal(service->delimiter, "lf");
	assert_string_equal(service->on_long_line, "close");
	assert_string_equal(service->transform, "none");
	assert_null(service->greeting);
	assert_string_equal(service->on_refuse, "close");
	assert_string_equal(service->proxy_protocol, "off");
	assert_int_equal(service->proxy_from_count, 0);
	assert_true(service->v6only);
	assert_null(service->device);
	assert_int_equal(service->receive_buffer, 0);
	assert_int_equal(service->send_buffer, 0);
	assert_int_equal(service->tos, 0);
	assert_int_equal(service->ttl, 0);
	assert_int_equal(service->mss, 0);
	assert_int_equal(service->fastopen, 0);
	assert_int_equal(service->user_timeout, 0);
	assert_int_equal(service->busy_poll, 50);
	assert_false(service->mptcp);
	assert_int_equal(service->socket_mode, 0666);
	assert_null(service->socket_user);
	assert_null(service->socket_group);
}

static void settings_of_a_service_are_read(void **state)
{
	const struct conf_service *service = service_with(
		*state,
		"delimiter = \"crlf\"; on_long_line = \"split\"; transform = \"upper\";\n"
		"greeting = \"%host at your service\\r\\n\"; on_refuse = \"message\"; v6only = false;\n"
		"device = \"eth0.100\"; receive_buffer = \"1M\"; send_buffer = 65536; tos = 184;\n"
		"ttl = 1; mss = 536; fastopen = 256; user_timeout = \"30s\"; mptcp = true;\n"
		"busy_poll = 1000;\n"
		"socket_mode = \"0660\"; socket_user = \"root\"; socket_group = \"daemon\";");

	assert_string_equal(service->delimiter, "crlf");
	assert_string_equal(service->on_long_line, "split");
	assert_string_equal(service->transform, "upper");
	assert_string_equal(service->greeting, "%host at your service\r\n");
	assert_string_equal(service->on_refuse, "message");
	assert_false(service->v6only);
	assert_string_equal(service->device, "eth0.100");
	assert_int_equal(service->receive_buffer, 1048576);
	assert_int_equal(service->send_buffer, 65536);
	assert_int_equal(service->tos, 184);
	assert_int_equal(service->ttl, 1);
	assert_int_equal(service->mss, 536);
	assert_int_equal(service->fastopen, 256);
	assert_int_equal(service->user_timeout, 30000);
	assert_int_equal(service->busy_poll, 1000);
	assert_true(service->mptcp);
	assert_int_equal(service->socket_mode, 0660);
	assert_string_equal(service->socket_user, "root");
	assert_string_equal(service->socket_group, "daemon");
}

static void every_choice_of_a_service_can_be_made(void **state)
{
	static const char *const good[] = {
		"protocol = \"line\";",
		"protocol = \"echo\";",
		"protocol = \"discard\";",
		"protocol = \"chargen\";",
		"protocol = \"daytime\";",
		"protocol = \"time\";",
		"protocol = \"whoami\";",
		"delimiter = \"nul\";",
		"delimiter = \"lf\";",
		"transform = \"lower\";",
		"transform = \"reverse\";",
		"transform = \"hex\";",
		"transform = \"none\";",
		"on_long_line = \"close\";",
		"on_refuse = \"reset\";",
		"on_refuse = \"close\";",
		"mss = 0;",
		"mss = 88;",
		"mss = 32767;",
		"tos = 255;",
		"ttl = 255;",
		"fastopen = 65535;",
		"device = \"123456789012345\";",
		"receive_buffer = \"1G\";",
		"user_timeout = \"1d\";",
		"busy_poll = 0;",
		"socket_mode = \"0\";",
		"socket_mode = \"777\";",
		"proxy_from = [ ];",
		"deny_source_ports = [ ];",
		"proxy_protocol = \"off\";",
	};

	for (size_t i = 0; i < COUNT_OF(good); i++)
		service_with(*state, good[i]);
}

static void a_wrong_setting_of_a_service_is_said(void **state)
{
	static const struct {
		const char *setting;
		const char *sentence;
	} wrong[] = {
		{"protocol = \"chargn\";", "did you mean 'chargen'?"},
		{"protocol = \"http\";",
		 "it is one of line, echo, discard, chargen, daytime, time, whoami"},
		{"delimiter = \"cr\";", "delimiter 'cr' is not known; it is one of lf, crlf, nul"},
		{"delimiter = \"\\n\";", "it is one of lf, crlf, nul"},
		{"delimiter = 10;", "delimiter must be a string in quotes"},
		{"on_long_line = \"cut\";", "it is one of close, split"},
		{"transform = \"rot13\";", "it is one of none, upper, lower, reverse, hex"},
		{"transform = \"Upper\";", "did you mean 'upper'?"},
		{"greeting = [ \"hello\" ];", "greeting must be a string in quotes"},
		{"greeting = \"\";", "greeting is empty"},
		{"on_refuse = \"drop\";", "it is one of close, reset, message"},
		{"proxy_protocol = true;", "proxy_protocol must be a string in quotes"},
		{"proxy_protocol = \"on\";", "proxy_protocol 'on' is not known"},
		{"proxy_from = [ \"10.0.0.1/8\" ];",
		 "proxy_from: the network '10.0.0.1/8' has bits"},
		{"proxy_from = [ \"local\" ];", "proxy_from: 'local' is not a network"},
		{"proxy_from = 10;",
		 "proxy_from must be a list of strings, as in [ \"10.0.0.0/8\" ]"},
		{"v6only = 1;", "v6only must be true or false"},
		{"device = \"1234567890123456\";",
		 "longer than 15 bytes: no interface is called so"},
		{"device = \"eth/0\";", "device 'eth/0' is not the name of an interface"},
		{"device = \"eth 0\";", "is not the name of an interface"},
		{"device = \"..\";", "is not the name of an interface"},
		{"device = \"\";", "device is empty"},
		{"device = [ \"eth0\" ];", "device must be a string in quotes"},
		{"receive_buffer = \"2G\";", "receive_buffer must be between 0 and 1G, not 2G"},
		{"receive_buffer = -1;", "not -1"},
		{"send_buffer = 1.5;", "send_buffer must be a size"},
		{"tos = 256;", "tos must be between 0 and 255, not 256"},
		{"tos = \"0x10\";", "tos must be a whole number"},
		{"ttl = -1;", "ttl must be between 0 and 255, not -1"},
		{"ttl = 256;", "not 256"},
		{"mss = 87;", "mss must be 0 (off) or between 88 and 32767, not 87"},
		{"mss = 32768;", "not 32768"},
		{"mss = \"536\";", "mss must be a whole number"},
		{"fastopen = true;", "fastopen must be a whole number"},
		{"fastopen = 65536;", "fastopen must be between 0 and 65535, not 65536"},
		{"user_timeout = \"2d\";", "user_timeout must be between 0 and 1d, not 2d"},
		{"busy_poll = 1001;", "busy_poll must be between 0 and 1000, not 1001"},
		{"busy_poll = \"50us\";", "busy_poll must be a whole number"},
		{"mptcp = \"yes\";", "mptcp must be true or false"},
		{"socket_mode = 0666;", "socket_mode must be octal digits in quotes"},
		{"socket_mode = \"1777\";", "socket_mode must be between 000 and 777, not 1777"},
		{"socket_mode = \"rw\";", "socket_mode: 'rw' is not a mode"},
		{"socket_user = \"no-such-user\";", "there is no user 'no-such-user'"},
		{"socket_group = \"no-such-group\";", "there is no group 'no-such-group'"},
		{"socket_group = 0;", "socket_group must be a string in quotes"},
		{"greting = \"x\";", "did you mean 'greeting'?"},
		{"proxy_form = [ ];", "did you mean 'proxy_from'?"},
		{"v6_only = true;", "did you mean 'v6only'?"},
		{"usertimeout = 1;", "did you mean 'user_timeout'?"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		parse_service(f, wrong[i].setting);
		assert_wrong(f, wrong[i].setting, 2, wrong[i].sentence);
	}
}

static void settings_of_a_service_are_not_for_the_daemon_nor_for_programs(void **state)
{
	static const char *const settings[] = {
		"delimiter = \"lf\";",	     "greeting = \"x\";",
		"proxy_protocol = \"off\";", "device = \"eth0\";",
		"socket_mode = \"0666\";",   "deny_source_ports = [ ];",
		"on_refuse = \"close\";",    "mptcp = true;"};
	static const char *const programs[] = {"access = [ ];", "max_load = 1;", "lifetime = 1;",
					       "max_datagram_rate = 1;", "greeting = \"x\";"};
	struct fixture *f = *state;
	char text[256];

	for (size_t i = 0; i < COUNT_OF(settings); i++) {
		parse_global(f, settings[i]);
		assert_wrong(f, settings[i], 2, "there is no setting '");
	}
	for (size_t i = 0; i < COUNT_OF(programs); i++) {
		snprintf(text, sizeof(text),
			 "services = ( { name = \"p\"; command = \"/bin/sh\";\n%s } );\n",
			 programs[i]);
		parse_set(f, text, NULL, NULL);
		assert_wrong(f, programs[i], 2, " is for services with a protocol");
	}
}

/* ---- Ports that get no answer ------------------------------------------------------------------
 */

static void assert_ports(const struct conf_service *service, size_t i, unsigned from,
			 unsigned until)
{
	assert_true(i < service->deny_source_port_count);
	assert_int_equal(service->deny_source_ports[i].from, from);
	assert_int_equal(service->deny_source_ports[i].until, until);
}

static void ports_are_numbers_and_ranges(void **state)
{
	struct fixture *f = *state;
	const struct conf_service *service = service_with(f, "");

	assert_int_equal(service->deny_source_port_count, 6);
	assert_ports(service, 0, 0, 1023);
	assert_ports(service, 1, 1900, 1900);
	assert_ports(service, 5, 30333, 30333);
	service = service_with(f, "deny_source_ports = ( 53, \"1-65535\", \"7\" );");
	assert_int_equal(service->deny_source_port_count, 3);
	assert_ports(service, 0, 53, 53);
	assert_ports(service, 1, 1, 65535);
	assert_ports(service, 2, 7, 7);
	service = service_with(f, "deny_source_ports = ( 1, 2L );");
	assert_ports(service, 1, 2, 2);
	service = service_with(f, "deny_source_ports = 53;");
	assert_int_equal(service->deny_source_port_count, 1);
	service = service_with(f, "deny_source_ports = [ ];");
	assert_int_equal(service->deny_source_port_count, 0);
	parse_set(f, "", "services.line.deny_source_ports", "53,100-200");
	assert_right(f, "deny_source_ports");
	assert_ports(&f->conf->services[0], 1, 100, 200);
	parse_set(f, "", "services.line.deny_source_ports", "");
	assert_right(f, "deny_source_ports");
	assert_int_equal(f->conf->services[0].deny_source_port_count, 0);
}

static void wrong_ports_are_said(void **state)
{
	static const struct {
		const char *setting;
		const char *sentence;
	} wrong[] = {
		{"deny_source_ports = [ 65536 ];",
		 "deny_source_ports: '65536' is not a port or a range of ports; write 53 or \"0-1023\""},
		{"deny_source_ports = [ -1 ];", "'-1' is not a port or a range"},
		{"deny_source_ports = [ \"7-\" ];", "'7-' is not a port or a range"},
		{"deny_source_ports = [ \"domain\" ];", "'domain' is not a port or a range"},
		{"deny_source_ports = [ \"0-65536\" ];", "'0-65536' is not a port or a range"},
		{"deny_source_ports = [ \"1 - 2\" ];", "'1 - 2' is not a port or a range"},
		{"deny_source_ports = [ \"00000000000000000053\" ];", "is not a port or a range"},
		{"deny_source_ports = [ \"\" ];", "'' is not a port or a range"},
		{"deny_source_ports = [ \"9-5\" ];", "'9-5' ends before it begins; write \"5-9\""},
		{"deny_source_ports = ( 1.5 );",
		 "must be a list of ports and ranges, as in ( 53, \"0-1023\" )"},
		{"deny_source_ports = true;", "must be a list of ports and ranges"},
		{"deny_source_ports = { };", "must be a list of ports and ranges"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		parse_service(f, wrong[i].setting);
		assert_wrong(f, wrong[i].setting, 2, wrong[i].sentence);
	}
}

/* ---- What one setting cannot tell alone --------------------------------------------------------
 */

static void a_proxy_is_believed_only_by_its_network(void **state)
{
	struct fixture *f = *state;
	const struct conf_service *service;

	parse_service(f, "proxy_protocol = \"required\";");
	assert_wrong(f, "proxy_protocol", 1, "proxy_protocol \"required\" needs proxy_from");
	parse_service(f, "proxy_protocol = \"optional\"; proxy_from = [ ];");
	assert_wrong(f, "proxy_protocol", 1, "proxy_protocol \"optional\" needs proxy_from");
	service = service_with(f, "proxy_protocol = \"required\";\n"
				  "proxy_from = [ \"10.0.0.0/8\", \"::ffff:192.0.2.1\" ];");
	assert_int_equal(service->proxy_from_count, 2);
	assert_int_equal(service->proxy_from[1].prefix, 32);
	parse_set(
		f,
		"services = ( { name = \"a\"; listen = \"*:7\"; proxy_protocol = \"optional\"; } );",
		"services.a.proxy_from", "10.0.0.0/8,::1");
	assert_right(f, "proxy_from");
	assert_int_equal(f->conf->services[0].proxy_from_count, 2);
}

static void assert_hex(const char *listen, const char *protocol, const char *sentence)
{
	struct conf_service service;
	struct conf_listen one = {.text = (char *)listen};
	struct conf_errors errors = {0};
	struct error err = {0};

	assert_int_equal(conf_service_init(&service, "file:1"), 0);
	assert_int_equal(
		conf_key_set_text(conf_key_find(KEY_SERVICE, "protocol"), &service, protocol, &err),
		0);
	assert_int_equal(
		conf_key_set_text(conf_key_find(KEY_SERVICE, "transform"), &service, "hex", &err),
		0);
	assert_int_equal(endpoint_parse(listen, &one.endpoint, &err), 0);
	service.listen = &one;
	service.listen_count = 1;
	conf_service_check(&service, &errors);
	assert_int_equal(errors.count, sentence != NULL);
	if (sentence != NULL)
		assert_contains(errors.lines[0], sentence);
	service.listen = NULL;
	service.listen_count = 0;
	conf_errors_free(&errors);
	conf_service_clear(&service);
}

static void datagrams_are_not_answered_in_hex(void **state)
{
	(void)state;
	assert_hex("udp:*:7", "line",
		   "file:1: transform \"hex\" makes replies longer than requests");
	assert_hex("udp:[::1]:7", "line", "'udp:[::1]:7' needs another transform");
	assert_hex("unixgram:/run/x", "line", "'unixgram:/run/x' needs another transform");
	assert_hex("unixgram:@x", "line", "needs another transform");
	assert_hex("tcp:*:7", "line", NULL);
	assert_hex("unix:/run/x", "line", NULL);
	/* Others do not transform. */
	assert_hex("udp:*:7", "echo", NULL);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(limits_are_for_the_daemon_and_for_each_service),
		TEST(what_is_not_written_is_no_limit),
		TEST(a_wrong_limit_is_said_in_both_places),
		TEST(only_the_daemon_s_max_pending_can_be_off),
		TEST(limits_can_be_set_on_the_command_line),
		TEST(each_access_rule_knows_its_line),
		TEST(the_last_rule_is_not_where_the_list_ends),
		TEST(access_of_the_command_line_takes_the_place_of_the_file_s),
		TEST(each_wrong_access_rule_is_said_in_its_line),
		TEST(a_rule_of_a_user_who_has_vanished_stays_in_the_list),
		TEST(access_times_are_read),
		TEST(the_defaults_change_nothing),
		TEST(settings_of_a_service_are_read),
		TEST(every_choice_of_a_service_can_be_made),
		TEST(a_wrong_setting_of_a_service_is_said),
		TEST(settings_of_a_service_are_not_for_the_daemon_nor_for_programs),
		TEST(ports_are_numbers_and_ranges),
		TEST(wrong_ports_are_said),
		TEST(a_proxy_is_believed_only_by_its_network),
		cmocka_unit_test(datagrams_are_not_answered_in_hex),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
