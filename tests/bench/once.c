/*
 * Connections of one line: connect, send the line, read the reply and the end of file, close. The
 * latency is that of all of it. --connections says how many there are at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/run.h"

#define OUT_MAX 65536
#define IN_MAX	262144

/* Where a connection can be; the next one in it has the next number, as a line has elsewhere. */
struct place {
	int fd; /* -1: there is none */
	uint32_t number;
	uint64_t line;
	uint64_t begun;
	size_t sent;
	size_t got;
};

struct once {
	struct place *places;
	uint32_t *free; /* numbers of the places where no connection is */
	uint32_t free_count;
	uint64_t issued; /* open loop: connections that were due so far */
	uint64_t opened;
	unsigned char out[OUT_MAX];
	unsigned char in[IN_MAX];
};

/* A place that has failed is not used again, so that errors end. */
static void fail(struct run *run, struct place *place)
{
	if (place->fd >= 0)
		close(place->fd);
	place->fd = -1;
	run->connections--;
}

static void send_line(struct run *run, struct place *place)
{
	struct once *once = run->state;

	while (place->sent < run->pattern.size) {
		size_t len = pattern_write(&run->pattern, place->number, place->line, place->sent,
					   place->line + 1, once->out, OUT_MAX);
		ssize_t n = send(place->fd, once->out, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return; /* not connected yet, or no room: the edge comes */
		if (n < 0) {
			run_error(run, "connection %llu in place %u: cannot send its line: %s",
				  (unsigned long long)place->line, (unsigned)place->number,
				  strerror(errno));
			fail(run, place);
			return;
		}
		place->sent += (size_t)n;
	}
}

/* ---- Opening -------------------------------------------------------------------------------- */

/* Returns 0, or -1 with `err` set; place->fd is then -1 or to be closed. */
static int connect_place(struct run *run, struct place *place, struct error *err)
{
	const struct target *target = &run->target;
	const struct once *once = run->state;

	place->fd = target_socket(target, SOCK_STREAM, (uint32_t)once->opened, err);
	if (place->fd < 0)
		return -1;
	if (connect(place->fd, (const struct sockaddr *)&target->address, target->len) != 0 &&
	    errno != EINPROGRESS)
		return error_errno(err, "cannot connect to %s port %s", target->host_text,
				   target->port_text);
	return 0;
}

/* On loopback the line has nearly always gone out by now, and only the reply is awaited. */
static void watch(struct run *run, struct place *place)
{
	uint32_t out = place->sent < run->pattern.size ? EPOLLOUT : 0;

	if (run_watch(run, place->fd, place->number, EPOLLIN | out) == 0)
		return;
	run_error(run, "cannot watch a connection: %s", strerror(errno));
	fail(run, place);
}

static void open_place(struct run *run, struct place *place, uint64_t begun)
{
	struct error err;

	place->line++;
	place->begun = begun;
	place->sent = 0;
	place->got = 0;
	if (connect_place(run, place, &err) != 0) {
		run_error(run, "%s", err.text);
		fail(run, place);
		return;
	}
	send_line(run, place);
	if (place->fd >= 0)
		watch(run, place);
}

static void open_free(struct run *run)
{
	struct once *once = run->state;

	while (once->free_count > 0 && !run->draining) {
		struct place *place;

		if (run_is_open_loop(run) && once->opened == once->issued)
			return;
		place = &once->places[once->free[--once->free_count]];
		open_place(run, place,
			   run_is_open_loop(run) ? run_due(run, once->opened) : run_clock(run));
		once->opened++;
	}
}

/* ---- Receiving ------------------------------------------------------------------------------ */

static void report_end(struct run *run, const struct place *place, ssize_t n)
{
	run_error(run, "connection %llu in place %u: %s at byte %zu of %zu in the reply%s%s",
		  (unsigned long long)place->line, (unsigned)place->number,
		  n == 0 ? "the server ended it" : "it broke off", place->got, run->pattern.size,
		  n == 0 ? "" : ": ", n == 0 ? "" : strerror(errno));
}

/* Returns 0, or -1 after an error. */
static int check(struct run *run, struct place *place, const unsigned char *data, size_t len)
{
	size_t most = place->sent - place->got;
	size_t n = len < most ? len : most;

	if (pattern_differs(&run->pattern, place->number, place->line, place->got, data, n) != n) {
		run_error_bytes(run, place->number, place->line, place->got, data, n);
		return -1;
	}
	place->got += n;
	if (len == n)
		return 0;
	run_error(run, "connection %llu in place %u: %zu bytes more than were sent arrived",
		  (unsigned long long)place->line, (unsigned)place->number, len - n);
	return -1;
}

/* Take what is there. Returns 0: more is to come; 1: the reply and its end; -1: an error. */
static int receive(struct run *run, struct place *place, uint32_t events)
{
	struct once *once = run->state;
	bool at_end = (events & EPOLLRDHUP) != 0 && (events & EPOLLERR) == 0;

	for (;;) {
		ssize_t n = recv(place->fd, once->in, IN_MAX, MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 && place->got == run->pattern.size)
			return 1;
		if (n <= 0) {
			report_end(run, place, n);
			return -1;
		}
		if (check(run, place, once->in, (size_t)n) != 0)
			return -1;
		/* The end had come, and this was all before it: it need not be read. */
		if (at_end && n < IN_MAX && place->got == run->pattern.size)
			return 1;
		if (n < IN_MAX && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0)
			return 0;
	}
}

static void complete(struct run *run, struct place *place)
{
	struct once *once = run->state;

	run_clock(run);
	run_count_line(run, place->begun);
	close(place->fd);
	place->fd = -1;
	once->free[once->free_count++] = place->number;
	open_free(run);
}

static void once_ready(struct run *run, uint32_t index, uint32_t events)
{
	struct once *once = run->state;
	struct place *place = &once->places[index];
	int found = 0;

	if (place->fd < 0)
		return;
	send_line(run, place);
	if (place->fd >= 0 && (events & ~(uint32_t)EPOLLOUT) != 0)
		found = receive(run, place, events);
	if (found < 0)
		fail(run, place);
	else if (found > 0)
		complete(run, place);
}

/* ---- Begin and end -------------------------------------------------------------------------- */

static int once_open(struct run *run, struct error *err)
{
	uint32_t count = run->options->connections;
	struct once *once = calloc(1, sizeof(*once));

	run->state = once;
	if (once == NULL)
		return error_errno(err, "no memory for buffers");
	once->places = calloc(count, sizeof(*once->places));
	once->free = calloc(count, sizeof(*once->free));
	if (once->places == NULL || once->free == NULL)
		return error_errno(err, "no memory for %u connections", (unsigned)count);
	for (uint32_t i = 0; i < count; i++) {
		once->places[i].fd = -1;
		once->places[i].number = i;
		once->free[i] = count - 1 - i;
	}
	once->free_count = count;
	return 0;
}

static void once_issue(struct run *run, uint64_t k)
{
	struct once *once = run->state;

	once->issued = k + 1;
	open_free(run);
}

static void once_drain(struct run *run)
{
	(void)run; /* open_free opens none any more */
}

static uint64_t once_under_way(struct run *run)
{
	const struct once *once = run->state;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < run->options->connections; i++)
		sum += once->places[i].fd >= 0;
	return sum;
}

static void once_abandon(struct run *run)
{
	const struct once *once = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++) {
		const struct place *place = &once->places[i];

		if (place->fd >= 0)
			run_error(run,
				  "connection %llu in place %u: %zu bytes of %zu have come, and "
				  "not its end",
				  (unsigned long long)place->line, (unsigned)place->number,
				  place->got, run->pattern.size);
	}
}

static void once_unfinished(struct run *run, struct unfinished *unfinished)
{
	const struct once *once = run->state;

	unfinished->lines = once_under_way(run);
	if (run_is_open_loop(run))
		unfinished->lines += once->issued - once->opened;
	for (uint32_t i = 0; i < run->options->connections; i++)
		if (once->places[i].fd >= 0 && once->places[i].begun < unfinished->oldest)
			unfinished->oldest = once->places[i].begun;
}

static void once_close(struct run *run)
{
	struct once *once = run->state;

	if (once == NULL)
		return;
	for (uint32_t i = 0; once->places != NULL && i < run->options->connections; i++)
		if (once->places[i].fd >= 0)
			close(once->places[i].fd);
	free(once->free);
	free(once->places);
	free(once);
}

const struct traffic once_traffic = {
	.open = once_open,
	.begin = open_free,
	.ready = once_ready,
	.issue = once_issue,
	.drain = once_drain,
	.under_way = once_under_way,
	.abandon = once_abandon,
	.unfinished = once_unfinished,
	.close = once_close,
};
