/*
 * Orphans: when a keeper is killed, all that its program started becomes the supervisor's
 * (PR_SET_CHILD_SUBREAPER, prctl(2)), and is ended: the next one of the same program must not meet
 * it.
 */
#ifndef ECHOD_RUN_ORPHANS_H
#define ECHOD_RUN_ORPHANS_H

#include <sys/types.h>

struct supervisor;

/*
 * SIGKILL to all orphans and what is below them. `program` is the command that was kept (its
 * session, too), 0: not known. Process 1 of a container gets the orphans of everybody, so there
 * only those of that session are meant. Returns how many were alive.
 */
unsigned orphans_kill(struct supervisor *supervisor, pid_t program);

/*
 * The same, and wait a moment until they are dead: before the program's next start, so that it
 * never runs twice.
 */
void orphans_await(struct supervisor *supervisor, pid_t program);

/* The same at the end of the supervisor: until none is alive, for half a second at most. */
void orphans_end(struct supervisor *supervisor);

#endif
