#include "conf/keys.h"

#include <signal.h>
#include <string.h>

#include "base/text.h"

#define DAY    (INT64_C(86400) * 1000)
#define SECOND INT64_C(1000)
#define KIB    INT64_C(1024)
#define MIB    (INT64_C(1024) * 1024)
#define GIB    (INT64_C(1024) * MIB)
#define MANY   INT64_C(1000000000) /* as good as no limit, and no sum of such overflows */

/* A row begins with one of these; the last three are settings of services. */
#define GLOBAL(name)   KEY_GLOBAL, #name, KEY_FOR_ANY
#define LOG(name)      KEY_LOG, #name, KEY_FOR_ANY
#define SERVICE(name)  KEY_SERVICE, #name, KEY_FOR_ANY
#define PROTOCOL(name) KEY_SERVICE, #name, KEY_FOR_PROTOCOL
#define PROGRAM(name)  KEY_SERVICE, #name, KEY_FOR_PROGRAM

/*
 * Two rows: what stands in the struct conf_limits of the daemon and in that of each service, with
 * the same default. tests/lint/lint.sh reads it so, too.
 */
#define LIMIT(name, type, min, max, initial, said, sentence)                                       \
	{GLOBAL(name), type,	offsetof(struct conf, limits.name), min, max, initial, said,       \
	 NULL,	       sentence},                                                                  \
	{                                                                                          \
		PROTOCOL(name), type, offsetof(struct conf_service, limits.name), min, max,        \
			initial, said, NULL, sentence                                              \
	}

static const char *const level_choices[] = {"critical", "error", "warning", "notice",
					    "info",	"debug", NULL};
static const char *const facility_choices[] = {
	"kern",	  "user",   "mail",   "daemon",	  "auth",   "syslog", "lpr",
	"news",	  "uucp",   "cron",   "authpriv", "ftp",    "local0", "local1",
	"local2", "local3", "local4", "local5",	  "local6", "local7", NULL};
static const char *const protocol_choices[] = {"line",	  "echo", "discard", "chargen",
					       "daytime", "time", "whoami",  NULL};
static const char *const delimiter_choices[] = {"lf", "crlf", "nul", NULL};
static const char *const long_line_choices[] = {"close", "split", NULL};
static const char *const transform_choices[] = {"none", "upper", "lower", "reverse", "hex", NULL};
static const char *const refuse_choices[] = {"close", "reset", "message", NULL};
static const char *const proxy_choices[] = {"off", "optional", "required", NULL};
static const char *const restart_choices[] = {"always", "on-failure", "never", NULL};

/* Of limits whose default is another in a service. */
#define DATAGRAM_RATE_SENTENCE                                                                     \
	"How many datagrams a second one network may send, an IPv4 /24 or an IPv6 /64; 0: no limit."
#define PENDING_SENTENCE "How many reply bytes may wait for a client that does not read."
#define IDLE_SENTENCE	 "After which silence a connection is closed; 0: never."
#define WRITE_SENTENCE	 "How long a client may not read while a reply waits; 0: for ever."

/*
 * To add a setting: a field in conf.h, a row here, a place in etc/echod.conf and in echod.conf(5).
 * Settings are printed in the order of their rows.
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
	 NULL, protocol_choices,
	 "What the service speaks: line, echo, discard, chargen, daytime, time or whoami."},
	{PROTOCOL(listen), KEY_LISTEN, 0, 0, 0, NULL,
	 "none: a service with a protocol needs one; the built-in service has *:30333", NULL,
	 "The addresses where the service listens, each [scheme:]host:port or unix:PATH."},
	{PROTOCOL(workers), KEY_INTEGER, offsetof(struct conf_service, workers), 0, 1024, "0", NULL,
	 NULL, "How many processes serve; 0: one for each processor."},
	{PROTOCOL(busy_poll), KEY_INTEGER, offsetof(struct conf_service, busy_poll), 0, 1000, "50",
	 NULL, NULL,
	 "For how many microseconds a worker looks on before it sleeps, where that lately paid; 0: never."},

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
	{PROTOCOL(v6only), KEY_BOOLEAN, offsetof(struct conf_service, v6only), 0, 0, "true", NULL,
	 NULL, "Whether [::] is IPv6 only; * is IPv4 and IPv6 in any case."},
	{PROTOCOL(device), KEY_DEVICE, offsetof(struct conf_service, device), 0, 0, NULL,
	 "none: all", NULL, "The network interface that clients come through (SO_BINDTODEVICE)."},
	{PROTOCOL(receive_buffer), KEY_SIZE, offsetof(struct conf_service, receive_buffer), 0, GIB,
	 "0", NULL, NULL,
	 "The kernel's buffer for what clients send (SO_RCVBUF); 0: as it likes, of UDP 2M or more."},
	{PROTOCOL(send_buffer), KEY_SIZE, offsetof(struct conf_service, send_buffer), 0, GIB, "0",
	 NULL, NULL, "The kernel's buffer for replies (SO_SNDBUF); 0: as it likes."},
	{PROTOCOL(tos), KEY_INTEGER, offsetof(struct conf_service, tos), 0, 255, "0", NULL, NULL,
	 "Type of service or traffic class of replies, DSCP * 4 (IP_TOS); 0: unchanged."},
	{PROTOCOL(ttl), KEY_INTEGER, offsetof(struct conf_service, ttl), 0, 255, "0", NULL, NULL,
	 "Time to live or hop limit of replies (IP_TTL); 0: the kernel's."},
	{PROTOCOL(mss), KEY_INTEGER_OR_OFF, offsetof(struct conf_service, mss), 88, 32767, "0",
	 NULL, NULL, "The largest TCP segment (TCP_MAXSEG); 0: the kernel's choice."},
	{PROTOCOL(fastopen), KEY_INTEGER, offsetof(struct conf_service, fastopen), 0, 65535, "0",
	 NULL, NULL, "How many TCP Fast Open requests may wait (TCP_FASTOPEN, RFC 7413); 0: off."},
	{PROTOCOL(user_timeout), KEY_TIME, offsetof(struct conf_service, user_timeout), 0, DAY, "0",
	 NULL, NULL,
	 "How long sent bytes may stay without acknowledgement (TCP_USER_TIMEOUT); 0: as the kernel does it."},
	{PROTOCOL(mptcp), KEY_BOOLEAN, offsetof(struct conf_service, mptcp), 0, 0, "false", NULL,
	 NULL, "Whether clients may use Multipath TCP (RFC 8684), where the kernel has it."},
	{PROTOCOL(socket_mode), KEY_MODE, offsetof(struct conf_service, socket_mode), 0, 0777,
	 "0666", NULL, NULL, "The permissions of a Unix socket's file, in octal."},
	{PROTOCOL(socket_user), KEY_OWNER, offsetof(struct conf_service, socket_user), 0, 0, NULL,
	 "the user who starts the daemon", NULL, "The owner of a Unix socket's file."},
	{PROTOCOL(socket_group), KEY_OWNER_GROUP, offsetof(struct conf_service, socket_group), 0, 0,
	 NULL, "the group of the user who starts the daemon", NULL,
	 "The group of a Unix socket's file."},

	{PROTOCOL(max_lines), KEY_INTEGER, offsetof(struct conf_service, max_lines), 0, INT64_MAX,
	 "1", NULL, NULL, "Protocol line: how many lines a connection may send; 0: no limit."},
	{PROTOCOL(max_line), KEY_SIZE, offsetof(struct conf_service, max_line), 2, 16 * MIB, "64k",
	 NULL, NULL, "Protocol line: the longest line, its delimiter included."},
	{PROTOCOL(delimiter), KEY_CHOICE, offsetof(struct conf_service, delimiter), 0, 0, "lf",
	 NULL, delimiter_choices, "Protocol line: what ends a line: lf, crlf or nul."},
	{PROTOCOL(on_long_line), KEY_CHOICE, offsetof(struct conf_service, on_long_line), 0, 0,
	 "close", NULL, long_line_choices,
	 "Protocol line: what a longer line does: close the connection, or split into pieces."},
	{PROTOCOL(transform), KEY_CHOICE, offsetof(struct conf_service, transform), 0, 0, "none",
	 NULL, transform_choices,
	 "Protocol line: how a line changes on its way back: none, upper, lower, reverse or hex."},
	{PROTOCOL(greeting), KEY_TEXT, offsetof(struct conf_service, greeting), 0, 0, NULL, "none",
	 NULL, "Protocol line: what is said first, with fields such as %host and %peer."},

	LIMIT(access, KEY_ACCESS, 0, 0, NULL, "none: everybody",
	      "Who is served, by network or user; the first rule that matches decides."),
	LIMIT(access_times, KEY_SCHEDULE, 0, 0, NULL, "none: always",
	      "When clients are served: times of the week, in local time."),
	LIMIT(max_load, KEY_LOAD, 0, 100000 * 100, "0", NULL,
	      "The load average of a minute above which nobody new is served; 0: no limit."),
	LIMIT(max_connections, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many connections there may be at a time; 0: no limit."),
	LIMIT(max_connections_per_source, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many of them may be of one client address; 0: no limit."),
	LIMIT(max_connections_per_prefix, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many of them may be of one network, an IPv4 /24 or an IPv6 /64; 0: no limit."),
	LIMIT(max_connection_rate, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many connections may begin in a second; 0: no limit."),
	LIMIT(max_connection_rate_per_source, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many of them may be of one client address; 0: no limit."),
	LIMIT(max_byte_rate, KEY_SIZE, 0, 1024 * GIB, "0", NULL,
	      "How many bytes a connection may send in a second; 0: no limit."),
	LIMIT(max_byte_rate_per_source, KEY_SIZE, 0, 1024 * GIB, "0", NULL,
	      "How many bytes one client address may send in a second; 0: no limit."),
	LIMIT(max_request_rate, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many requests, such as lines, a connection may send in a second; 0: no limit."),
	LIMIT(max_request_rate_per_source, KEY_INTEGER, 0, MANY, "0", NULL,
	      "How many requests one client address may send in a second; 0: no limit."),
	{GLOBAL(max_datagram_rate), KEY_INTEGER, offsetof(struct conf, limits.max_datagram_rate), 0,
	 MANY, "0", NULL, NULL, DATAGRAM_RATE_SENTENCE},
	{PROTOCOL(max_datagram_rate), KEY_INTEGER,
	 offsetof(struct conf_service, limits.max_datagram_rate), 0, MANY, "10000", NULL, NULL,
	 DATAGRAM_RATE_SENTENCE},
	{GLOBAL(max_pending), KEY_SIZE_OR_OFF, offsetof(struct conf, limits.max_pending), 4 * KIB,
	 GIB, "0", NULL, NULL, PENDING_SENTENCE},
	{PROTOCOL(max_pending), KEY_SIZE, offsetof(struct conf_service, limits.max_pending),
	 4 * KIB, GIB, "256k", NULL, NULL, PENDING_SENTENCE},
	{GLOBAL(idle_timeout), KEY_TIME, offsetof(struct conf, limits.idle_timeout), 0, 365 * DAY,
	 "0", NULL, NULL, IDLE_SENTENCE},
	{PROTOCOL(idle_timeout), KEY_TIME, offsetof(struct conf_service, limits.idle_timeout), 0,
	 365 * DAY, "5m", NULL, NULL, IDLE_SENTENCE},
	{GLOBAL(write_timeout), KEY_TIME, offsetof(struct conf, limits.write_timeout), 0, 365 * DAY,
	 "0", NULL, NULL, WRITE_SENTENCE},
	{PROTOCOL(write_timeout), KEY_TIME, offsetof(struct conf_service, limits.write_timeout), 0,
	 365 * DAY, "1m", NULL, NULL, WRITE_SENTENCE},
	LIMIT(first_byte_timeout, KEY_TIME, 0, 365 * DAY, "0", NULL,
	      "How long a client may be silent at first; 0: not told from other silence."),
	LIMIT(lifetime, KEY_TIME, 0, 365 * DAY, "0", NULL,
	      "How long a connection may last; 0: no limit."),
	{PROTOCOL(on_refuse), KEY_CHOICE, offsetof(struct conf_service, on_refuse), 0, 0, "close",
	 NULL, refuse_choices,
	 "How a client is turned away: close, reset or message, a line that says why."},
	{PROTOCOL(deny_source_ports), KEY_PORTS, offsetof(struct conf_service, deny_source_ports),
	 0, 0, "0-1023,1900,2049,5353,11211,30333", NULL, NULL,
	 "Ports whose datagrams are not answered: servers that would answer the answer."},

	{PROTOCOL(proxy_protocol), KEY_CHOICE, offsetof(struct conf_service, proxy_protocol), 0, 0,
	 "off", NULL, proxy_choices,
	 "Whether proxies say whom they speak for (PROXY protocol): off, optional or required."},
	{PROTOCOL(proxy_from), KEY_NETWORKS, offsetof(struct conf_service, proxy_from), 0, 0, NULL,
	 "none: with proxy_protocol, a service needs one", NULL,
	 "The networks of the proxies that are believed."},

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
	switch (key->type) {
	case KEY_INTEGER:
	case KEY_INTEGER_OR_OFF:
	case KEY_TIME:
	case KEY_TIME_OR_OFF:
	case KEY_SIZE:
	case KEY_SIZE_OR_OFF:
	case KEY_LOAD:
	case KEY_MODE:
	case KEY_SIGNAL:
		return true;
	default:
		return false;
	}
}

bool conf_key_is_time(const struct conf_key *key)
{
	return key->type == KEY_TIME || key->type == KEY_TIME_OR_OFF;
}

bool conf_key_is_list(const struct conf_key *key)
{
	switch (key->type) {
	case KEY_LISTEN:
	case KEY_COMMAND:
	case KEY_ENVIRONMENT:
	case KEY_ACCESS:
	case KEY_SCHEDULE:
	case KEY_NETWORKS:
	case KEY_PORTS:
		return true;
	default:
		return false;
	}
}

bool conf_key_may_be_empty(const struct conf_key *key)
{
	return conf_key_is_list(key) && key->type != KEY_LISTEN && key->type != KEY_COMMAND;
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
