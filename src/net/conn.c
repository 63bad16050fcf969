/*
 * One connection, from its first byte to its last. How it ends stands in ending.c.
 *
 * In the usual case a line costs one report of the poller, one recv and one send: the bytes lie in
 * the server's one buffer and go back from there. Only what must wait gets memory of its own: the
 * beginning of a line (`held`) and what the kernel did not take (`pending`).
 */
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/server_private.h"

/*
 * So many bytes of replies surely left at once: they fit into every client's window and into the
 * initial congestion window (RFC 6928). More may wait in the kernel when the connection closes.
 */
#define SAFE_REPLY 1024

#define DRAIN_READS_TURN 64

/* ---- Which events are watched --------------------------------------------------------------- */

static enum timeout_kind first_kind(const struct server *server)
{
	return server->settings.first_byte_timeout_ms > 0 ? TIMEOUT_FIRST : TIMEOUT_IDLE;
}

enum timeout_kind conn_silence(const struct conn *conn)
{
	const struct conn_extra *extra = conn_extra(conn);
	size_t header = extra == NULL || extra->header == NULL ? 0 : extra->header->parsed.len;

	return conn->bytes_in > header ? TIMEOUT_IDLE : first_kind(conn->server);
}

bool conn_watch_for(struct conn *conn, short what)
{
	if (poller_watch(&conn->server->poller, &conn->socket, what) == 0)
		return true;
	conn_close(conn, "no memory to watch it", &conn->server->counters->no_memory);
	return false;
}

/* A client that does not read is not read from. */
bool conn_watch(struct conn *conn)
{
	size_t len = conn_pending(conn);

	if (len == 0)
		return conn_watch_for(conn, EV_READ);
	if (conn->state == CONN_CLOSING || conn->paused ||
	    len >= conn->server->settings.max_pending)
		return conn_watch_for(conn, EV_WRITE);
	return conn_watch_for(conn, EV_READ | EV_WRITE);
}

/* ---- Writing -------------------------------------------------------------------------------- */

/* What the kernel does not take now waits. Returns false when the connection was closed. */
static bool keep_pending(struct conn *conn, const unsigned char *data, size_t len)
{
	bool first = !conn->has_pending;

	if (!conn_keep_pending(conn, data, len))
		return false;
	if (first) {
		conn_note_progress(conn);
		timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_WRITE,
			      clock_coarse_ms());
	}
	return true;
}

/* What send has done. Returns false when the connection was closed. */
static inline bool sent(struct conn *conn, ssize_t n, const unsigned char *data, size_t len)
{
	if (n < 0 && errno != EAGAIN) {
		conn_close_on_error(conn, errno);
		return false;
	}
	if (n < 0)
		n = 0;
	conn->bytes_out += (uint64_t)n;
	counter_add(&conn->server->counters->bytes_out, (uint64_t)n);
	return (size_t)n == len || keep_pending(conn, data + n, len - (size_t)n);
}

static inline ssize_t send_now(int fd, const unsigned char *data, size_t len, int flags)
{
	ssize_t n;

	do
		n = send(fd, data, len, MSG_NOSIGNAL | flags);
	while (n < 0 && errno == EINTR);
	return n;
}

bool conn_reply(struct conn *conn, const unsigned char *data, size_t len, bool last)
{
	if (conn->has_pending)
		return keep_pending(conn, data, len);
	conn->corked = last;
	return sent(conn, send_now(conn_fd(conn), data, len, last ? MSG_MORE : 0), data, len);
}

/* Returns false when the connection was closed. */
static bool flush(struct conn *conn)
{
	int n = evbuffer_write(conn->more->pending, conn_fd(conn));

	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return true;
		conn_close_on_error(conn, errno);
		return false;
	}
	conn->bytes_out += (uint64_t)n;
	counter_add(&conn->server->counters->bytes_out, (uint64_t)n);
	if (conn_pending(conn) > 0) {
		conn_note_progress(conn);
		timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_WRITE,
			      clock_coarse_ms());
		return conn_watch(conn);
	}
	conn_release_pending(conn);
	timeouts_move(&conn->server->timeouts, &conn->timeout, conn_silence(conn),
		      clock_coarse_ms());
	if (conn->state == CONN_CLOSING)
		conn_finish(conn);
	else if (conn->paused)
		conn_resume(conn);
	else if (conn->server->draining)
		conn_drain(conn);
	else
		return conn_watch(conn);
	return false;
}

/* ---- What a protocol writes of its own ------------------------------------------------------ */

static void on_said(struct proto_out *out, const void *data, size_t len)
{
	struct server_out *said = (struct server_out *)out;

	said->used = true;
	if (evbuffer_add(said->bytes, data, len) < 0)
		said->failed = true;
}

int server_out_init(struct server_out *out)
{
	out->out.write = on_said;
	out->bytes = evbuffer_new();
	return out->bytes == NULL ? -1 : 0;
}

/* Returns false when the connection was closed. */
static bool send_said(struct conn *conn, bool last)
{
	struct server_out *out = &conn->server->out;
	size_t len = evbuffer_get_length(out->bytes);
	const unsigned char *data = evbuffer_pullup(out->bytes, -1);
	bool failed = out->failed || (data == NULL && len > 0), open;

	out->used = out->failed = false;
	if (failed)
		conn_close(conn, "no memory for its reply", &conn->server->counters->no_memory);
	open = !failed && (len == 0 || conn_reply(conn, data, len, last));
	evbuffer_drain(out->bytes, len);
	return open;
}

/* ---- Reading -------------------------------------------------------------------------------- */

/*
 * Room for the next recv. The beginning of a line that is held goes back into the common buffer, so
 * that one recv can bring many lines behind it; only a long one grows where it is. NULL without
 * memory.
 */
static unsigned char *room(struct conn *conn, size_t *len)
{
	unsigned char *buffer = conn->server->buffer;
	size_t held = conn_held(conn);

	if (held <= SERVER_BUFFER / 2) {
		if (held > 0)
			memcpy(buffer, conn->more->held, held);
		*len = SERVER_BUFFER - held;
		return buffer + held;
	}
	if (held == conn->more->held_cap && !conn_enlarge_held(conn))
		return NULL;
	*len = conn->more->held_cap - held;
	return conn->more->held + held;
}

/* What came after a limit of requests was reached waits. Always returns false: hands off. */
static bool pause_requests(struct conn *conn, const unsigned char *rest, size_t len)
{
	if (!conn_hold(conn, rest, len))
		return false;
	conn->paused = true;
	conn_throttle(conn);
	return false;
}

static enum conn_end end_of(const struct conn *conn, enum proto_next next)
{
	if (next == PROTO_TOO_LONG)
		return CONN_TOO_LONG;
	return conn->shut ? CONN_CLIENT_CLOSED : CONN_ALL_ANSWERED;
}

bool conn_answer(struct conn *conn, unsigned char *data, size_t len, size_t fresh, bool full)
{
	struct server *server = conn->server;
	const struct server_settings *settings = &server->settings;
	struct proto_state state = {conn->requests, conn_requests_left(conn), conn->in_line};
	struct proto_verdict verdict;
	bool last;

	if (state.allowed == 0)
		return pause_requests(conn, data, len);
	verdict = settings->proto->input(&settings->says, &state, data, len, len - fresh,
					 conn->shut, &server->out.out);
	conn->in_line = state.in_line;
	conn->requests += verdict.requests;
	counter_add(&server->counters->requests, verdict.requests);
	conn_charge(conn, 0, verdict.requests);
	last = verdict.next == PROTO_CLOSE || verdict.next == PROTO_TOO_LONG;
	if (server->out.used && !send_said(conn, last))
		return false;
	if (verdict.reply > 0 && !conn_reply(conn, data, verdict.reply, last))
		return false;
	if (verdict.next == PROTO_MORE)
		return conn_hold(conn, data + verdict.taken, len - verdict.taken);
	if (verdict.next == PROTO_PAUSE)
		return pause_requests(conn, data + verdict.taken, len - verdict.taken);
	conn->linger = full || verdict.taken < len || conn->bytes_out > SAFE_REPLY;
	if (verdict.next == PROTO_TOO_LONG) {
		counter_add(&server->counters->too_long, 1);
		conn_keep_peer(conn); /* its end is a notice */
	}
	conn_begin_end(conn, end_of(conn, verdict.next));
	return false;
}

enum received {
	RECEIVED_DATA,	/* it was answered, and there may be more */
	RECEIVED_NONE,	/* nothing can be read now */
	RECEIVED_ENDED, /* the connection is gone or on its way: hands off */
};

/* How much may be received, when there is room for `space`. */
static size_t may_receive(const struct conn *conn, size_t space)
{
	size_t max = conn->server->settings.max_pending, pending = conn_pending(conn), left;

	/* A reply can be longer than what it answers, and a held line than max_pending. */
	if (pending >= max)
		return 0;
	if (space > max - pending)
		space = max - pending;
	if (!conn->paced)
		return space;
	left = conn_requests_left(conn) == 0 ? 0 : conn_bytes_left(conn);
	return space > left ? left : space;
}

static inline ssize_t receive_now(int fd, unsigned char *into, size_t len, int flags)
{
	ssize_t n;

	do
		n = recv(fd, into, len, flags);
	while (n < 0 && errno == EINTR);
	return n;
}

/* What recv has brought: `n` bytes, or its error, behind `before` others, where there was `space`.
 */
static enum received received(struct conn *conn, unsigned char *data, size_t before, ssize_t n,
			      size_t space)
{
	struct server *server = conn->server;
	size_t len = before + (size_t)n;
	bool full = (size_t)n == space, open;

	if (n < 0) {
		if (errno == EAGAIN)
			return RECEIVED_NONE;
		conn_close_on_error(conn, errno);
		return RECEIVED_ENDED;
	}
	timeouts_heard(&server->timeouts, &conn->timeout);
	conn->shut = n == 0;
	conn->bytes_in += (uint64_t)n;
	counter_add(&server->counters->bytes_in, (uint64_t)n);
	conn_charge(conn, (uint64_t)n, 0);
	open = conn->state == CONN_HEADER ? conn_header(conn, data, len, full)
					  : conn_answer(conn, data, len, (size_t)n, full);
	return open ? RECEIVED_DATA : RECEIVED_ENDED;
}

/* One recv. */
static enum received receive(struct conn *conn)
{
	size_t space, before = conn_held(conn);
	unsigned char *into = room(conn, &space);

	if (into == NULL) {
		conn_close(conn, "no memory for its line", &conn->server->counters->no_memory);
		return RECEIVED_ENDED;
	}
	space = may_receive(conn, space);
	if (space == 0) {
		conn_throttle(conn);
		return RECEIVED_ENDED;
	}
	return received(conn, into - before, before, receive_now(conn_fd(conn), into, space, 0),
			space);
}

/*
 * One recv for a connection that has nothing unusual. What comes is nearly always whole lines, and
 * all is left as usual: they go back with as few instructions as can be.
 */
static inline __attribute__((always_inline)) enum received receive_usual(struct conn *conn)
{
	struct server *server = conn->server;
	unsigned char *data = server->buffer;
	ssize_t n = receive_now(conn_fd(conn), data, server->room, 0);
	uint64_t requests;

	if (n <= 0)
		return received(conn, data, 0, n, server->room);
	requests = server->plain(&server->settings.says, conn->requests, data, (size_t)n);
	if (requests == PROTO_NO_LIMIT)
		return received(conn, data, 0, n, server->room);
	timeouts_heard(&server->timeouts, &conn->timeout);
	conn->requests += requests;
	conn->bytes_in += (uint64_t)n;
	counter_add(&server->counters->requests, requests);
	counter_add(&server->counters->bytes_in, (uint64_t)n);
	return sent(conn, send_now(conn_fd(conn), data, (size_t)n, 0), data, (size_t)n)
		       ? RECEIVED_DATA
		       : RECEIVED_ENDED;
}

static bool may_read(const struct conn *conn)
{
	return (conn->state == CONN_OPEN || conn->state == CONN_HEADER) && !conn->paused &&
	       conn_pending(conn) < conn->server->settings.max_pending;
}

/*
 * While the server drains, all that has been received is answered; a connection on which nothing
 * more waits, and that has not begun a line, ends.
 */
void conn_drain(struct conn *conn)
{
	enum received received = RECEIVED_DATA;

	conn->draining = true;
	if (conn->produces) {
		stream_end(conn);
		return;
	}
	if (conn->paused)
		return; /* it goes on when its limit allows */
	/* Bounded: a client that writes faster than we read must not hold up the others. */
	for (int i = 0; i < DRAIN_READS_TURN && received == RECEIVED_DATA && may_read(conn); i++)
		received = receive(conn);
	if (received == RECEIVED_ENDED)
		return;
	if (conn->state == CONN_CLOSING || conn->state == CONN_LINGER)
		return;
	if (conn->state == CONN_OPEN &&
	    (received == RECEIVED_DATA || conn->has_held || conn->in_line)) {
		conn_watch(conn);
		return;
	}
	conn->linger = true; /* the client may be writing this very moment */
	conn_begin_end(conn, CONN_SERVER_STOPS);
}

bool conn_hear(struct conn *conn)
{
	unsigned char byte;

	if (!may_read(conn))
		return false;
	if (receive_now(conn_fd(conn), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
		/* MPTCP could not be asked at first (EOPNOTSUPP). */
		if (errno == EAGAIN || errno == EOPNOTSUPP)
			return false;
		conn_close_on_error(conn, errno);
		return true;
	}
	if (conn->server->draining) {
		conn_drain(conn);
		return true;
	}
	switch (receive(conn)) {
	case RECEIVED_ENDED:
		return true;
	case RECEIVED_NONE:
		return false;
	default:
		return (conn->has_pending && !conn_watch(conn)) || conn->state != CONN_HEADER;
	}
}

void conn_read_on(struct conn *conn)
{
	if (conn->server->draining)
		conn_drain(conn);
	else if (!may_read(conn) || receive(conn) != RECEIVED_ENDED)
		conn_watch(conn);
}

/* ---- What the poller reports ---------------------------------------------------------------- */

static struct conn *conn_of_socket(struct poller_entry *entry)
{
	return (struct conn *)((char *)entry - offsetof(struct conn, socket));
}

/* What is rare of it: something waits, or the connection is not simply open. */
static __attribute__((noinline)) void on_rare_report(struct conn *conn, short what)
{
	if (conn->state == CONN_LINGER) {
		conn_discard(conn);
		return;
	}
	if (conn->produces && conn->state == CONN_OPEN) {
		stream_event(conn, what);
		return;
	}
	if ((what & EV_WRITE) && !flush(conn))
		return;
	if (!(what & EV_READ) || !may_read(conn))
		return;
	if (conn->server->draining)
		conn_drain(conn);
	else if (receive(conn) == RECEIVED_DATA && conn->has_pending)
		conn_watch(conn);
}

void conn_ready(struct poller_entry *entry, short what)
{
	struct conn *conn = conn_of_socket(entry);

	if (what != EV_READ || conn->unusual != 0)
		on_rare_report(conn, what);
	else if (receive_usual(conn) == RECEIVED_DATA && conn->has_pending)
		conn_watch(conn);
}

/* What the server says first. Returns false when that was all. */
static bool say_first(struct conn *conn)
{
	struct server *server = conn->server;
	const struct server_settings *settings = &server->settings;
	enum proto_next next =
		settings->proto->open(&settings->says, conn_facts(conn), &server->out.out);

	if (settings->proto->speaks_first) {
		conn->requests++;
		counter_add(&server->counters->requests, 1);
	}
	if (!send_said(conn, next != PROTO_MORE))
		return false;
	if (next == PROTO_MORE)
		return true;
	conn->linger = true; /* nobody has looked whether the client writes, too */
	conn_begin_end(conn, CONN_ALL_SAID);
	return false;
}

bool conn_begin(struct conn *conn)
{
	struct server *server = conn->server;
	const struct server_settings *settings = &server->settings;

	if (conn->state == CONN_HEADER)
		timeouts_move(&server->timeouts, &conn->timeout, first_kind(server),
			      clock_coarse_ms());
	conn->state = CONN_OPEN;
	if (settings->proto->open != NULL &&
	    (settings->proto->speaks_first || settings->says.greeting != NULL) && !say_first(conn))
		return false;
	if (settings->proto->produce == NULL)
		return true;
	conn->produces = true;
	stream_produce(conn);
	return false;
}

/* Returns false when it was refused, or served and ended. */
static bool receive_client(struct conn *conn, int64_t now)
{
	struct server *server = conn->server;
	bool header = conn_expects_header(conn);

	timeouts_add(&server->timeouts, &conn->timeout,
		     header ? TIMEOUT_HEADER : first_kind(server), now);
	if (!header)
		return conn_admit(conn) && conn_begin(conn);
	conn->state = CONN_HEADER;
	/* Who may come is asked only then, and of a client that was reset it is still asked. */
	conn_keep_peer(conn);
	return conn_may_send_header(conn);
}

bool conn_start(struct server *server, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
	struct conn *conn = malloc(sizeof(*conn)); /* calloc costs 150 instructions more */
	int64_t now = clock_coarse_ms();

	counter_add(&server->counters->accepted, 1);
	server->connections++;
	if (conn == NULL) {
		counter_add(&server->counters->no_memory, 1);
		counter_add(&server->counters->closed, 1);
		server->connections--;
		close(fd);
		return false;
	}
	*conn = (struct conn){
		.socket.fd = fd,
		.server = server,
		.state = CONN_OPEN,
		.accepted_at = (uint64_t)now,
	};
	conn_set_peer(conn, peer, peer_len);
	if (log_enabled(LOG_LEVEL_INFO))
		conn_keep_peer(conn);
	if (!receive_client(conn, now))
		return true;
	/* The kernel hands over a deferred connection with its first bytes: a short one never sees
	 * epoll. */
	if (server->draining)
		conn_drain(conn);
	else if (!server->settings.read_at_accept || receive(conn) != RECEIVED_ENDED)
		conn_watch(conn);
	return true;
}
