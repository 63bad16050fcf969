/*
 * How this daemon was launched; kept for life, because a restart in place launches it the same way.
 */
#ifndef ECHOD_RUN_LAUNCH_H
#define ECHOD_RUN_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>

#include "conf/conf.h"
#include "os/passed.h"

struct launch {
	char *self;   /* absolute path of the executable, links unresolved */
	char **args;  /* the options, paths made absolute; NULL at the end; no argv[0], no verb */
	char *config; /* absolute path; NULL: there is no file, the built-in service serves */
	struct conf_overrides overrides;
	bool foreground;
	bool print_ports; /* once it serves */
	struct passed
		passed; /* by a service manager; nothing after a restart, which hands it over */
	int verbosity;	/* added to the configured log level */
};

/* Whether conf->nice is applied: the foreground keeps what it was given unless the setting is
 * written. */
bool launch_sets_nice(const struct launch *launch, const struct conf *conf);

/*
 * The form of what one process image hands to the next. A trial run of a new executable is asked
 * whether it accepts it, so a binary with another form is refused before anything happens.
 */
#define HANDOVER_VERSION 3

/* What the trial must print: another program that happens to exit with 0 is not executed. */
#define HANDOVER_ACCEPTED "the hand-over is accepted"

/* The environment variable that names the descriptor of the hand-over. */
#define HANDOVER_VARIABLE "ECHOD_HANDOVER"

#endif
