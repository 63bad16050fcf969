/* A run from its begin to its end: prepare, connect, warm up, measure, await what is under way. */
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "bench/run.h"

#define SECOND_NS UINT64_C(1000000000)
#define SPARE_FDS 64 /* descriptors beside the connections */

/* ---- Phases --------------------------------------------------------------------------------- */

static void go_on_until(struct run *run, uint64_t until)
{
	while (run->now < until && run->connections > 0)
		run_turn(run);
}

static uint64_t own_cpu_ns(void)
{
	struct timespec used;

	/* It cannot fail with this clock. */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * SECOND_NS + (uint64_t)used.tv_nsec;
}

/* What can be read of it is known as long as nothing fails. */
static void server_failed(struct run *run, const struct error *err)
{
	run_error(run, "%s", err->text);
	run->server_known = false;
}

static void find_server(struct run *run)
{
	struct error err;

	usage_close(&run->family);
	if (run->server_known && usage_open(&run->family, run->options->server, &err) != 0)
		server_failed(run, &err);
}

static void read_server(struct run *run, struct usage *usage)
{
	struct error err;

	if (run->server_known && usage_read(&run->family, usage, &err) != 0)
		server_failed(run, &err);
}

/*
 * What is under way waits for us while we look at the server, and that shows as latency. So its
 * processes are found before, during the warm-up, and only read when the measured time begins.
 */
static void warm_up(struct run *run)
{
	uint64_t began = run->now;

	run->server_known = run->options->server != 0;
	go_on_until(run, began + run->options->warmup_ns / 2);
	find_server(run);
	go_on_until(run, began + run->options->warmup_ns);
}

static void measure(struct run *run)
{
	uint64_t began;
	uint64_t cpu;

	read_server(run, &run->server_first);
	run->lines = run->lost = run->late = 0;
	histogram_clear(&run->latency);
	histogram_clear(&run->issue_delay);
	cpu = own_cpu_ns();
	began = run_clock(run);
	go_on_until(run, began + run->options->measure_ns);
	run->measured_ns = run->now - began;
	run->client_cpu_ns = own_cpu_ns() - cpu;
}

/* Units that were due, and could not even be issued in time. */
static void count_unissued(struct run *run)
{
	uint64_t first = run_due(run, run->next_unit);
	uint64_t units;

	if (!run_is_open_loop(run) || first > run->now)
		return;
	units = (uint64_t)((double)(run->now - first) / run->interval) + 1;
	run->unfinished.lines += units * run->options->train;
	if (first < run->unfinished.oldest)
		run->unfinished.oldest = first;
}

static void count_unfinished(struct run *run)
{
	run->unfinished = (struct unfinished){0, UINT64_MAX};
	run->traffic->unfinished(run, &run->unfinished);
	count_unissued(run);
	if (run->unfinished.oldest < run->now)
		run->oldest_ns = run->now - run->unfinished.oldest;
}

/* What is under way must come back, too; it is checked but counts no more. */
static void drain(struct run *run)
{
	uint64_t lines = run->lines;
	struct histogram latency = run->latency;
	uint64_t until = run->now + run->options->patience_ns;

	run->draining = true;
	run->traffic->drain(run);
	while (run->now < until && run->connections > 0 && run->traffic->under_way(run) > 0)
		run_turn(run);
	run->traffic->abandon(run);
	run->lines = lines;
	run->latency = latency;
}

static void go(struct run *run)
{
	run->epoch = run_clock(run);
	if (!run_is_open_loop(run))
		run->traffic->begin(run);
	warm_up(run);
	measure(run);
	count_unfinished(run);
	find_server(run);
	read_server(run, &run->server_last);
	drain(run);
	usage_close(&run->family);
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
	if (run_start_ticker(run, err) != 0)
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
