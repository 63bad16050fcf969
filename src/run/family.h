/*
 * A program's processes: the leader and everything that descends from it. This process, the keeper,
 * is the subreaper of all (PR_SET_CHILD_SUBREAPER, prctl(2)): whoever loses its parent becomes its
 * child, so none can get away, and a keeper without children has no family left.
 *
 * Once the leader has ended nothing is reaped until nobody is alive: so long its number, and with
 * it the group's, cannot become somebody else's.
 */
#ifndef ECHOD_RUN_FAMILY_H
#define ECHOD_RUN_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

struct family {
	pid_t leader;	   /* 0 once it is reaped: its number means nothing any more */
	pid_t group;	   /* 0 likewise; before the leader's setsid it is empty */
	bool leader_ended; /* it is a zombie, or reaped */
	int status;	   /* waitpid(2); once it is reaped */
	bool blind;	   /* /proc could not be read, and the log has said so */
};

/* Before the leader is forked. Returns 0; -1: this system cannot show who descends from whom. */
int family_start(struct family *family, struct error *err);

/* The leader is this child of ours. */
void family_set_leader(struct family *family, pid_t leader);

/*
 * After SIGCHLD: see whether the leader has ended, and as long as it has not, reap the strays that
 * have. Bounded; true when there may be more to do.
 */
bool family_reap_strays(struct family *family);

/*
 * Send the signal, and SIGCONT so that stopped processes can obey: to the leader's group, or to
 * those who have left it.
 */
void family_signal_group(struct family *family, int sig);
void family_signal_strays(struct family *family, int sig);

/* How many are alive, zombies not counted; -1: /proc cannot be read now. */
int family_alive(struct family *family);

/* SIGKILL to all who are alive. Returns as family_alive, for the moment before. */
int family_kill(struct family *family);

/* Nobody seems to be alive: reap all, the leader last. True when indeed there is nobody left. */
bool family_reap_all(struct family *family);

/* The numbers of those who are alive, "12, 34"; "and others" when they do not fit. */
void family_list(struct family *family, char *out, size_t cap);

#endif
