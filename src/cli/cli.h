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
	bool defaults;		/* check --defaults */
	int accept_handover;	/* check --accept-handover=N; 0: not given */
	int64_t timeout_ms;	/* -1: the verb's own */
	bool inetd;		/* start: serve what is on descriptor 0 */
	const char *inetd_name; /* as this service; NULL: the only one */
	int signal;		/* kill -s: its number; 0: not given */
	const char *user;	/* add --user; NULL: not given */
	const char *restart;	/* add --restart; NULL: not given */
	char **words;		/* those behind the verb */
	int word_count;
	bool dashes; /* "--" stood in front of the last words */
	struct conf_override *settings;
	const char **listen;
};

/* Options that only some verbs take. */
enum command_takes {
	TAKES_JSON = 1,
	TAKES_TIMEOUT = 2,
	TAKES_DEFAULTS = 4,
	TAKES_START = 8, /* -F, -p, -l, -v, and -o beyond pidfile and control */
	TAKES_SIGNAL = 16,
	TAKES_PROGRAM = 32, /* --user and --restart, and a command behind "--" */
};

struct command {
	const char *name;
	const char *words; /* what stands behind it, for the usage; NULL: nothing */
	const char *summary;
	unsigned takes; /* enum command_takes */
	int min_words;
	int max_words;	     /* -1: any number */
	const char *needs;   /* the end of "NAME needs ...", when there are too few words */
	const char *instead; /* what to do when there are too many; NULL: no advice */
	int (*run)(const struct options *options);
};

/* For verbs that act on a service. */
#define NEEDS_NAME "a NAME: 'echod ps' lists them"
#define ONE_NAME   "one NAME at a time"

extern const struct command command_start;
extern const struct command command_check;
extern const struct command command_access;
extern const struct command command_stop;
extern const struct command command_restart;
extern const struct command command_reload;
extern const struct command command_status;
extern const struct command command_ps;
extern const struct command command_start_service; /* start NAME */
extern const struct command command_stop_service;  /* stop NAME */
extern const struct command command_kill;
extern const struct command command_add;
extern const struct command command_remove;

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
