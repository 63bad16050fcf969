#include "bench/run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define SECOND_NS      UINT64_C(1000000000)
#define EVENTS	       256 /* reported at once */
#define ISSUES	       64  /* units issued before replies are looked for again */
#define TICK_NS	       (SECOND_NS / 50)
#define AWAKE_NS       UINT64_C(30000)	/* before a unit is due */
#define TICKER	       UINT32_MAX	/* the number of its events */
#define DRAIN_LIMIT_NS (10 * SECOND_NS) /* for the last replies */
#define SPARE_FDS      64		/* descriptors beside the connections */

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

static void turn(struct run *run)
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

/* ---- Phases --------------------------------------------------------------------------------- */

static void go_on_until(struct run *run, uint64_t until)
{
	while (run->now < until && run->connections > 0)
		turn(run);
}

static uint64_t own_cpu_ns(void)
{
	struct timespec used;

	/* It cannot fail with this clock. */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * SECOND_NS + (uint64_t)used.tv_nsec;
}

static void read_server(struct run *run, struct usage *usage)
{
	struct error err;

	if (run->options->server == 0 || !run->server_known)
		return;
	if (usage_read(run->options->server, usage, &err) != 0) {
		run_error(run, "%s", err.text);
		run->server_known = false;
	}
}

/* Looking at the server takes its time: what it uses meanwhile is not between the two looks. */
static void measure(struct run *run)
{
	uint64_t began;
	uint64_t cpu;

	run->server_known = run->options->server != 0;
	read_server(run, &run->server_first);
	run->lines = run->lost = run->late = 0;
	histogram_clear(&run->latency);
	histogram_clear(&run->issue_delay);
	cpu = own_cpu_ns();
	began = run_clock(run);
	go_on_until(run, began + run->options->measure_ns);
	run->measured_ns = run->now - began;
	run->client_cpu_ns = own_cpu_ns() - cpu;
	read_server(run, &run->server_last);
}

/* What is under way must come back, too; it is checked but counts no more. */
static void drain(struct run *run)
{
	uint64_t lines = run->lines;
	struct histogram latency = run->latency;
	uint64_t until = run->now + DRAIN_LIMIT_NS;

	run->unfinished = (struct unfinished){0, UINT64_MAX};
	run->traffic->unfinished(run, &run->unfinished);
	if (run->unfinished.oldest < run->now)
		run->oldest_ns = run->now - run->unfinished.oldest;
	run->draining = true;
	run->traffic->drain(run);
	while (run->now < until && run->connections > 0 && run->traffic->under_way(run) > 0)
		turn(run);
	run->traffic->abandon(run);
	run->lines = lines;
	run->latency = latency;
}

static void go(struct run *run)
{
	run->epoch = run_clock(run);
	if (!run_is_open_loop(run))
		run->traffic->begin(run);
	go_on_until(run, run->now + run->options->warmup_ns);
	measure(run);
	drain(run);
}

/* ---- All of it ------------------------------------------------------------------------------ */

static void go_with_idle(struct run *run)
{
	uint32_t count = run->options->idle;
	struct error err = {0, ""};
	int *idle = target_open_idle(&run->target, count, &err);

	if (idle == NULL && count > 0) {
		run_error(run, "%s", err.text);
		return;
	}
	if (run->traffic->open(run, &err) != 0)
		run_error(run, "%s", err.text);
	else
		go(run);
	run->traffic->close(run);
	if (!target_idle_is_silent(idle, count, &err))
		run_error(run, "%s", err.text);
	target_close_idle(idle, count);
}

/* Wakes the loop now and then, so that it sees what time it is. */
static int start_ticker(struct run *run, struct error *err)
{
	struct itimerspec tick = {{0, (long)TICK_NS}, {0, (long)TICK_NS}};

	run->ticker = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (run->ticker < 0 || timerfd_settime(run->ticker, 0, &tick, NULL) != 0 ||
	    run_watch(run, run->ticker, TICKER, EPOLLIN) != 0)
		return error_errno(err, "cannot start a timer");
	return 0;
}

static int prepare(struct run *run, struct error *err)
{
	const struct options *options = run->options;
	uint64_t descriptors = (uint64_t)options->connections + options->idle + SPARE_FDS;

	if (target_parse(&run->target, options->address, options->port, options->sources, err) !=
		    0 ||
	    target_raise_limit(descriptors, err) != 0)
		return -1;
	run->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (run->epoll < 0)
		return error_errno(err, "cannot make an epoll instance");
	if (start_ticker(run, err) != 0)
		return -1;
	return pattern_open(&run->pattern, options->size, err);
}

int run_all(struct run *run, const struct options *options, struct error *err)
{
	int failed;

	memset(run, 0, sizeof(*run));
	histogram_clear(&run->latency);
	histogram_clear(&run->issue_delay);
	run->epoll = -1;
	run->ticker = -1;
	run->options = options;
	run->connections = options->connections;
	run->traffic = options->udp ? &udp_traffic : options->once ? &once_traffic : &tcp_traffic;
	if (options->rate > 0)
		run->interval = (double)SECOND_NS * options->train / options->rate;
	failed = prepare(run, err);
	if (failed == 0)
		go_with_idle(run);
	pattern_close(&run->pattern);
	if (run->ticker >= 0)
		close(run->ticker);
	if (run->epoll >= 0)
		close(run->epoll);
	return failed;
}
