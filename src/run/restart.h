/*
 * Restart in place: the supervisor executes its own path anew, with the same pid, lock and sockets.
 * One mechanism for a changed configuration and for a new binary.
 *
 *   request ─► trial ─► hand-over, execve ─► (new image) resume, bind, workers ready ─► commit
 *                └──────────── any failure: say why, serve on as before ─────┘
 */
#ifndef ECHOD_RUN_RESTART_H
#define ECHOD_RUN_RESTART_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct supervisor;

/* SIGHUP: begin a restart, or one more after the one that is under way. */
void restart_request(struct supervisor *supervisor);

/* True when this reaped child was the trial. */
bool restart_child_ended(struct supervisor *supervisor, pid_t pid, int status);

/*
 * The outcome is known: count it, log it, tell who waits, begin the next one if one was asked for.
 */
void restart_ended(struct supervisor *supervisor, const struct error *failure);

/* The number of the restart that a signal sent before now leads to; 0: it has ended already. */
uint64_t restart_awaited(const struct supervisor *supervisor);

/* A stop wins: end the trial, forget the queue. */
void restart_abandon(struct supervisor *supervisor);

#endif
