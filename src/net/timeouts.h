/*
 * Time-outs of many connections with one timer. Each kind of time-out is a list ordered by last
 * activity: activity moves an entry to the end, and only the front is ever looked at. No timer is
 * touched for a line.
 */
#ifndef ECHOD_NET_TIMEOUTS_H
#define ECHOD_NET_TIMEOUTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct event_base;
struct event;

enum timeout_kind {
	TIMEOUT_IDLE,	  /* neither side has sent anything */
	TIMEOUT_WRITE,	  /* a reply waits and the client takes nothing */
	TIMEOUT_LINGER,	  /* half-closed, waiting for the client's end */
	TIMEOUT_FIRST,	  /* the client has not sent its first byte */
	TIMEOUT_HEADER,	  /* it has not sent its whole PROXY header */
	TIMEOUT_THROTTLE, /* a limit keeps it waiting */
	TIMEOUT_LIFETIME, /* since it was admitted; beside one of the others */
	TIMEOUT_KINDS,
};

struct timeout_entry {
	TAILQ_ENTRY(timeout_entry) link;
	int64_t since; /* last activity, clock_coarse_ms */
	enum timeout_kind kind;
};

TAILQ_HEAD(timeout_list, timeout_entry);

struct timeouts {
	struct timeout_list lists[TIMEOUT_KINDS];
	int64_t after_ms[TIMEOUT_KINDS]; /* 0: never */
	struct event *sweep;
	int64_t sweep_at; /* when the timer is due; INT64_MAX: not armed */
	void (*expired)(struct timeout_entry *entry);
};

/* `expired` must take the entry out of its list (or move it). Returns 0, or -1 without memory. */
int timeouts_init(struct timeouts *timeouts, struct event_base *base,
		  const int64_t after_ms[TIMEOUT_KINDS],
		  void (*expired)(struct timeout_entry *entry));
void timeouts_free(struct timeouts *timeouts);

void timeouts_add(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		  int64_t now);
void timeouts_remove(struct timeouts *timeouts, struct timeout_entry *entry);

/* Something happened on this connection. */
static inline void timeouts_touch(struct timeouts *timeouts, struct timeout_entry *entry,
				  int64_t now)
{
	struct timeout_list *list = &timeouts->lists[entry->kind];

	if (entry->since == now)
		return; /* equal times may stand in any order */
	entry->since = now;
	TAILQ_REMOVE(list, entry, link);
	TAILQ_INSERT_TAIL(list, entry, link);
}

/* Change the kind; counts as activity. */
void timeouts_move(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		   int64_t now);

#endif
