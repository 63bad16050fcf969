/* The command line: options, and one file a verb. */
#ifndef ECHOD_CLI_CLI_H
#define ECHOD_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "conf/conf.h"
#include "os/pidfile.h"
#include "run/launch.h"

struct options {
	const struct command *command;
	struct launch launch;
	bool json;
	bool quiet;
	bool config_named;	  /* -f was given */
	const char *start_option; /* one that only a start can obey; NULL: none was given */
	bool help;
	bool version;
	bool defaults;	     /* check --defaults */
	int accept_handover; /* check --accept-handover=N; 0: not given */
	int64_t timeout_ms;  /* -1: the verb's own */
	const char *extra;   /* the first word behind the verb; NULL: none */
	struct conf_override *settings;
	const char **listen;
};

/* Options that only some verbs take. */
enum command_takes {
	TAKES_JSON = 1,
	TAKES_TIMEOUT = 2,
	TAKES_DEFAULTS = 4,
	TAKES_START = 8, /* -F, -p, -l, -v, and -o beyond pidfile and control */
};

struct command {
	const char *name;
	const char *summary;
	unsigned takes; /* enum command_takes */
	int (*run)(const struct options *options);
};

extern const struct command command_start;
extern const struct command command_check;
extern const struct command command_stop;
extern const struct command command_restart;
extern const struct command command_reload;
extern const struct command command_status;

/* All of them; NULL at the end. */
extern const struct command *const commands[];

/*
 * Read the command line. Options may stand before and behind the verb. Returns 0, or -1 with
 * EXIT_USAGE (a file that cannot be named absolutely: EXIT_FAILED). The strings stay in argv;
 * options_free frees the rest.
 */
int options_parse(struct options *options, int argc, char **argv, struct error *err);
void options_free(struct options *options);

/* The usage, for -h and behind a usage error. */
void options_usage(FILE *out);

/* Print "echod: text" on stderr. Returns the error's code. */
int cli_fail(const struct error *err);

/*
 * Read the configuration. Prints every error; returns 0, EXIT_CONFIG or EXIT_PERMISSION. Both
 * results are the caller's, and are NULL after a failure.
 */
int cli_load(const struct options *options, struct conf_source **source, struct conf **conf);

/* A running daemon, for verbs that act on one. */
struct target {
	struct conf
		*conf; /* owned; a configuration with errors is good enough to find the daemon */
	struct pidfile_holder holder;
};

/*
 * Find the daemon by its pid lock. Returns 0, or an exit code after printing why: EXIT_NOT_RUNNING
 * when nobody holds the lock.
 */
int target_find(const struct options *options, struct target *target);

/* The same without an opinion: target->holder.pid is 0 when nobody holds the lock. */
int target_look(const struct options *options, struct target *target, struct error *err);
void target_free(struct target *target);

#endif
