#include "net/timeouts.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

static void arm(struct timeouts *timeouts, int64_t due, int64_t now)
{
	int64_t wait = due > now ? due - now : 1;
	const struct itimerspec when = {.it_value = {wait / 1000, wait % 1000 * 1000000}};

	/* Its errors are those of wrong arguments (timerfd_settime(2), ERRORS). */
	if (timerfd_settime(timeouts->fd, 0, &when, NULL) < 0)
		abort();
	timeouts->sweep_at = due;
}

static void arm_earlier(struct timeouts *timeouts, int64_t due, int64_t now)
{
	if (due < timeouts->sweep_at)
		arm(timeouts, due, now);
}

/* ---- Ticks ---------------------------------------------------------------------------------- */

static void begin_tick(struct timeouts *timeouts, int64_t now)
{
	timeouts->heard = false;
	timeouts->tick_at = now + TIMEOUTS_TICK_MS;
	timeouts->stamp = timeouts_stamp(TIMEOUT_IDLE, timeouts->tick_at);
	arm_earlier(timeouts, timeouts->tick_at, now);
}

static void end_tick(struct timeouts *timeouts, int64_t now)
{
	if (timeouts->stamp == TIMEOUTS_NO_TICK || now < timeouts->tick_at)
		return;
	if (timeouts->heard)
		begin_tick(timeouts, now);
	else
		timeouts->stamp = TIMEOUTS_NO_TICK;
}

void timeouts_heard_first(struct timeouts *timeouts, struct timeout_entry *entry)
{
	enum timeout_kind kind = timeout_kind(entry);

	if (kind != TIMEOUT_IDLE && kind != TIMEOUT_FIRST)
		return;
	if (timeouts->stamp == TIMEOUTS_NO_TICK)
		begin_tick(timeouts, clock_coarse_ms());
	timeouts->heard = true;
	timeouts_remove(timeouts, entry);
	timeouts_add(timeouts, entry, TIMEOUT_IDLE, timeouts->tick_at);
}

/* ---- The sweep ------------------------------------------------------------------------------ */

static int64_t due_at(const struct timeouts *timeouts, const struct timeout_entry *entry)
{
	return timeout_since(entry) + timeouts->after_ms[timeout_kind(entry)];
}

static void expire(struct timeouts *timeouts, enum timeout_kind kind, int64_t now)
{
	struct timeout_entry *entry;

	while ((entry = TAILQ_FIRST(&timeouts->lists[kind])) != NULL &&
	       due_at(timeouts, entry) <= now)
		timeouts->expired(entry);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct timeouts *timeouts = arg;
	int64_t now = clock_coarse_ms();
	uint64_t times;

	(void)what;
	/* Somebody may have set it anew since it was due. */
	if (read(fd, &times, sizeof(times)) < 0 && errno == EAGAIN)
		return;
	timeouts->sweep_at = INT64_MAX;
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++)
		if (timeouts->after_ms[kind] != 0)
			expire(timeouts, (enum timeout_kind)kind, now);
	end_tick(timeouts, now);
	if (timeouts->stamp != TIMEOUTS_NO_TICK)
		arm_earlier(timeouts, timeouts->tick_at, now);
	/* Only now: an entry that expired may have moved to a list that was looked at before. */
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++) {
		struct timeout_entry *entry = TAILQ_FIRST(&timeouts->lists[kind]);

		if (timeouts->after_ms[kind] != 0 && entry != NULL)
			arm_earlier(timeouts, due_at(timeouts, entry), now);
	}
}

/* ---- The lists ------------------------------------------------------------------------------ */

int timeouts_init(struct timeouts *timeouts, struct event_base *base,
		  const int64_t after_ms[TIMEOUT_KINDS],
		  void (*expired)(struct timeout_entry *entry))
{
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++) {
		TAILQ_INIT(&timeouts->lists[kind]);
		timeouts->after_ms[kind] = after_ms[kind];
	}
	timeouts->expired = expired;
	timeouts->stamp = TIMEOUTS_NO_TICK;
	timeouts->sweep_at = INT64_MAX;
	timeouts->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (timeouts->fd < 0)
		return -1;
	if (event_assign(&timeouts->event, base, timeouts->fd, EV_READ | EV_PERSIST, on_sweep,
			 timeouts) == 0 &&
	    event_add(&timeouts->event, NULL) == 0)
		return 0;
	close(timeouts->fd);
	timeouts->fd = -1;
	errno = ENOMEM;
	return -1;
}

void timeouts_free(struct timeouts *timeouts)
{
	if (timeouts->fd < 0)
		return;
	event_del(&timeouts->event);
	close(timeouts->fd);
	timeouts->fd = -1;
}

void timeouts_add(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		  int64_t now)
{
	entry->stamp = timeouts_stamp(kind, now);
	TAILQ_INSERT_TAIL(&timeouts->lists[kind], entry, link);
	if (timeouts->after_ms[kind] != 0)
		arm_earlier(timeouts, now + timeouts->after_ms[kind], now);
}

void timeouts_remove(struct timeouts *timeouts, struct timeout_entry *entry)
{
	TAILQ_REMOVE(&timeouts->lists[timeout_kind(entry)], entry, link);
}

void timeouts_move(struct timeouts *timeouts, struct timeout_entry *entry, enum timeout_kind kind,
		   int64_t now)
{
	timeouts_remove(timeouts, entry);
	timeouts_add(timeouts, entry, kind, now);
}
