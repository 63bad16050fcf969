/* The table of the supervisor's children: their processes, channels and counters. */
#ifndef ECHOD_RUN_CHILD_H
#define ECHOD_RUN_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/error.h"
#include "net/counters.h"
#include "run/channel.h"

struct event;
struct supervisor;

/*
 *              ready + "go"         restart committed
 *   STARTING ──────────────► RUNNING ───────────────► RETIRING
 *       └──────── a stop, or a new generation given up ────┴──► STOPPING
 *
 * Each state ends, sooner or later, with the process: child_ended takes it out of the table.
 */
enum child_state { CHILD_STARTING, CHILD_RUNNING, CHILD_RETIRING, CHILD_STOPPING, CHILD_STATES };

struct child {
	TAILQ_ENTRY(child) link; /* oldest first */
	struct supervisor *supervisor;
	pid_t pid;     /* > 1, and not reaped yet */
	char name[48]; /* "line/0" */
	char service[40];
	unsigned index; /* among the workers of its service */
	uint64_t generation;
	enum child_state state;
	bool ready;
	int64_t started_at; /* clock_ms; the clock goes on over a restart */
	int channel;
	struct event *channel_event;
	int counters_fd;
	const struct counters *counters; /* mapped read-only */
	char failure[ERROR_TEXT_MAX];	 /* what CHANNEL_FAILED said; "" for nothing */
	int failure_code;
	int64_t log_refilled_at; /* the token bucket of its log records */
	unsigned log_tokens;
	uint64_t log_suppressed;
};

TAILQ_HEAD(child_list, child);

const char *child_state_name(enum child_state state);

/*
 * Put a process into the table and watch its channel. Takes both descriptors, also when it fails:
 * then the process is killed. Returns NULL without memory.
 */
struct child *child_add(struct supervisor *supervisor, const struct child *prototype,
			struct error *err);

/* Send an order; a worker that does not even read orders is killed. */
void child_order(struct child *child, enum channel_type order, int64_t value);

/* Send a signal to a child that is not reaped yet. */
void child_kill(struct child *child, int sig);

/* Read what it said before it ended. */
void child_read_channel(struct child *child);

/* Take it out of the table and free it; the process has been reaped. */
void child_remove(struct child *child);

struct child *child_find(struct child_list *children, pid_t pid);

#endif
