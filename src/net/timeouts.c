#include "net/timeouts.h"

#include <event2/event.h>
#include <stddef.h>

#include "base/clock.h"

static void arm(struct timeouts *timeouts, int64_t due, int64_t now)
{
	int64_t wait = due > now ? due - now : 1;
	struct timeval tv = {wait / 1000, wait % 1000 * 1000};

	/* Without memory for the timer's place in the heap, the next entry tries again. */
	timeouts->sweep_at = evtimer_add(timeouts->sweep, &tv) == 0 ? due : INT64_MAX;
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct timeouts *timeouts = arg;
	int64_t now = clock_coarse_ms(), next = INT64_MAX;

	(void)fd;
	(void)what;
	timeouts->sweep_at = INT64_MAX;
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++) {
		struct timeout_entry *entry;

		if (timeouts->after_ms[kind] == 0)
			continue;
		while ((entry = TAILQ_FIRST(&timeouts->lists[kind])) != NULL &&
		       entry->since + timeouts->after_ms[kind] <= now)
			timeouts->expired(entry);
	}
	/* Only now: an entry that expired may have moved to a list that was looked at before. */
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++) {
		struct timeout_entry *entry = TAILQ_FIRST(&timeouts->lists[kind]);

		if (timeouts->after_ms[kind] != 0 && entry != NULL &&
		    entry->since + timeouts->after_ms[kind] < next)
			next = entry->since + timeouts->after_ms[kind];
	}
	if (next < timeouts->sweep_at)
		arm(timeouts, next, now);
}

int timeouts_init(struct timeouts *timeouts, struct event_base *base,
		  const int64_t after_ms[TIMEOUT_KINDS],
		  void (*expired)(struct timeout_entry *entry))
{
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++) {
		TAILQ_INIT(&timeouts->lists[kind]);
		timeouts->after_ms[kind] = after_ms[kind];
	}
	timeouts->expired = expired;
	timeouts->sweep_at = INT64_MAX;
	timeouts->sweep = evtimer_new(base, on_sweep, timeouts);
	return timeouts->sweep == NULL ? -1 : 0;
}

void timeouts_free(struct timeouts *timeouts)
{
	if (timeouts->sweep != NULL)
		event_free(timeouts->sweep);
	timeouts->sweep = NULL;
}

void timeouts_add(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		  int64_t now)
{
	entry->kind = kind;
	entry->since = now;
	TAILQ_INSERT_TAIL(&timeouts->lists[kind], entry, link);
	if (timeouts->after_ms[kind] != 0 && now + timeouts->after_ms[kind] < timeouts->sweep_at)
		arm(timeouts, now + timeouts->after_ms[kind], now);
}

void timeouts_remove(struct timeouts *timeouts, struct timeout_entry *entry)
{
	TAILQ_REMOVE(&timeouts->lists[entry->kind], entry, link);
}

void timeouts_move(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		   int64_t now)
{
	timeouts_remove(timeouts, entry);
	timeouts_add(timeouts, entry, kind, now);
}
