/*
 * The table of the supervisor's children: a record for each place of a service that a process
 * fills, or waits to fill, and for each process that still ends. What happens to one is decided by
 * the table of run/lifecycle.c.
 */
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
struct service;
struct supervisor;

enum child_kind {
	CHILD_WORKER,  /* serves a protocol */
	CHILD_PROGRAM, /* the keeper of a command (run/program.h) */
};

/* With a process, pid > 1; without one, pid 0. */
enum child_state {
	CHILD_STARTING,	   /* process: gets ready, and waits for "go" */
	CHILD_RUNNING,	   /* process: does its work */
	CHILD_BACKING_OFF, /* no process: the next one starts when the timer says so */
	CHILD_DRAINING,	   /* process: ends politely */
	CHILD_RETIRING,	   /* process: serves what a former generation accepted */
	CHILD_STOPPING,	   /* process: ends at once */
	CHILD_STOPPED,	   /* no process: until it is started by order */
	CHILD_STATES,
};

/* What was counted at a certain time, for rates. */
struct child_sample {
	int64_t at; /* clock_ms; 0: never */
	uint64_t requests;
};

struct child {
	TAILQ_ENTRY(child) link; /* oldest first */
	struct supervisor *supervisor;
	struct service *service; /* whose place it fills; NULL: nobody's, it only ends */
	enum child_kind kind;
	char name[48]; /* "line/0"; a program: "sensor" */
	char service_name[40];
	unsigned index; /* among the workers of its service */
	uint64_t generation;
	enum child_state state;
	int64_t since;	     /* clock_ms of the state's beginning; it goes on over a restart */
	struct event *timer; /* of the state */
	int64_t due;	     /* clock_ms of the timer; 0: it does not run */
	bool start_again;    /* when it has ended: its program has other settings now */
	unsigned failures;   /* ends by its own fault in a row */
	unsigned forgiven;   /* ends by somebody's SIGKILL lately; not over a restart */
	int64_t forgiven_at; /* clock_ms of the last one */
	uint64_t restarts;   /* successors so far */
	char text[ERROR_TEXT_MAX]; /* why there is no process; "" for no reason */

	/* The process. */
	pid_t pid;     /* not reaped yet; 0: there is none */
	pid_t program; /* of the command that a keeper keeps, to be shown and nothing else; 0 */
	bool ready;
	bool retired;	   /* it said that it accepts no more */
	int killed;	   /* the signal of `echod kill`: its end is not its own fault then; 0 */
	int64_t killed_at; /* clock_ms */
	bool condemned;	   /* we ended it, and it is to blame */
	bool ended;	   /* a program: its status is known */
	int status;
	int64_t stop_timeout; /* a program: ms between its stop_signal and SIGKILL */
	int failure_code;     /* of CHANNEL_FAILED, whose reason is in text; 0: it did not fail;
			       * of the last process, as long as there is no other */
	int channel;
	struct event *channel_event;
	int counters_fd;
	const struct counters *counters; /* mapped read-only; NULL without a process */

	/* Its log records: a token bucket. */
	int64_t log_refilled_at;
	unsigned log_tokens;
	uint64_t log_suppressed;

	/* The watchdog (run/watchdog.c). */
	uint64_t beats;	   /* heartbeats seen */
	uint64_t accepted; /* connections and datagrams taken when it was last looked at */
	unsigned missed;   /* turns without a heartbeat */
	unsigned stuck;	   /* turns with waiting clients and none taken */
	struct child_sample samples[2]; /* the older one first */
};

TAILQ_HEAD(child_list, child);

const char *child_state_name(enum child_state state);

/* "program" or "worker". */
const char *child_kind_name(enum child_kind kind);

/* The pid that users know it by: a program's own, not its keeper's. */
pid_t child_shown_pid(const struct child *child);

/* A record without a process, in state STOPPED. Returns NULL without memory. */
struct child *child_new(struct supervisor *supervisor, const char *service, unsigned index,
			enum child_kind kind);

/*
 * A process for a record that has none. Takes both descriptors, also when it fails: then the
 * process is killed, the record is without one, and -1.
 */
int child_attach(struct child *child, pid_t pid, int channel, int counters_fd, struct error *err);

/* The process has been reaped: its numbers are added to the totals, its descriptors closed. */
void child_detach(struct child *child);

/* Take the record, which has no process, out of the table and free it. */
void child_free(struct child *child);

/* Note what its process has counted until now, for rates. */
void child_take_sample(struct child *child);

/* Send an order; a child that does not even read orders is killed. */
void child_order(struct child *child, enum channel_type order, int64_t value);

/* Send a signal to its process, which is not reaped yet; nothing happens without one. */
void child_kill(struct child *child, int sig);

/* SIGKILL: we end it, and it is to blame. */
void child_condemn(struct child *child);

/* Read what it said before it ended. */
void child_read_channel(struct child *child);

/* NULL when no child has this pid. */
struct child *child_find(struct child_list *children, pid_t pid);

/* Connections of its process now. */
uint64_t child_connections(const struct child *child);

/* The numbers of all processes of a service, NULL: of all services, added to
 * `*total` and `*connections`. */
void child_sum_counters(struct child_list *children, const char *service,
			struct counters_total *total, uint64_t *connections);

#endif
