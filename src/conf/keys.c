#include "conf/keys.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define DAY	      (INT64_C(86400) * 1000)
#define SECOND	      INT64_C(1000)
#define KIB	      INT64_C(1024)
#define MIB	      (INT64_C(1024) * 1024)
#define GLOBAL(name)  KEY_GLOBAL, #name
#define LOG(name)     KEY_LOG, #name
#define SERVICE(name) KEY_SERVICE, #name

static const char *const level_choices[] = {"critical", "error", "warning", "notice",
					    "info",	"debug", NULL};
static const char *const facility_choices[] = {
	"kern",	  "user",   "mail",   "daemon",	  "auth",   "syslog", "lpr",
	"news",	  "uucp",   "cron",   "authpriv", "ftp",    "local0", "local1",
	"local2", "local3", "local4", "local5",	  "local6", "local7", NULL};
static const char *const protocol_choices[] = {"line", "echo", NULL};

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
	 "The user that workers run as when the daemon is started by root."},
	{GLOBAL(group), KEY_GROUP, offsetof(struct conf, group), 0, 0, NULL, "the user's own group",
	 NULL, "The group that workers run as when the daemon is started by root."},
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
	{SERVICE(protocol), KEY_CHOICE, offsetof(struct conf_service, protocol), 0, 0, "line", NULL,
	 protocol_choices, "What the service speaks: line, or echo (RFC 862)."},
	{SERVICE(listen), KEY_LISTEN, 0, 0, 0, NULL,
	 "none: each service needs one; the built-in service has *:30333", NULL,
	 "The addresses where the service listens, each host:port."},
	{SERVICE(workers), KEY_INTEGER, offsetof(struct conf_service, workers), 0, 1024, "0", NULL,
	 NULL, "How many processes serve; 0: one for each processor."},
	{SERVICE(backlog), KEY_INTEGER, offsetof(struct conf_service, backlog), 1, 65535, "4096",
	 NULL, NULL, "How many connections may wait to be accepted, for each worker and address."},
	{SERVICE(defer_accept), KEY_TIME, offsetof(struct conf_service, defer_accept), 0,
	 60 * SECOND, "1", NULL, NULL,
	 "How long the kernel may keep a connection whose client has not written yet; 0: not at all."},
	{SERVICE(keepalive), KEY_TIME, offsetof(struct conf_service, keepalive), 0, 32767 * SECOND,
	 "2m", NULL, NULL,
	 "After which silence the kernel probes whether a client is there; 0: never."},
	{SERVICE(nodelay), KEY_BOOLEAN, offsetof(struct conf_service, nodelay), 0, 0, "true", NULL,
	 NULL, "Whether replies leave at once (TCP_NODELAY)."},
	{SERVICE(max_lines), KEY_INTEGER, offsetof(struct conf_service, max_lines), 0, INT64_MAX,
	 "1", NULL, NULL, "Protocol line: how many lines a connection may send; 0: no limit."},
	{SERVICE(max_line), KEY_SIZE, offsetof(struct conf_service, max_line), 2, 16 * MIB, "64k",
	 NULL, NULL, "Protocol line: the longest line, its LF included."},
	{SERVICE(max_pending), KEY_SIZE, offsetof(struct conf_service, max_pending), 4 * KIB,
	 1024 * MIB, "256k", NULL, NULL,
	 "How many reply bytes may wait for a client that does not read."},
	{SERVICE(idle_timeout), KEY_TIME, offsetof(struct conf_service, idle_timeout), 0, 365 * DAY,
	 "5m", NULL, NULL, "After which silence a connection is closed; 0: never."},
	{SERVICE(write_timeout), KEY_TIME, offsetof(struct conf_service, write_timeout), 0,
	 365 * DAY, "1m", NULL, NULL,
	 "How long a client may not read while a reply waits; 0: for ever."},
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
	return key->type == KEY_INTEGER || key->type == KEY_TIME || key->type == KEY_SIZE;
}

static void *field(const struct conf_key *key, void *base)
{
	return (char *)base + key->offset;
}

static void format_number(const struct conf_key *key, char *out, size_t cap, int64_t value)
{
	if (key->type == KEY_TIME)
		text_format_time(out, cap, value);
	else if (key->type == KEY_SIZE)
		text_format_size(out, cap, value);
	else
		snprintf(out, cap, "%" PRId64, value);
}

/* `value` is in the unit of the struct. */
static int store_number(const struct conf_key *key, void *base, int64_t value, struct error *err)
{
	char low[32], high[32], given[32];

	if (value < key->min || value > key->max) {
		format_number(key, low, sizeof(low), key->min);
		format_number(key, high, sizeof(high), key->max);
		format_number(key, given, sizeof(given), value);
		if (key->max == INT64_MAX)
			return error_set(err, EXIT_CONFIG, "%s must be at least %s, not %s",
					 key->name, low, given);
		return error_set(err, EXIT_CONFIG, "%s must be between %s and %s, not %s",
				 key->name, low, high, given);
	}
	*(int64_t *)field(key, base) = value;
	return 0;
}

int conf_key_set_number(const struct conf_key *key, void *base, int64_t value, struct error *err)
{
	if (key->type == KEY_TIME) {
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

static int check_user(const char *value, struct error *err)
{
	const struct passwd *user;

	errno = 0;
	user = getpwnam(value);
	if (user == NULL)
		return error_set(err, EXIT_CONFIG, "there is no user '%s'%s%s", value,
				 errno != 0 ? ": " : "", errno != 0 ? strerror(errno) : "");
	if (user->pw_uid == 0)
		return error_set(err, EXIT_CONFIG,
				 "workers must not run as root: another user than '%s'", value);
	return 0;
}

static int check_group(const char *value, struct error *err)
{
	const struct group *group = getgrnam(value);

	if (group == NULL)
		return error_set(err, EXIT_CONFIG, "there is no group '%s'", value);
	if (group->gr_gid == 0)
		return error_set(err, EXIT_CONFIG,
				 "workers must not run in root's group: another group than '%s'",
				 value);
	return 0;
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
	if (key->type == KEY_PATH && value[0] != '/')
		return error_set(err, EXIT_CONFIG, "%s must be an absolute path, not '%s'",
				 key->name, value);
	if (key->type == KEY_NAME)
		return check_name(value, err);
	if (key->type == KEY_CHOICE)
		return check_choice(key, value, err);
	if (key->type == KEY_USER)
		return check_user(value, err);
	if (key->type == KEY_GROUP)
		return check_group(value, err);
	if (key->type == KEY_TARGET)
		return check_target(value, err);
	return 0;
}

static int set_boolean(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
		return error_set(err, EXIT_CONFIG, "%s must be true or false, not '%s'", key->name,
				 value);
	*(bool *)field(key, base) = value[0] == 't';
	return 0;
}

static int set_number_text(const struct conf_key *key, void *base, const char *value,
			   struct error *err)
{
	int64_t number;
	int failed;

	if (key->type == KEY_TIME)
		failed = text_parse_time(value, &number);
	else if (key->type == KEY_SIZE)
		failed = text_parse_size(value, &number);
	else
		failed = text_parse_int(value, &number);
	if (failed)
		return error_set(err, EXIT_CONFIG, "%s: '%s' is not a %s", key->name, value,
				 key->type == KEY_TIME ? "time; write 30, \"500ms\", \"2m\", \"1h\""
				 : key->type == KEY_SIZE ? "size; write 4096, \"64k\", \"1M\""
							 : "whole number");
	return store_number(key, base, number, err);
}

static int set_listen_list(struct conf_service *service, const char *value, struct error *err)
{
	char *copy = strdup(value), *rest = copy, *one;
	int result = copy == NULL ? error_errno(err, "listen") : 0;
	struct conf_service list = {0};

	while (result == 0 && (one = strsep(&rest, ",")) != NULL)
		result = conf_listen_add(&list, one, err);
	free(copy);
	if (result < 0) {
		conf_listen_clear(&list);
		return -1;
	}
	conf_listen_clear(service);
	service->listen = list.listen;
	service->listen_count = list.listen_count;
	return result;
}

int conf_key_set_text(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	char *copy;

	if (key->type == KEY_LISTEN)
		return set_listen_list(base, value, err);
	if (key->type == KEY_BOOLEAN)
		return set_boolean(key, base, value, err);
	if (conf_key_is_number(key))
		return set_number_text(key, base, value, err);
	if (check_text(key, value, err) < 0)
		return -1;
	copy = strdup(value);
	if (copy == NULL)
		return error_errno(err, "%s", key->name);
	free(*(char **)field(key, base));
	*(char **)field(key, base) = copy;
	return 0;
}

int conf_listen_add(struct conf_service *service, const char *text, struct error *err)
{
	struct conf_listen added = {0}, *larger;

	if (endpoint_parse(text, &added.endpoint, err) < 0)
		return error_prefix(err, "the address '%s': ", text);
	larger = realloc(service->listen, (service->listen_count + 1) * sizeof(*larger));
	if (larger == NULL)
		return error_errno(err, "listen");
	service->listen = larger;
	added.text = strdup(text);
	if (added.text == NULL)
		return error_errno(err, "listen");
	service->listen[service->listen_count++] = added;
	return 0;
}

void conf_listen_clear(struct conf_service *service)
{
	for (size_t i = 0; i < service->listen_count; i++)
		free(service->listen[i].text);
	free(service->listen);
	service->listen = NULL;
	service->listen_count = 0;
}

int conf_keys_set_defaults(enum key_section section, void *base)
{
	struct error err = {0};

	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].section == section && conf_keys[i].initial != NULL &&
		    conf_key_set_text(&conf_keys[i], base, conf_keys[i].initial, &err) < 0)
			return -1;
	return 0;
}

void conf_keys_free(enum key_section section, void *base)
{
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];

		if (key->section != section || conf_key_is_number(key) || key->type == KEY_BOOLEAN)
			continue;
		if (key->type == KEY_LISTEN)
			conf_listen_clear(base);
		else
			free(*(char **)field(key, base));
	}
}
