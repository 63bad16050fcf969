/*
 * Time-outs of many connections with one timer. Each kind of time-out is a list ordered by last
 * activity: activity moves an entry to the end, and only the front is ever looked at.
 *
 * Hearing from a client must cost next to nothing: no timer is touched, no clock is read and mostly
 * no list is changed for a line. Time passes in ticks then: whoever is heard within a tick counts
 * as heard at its end. So nobody's time is ever cut short, and it may be one tick longer; or as
 * long as the loop was busy, when it came late to the tick's end. Nothing ticks while nobody is
 * heard.
 *
 * The timer is a timerfd: one in libevent's own heap would cost two clock calls in each turn of the
 * loop (event_base_loop looks how long it may wait, and what has come due).
 */
#ifndef ECHOD_NET_TIMEOUTS_H
#define ECHOD_NET_TIMEOUTS_H

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct event_base;

#define TIMEOUTS_TICK_MS 50

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
	uint64_t stamp; /* its kind, and when its last activity was */
	TAILQ_ENTRY(timeout_entry) link;
};

TAILQ_HEAD(timeout_list, timeout_entry);

struct timeouts {
	uint64_t stamp;	 /* of who is heard in this tick; TIMEOUTS_NO_TICK: nothing ticks */
	bool heard;	 /* anybody in this tick */
	int64_t tick_at; /* while it ticks: when they count as heard */
	struct timeout_list lists[TIMEOUT_KINDS];
	int64_t after_ms[TIMEOUT_KINDS]; /* 0: never */
	int fd;				 /* timerfd_create(2) */
	struct event event;		 /* of `fd` */
	int64_t sweep_at;		 /* when the timer is due; INT64_MAX: not armed */
	void (*expired)(struct timeout_entry *entry);
};

/*
 * `expired` must take the entry out of its list (or move it). What has come and was not looked at
 * yet is its business: the timer may be the first that a busy loop looks at. Returns 0, or -1 with
 * errno: without memory or descriptors.
 */
int timeouts_init(struct timeouts *timeouts, struct event_base *base,
		  const int64_t after_ms[TIMEOUT_KINDS],
		  void (*expired)(struct timeout_entry *entry));
void timeouts_free(struct timeouts *timeouts);

/* `now`, here and below, is clock_coarse_ms. */
void timeouts_add(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		  int64_t now);
void timeouts_remove(struct timeouts *timeouts, struct timeout_entry *entry);

/* Change the kind, or keep it; counts as activity. */
void timeouts_move(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		   int64_t now);

/* No stamp looks so. */
#define TIMEOUTS_NO_TICK UINT64_MAX

#define TIMEOUTS_KIND_BITS 3
_Static_assert(TIMEOUT_KINDS <= 1 << TIMEOUTS_KIND_BITS, "a kind has its place in the stamp");

static inline uint64_t timeouts_stamp(enum timeout_kind kind, int64_t since)
{
	return (uint64_t)since << TIMEOUTS_KIND_BITS | (uint64_t)kind;
}

static inline enum timeout_kind timeout_kind(const struct timeout_entry *entry)
{
	return (enum timeout_kind)(entry->stamp & ((1 << TIMEOUTS_KIND_BITS) - 1));
}

static inline int64_t timeout_since(const struct timeout_entry *entry)
{
	return (int64_t)(entry->stamp >> TIMEOUTS_KIND_BITS);
}

/* Part of timeouts_heard. */
void timeouts_heard_first(struct timeouts *timeouts, struct timeout_entry *entry);

/*
 * This client has sent something: silence begins anew, TIMEOUT_FIRST turns into TIMEOUT_IDLE. What
 * other kinds wait for is something else.
 */
static inline void timeouts_heard(struct timeouts *timeouts, struct timeout_entry *entry)
{
	if (__builtin_expect(entry->stamp != timeouts->stamp, false))
		timeouts_heard_first(timeouts, entry);
}

#endif
