/*
 * The keeper of a program: a small process between the supervisor and a supervised command. The
 * kernel gives it every process that the command leaves behind (PR_SET_CHILD_SUBREAPER, prctl(2)),
 * so it knows exactly which ones belong to the program, and none outlives it. To the supervisor it
 * looks like a worker: orders come by the channel, "ready" and log records go back.
 *
 *   supervisor ── keeper ── leader (the command; session and group of its own) ── what it starts
 */
#ifndef ECHOD_RUN_PROGRAM_H
#define ECHOD_RUN_PROGRAM_H

#include <stdbool.h>
#include <sys/resource.h>

#include "conf/conf.h"
#include "os/privileges.h"

struct program_start {
	const char *name; /* of the service */
	const struct conf_service *service;
	const struct privileges *privileges; /* whom the command runs as */
	bool set_nice;			     /* to the value below; still as root */
	int nice;
	bool nice_written;    /* a failure is an error only then */
	struct rlimit nofile; /* RLIMIT_NOFILE of the launch: the supervisor has raised its own */
	int channel;	      /* its end */
	int counters;	      /* a memory file of struct counters */
	int null;	      /* /dev/null */
};

/*
 * Runs in the child of fork, with every signal blocked, and ends with the process: exit status 0
 * after the program has ended and everything that it started is gone (CHANNEL_ENDED tells its
 * status), 1 when it could not be executed (CHANNEL_FAILED says why).
 *
 *   start      the leader is forked and becomes what it shall be, up to the execve; then READY
 *   GO         the leader executes the command; then PROGRAM
 *   SIGNAL     the signal goes to the leader
 *   DRAIN      stop_signal to the group; after `value` ms SIGKILL to all that is left
 *   QUIT       the same (with the milliseconds of a quick stop)
 *   the leader ends by itself: what it left behind gets stop_signal, after stop_timeout SIGKILL
 *   the supervisor's end of the channel is closed: as DRAIN, with stop_timeout
 *
 * The leader is reaped last, so that its number cannot be somebody else's while it is signalled.
 */
_Noreturn void program_main(struct program_start *start);

#endif
