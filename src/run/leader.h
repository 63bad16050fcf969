/*
 * The leader: the process that becomes the command of a program. It is forked from the keeper,
 * becomes all that the command shall be, and waits there for "go". What fails until then, and the
 * execve itself, is told in a sentence.
 */
#ifndef ECHOD_RUN_LEADER_H
#define ECHOD_RUN_LEADER_H

#include <sys/types.h>

#include "base/error.h"
#include "run/program.h"

struct leader {
	pid_t pid;
	/*
	 * CHANNEL_READY and CHANNEL_FAILED come up, CHANNEL_GO goes down. After "go" the end of
	 * file says that the command was executed: the other end is close-on-exec.
	 */
	int channel;
};

/*
 * Fork it. `output` becomes its stdout and stderr; stdin stays what the keeper's is, /dev/null. All
 * signals must be blocked, and they stay so in the leader until its last step. Returns 0 or -1.
 */
int leader_fork(struct leader *leader, const struct program_start *start, int output,
		struct error *err);

#endif
