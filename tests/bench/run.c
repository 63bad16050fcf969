#include "bench/run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define SECOND_NS UINT64_C(1000000000)
#define EVENTS	  256 /* reported at once */
#define ISSUES	  64  /* units issued before replies are looked for again */
#define TICK_NS	  (SECOND_NS / 50)
#define AWAKE_NS  UINT64_C(30000) /* before a unit is due */
#define TICKER	  UINT32_MAX	  /* the number of its events */

/* ---- Errors --------------------------------------------------------------------------------- */

void run_error(struct run *run, const char *format, ...)
{
	va_list args;

	if (run->errors++ > 0)
		return;
	va_start(args, format);
	vsnprintf(run->first_error, sizeof(run->first_error), format, args);
	va_end(args);
}

void run_error_bytes(struct run *run, uint32_t connection, uint64_t line, size_t offset,
		     const unsigned char *data, size_t len)
{
	size_t at = pattern_differs(&run->pattern, connection, line, offset, data, len);

	if (at == len)
		return;
	run_error(
		run,
		"connection %u, line %llu: byte %zu of %zu in the reply is 0x%02x, and 0x%02x was "
		"sent",
		(unsigned)connection, (unsigned long long)line, offset + at, run->pattern.size,
		data[at], pattern_byte(&run->pattern, connection, line, offset + at));
}

int run_watch(const struct run *run, int fd, uint32_t index, uint32_t events)
{
	struct epoll_event event = {.events = events | EPOLLRDHUP | EPOLLET, .data.u32 = index};

	return epoll_ctl(run->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* ---- The loop ------------------------------------------------------------------------------- */

static bool may_issue(const struct run *run)
{
	return run_is_open_loop(run) && !run->draining;
}

/*
 * How long to wait for events; NULL: until there are some. In closed loop the ticker ends the wait:
 * a time limit for each call would cost a timer of the kernel each time. In open loop the last bit
 * is spent awake: to be woken takes tens of microseconds, which would show as latency.
 */
static const struct timespec *waiting_time(const struct run *run, struct timespec *timeout)
{
	uint64_t due = run_due(run, run->next_unit);
	uint64_t left = due > run->now + AWAKE_NS ? due - run->now - AWAKE_NS : 0;

	if (!may_issue(run) || left > TICK_NS)
		return NULL;
	timeout->tv_sec = 0;
	timeout->tv_nsec = (long)left;
	return timeout;
}

static void issue_due(struct run *run)
{
	for (int i = 0; i < ISSUES; i++) {
		uint64_t due = run_due(run, run->next_unit);

		if (due > run->now)
			return;
		histogram_add(&run->issue_delay, run->now - due);
		run->traffic->issue(run, run->next_unit++);
	}
}

/* The ticker has ticked. */
static void sweep(struct run *run)
{
	uint64_t ticks;

	/* Nobody else reads it: it cannot fail after its event, nor matter if it did. */
	if (read(run->ticker, &ticks, sizeof(ticks)) > 0 && run->traffic->sweep != NULL)
		run->traffic->sweep(run);
}

void run_turn(struct run *run)
{
	struct epoll_event events[EVENTS];
	struct timespec timeout;
	int n = epoll_pwait2(run->epoll, events, EVENTS, waiting_time(run, &timeout), NULL);

	if (n < 0 && errno != EINTR) {
		run_error(run, "cannot wait for replies: %s", strerror(errno));
		run->connections = 0;
	}
	for (int i = 0; i < n; i++) {
		if (events[i].data.u32 == TICKER)
			sweep(run);
		else
			run->traffic->ready(run, events[i].data.u32, events[i].events);
	}
	run_clock(run);
	if (may_issue(run))
		issue_due(run);
}

/* Wakes the loop now and then, so that it sees what time it is. */
int run_start_ticker(struct run *run, struct error *err)
{
	struct itimerspec tick = {{0, (long)TICK_NS}, {0, (long)TICK_NS}};

	run->ticker = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (run->ticker < 0 || timerfd_settime(run->ticker, 0, &tick, NULL) != 0 ||
	    run_watch(run, run->ticker, TICKER, EPOLLIN) != 0)
		return error_errno(err, "cannot start a timer");
	return 0;
}
