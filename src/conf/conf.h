/*
 * The configuration: a file in libconfig's syntax becomes one read-only struct.
 *
 * The file is first read whole into a conf_source (its includes too), so that a restart can hand
 * over the very text that is served. Parsing never stops at the first mistake: every one is
 * collected as "file:line: sentence", and the struct has the default in each wrong place. What only
 * this machine lacks (a user, a command) is an error too, but stays in the struct as written.
 */
#ifndef ECHOD_CONF_CONF_H
#define ECHOD_CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/access.h"
#include "base/addr.h"
#include "base/blob.h"
#include "base/error.h"
#include "base/network.h"
#include "base/schedule.h"

#define CONF_DEFAULT_PORT 30333
#define CONF_ANY_PORT	  (-1) /* of -p: whichever is free */

struct conf_listen {
	char *text; /* as written */
	struct endpoint endpoint;
};

/*
 * What clients may do and have. A service has its own, and so has the daemon for all services
 * together: both hold, and of two limits the stricter wins. 0: no limit.
 */
struct conf_limits {
	struct access_list access;
	struct schedule access_times;
	int64_t max_load; /* hundredths of the load average of a minute */
	int64_t max_connections;
	int64_t max_connections_per_source;
	int64_t max_connections_per_prefix;	/* /24 or /64 */
	int64_t max_connection_rate;		/* a second */
	int64_t max_connection_rate_per_source; /* a second */
	int64_t max_byte_rate;			/* bytes a second, of a connection */
	int64_t max_byte_rate_per_source;
	int64_t max_request_rate; /* a second, of a connection */
	int64_t max_request_rate_per_source;
	int64_t max_datagram_rate;  /* a second, of a /24 or /64 */
	int64_t max_pending;	    /* bytes */
	int64_t idle_timeout;	    /* ms */
	int64_t write_timeout;	    /* ms */
	int64_t first_byte_timeout; /* ms */
	int64_t lifetime;	    /* ms */
};

/* A range of ports, both ends in it. */
struct conf_ports {
	uint16_t from;
	uint16_t until;
};

/* A service's own `nice` that is not written. */
#define CONF_NICE_GLOBAL INT64_MIN

/*
 * A service speaks a protocol, served by workers, or runs a command: then it is a program. Settings
 * of the other kind have their defaults.
 */
struct conf_service {
	char *name;
	char *user;   /* NULL: the global one */
	char *group;  /* NULL: with an own user, that user's; else the global one */
	int64_t nice; /* CONF_NICE_GLOBAL: the global one */

	/* What it runs in place of a protocol; the rest of this part is for programs only. */
	char **command;	      /* NULL at the end; the first word is an absolute path. NULL: none */
	char **environment;   /* "NAME=value", NULL at the end; NULL: nothing is added */
	char *directory;      /* absolute */
	int64_t umask;	      /* 0 to 0777 */
	char *restart;	      /* "always", "on-failure", "never" */
	int64_t stop_signal;  /* its number */
	int64_t stop_timeout; /* ms */

	/* What it speaks, and where. */
	char *protocol;
	struct conf_listen *listen;
	size_t listen_count;
	int64_t workers;      /* 0: one for each processor */
	int64_t busy_poll;    /* microseconds; 0: off */
	int64_t backlog;      /* connections */
	int64_t defer_accept; /* ms; 0: off */
	int64_t keepalive;    /* ms of silence before the first probe; 0: off */
	bool nodelay;
	int64_t max_lines;  /* lines a connection; 0: no limit */
	int64_t max_line;   /* bytes, the LF included */
	char *delimiter;    /* "lf", "crlf", "nul" */
	char *on_long_line; /* "close", "split" */
	char *transform;    /* "none", "upper", "lower", "reverse", "hex" */
	char *greeting;	    /* NULL: none */
	struct conf_limits limits;
	char *on_refuse;	    /* "close", "reset", "message" */
	char *proxy_protocol;	    /* "off", "optional", "required" */
	struct network *proxy_from; /* owned */
	size_t proxy_from_count;
	struct conf_ports *deny_source_ports; /* owned; of datagrams */
	size_t deny_source_port_count;

	/* Its sockets. */
	bool v6only;		/* of [::]:port; "*" is two sockets in any case */
	char *device;		/* SO_BINDTODEVICE; NULL: all */
	int64_t receive_buffer; /* bytes; 0: the kernel's choice, of UDP 2 MiB or more */
	int64_t send_buffer;	/* bytes; 0: the kernel's choice */
	int64_t tos;		/* IP_TOS, IPV6_TCLASS; 0 to 255 */
	int64_t ttl;		/* IP_TTL, IPV6_UNICAST_HOPS; 0: the kernel's */
	int64_t mss;		/* TCP_MAXSEG, bytes; 0: the kernel's */
	int64_t fastopen;	/* TCP_FASTOPEN, the queue's length; 0: off */
	int64_t user_timeout;	/* TCP_USER_TIMEOUT, ms; 0: off */
	bool mptcp;		/* IPPROTO_MPTCP where there is one */
	int64_t socket_mode;	/* of a Unix socket's file */
	char *socket_user;	/* its owner; NULL: the daemon's own */
	char *socket_group;
	char *where; /* "file:line", "the built-in service" or "echod add", for messages */
};

struct conf_log {
	char *target;
	char *facility;
	char *level;
	char *socket;
};

struct conf {
	char *pidfile;
	char *control;
	char *user;  /* NULL: the default of privs_resolve */
	char *group; /* NULL: the user's own */
	int64_t nice;
	bool nice_set;		/* written in the file or by an option */
	int64_t drain_timeout;	/* ms */
	int64_t retire_timeout; /* ms; 0: no limit */
	int64_t start_timeout;	/* ms */
	int64_t max_retiring;	/* processes */
	int64_t watchdog;	/* ms without a sign of life that end a worker; 0: off */
	struct conf_log log;
	struct conf_limits limits; /* of all services together */
	struct conf_service *services;
	size_t service_count;
};

/* Everything that is wrong, in the order in which it was found. Start with all zeroes. */
struct conf_errors {
	char **lines;
	size_t count;
	bool not_understood; /* no setting of the file could be read */
	bool unreadable;     /* a file could not be read for want of permission */
};

void conf_errors_add(struct conf_errors *errors, const char *where, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void conf_errors_free(struct conf_errors *errors);

/* ---- The text ------------------------------------------------------------------------------ */

struct conf_source; /* the text of the file and its includes, and which line came from where */

/*
 * Read a file and, recursively, what it names with @include "path" (relative to the including
 * file). `path` must be absolute; NULL: no file, the built-in default serves. Numbers that
 * libconfig would read as others without a word are reported here. Returns NULL when a file cannot
 * be read.
 */
struct conf_source *conf_source_load(const char *path, struct conf_errors *errors);

/* The main file's path, or NULL. */
const char *conf_source_path(const struct conf_source *source);

void conf_source_pack(const struct conf_source *source, struct blob_writer *writer);
struct conf_source *
conf_source_unpack(struct blob_reader *reader); /* NULL: damaged, or no memory */
void conf_source_free(struct conf_source *source);

/* ---- The struct ---------------------------------------------------------------------------- */

struct conf_override {
	const char *key; /* "drain_timeout", "log.level", "services.line.max_lines" */
	const char *value;
};

/* What the command line says; it goes over the file. */
struct conf_overrides {
	const struct conf_override *settings;
	size_t setting_count;
	int port;		   /* -p: for the built-in service; CONF_ANY_PORT; 0: not given */
	const char *const *listen; /* -l: for the built-in service */
	size_t listen_count;
	bool foreground; /* log.target is "stderr" unless it is set */
};

/*
 * Always returns a whole struct, to be freed with conf_free; it may be served only when no error
 * was added. Returns NULL only without memory.
 */
struct conf *conf_parse(const struct conf_source *source, const struct conf_overrides *overrides,
			struct conf_errors *errors);
void conf_free(struct conf *conf);

/* True when it runs a command; false: it speaks a protocol. */
bool conf_is_program(const struct conf_service *service);

/*
 * True when both would run the very same: every setting of programs is equal, name included. False
 * when one is NULL, or no program.
 */
bool conf_program_equal(const struct conf_service *a, const struct conf_service *b);

/*
 * A program that no file names (`echod add`): `command` is NULL at the end; `user` and `restart`
 * may be NULL: as in a file that leaves them out. The same checks as for a file. To be freed with
 * conf_service_free; NULL with the reason. With `check` false it looks neither at the file system
 * nor at the user database: one that was added before must be there again, even when its command
 * has vanished meanwhile.
 */
struct conf_service *conf_program_new(const char *name, char *const *command, const char *user,
				      const char *restart, bool check, struct error *err);
void conf_service_free(struct conf_service *service);

/* Every key with its default and its sentence, in the syntax of the file. */
void conf_print_defaults(FILE *out);

/* The file that is read when none is named: SYSCONFDIR/echod.conf. */
const char *conf_default_path(void);

#endif
