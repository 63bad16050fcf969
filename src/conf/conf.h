/*
 * The configuration: a file in libconfig's syntax becomes one read-only struct.
 *
 * The file is first read whole into a conf_source (its includes too), so that a restart can hand
 * over the very text that is served. Parsing never stops at the first mistake: every one is
 * collected as "file:line: sentence", and the struct has the default in each wrong place.
 */
#ifndef ECHOD_CONF_CONF_H
#define ECHOD_CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/blob.h"

#define CONF_DEFAULT_PORT 30333

struct conf_listen {
	char *text; /* as written */
	struct endpoint endpoint;
};

struct conf_service {
	char *name;
	char *protocol;
	struct conf_listen *listen;
	size_t listen_count;
	int64_t workers;      /* 0: one for each processor */
	int64_t backlog;      /* connections */
	int64_t defer_accept; /* ms; 0: off */
	int64_t keepalive;    /* ms of silence before the first probe; 0: off */
	bool nodelay;
	int64_t max_lines;     /* lines a connection; 0: no limit */
	int64_t max_line;      /* bytes, the LF included */
	int64_t max_pending;   /* bytes */
	int64_t idle_timeout;  /* ms; 0: none */
	int64_t write_timeout; /* ms; 0: none */
	char *where;	       /* "file:line" or "the built-in service", for messages */
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
	struct conf_log log;
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
	int port;		   /* -p: for the built-in service; 0: not given */
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

/* Every key with its default and its sentence, in the syntax of the file. */
void conf_print_defaults(FILE *out);

/* The file that is read when none is named: SYSCONFDIR/echod.conf. */
const char *conf_default_path(void);

#endif
