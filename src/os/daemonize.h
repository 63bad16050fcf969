/*
 * Becoming a daemon, step by step, as APUE (chapter 13) and daemon(7) ask.
 *
 * The order matters and is the caller's: daemonize(), daemon_reset(), the process's own signal
 * handlers, daemon_unblock_signals(), work until it serves, daemon_report(), daemon_detach().
 */
#ifndef ECHOD_OS_DAEMONIZE_H
#define ECHOD_OS_DAEMONIZE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum daemonize_role {
	DAEMONIZE_FAILED = -1, /* nothing was forked; the error says why */
	DAEMONIZE_LAUNCHER,    /* the process that the user started; the outcome is known */
	DAEMONIZE_DAEMON,      /* the daemon, with every signal blocked */
};

/*
 * fork, setsid, fork. The launcher returns only when the daemon has reported: `outcome` is then
 * what it said (code 0: it serves), or that it ended without a word. The daemon returns at once
 * with the pipe for its report in `*report_fd`.
 */
enum daemonize_role daemonize(int *report_fd, struct error *outcome);

/*
 * Tell the launcher the outcome and close the pipe. Nothing happens for report_fd -1 (foreground).
 */
void daemon_report(int *report_fd, const struct error *outcome);

struct daemon_reset_options {
	const int *keep_fds; /* descriptors above 2 that stay open */
	size_t keep_count;
};

/*
 * Undo what the launcher left behind: signal dispositions, pending alarm and interval timers,
 * umask, current directory, descriptors, environment. Blocks every signal: the caller sets its
 * handlers and calls daemon_unblock_signals.
 */
int daemon_reset(const struct daemon_reset_options *options, struct error *err);

/* Set the nice value of this process (setpriority(2)); only root can lower it. */
int daemon_set_priority(int nice, struct error *err);

/* Empty the signal mask. Pending signals are delivered here, to handlers that now stand. */
void daemon_unblock_signals(void);

/* Put 0, 1 and 2 on /dev/null. */
int daemon_detach(struct error *err);

#endif
