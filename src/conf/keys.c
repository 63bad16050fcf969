#include "conf/keys.h"

#include <ctype.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/signame.h"
#include "base/text.h"

#define DAY    (INT64_C(86400) * 1000)
#define SECOND INT64_C(1000)
#define KIB    INT64_C(1024)
#define MIB    (INT64_C(1024) * 1024)

/* A row begins with one of these; the last three are settings of services. */
#define GLOBAL(name)   KEY_GLOBAL, #name, KEY_FOR_ANY
#define LOG(name)      KEY_LOG, #name, KEY_FOR_ANY
#define SERVICE(name)  KEY_SERVICE, #name, KEY_FOR_ANY
#define PROTOCOL(name) KEY_SERVICE, #name, KEY_FOR_PROTOCOL
#define PROGRAM(name)  KEY_SERVICE, #name, KEY_FOR_PROGRAM

static const char *const level_choices[] = {"critical", "error", "warning", "notice",
					    "info",	"debug", NULL};
static const char *const facility_choices[] = {
	"kern",	  "user",   "mail",   "daemon",	  "auth",   "syslog", "lpr",
	"news",	  "uucp",   "cron",   "authpriv", "ftp",    "local0", "local1",
	"local2", "local3", "local4", "local5",	  "local6", "local7", NULL};
static const char *const protocol_choices[] = {"line", "echo", NULL};
static const char *const restart_choices[] = {"always", "on-failure", "never", NULL};

/*
 * To add a setting: a field in conf.h, a row here, a place in etc/echod.conf and in echod.conf(5).
 */
const struct conf_key conf_keys[] = {
	{GLOBAL(pidfile), KEY_PATH, offsetof(struct conf, pidfile), 0, 0, NULL,
	 "echod.pid in the run directory", NULL,
	 "The file that holds the daemon's pid and its lock."},
	{GLOBAL(control), KEY_PATH, offsetof(struct conf, control), 0, 0, NULL,
	 "the pidfile with the ending .sock", NULL,
	 "The Unix socket over which the verbs ask the daemon."},
	{GLOBAL(user), KEY_USER, offsetof(struct conf, user), 0, 0, NULL,
	 "echod if there is such a user, else nobody", NULL,
	 "The user that workers and programs run as when the daemon is started by root."},
	{GLOBAL(group), KEY_GROUP, offsetof(struct conf, group), 0, 0, NULL, "the user's own group",
	 NULL, "The group that workers and programs run as when the daemon is started by root."},
	{GLOBAL(nice), KEY_INTEGER, offsetof(struct conf, nice), -20, 19, "0", NULL, NULL,
	 "The scheduling priority; when not written, the foreground keeps the launcher's."},
	{GLOBAL(drain_timeout), KEY_TIME, offsetof(struct conf, drain_timeout), 0, DAY, "30", NULL,
	 NULL, "How long a polite stop waits for clients."},
	{GLOBAL(retire_timeout), KEY_TIME, offsetof(struct conf, retire_timeout), 0, 365 * DAY, "0",
	 NULL, NULL,
	 "How long connections are served on after a restart; 0: until their clients end them."},
	{GLOBAL(start_timeout), KEY_TIME, offsetof(struct conf, start_timeout), 100, 600 * SECOND,
	 "10", NULL, NULL, "How long new workers and the trial of a restart may take."},
	{GLOBAL(max_retiring), KEY_INTEGER, offsetof(struct conf, max_retiring), 1, 100000, "1024",
	 NULL, NULL, "How many processes may retire at once; the oldest is ended first."},
	{GLOBAL(watchdog), KEY_TIME_OR_OFF, offsetof(struct conf, watchdog), SECOND, DAY, "10",
	 NULL, NULL,
	 "After how long without a sign of life a worker is killed and replaced; 0: never."},

	{LOG(target), KEY_TARGET, offsetof(struct conf_log, target), 0, 0, "syslog", NULL, NULL,
	 "Where the log goes: syslog, stderr (foreground only, its default) or file:PATH."},
	{LOG(facility), KEY_CHOICE, offsetof(struct conf_log, facility), 0, 0, "daemon", NULL,
	 facility_choices, "The facility of syslog messages."},
	{LOG(level), KEY_CHOICE, offsetof(struct conf_log, level), 0, 0, "notice", NULL,
	 level_choices, "The least severe level that is logged."},
	{LOG(socket), KEY_PATH, offsetof(struct conf_log, socket), 0, 0, "/dev/log", NULL, NULL,
	 "The socket of the system's logger."},

	{SERVICE(name), KEY_NAME, offsetof(struct conf_service, name), 0, 0, NULL,
	 "none: each service needs one", NULL, "What the service is called."},
	{SERVICE(user), KEY_USER, offsetof(struct conf_service, user), 0, 0, NULL, "the global one",
	 NULL, "The user that the service runs as when the daemon is started by root."},
	{SERVICE(group), KEY_GROUP, offsetof(struct conf_service, group), 0, 0, NULL,
	 "that of the service's own user, else the global one", NULL,
	 "The group that the service runs as when the daemon is started by root."},
	{SERVICE(nice), KEY_INTEGER, offsetof(struct conf_service, nice), -20, 19, NULL,
	 "the global one", NULL, "The scheduling priority of the service."},

	{PROTOCOL(protocol), KEY_CHOICE, offsetof(struct conf_service, protocol), 0, 0, "line",
	 NULL, protocol_choices, "What the service speaks: line, or echo (RFC 862)."},
	{PROTOCOL(listen), KEY_LISTEN, 0, 0, 0, NULL,
	 "none: a service with a protocol needs one; the built-in service has *:30333", NULL,
	 "The addresses where the service listens, each host:port."},
	{PROTOCOL(workers), KEY_INTEGER, offsetof(struct conf_service, workers), 0, 1024, "0", NULL,
	 NULL, "How many processes serve; 0: one for each processor."},
	{PROTOCOL(backlog), KEY_INTEGER, offsetof(struct conf_service, backlog), 1, 65535, "4096",
	 NULL, NULL, "How many connections may wait to be accepted, for each worker and address."},
	{PROTOCOL(defer_accept), KEY_TIME, offsetof(struct conf_service, defer_accept), 0,
	 60 * SECOND, "1", NULL, NULL,
	 "How long the kernel may keep a connection whose client has not written yet; 0: not at all."},
	{PROTOCOL(keepalive), KEY_TIME, offsetof(struct conf_service, keepalive), 0, 32767 * SECOND,
	 "2m", NULL, NULL,
	 "After which silence the kernel probes whether a client is there; 0: never."},
	{PROTOCOL(nodelay), KEY_BOOLEAN, offsetof(struct conf_service, nodelay), 0, 0, "true", NULL,
	 NULL, "Whether replies leave at once (TCP_NODELAY)."},
	{PROTOCOL(max_lines), KEY_INTEGER, offsetof(struct conf_service, max_lines), 0, INT64_MAX,
	 "1", NULL, NULL, "Protocol line: how many lines a connection may send; 0: no limit."},
	{PROTOCOL(max_line), KEY_SIZE, offsetof(struct conf_service, max_line), 2, 16 * MIB, "64k",
	 NULL, NULL, "Protocol line: the longest line, its LF included."},
	{PROTOCOL(max_pending), KEY_SIZE, offsetof(struct conf_service, max_pending), 4 * KIB,
	 1024 * MIB, "256k", NULL, NULL,
	 "How many reply bytes may wait for a client that does not read."},
	{PROTOCOL(idle_timeout), KEY_TIME, offsetof(struct conf_service, idle_timeout), 0,
	 365 * DAY, "5m", NULL, NULL, "After which silence a connection is closed; 0: never."},
	{PROTOCOL(write_timeout), KEY_TIME, offsetof(struct conf_service, write_timeout), 0,
	 365 * DAY, "1m", NULL, NULL,
	 "How long a client may not read while a reply waits; 0: for ever."},

	{PROGRAM(command), KEY_COMMAND, offsetof(struct conf_service, command), 0, 0, NULL,
	 "none: a program needs one", NULL,
	 "Programs: what runs in place of a protocol, an absolute path and its arguments."},
	{PROGRAM(environment), KEY_ENVIRONMENT, offsetof(struct conf_service, environment), 0, 0,
	 NULL, "none", NULL, "Programs: variables that are added to the environment, NAME=value."},
	{PROGRAM(directory), KEY_DIRECTORY, offsetof(struct conf_service, directory), 0, 0, "/",
	 NULL, NULL, "Programs: the directory in which the command starts."},
	{PROGRAM(umask), KEY_MODE, offsetof(struct conf_service, umask), 0, 0777, "022", NULL, NULL,
	 "Programs: the permissions that new files do not get, in octal."},
	{PROGRAM(restart), KEY_CHOICE, offsetof(struct conf_service, restart), 0, 0, "always", NULL,
	 restart_choices,
	 "Programs: whether one that has ended is started again: always, on-failure or never."},
	{PROGRAM(stop_signal), KEY_SIGNAL, offsetof(struct conf_service, stop_signal), 1, _NSIG - 1,
	 "SIGTERM", NULL, NULL, "Programs: the signal that asks the command to end."},
	{PROGRAM(stop_timeout), KEY_TIME, offsetof(struct conf_service, stop_timeout), 0, DAY, "10",
	 NULL, NULL, "Programs: how long a stop waits for the command; what is left is killed."},
};

const size_t conf_key_count = sizeof(conf_keys) / sizeof(conf_keys[0]);

const struct conf_key *conf_key_find(enum key_section section, const char *name)
{
	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].section == section && strcmp(conf_keys[i].name, name) == 0)
			return &conf_keys[i];
	return NULL;
}

const char *conf_key_nearest(enum key_section section, const char *name)
{
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].section == section &&
		    text_is_nearer(name, conf_keys[i].name, &best))
			nearest = conf_keys[i].name;
	return nearest;
}

bool conf_key_is_number(const struct conf_key *key)
{
	return key->type == KEY_INTEGER || conf_key_is_time(key) || key->type == KEY_SIZE ||
	       key->type == KEY_MODE || key->type == KEY_SIGNAL;
}

bool conf_key_is_time(const struct conf_key *key)
{
	return key->type == KEY_TIME || key->type == KEY_TIME_OR_OFF;
}

bool conf_key_is_list(const struct conf_key *key)
{
	return key->type == KEY_LISTEN || key->type == KEY_COMMAND || key->type == KEY_ENVIRONMENT;
}

void *conf_key_field(const struct conf_key *key, const void *base)
{
	return (char *)base + key->offset;
}

int conf_key_check_kind(const struct conf_key *key, const void *base, struct error *err)
{
	bool program;

	if (key->section != KEY_SERVICE || key->whom == KEY_FOR_ANY)
		return 0;
	program = conf_is_program(base);
	if (program == (key->whom == KEY_FOR_PROGRAM))
		return 0;
	if (strcmp(key->name, "protocol") == 0)
		return error_set(err, EXIT_CONFIG,
				 "a service has a protocol or a command, not both");
	/* In a file this cannot be: there, a command makes the service a program. */
	if (strcmp(key->name, "command") == 0)
		return error_set(
			err, EXIT_CONFIG,
			"command can be set only for a service that has one in the file already");
	if (program)
		return error_set(err, EXIT_CONFIG,
				 "%s is for services with a protocol, and this one has a command",
				 key->name);
	return error_set(err, EXIT_CONFIG,
			 "%s is for services with a command, and this one has none", key->name);
}

static void format_number(const struct conf_key *key, char *out, size_t cap, int64_t value)
{
	if (conf_key_is_time(key))
		text_format_time(out, cap, value);
	else if (key->type == KEY_SIZE)
		text_format_size(out, cap, value);
	else if (key->type == KEY_MODE)
		snprintf(out, cap, "%03" PRIo64, (uint64_t)value);
	else
		snprintf(out, cap, "%" PRId64, value);
}

static int out_of_range(const struct conf_key *key, int64_t value, struct error *err)
{
	char low[32], high[32], given[32];

	format_number(key, low, sizeof(low), key->min);
	format_number(key, high, sizeof(high), key->max);
	format_number(key, given, sizeof(given), value);
	if (key->max == INT64_MAX)
		return error_set(err, EXIT_CONFIG, "%s must be at least %s, not %s", key->name, low,
				 given);
	return error_set(err, EXIT_CONFIG, "%s must be %sbetween %s and %s, not %s", key->name,
			 key->type == KEY_TIME_OR_OFF ? "0 (off) or " : "", low, high, given);
}

/* A program that only stands still is not stopped, and its stop_timeout would run out each time. */
static int check_signal(const struct conf_key *key, int64_t sig, struct error *err)
{
	if (sig == SIGSTOP)
		return error_set(err, EXIT_CONFIG,
				 "%s cannot be SIGSTOP: it halts, it ends nothing", key->name);
	if (sig == SIGCONT)
		return error_set(
			err, EXIT_CONFIG,
			"%s cannot be SIGCONT: it lets go on what was halted, it ends nothing",
			key->name);
	return 0;
}

/* `value` is in the unit of the struct. */
static int store_number(const struct conf_key *key, void *base, int64_t value, struct error *err)
{
	bool off = key->type == KEY_TIME_OR_OFF && value == 0;

	if (!off && (value < key->min || value > key->max))
		return out_of_range(key, value, err);
	if (key->type == KEY_SIGNAL && check_signal(key, value, err) < 0)
		return -1;
	*(int64_t *)conf_key_field(key, base) = value;
	return 0;
}

int conf_key_set_number(const struct conf_key *key, void *base, int64_t value, struct error *err)
{
	if (conf_key_is_time(key)) {
		if (value > INT64_MAX / SECOND || value < INT64_MIN / SECOND)
			return error_set(err, EXIT_CONFIG, "%s is out of range", key->name);
		value *= SECOND;
	}
	return store_number(key, base, value, err);
}

static int check_name(const char *value, struct error *err)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)value[i]) &&
		    (i == 0 || strchr("._-", value[i]) == NULL))
			len = 0;
	if (len < 1 || len > 32)
		return error_set(err, EXIT_CONFIG,
				 "the name '%s' is not 1 to 32 letters, digits, '.', '_' or '-', "
				 "the first a letter or digit",
				 value);
	return 0;
}

static int check_choice(const struct conf_key *key, const char *value, struct error *err)
{
	char all[256] = "";
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	for (const char *const *choice = key->choices; *choice != NULL; choice++) {
		if (strcmp(*choice, value) == 0)
			return 0;
		if (text_is_nearer(value, *choice, &best))
			nearest = *choice;
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", all[0] ? ", " : "",
			 *choice);
	}
	if (nearest != NULL)
		return error_set(err, EXIT_CONFIG, "%s '%s' is not known; did you mean '%s'?",
				 key->name, value, nearest);
	return error_set(err, EXIT_CONFIG, "%s '%s' is not known; it is one of %s", key->name,
			 value, all);
}

static int check_target(const char *value, struct error *err)
{
	if (strcmp(value, "syslog") == 0 || strcmp(value, "stderr") == 0)
		return 0;
	if (strncmp(value, "file:", 5) != 0)
		return error_set(err, EXIT_CONFIG,
				 "target '%s' is none of \"syslog\", \"stderr\", \"file:PATH\"",
				 value);
	if (value[5] != '/')
		return error_set(err, EXIT_CONFIG, "target '%s' must name an absolute path", value);
	return 0;
}

static int check_text(const struct conf_key *key, const char *value, struct error *err)
{
	if (value[0] == '\0')
		return error_set(err, EXIT_CONFIG, "%s is empty", key->name);
	if ((key->type == KEY_PATH || key->type == KEY_DIRECTORY) && value[0] != '/')
		return error_set(err, EXIT_CONFIG, "%s must be an absolute path, not '%s'",
				 key->name, value);
	if (key->type == KEY_NAME)
		return check_name(value, err);
	if (key->type == KEY_CHOICE)
		return check_choice(key, value, err);
	if (key->type == KEY_TARGET)
		return check_target(value, err);
	return 0;
}

static int set_boolean(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
		return error_set(err, EXIT_CONFIG, "%s must be true or false, not '%s'", key->name,
				 value);
	*(bool *)conf_key_field(key, base) = value[0] == 't';
	return 0;
}

/* Octal digits and nothing else. What is too large for permissions is found later. */
static int parse_mode(const char *text, int64_t *mode)
{
	size_t len = strlen(text);

	if (len < 1 || len > 9 || strspn(text, "01234567") != len)
		return -1;
	*mode = strtol(text, NULL, 8);
	return 0;
}

static int parse_number(const struct conf_key *key, const char *value, int64_t *number)
{
	switch (key->type) {
	case KEY_TIME:
	case KEY_TIME_OR_OFF:
		return text_parse_time(value, number);
	case KEY_SIZE:
		return text_parse_size(value, number);
	case KEY_MODE:
		return parse_mode(value, number);
	case KEY_SIGNAL:
		*number = signame_parse(value);
		return *number < 0 ? -1 : 0;
	default:
		return text_parse_int(value, number);
	}
}

/* What a number of the key's type is called, and how it is written. */
static const char *number_words(const struct conf_key *key)
{
	switch (key->type) {
	case KEY_TIME:
	case KEY_TIME_OR_OFF:
		return "time; write 30, \"500ms\", \"2m\", \"1h\"";
	case KEY_SIZE:
		return "size; write 4096, \"64k\", \"1M\"";
	case KEY_MODE:
		return "mode; write octal digits, as in \"022\"";
	case KEY_SIGNAL:
		return "signal; write \"SIGTERM\", \"TERM\" or 15";
	default:
		return "whole number";
	}
}

static int set_number_text(const struct conf_key *key, void *base, const char *value,
			   struct error *err)
{
	int64_t number;

	if (parse_number(key, value, &number) < 0)
		return error_set(err, EXIT_CONFIG, "%s: '%s' is not a %s", key->name, value,
				 number_words(key));
	return store_number(key, base, number, err);
}

int conf_key_set_text(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	char *copy;

	if (conf_key_is_list(key))
		return conf_key_set_list(key, base, value, err);
	if (key->type == KEY_BOOLEAN)
		return set_boolean(key, base, value, err);
	if (conf_key_is_number(key))
		return set_number_text(key, base, value, err);
	if (check_text(key, value, err) < 0)
		return -1;
	copy = strdup(value);
	if (copy == NULL)
		return error_errno(err, "%s", key->name);
	free(*(char **)conf_key_field(key, base));
	*(char **)conf_key_field(key, base) = copy;
	return 0;
}

int conf_keys_set_defaults(enum key_section section, void *base)
{
	struct error err = {0};

	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].section == section && conf_keys[i].initial != NULL &&
		    conf_key_set_text(&conf_keys[i], base, conf_keys[i].initial, &err) < 0)
			return -1;
	/* The one number without a value of its own. */
	if (section == KEY_SERVICE)
		((struct conf_service *)base)->nice = CONF_NICE_GLOBAL;
	return 0;
}

void conf_keys_free(enum key_section section, void *base)
{
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];

		if (key->section != section || conf_key_is_number(key) || key->type == KEY_BOOLEAN)
			continue;
		if (conf_key_is_list(key))
			conf_key_free_list(key, base);
		else
			free(*(char **)conf_key_field(key, base));
	}
}
