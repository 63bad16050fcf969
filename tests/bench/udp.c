/*
 * Datagrams: on each socket a window of --pipeline trains, each of --train datagrams (one, unless
 * told). A train is over when all its datagrams are answered or lost; then the next one is sent.
 * Replies may come in any order, each once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/udp.h"

static uint64_t bits(uint32_t count)
{
	return count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1;
}

void udp_fail(struct run *run, struct udp_socket *socket)
{
	close(socket->fd);
	socket->fd = -1;
	run->connections--;
}

/* ---- Replies -------------------------------------------------------------------------------- */

/* The train is over: its place in the window takes the next one. */
static void release(const struct udp *udp, struct udp_socket *socket, struct train *train)
{
	memmove(train->lost + 1, train->lost, sizeof(train->lost) - sizeof(train->lost[0]));
	train->lost[0] = train->pending;
	train->pending = 0;
	train->turn++;
	socket->free[socket->free_count++] = (uint32_t)(train - udp->trains) % udp->window;
}

/* A reply to a datagram that is not under way: was it given up, or is it a second one? */
static void check_late(struct run *run, const struct udp_socket *socket, struct train *train,
		       uint32_t number, uint32_t age, uint64_t bit)
{
	if (age > TRAIN_MEMORY) {
		run->late++; /* nobody remembers */
		return;
	}
	if (age > 0 && (train->lost[age - 1] & bit) != 0) {
		train->lost[age - 1] &= ~bit;
		run->late++;
		return;
	}
	run_error(run, "socket %u: a reply to datagram %u, which is not under way",
		  (unsigned)socket->number, (unsigned)number);
}

static void take_datagram(struct run *run, struct udp_socket *socket, const unsigned char *data,
			  uint32_t number)
{
	struct udp *udp = run->state;
	uint32_t unit = number / run->options->train;
	uint64_t bit = UINT64_C(1) << number % run->options->train;
	struct train *train = socket->trains + unit % udp->window;
	uint32_t turn = unit / udp->window;

	if (!pattern_is_line(&run->pattern, socket->number, number, data)) {
		run_error_bytes(run, socket->number, number, 0, data, run->pattern.size);
		return;
	}
	if (turn != train->turn || (train->pending & bit) == 0) {
		check_late(run, socket, train, number, train->turn - turn, bit);
		return;
	}
	run_count_line(run, train->begun);
	train->pending &= ~bit;
	socket->under_way--;
	if (train->pending == 0)
		release(udp, socket, train);
}

void udp_take(struct run *run, struct udp_socket *socket, const unsigned char *data, size_t len)
{
	uint32_t number;

	if (len != run->pattern.size)
		run_error(run, "socket %u: a reply of %zu bytes arrived, and only %zu were sent",
			  (unsigned)socket->number, len, run->pattern.size);
	else if (pattern_number(data, &number) != 0)
		run_error(run, "socket %u: a reply does not begin with the number of a datagram",
			  (unsigned)socket->number);
	else
		take_datagram(run, socket, data, number);
}

/* ---- Sending -------------------------------------------------------------------------------- */

/* The number of its first datagram. */
static uint32_t number_of(const struct run *run, const struct udp_socket *socket,
			  const struct train *train)
{
	const struct udp *udp = run->state;
	uint32_t place = (uint32_t)(train - socket->trains);

	return (train->turn * udp->window + place) * run->options->train;
}

uint32_t udp_sendable(const struct run *run, const struct udp_socket *socket)
{
	if (run->draining)
		return 0;
	if (run_is_open_loop(run) && socket->issued - socket->dispatched < socket->free_count)
		return (uint32_t)(socket->issued - socket->dispatched);
	return socket->free_count;
}

void udp_write_train(const struct run *run, const struct udp_socket *socket, uint32_t i,
		     unsigned char *out)
{
	const struct train *train = socket->trains + socket->free[socket->free_count - 1 - i];
	uint32_t first = number_of(run, socket, train);

	for (uint32_t j = 0; j < run->options->train; j++)
		pattern_write(&run->pattern, socket->number, first + j, 0,
			      (uint64_t)(uint32_t)(first + j) + 1, out + j * run->pattern.size,
			      run->pattern.size);
}

void udp_sent(struct run *run, struct udp_socket *socket, uint32_t count)
{
	const struct options *options = run->options;

	for (uint32_t i = 0; i < count; i++) {
		struct train *train = socket->trains + socket->free[--socket->free_count];
		uint64_t k = socket->dispatched++ * options->connections + socket->number;

		train->pending = bits(options->train);
		train->sent = run->now;
		train->begun = run_is_open_loop(run) ? run_due(run, k) : run->now;
		socket->under_way += options->train;
	}
}

/* ---- What has no reply ---------------------------------------------------------------------- */

static void lose(struct run *run, struct udp_socket *socket, struct train *train)
{
	uint32_t lost = (uint32_t)__builtin_popcountll(train->pending);

	run->lost += lost;
	socket->under_way -= lost;
	release(run->state, socket, train);
}

static void lose_older_than(struct run *run, struct udp_socket *socket, uint64_t age)
{
	const struct udp *udp = run->state;

	for (uint32_t i = 0; i < udp->window && socket->under_way > 0; i++) {
		struct train *train = socket->trains + i;

		if (train->pending != 0 && run->now - train->sent >= age)
			lose(run, socket, train);
	}
}

static void udp_sweep(struct run *run)
{
	struct udp *udp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++) {
		struct udp_socket *socket = &udp->sockets[i];

		if (socket->fd < 0)
			continue;
		lose_older_than(run, socket, run->options->timeout_ns);
		udp_send(run, socket);
	}
}

static void udp_abandon(struct run *run)
{
	struct udp *udp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++)
		if (udp->sockets[i].fd >= 0)
			lose_older_than(run, &udp->sockets[i], 0);
}

/* ---- The rest of a traffic ------------------------------------------------------------------ */

static void udp_begin(struct run *run)
{
	struct udp *udp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++)
		udp_send(run, &udp->sockets[i]);
}

static void udp_ready(struct run *run, uint32_t index, uint32_t events)
{
	struct udp *udp = run->state;
	struct udp_socket *socket = &udp->sockets[index];

	if (socket->fd >= 0 && (events & ~(uint32_t)EPOLLOUT) != 0)
		udp_receive(run, socket);
	if (socket->fd >= 0)
		udp_send(run, socket);
}

static void udp_issue(struct run *run, uint64_t k)
{
	struct udp *udp = run->state;
	struct udp_socket *socket = &udp->sockets[k % run->options->connections];

	socket->issued++;
	if (socket->fd >= 0)
		udp_send(run, socket);
}

static void udp_drain(struct run *run)
{
	(void)run; /* udp_sendable allows no more */
}

static uint64_t udp_under_way(struct run *run)
{
	const struct udp *udp = run->state;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < run->options->connections; i++)
		if (udp->sockets[i].fd >= 0)
			sum += udp->sockets[i].under_way;
	return sum;
}

static void unfinished_of(const struct run *run, const struct udp_socket *socket,
			  struct unfinished *unfinished)
{
	const struct udp *udp = run->state;
	uint64_t k = socket->dispatched * run->options->connections + socket->number;

	unfinished->lines += socket->under_way;
	for (uint32_t i = 0; i < udp->window; i++)
		if (socket->trains[i].pending != 0 && socket->trains[i].begun < unfinished->oldest)
			unfinished->oldest = socket->trains[i].begun;
	if (!run_is_open_loop(run) || socket->issued == socket->dispatched)
		return;
	unfinished->lines += (socket->issued - socket->dispatched) * run->options->train;
	if (run_due(run, k) < unfinished->oldest)
		unfinished->oldest = run_due(run, k);
}

static void udp_unfinished(struct run *run, struct unfinished *unfinished)
{
	const struct udp *udp = run->state;

	for (uint32_t i = 0; i < run->options->connections; i++)
		if (udp->sockets[i].fd >= 0)
			unfinished_of(run, &udp->sockets[i], unfinished);
}

const struct traffic udp_traffic = {
	.open = udp_open,
	.begin = udp_begin,
	.ready = udp_ready,
	.issue = udp_issue,
	.sweep = udp_sweep,
	.drain = udp_drain,
	.under_way = udp_under_way,
	.abandon = udp_abandon,
	.unfinished = udp_unfinished,
	.close = udp_close,
};
