/*
 * The life of a child: one table says for each state and event what is done and what comes next.
 *
 *                   go             fault, killed            timer
 *      STARTING ─────────► RUNNING ──────────► BACKING_OFF ───────► STARTING
 *          │                  │ │
 *          │ stop             │ └─ retire ──► RETIRING ─┐
 *          └──► DRAINING ◄────┘ stop             │ stop │ it ends
 *                  │  └── it ends ──► STOPPED ◄──┴──────┘
 *                  │ quit                ▲ │ start
 *                  └──► STOPPING ────────┘ └─────► STARTING
 */
#ifndef ECHOD_RUN_LIFECYCLE_H
#define ECHOD_RUN_LIFECYCLE_H

#include <stdint.h>

#include "run/child.h"

enum child_event {
	EVENT_START,  /* by order, or because its generation begins */
	EVENT_GO,     /* it is ready and its generation serves */
	EVENT_TIMER,  /* the state's time is over */
	EVENT_FAULT,  /* the process has ended by its own fault */
	EVENT_KILLED, /* the process was ended by somebody */
	EVENT_DONE,   /* a program has ended and is not to be started again */
	EVENT_STOP,   /* end politely */
	EVENT_QUIT,   /* end at once */
	EVENT_RETIRE, /* serve what was accepted, and end then */
	EVENT_HUNG,   /* the watchdog saw no sign of life */
	CHILD_EVENTS,
};

/*
 * Something happened to this child. A record that fills no place any more is freed when its process
 * is gone: after EVENT_FAULT, EVENT_KILLED, EVENT_DONE the child must not be used.
 */
void lifecycle_event(struct child *child, enum child_event event);

/*
 * Start the process of a record in state STOPPED, for a generation that does not serve yet: it has
 * a limit of its own. Returns 0 or -1; then the record is as it was.
 */
int lifecycle_begin(struct child *child, struct error *err);

/* The timer of a new record; NULL without memory. */
struct event *lifecycle_new_timer(struct child *child);

/* Run the state's timer for so many ms. */
void lifecycle_set_timer(struct child *child, int64_t ms);

/* Take over state, beginning and timer of a child after execve. */
void lifecycle_resume(struct child *child, enum child_state state, int64_t since, int64_t due);

/* Its process has been reaped with this status (waitpid(2)): which event was that? */
enum child_event lifecycle_classify(const struct child *child, int status);

/* Ten seconds of health: what failed before is forgotten. Called before the event of an end. */
void lifecycle_forget_failures(struct child *child);

/* How long the next process waits after so many failures in a row, in ms. */
int64_t lifecycle_backoff(unsigned failures);

#endif
