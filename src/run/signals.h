/*
 * Signals: one table says which class each one has in the supervisor and in workers (rules 16 to
 * 18).
 *
 *   handled  sets a flag and writes a byte that wakes the event loop; the loop does the rest
 *   ignored  nothing happens
 *   fatal    one line to the log, the pidfile goes, the process dies by the same signal
 */
#ifndef ECHOD_RUN_SIGNALS_H
#define ECHOD_RUN_SIGNALS_H

#include <stdbool.h>

#include "base/error.h"
#include "os/pidfile.h"

/*
 * Set every disposition for the supervisor. Returns the descriptor that becomes readable when a
 * handled signal has come, or -1. Signals must be blocked; daemon_unblock_signals comes after.
 */
int signals_supervisor(struct error *err);

/* Set every disposition for a worker; `name` is for the record of a fatal signal and must stay
 * valid. */
void signals_worker(const char *name);

/*
 * The same for the keeper of a program, which handles SIGCHLD besides. Returns the descriptor that
 * becomes readable then, a pipe of its own, or -1. To be called after it has let go of the
 * descriptors that it inherited.
 */
int signals_keeper(const char *name, struct error *err);

/* True when this signal does nothing to a worker. */
bool signals_worker_ignores(int sig);

/* The pidfile that a fatal signal removes; NULL: none. */
void signals_set_pidfile(const struct pidfile *pidfile);

/* Empty the descriptor; call it before asking for flags. */
void signals_clear_wakeup(void);

/* True once for each time (or several) that this handled signal came. */
bool signals_take(int sig);

/* True when this handled signal has come and was not taken yet, pending in the kernel included. */
bool signals_waiting(int sig);

/* Block everything, around fork and exec; and undo it. */
void signals_block(void);
void signals_unblock(void);

/* For a child that will execute a command: default dispositions, empty mask. */
void signals_default(void);

#endif
