/*
 * One connection, from its first byte to its last. How it ends stands in ending.c.
 *
 * In the usual case a line costs one report of epoll, one recv and one send: the bytes lie in the
 * server's one buffer and go back from there. Only what must wait gets memory of its own: the
 * beginning of a line (`held`) and what the kernel did not take (`pending`).
 */
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/server_private.h"

/*
 * So many bytes of replies surely left at once: they fit into every client's window and into the
 * initial congestion window (RFC 6928). More may wait in the kernel when the connection closes.
 */
#define SAFE_REPLY 1024

#define DRAIN_READS_TURN 64

#define HELD_MIN 512 /* bytes; doubled as a line grows */

/* ---- Which events are watched --------------------------------------------------------------- */

static void on_event(evutil_socket_t fd, short what, void *arg);

static enum timeout_kind first_kind(const struct server *server)
{
	return server->settings.first_byte_timeout_ms > 0 ? TIMEOUT_FIRST : TIMEOUT_IDLE;
}

enum timeout_kind conn_silence(const struct conn *conn)
{
	size_t header = conn->extra == NULL ? 0 : conn->extra->header.len;

	return conn->bytes_in > header ? TIMEOUT_IDLE : first_kind(conn->server);
}

bool conn_watch_for(struct conn *conn, short what)
{
	short wanted = (short)(what | EV_PERSIST);

	if (event_get_events(&conn->event) != wanted) {
		int fd = conn_fd(conn);

		event_del(&conn->event);
		event_assign(&conn->event, conn->server->base, fd, wanted, on_event, conn);
	}
	if (event_pending(&conn->event, what, NULL) || event_add(&conn->event, NULL) == 0)
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

void conn_release_held(struct conn *conn)
{
	free(conn->held);
	conn->held = NULL;
	conn->held_len = 0;
	conn->held_cap = 0;
}

/* What the kernel does not take now waits. Returns false when the connection was closed. */
static bool keep_pending(struct conn *conn, const unsigned char *data, size_t len)
{
	if (conn->pending == NULL) {
		conn->pending = evbuffer_new();
		conn->unacknowledged = conn_unacknowledged(conn);
		timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_WRITE,
			      clock_coarse_ms());
	}
	if (conn->pending != NULL && evbuffer_add(conn->pending, data, len) == 0)
		return true;
	conn_close(conn, "no memory for its reply", &conn->server->counters->no_memory);
	return false;
}

/* Returns false when the connection was closed. */
static inline __attribute__((always_inline)) bool reply(struct conn *conn,
							const unsigned char *data, size_t len)
{
	ssize_t sent = 0;

	if (conn->pending == NULL) {
		do
			sent = send(conn_fd(conn), data, len, MSG_NOSIGNAL);
		while (sent < 0 && errno == EINTR);
		if (sent < 0 && errno != EAGAIN) {
			conn_close_on_error(conn, errno);
			return false;
		}
		if (sent > 0) {
			conn->bytes_out += (uint64_t)sent;
			counter_add(&conn->server->counters->bytes_out, (uint64_t)sent);
		} else {
			sent = 0;
		}
		if ((size_t)sent == len)
			return true;
	}
	return keep_pending(conn, data + sent, len - (size_t)sent);
}

bool conn_reply(struct conn *conn, const unsigned char *data, size_t len)
{
	return reply(conn, data, len);
}

/* Returns false when the connection was closed. */
static bool flush(struct conn *conn)
{
	int sent = evbuffer_write(conn->pending, conn_fd(conn));

	if (sent < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return true;
		conn_close_on_error(conn, errno);
		return false;
	}
	conn->bytes_out += (uint64_t)sent;
	counter_add(&conn->server->counters->bytes_out, (uint64_t)sent);
	if (evbuffer_get_length(conn->pending) > 0) {
		conn->unacknowledged = conn_unacknowledged(conn);
		timeouts_touch(&conn->server->timeouts, &conn->timeout, clock_coarse_ms());
		return conn_watch(conn);
	}
	evbuffer_free(conn->pending);
	conn->pending = NULL;
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
static bool send_said(struct conn *conn)
{
	struct server_out *out = &conn->server->out;
	size_t len = evbuffer_get_length(out->bytes);
	const unsigned char *data = evbuffer_pullup(out->bytes, -1);
	bool failed = out->failed || (data == NULL && len > 0), open;

	out->used = out->failed = false;
	if (failed)
		conn_close(conn, "no memory for its reply", &conn->server->counters->no_memory);
	open = !failed && (len == 0 || conn_reply(conn, data, len));
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

	if (conn->held_len <= SERVER_BUFFER / 2) {
		if (conn->held_len > 0)
			memcpy(buffer, conn->held, conn->held_len);
		*len = SERVER_BUFFER - conn->held_len;
		return buffer + conn->held_len;
	}
	if (conn->held_len == conn->held_cap) {
		unsigned char *larger = realloc(conn->held, conn->held_cap * 2);

		if (larger == NULL)
			return NULL;
		conn->held = larger;
		conn->held_cap *= 2;
	}
	*len = conn->held_cap - conn->held_len;
	return conn->held + conn->held_len;
}

/* Keep the beginning of a line for later. Returns false when the connection was closed. */
bool conn_hold(struct conn *conn, const unsigned char *rest, size_t len)
{
	if (len == 0) {
		if (conn->held != NULL)
			conn_release_held(conn);
		return true;
	}
	if (len > conn->held_cap) {
		size_t cap = HELD_MIN;
		unsigned char *larger;

		while (cap < len + HELD_MIN / 2)
			cap *= 2;
		larger = malloc(cap);
		if (larger == NULL) {
			conn_close(conn, "no memory for its line",
				   &conn->server->counters->no_memory);
			return false;
		}
		memcpy(larger, rest, len);
		free(conn->held);
		conn->held = larger;
		conn->held_cap = cap;
	} else {
		memmove(conn->held, rest, len);
	}
	conn->held_len = len;
	return true;
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

static const char *reason_of(const struct conn *conn, enum proto_next next)
{
	if (next == PROTO_TOO_LONG)
		return "a line is longer than max_line";
	return conn->shut ? "the client closed" : "all was answered";
}

/*
 * Let the protocol look at `len` bytes, of which `fresh` are new; `full`: recv would have had more
 * room for nothing. Returns false when reading has to stop. In line where each line passes.
 */
static inline __attribute__((always_inline)) bool answer(struct conn *conn, unsigned char *data,
							 size_t len, size_t fresh, bool full)
{
	struct server *server = conn->server;
	const struct server_settings *settings = &server->settings;
	struct proto_verdict verdict;

	conn->spoken.allowed = conn->extra == NULL ? PROTO_NO_LIMIT : conn_requests_left(conn);
	if (conn->spoken.allowed == 0)
		return pause_requests(conn, data, len);
	verdict = settings->proto->input(&settings->says, &conn->spoken, data, len, len - fresh,
					 conn->shut, &server->out.out);
	conn->spoken.requests += verdict.requests;
	counter_add(&server->counters->requests, verdict.requests);
	if (conn->extra != NULL)
		conn_charge(conn, 0, verdict.requests);
	if (server->out.used && !send_said(conn))
		return false;
	if (verdict.reply > 0 && !reply(conn, data, verdict.reply))
		return false;
	if (verdict.next == PROTO_MORE)
		return (verdict.taken == len && conn->held == NULL) ||
		       conn_hold(conn, data + verdict.taken, len - verdict.taken);
	if (verdict.next == PROTO_PAUSE)
		return pause_requests(conn, data + verdict.taken, len - verdict.taken);
	conn->linger = full || verdict.taken < len || conn->bytes_out > SAFE_REPLY;
	if (verdict.next == PROTO_TOO_LONG) {
		counter_add(&server->counters->too_long, 1);
		conn->too_long = true;
	}
	conn_begin_end(conn, reason_of(conn, verdict.next));
	return false;
}

bool conn_answer(struct conn *conn, unsigned char *data, size_t len, size_t fresh, bool full)
{
	return answer(conn, data, len, fresh, full);
}

enum received {
	RECEIVED_DATA,	/* it was answered, and there may be more */
	RECEIVED_NONE,	/* nothing can be read now */
	RECEIVED_ENDED, /* the connection is gone or on its way: hands off */
};

/* The client has sent something: how long may it be silent from now on? */
static void heard(struct conn *conn)
{
	struct timeouts *timeouts = &conn->server->timeouts;

	if (conn->timeout.kind == TIMEOUT_IDLE)
		timeouts_touch(timeouts, &conn->timeout, clock_coarse_ms());
	else if (conn->timeout.kind == TIMEOUT_FIRST)
		timeouts_move(timeouts, &conn->timeout, TIMEOUT_IDLE, clock_coarse_ms());
}

/* How much may be received, when there is room for `space`. */
static size_t may_receive(const struct conn *conn, size_t space)
{
	size_t max = conn->server->settings.max_pending, pending = conn_pending(conn), left;

	/* A reply can be longer than what it answers, and a held line than max_pending. */
	if (pending >= max)
		return 0;
	if (space > max - pending)
		space = max - pending;
	if (conn->extra == NULL)
		return space;
	left = conn_requests_left(conn) == 0 ? 0 : conn_bytes_left(conn);
	return space > left ? left : space;
}

/* One recv. */
static enum received receive(struct conn *conn)
{
	struct server *server = conn->server;
	size_t space, before = conn->held_len;
	unsigned char *into = room(conn, &space);
	bool open;
	ssize_t n;

	if (into == NULL) {
		conn_close(conn, "no memory for its line", &server->counters->no_memory);
		return RECEIVED_ENDED;
	}
	space = may_receive(conn, space);
	if (space == 0) {
		conn_throttle(conn);
		return RECEIVED_ENDED;
	}
	do
		n = recv(conn_fd(conn), into, space, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		if (errno == EAGAIN)
			return RECEIVED_NONE;
		conn_close_on_error(conn, errno);
		return RECEIVED_ENDED;
	}
	heard(conn);
	conn->shut = n == 0;
	conn->bytes_in += (uint64_t)n;
	counter_add(&server->counters->bytes_in, (uint64_t)n);
	if (conn->extra != NULL)
		conn_charge(conn, (uint64_t)n, 0);
	if (__builtin_expect(conn->state == CONN_HEADER, false))
		open = conn_header(conn, into - before, before + (size_t)n, (size_t)n == space);
	else
		open = answer(conn, into - before, before + (size_t)n, (size_t)n,
			      (size_t)n == space);
	return open ? RECEIVED_DATA : RECEIVED_ENDED;
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
	    (received == RECEIVED_DATA || conn->held != NULL || conn->spoken.in_line)) {
		conn_watch(conn);
		return;
	}
	conn->linger = true; /* the client may be writing this very moment */
	conn_begin_end(conn, "the server stops");
}

void conn_read_on(struct conn *conn)
{
	if (conn->server->draining)
		conn_drain(conn);
	else if (!may_read(conn) || receive(conn) != RECEIVED_ENDED)
		conn_watch(conn);
}

/* ---- The loop's words ----------------------------------------------------------------------- */

/* What is rare of it: something waits, or the connection is not simply open. */
static __attribute__((noinline)) void on_rare_event(struct conn *conn, short what)
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
	else if (receive(conn) == RECEIVED_DATA && conn->pending != NULL)
		conn_watch(conn);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct conn *conn = arg;

	(void)fd;
	if (conn->state != CONN_OPEN || what != EV_READ || conn->pending != NULL ||
	    conn->produces || conn->paused || conn->server->draining)
		on_rare_event(conn, what);
	else if (receive(conn) == RECEIVED_DATA && conn->pending != NULL)
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
		conn->spoken.requests++;
		counter_add(&server->counters->requests, 1);
	}
	if (!send_said(conn))
		return false;
	if (next == PROTO_MORE)
		return true;
	conn->linger = true; /* nobody has looked whether the client writes, too */
	conn_begin_end(conn, "all was said");
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

static void set_peer(struct conn *conn, const struct sockaddr *peer, socklen_t peer_len)
{
	struct ucred ids = {0};
	socklen_t len = sizeof(ids);

	/* The name of a Unix client, mostly empty, tells nothing; its ids do. */
	if (peer_len >= sizeof(sa_family_t) && peer->sa_family != AF_UNIX) {
		memcpy(&conn->peer, peer,
		       peer_len < sizeof(conn->peer) ? peer_len : sizeof(conn->peer));
		return;
	}
	getsockopt(conn_fd(conn), SOL_SOCKET, SO_PEERCRED, &ids, &len);
	conn->peer.local = (struct unix_peer){AF_UNIX, ids.pid, ids.uid, ids.gid};
}

/* Returns false when it was refused, or served and ended. */
static bool receive_client(struct conn *conn)
{
	struct server *server = conn->server;
	bool header = conn_expects_header(conn);

	timeouts_add(&server->timeouts, &conn->timeout,
		     header ? TIMEOUT_HEADER : first_kind(server), conn->accepted_at);
	if (!header)
		return conn_admit(conn) && conn_begin(conn);
	conn->state = CONN_HEADER;
	return conn_may_send_header(conn);
}

bool conn_start(struct server *server, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	counter_add(&server->counters->accepted, 1);
	server->connections++;
	if (conn == NULL || event_assign(&conn->event, server->base, fd, EV_READ | EV_PERSIST,
					 on_event, conn) < 0) {
		counter_add(&server->counters->no_memory, 1);
		counter_add(&server->counters->closed, 1);
		server->connections--;
		free(conn);
		close(fd);
		return false;
	}
	conn->server = server;
	conn->state = CONN_OPEN;
	conn->accepted_at = clock_coarse_ms();
	set_peer(conn, peer, peer_len);
	if (!receive_client(conn))
		return true;
	/* The kernel hands over a deferred connection with its first bytes: a short one never sees
	 * epoll. */
	if (server->draining)
		conn_drain(conn);
	else if (!server->settings.read_at_accept || receive(conn) != RECEIVED_ENDED)
		conn_watch(conn);
	return true;
}
