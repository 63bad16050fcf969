#include "net/timeouts.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

/* A tick that ends no later than this costs nobody a look at all who were heard in it. */
#define TICK_SPARE_MS 10

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

/* The tick ends early enough for a loop that is a little late. */
static int64_t tick_due(const struct timeouts *timeouts)
{
	return timeouts->tick_at - TICK_SPARE_MS;
}

static void begin_tick(struct timeouts *timeouts, int64_t now)
{
	timeouts->heard = false;
	timeouts->tick_at = now + TIMEOUTS_TICK_MS;
	timeouts->stamp = timeouts_stamp(TIMEOUT_IDLE, timeouts->tick_at);
	arm_earlier(timeouts, tick_due(timeouts), now);
}

/* Whoever was heard in this tick, which took too long, may have been heard only just now. */
static void postpone_heard(struct timeouts *timeouts, int64_t now)
{
	int64_t begun = timeouts->tick_at - TIMEOUTS_TICK_MS;
	struct timeout_entry *entry;

	/* They were all put behind those of earlier ticks. */
	TAILQ_FOREACH_REVERSE (entry, &timeouts->lists[TIMEOUT_IDLE], timeout_list, link) {
		if (timeout_since(entry) < begun)
			break;
		if (entry->stamp == timeouts->stamp)
			entry->stamp = timeouts_stamp(TIMEOUT_IDLE, now);
	}
}

static void end_tick(struct timeouts *timeouts, int64_t now)
{
	if (timeouts->stamp == TIMEOUTS_NO_TICK || now < tick_due(timeouts))
		return;
	if (timeouts->heard && now > timeouts->tick_at)
		postpone_heard(timeouts, now);
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

static void sweep(struct timeouts *timeouts, int64_t now)
{
	timeouts->sweep_at = INT64_MAX;
	/* First: who is heard from now on is heard in the next one. */
	end_tick(timeouts, now);
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++)
		if (timeouts->after_ms[kind] != 0)
			expire(timeouts, (enum timeout_kind)kind, now);
	if (timeouts->stamp != TIMEOUTS_NO_TICK)
		arm_earlier(timeouts, tick_due(timeouts), now);
	/* Only now: an entry that expired may have moved to a list that was looked at before. */
	for (int kind = 0; kind < TIMEOUT_KINDS; kind++) {
		struct timeout_entry *entry = TAILQ_FIRST(&timeouts->lists[kind]);

		if (timeouts->after_ms[kind] != 0 && entry != NULL)
			arm_earlier(timeouts, due_at(timeouts, entry), now);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct timeouts *timeouts = arg;
	uint64_t times;

	(void)what;
	/* Somebody may have set it anew since it was due. */
	if (read(fd, &times, sizeof(times)) < 0 && errno == EAGAIN)
		return;
	sweep(timeouts, clock_coarse_ms());
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
	if (event_assign(&timeouts->event, base, timeouts->fd, EV_READ | EV_PERSIST, on_timer,
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
