/* Lines on connections that last, up to --pipeline of them under way on each. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/run.h"

#define OUT_MAX 65536
#define IN_MAX	262144

/* A place in the stream of lines. */
struct place {
	uint64_t line;
	size_t offset; /* in this line, below its size */
};

struct conn {
	int fd; /* -1: it has failed */
	uint32_t number;
	struct place sent;
	struct place got;
	uint64_t issued; /* open loop: lines that were due so far; draining: lines to be sent */
	uint32_t oldest; /* where the begin of line got.line stands */
	uint64_t *begun; /* closed loop: a ring, one for each line under way; of `tcp` */
};

struct tcp {
	struct conn *conns;
	uint64_t *begun;
	unsigned char out[OUT_MAX];
	unsigned char in[IN_MAX];
};

static void fail(struct run *run, struct conn *conn)
{
	close(conn->fd);
	conn->fd = -1;
	run->connections--;
}

/* ---- Sending -------------------------------------------------------------------------------- */

/* The line before which it must stop. */
static uint64_t send_limit(const struct run *run, const struct conn *conn)
{
	uint64_t window = conn->got.line + run->options->pipeline;

	if ((run_is_open_loop(run) || run->draining) && conn->issued < window)
		return conn->issued;
	return window;
}

static void advance(struct place *place, size_t len, size_t size)
{
	place->offset += len;
	if (place->offset < size)
		return;
	place->line += place->offset / size;
	place->offset %= size;
}

static void send_lines(struct run *run, struct conn *conn)
{
	struct tcp *tcp = run->state;
	uint64_t limit = send_limit(run, conn);

	while (conn->sent.line < limit) {
		size_t len = pattern_write(&run->pattern, conn->number, conn->sent.line,
					   conn->sent.offset, limit, tcp->out, OUT_MAX);
		ssize_t n = send(conn->fd, tcp->out, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return; /* the edge comes when there is room */
		if (n < 0) {
			run_error(run, "connection %u: cannot send line %llu: %s",
				  (unsigned)conn->number, (unsigned long long)conn->sent.line,
				  strerror(errno));
			fail(run, conn);
			return;
		}
		advance(&conn->sent, (size_t)n, run->pattern.size);
	}
}

/* ---- Receiving ------------------------------------------------------------------------------ */

static uint64_t begin_of(const struct run *run, const struct conn *conn)
{
	if (run_is_open_loop(run))
		return run_due(run, conn->got.line * run->options->connections + conn->number);
	return conn->begun[conn->oldest];
}

/* In closed loop, the line that may now follow begins at this moment, whenever it can be sent. */
static void complete(struct run *run, struct conn *conn)
{
	run_count_line(run, begin_of(run, conn));
	conn->got.line++;
	conn->got.offset = 0;
	if (run_is_open_loop(run))
		return;
	conn->begun[conn->oldest] = run->now;
	conn->oldest = conn->oldest + 1 == run->options->pipeline ? 0 : conn->oldest + 1;
}

/* A piece of a line, or a whole one. Returns how many bytes were right and are done with, or 0. */
static size_t check_line(struct run *run, struct conn *conn, const unsigned char *data, size_t len)
{
	const struct pattern *pattern = &run->pattern;
	size_t size = pattern->size;

	if (conn->got.offset == 0 && len >= size) {
		if (!pattern_is_line(pattern, conn->number, conn->got.line, data))
			return 0;
		complete(run, conn);
		return size;
	}
	if (len > size - conn->got.offset)
		len = size - conn->got.offset;
	if (pattern_differs(pattern, conn->number, conn->got.line, conn->got.offset, data, len) !=
	    len)
		return 0;
	conn->got.offset += len;
	if (conn->got.offset == size)
		complete(run, conn);
	return len;
}

static size_t under_way_bytes(const struct conn *conn, size_t size)
{
	return (conn->sent.line - conn->got.line) * size + conn->sent.offset - conn->got.offset;
}

/* Returns 0, or -1 when it has found an error. */
static int check_lines(struct run *run, struct conn *conn, const unsigned char *data, size_t len)
{
	while (len > 0) {
		size_t n = check_line(run, conn, data, len);

		if (n == 0) {
			size_t rest = run->pattern.size - conn->got.offset;

			run_error_bytes(run, conn->number, conn->got.line, conn->got.offset, data,
					len < rest ? len : rest);
			return -1;
		}
		data += n;
		len -= n;
	}
	return 0;
}

static int check(struct run *run, struct conn *conn, const unsigned char *data, size_t len)
{
	size_t most = under_way_bytes(conn, run->pattern.size);

	if (check_lines(run, conn, data, len < most ? len : most) != 0)
		return -1;
	if (len <= most)
		return 0;
	run_error(run, "connection %u: %zu bytes more than were sent arrived before line %llu",
		  (unsigned)conn->number, len - most, (unsigned long long)conn->got.line);
	return -1;
}

static void report_end(struct run *run, const struct conn *conn, ssize_t n)
{
	run_error(run, "connection %u: %s in the reply to line %llu, at byte %zu of %zu%s%s",
		  (unsigned)conn->number, n == 0 ? "the server ended it" : "it broke off",
		  (unsigned long long)conn->got.line, conn->got.offset, run->pattern.size,
		  n == 0 ? "" : ": ", n == 0 ? "" : strerror(errno));
}

/* Take all that is there. Returns 0, or -1 when the connection is of no use any more. */
static int receive(struct run *run, struct conn *conn, uint32_t events)
{
	struct tcp *tcp = run->state;
	ssize_t n;

	/* Less than there was room for: it was all (epoll(7)), unless the end stands behind it. */
	do {
		n = recv(conn->fd, tcp->in, IN_MAX, MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			report_end(run, conn, n);
			return -1;
		}
		run_clock(run);
		if (check(run, conn, tcp->in, (size_t)n) != 0)
			return -1;
	} while (n < 0 || n == IN_MAX || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
	return 0;
}

static void tcp_ready(struct run *run, uint32_t index, uint32_t events)
{
	struct tcp *tcp = run->state;
	struct conn *conn = &tcp->conns[index];

	if (conn->fd < 0)
		return;
	if ((events & ~(uint32_t)EPOLLOUT) != 0 && receive(run, conn, events) != 0)
		fail(run, conn);
	else
		send_lines(run, conn);
}

/* ---- Begin and end -------------------------------------------------------------------------- */

static int open_conn(struct run *run, struct conn *conn, uint32_t number, struct error *err)
{
	conn->fd = target_connect(&run->target, SOCK_STREAM, number, err);
	if (conn->fd < 0)
		return -1;
	conn->number = number;
	conn->begun = ((struct tcp *)run->state)->begun + (size_t)number * run->options->pipeline;
	if (run_watch(run, conn->fd, number, EPOLLIN | EPOLLOUT) != 0)
		return error_errno(err, "cannot watch connection %u", (unsigned)number);
	return 0;
}

static int tcp_open(struct run *run, struct error *err)
{
	uint32_t count = run->options->connections;
	struct tcp *tcp = calloc(1, sizeof(*tcp));

	run->state = tcp;
	if (tcp == NULL)
		return error_errno(err, "no memory for buffers");
	tcp->conns = calloc(count, sizeof(*tcp->conns));
	tcp->begun = calloc((size_t)count * run->options->pipeline, sizeof(*tcp->begun));
	if (tcp->conns == NULL || tcp->begun == NULL)
		return error_errno(err, "no memory for %u connections", (unsigned)count);
	for (uint32_t i = 0; i < count; i++)
		tcp->conns[i].fd = -1;
	for (uint32_t i = 0; i < count; i++)
		if (open_conn(run, &tcp->conns[i], i, err) != 0)
			return -1;
	return 0;
}

static void tcp_begin(struct run *run)
{
	struct tcp *tcp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++) {
		struct conn *conn = &tcp->conns[i];

		run_clock(run);
		for (uint32_t j = 0; j < run->options->pipeline; j++)
			conn->begun[j] = run->now;
		send_lines(run, conn);
	}
}

static void tcp_issue(struct run *run, uint64_t k)
{
	struct tcp *tcp = run->state;
	struct conn *conn = &tcp->conns[k % run->options->connections];

	conn->issued++;
	if (conn->fd >= 0)
		send_lines(run, conn);
}

/* A line of which a part was sent is ended. */
static void tcp_drain(struct run *run)
{
	struct tcp *tcp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++) {
		struct conn *conn = &tcp->conns[i];

		conn->issued = conn->sent.line + (conn->sent.offset > 0 ? 1 : 0);
	}
}

static uint64_t tcp_under_way(struct run *run)
{
	const struct tcp *tcp = run->state;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < run->options->connections; i++)
		if (tcp->conns[i].fd >= 0)
			sum += tcp->conns[i].issued - tcp->conns[i].got.line;
	return sum;
}

static void tcp_abandon(struct run *run)
{
	const struct tcp *tcp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++) {
		const struct conn *conn = &tcp->conns[i];

		if (conn->fd >= 0 && conn->got.line < conn->issued)
			run_error(run,
				  "connection %u: the reply to line %llu has not come, but for %zu "
				  "bytes of %zu",
				  (unsigned)conn->number, (unsigned long long)conn->got.line,
				  conn->got.offset, run->pattern.size);
	}
}

static void tcp_unfinished(struct run *run, struct unfinished *unfinished)
{
	const struct tcp *tcp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++) {
		const struct conn *conn = &tcp->conns[i];
		uint64_t due = run_is_open_loop(run) ? conn->issued
						     : conn->got.line + run->options->pipeline;

		if (conn->fd < 0 || due == conn->got.line)
			continue;
		unfinished->lines += due - conn->got.line;
		if (begin_of(run, conn) < unfinished->oldest)
			unfinished->oldest = begin_of(run, conn);
	}
}

static void tcp_close(struct run *run)
{
	struct tcp *tcp = run->state;

	if (tcp == NULL)
		return;
	for (uint32_t i = 0; tcp->conns != NULL && i < run->options->connections; i++)
		if (tcp->conns[i].fd >= 0)
			close(tcp->conns[i].fd);
	free(tcp->begun);
	free(tcp->conns);
	free(tcp);
}

const struct traffic tcp_traffic = {
	.open = tcp_open,
	.begin = tcp_begin,
	.ready = tcp_ready,
	.issue = tcp_issue,
	.drain = tcp_drain,
	.under_way = tcp_under_way,
	.abandon = tcp_abandon,
	.unfinished = tcp_unfinished,
	.close = tcp_close,
};
