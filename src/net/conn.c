/*
 * One connection, from accept to close.
 *
 * In the usual case a line costs one report of epoll, one recv and one send: the bytes lie in the
 * server's one buffer and go back from there. Only what must wait gets memory of its own: the
 * beginning of a line
 * (`held`) and what the kernel did not take (`pending`).
 */
#include <errno.h>
#include <event2/buffer.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/log.h"
#include "net/server_private.h"

/*
 * So many bytes of replies surely left at once: they fit into every client's window and into the
 * initial congestion window (RFC 6928). More may wait in the kernel when the connection closes.
 */
#define SAFE_REPLY 1024

#define DRAIN_READS_TURN 64

#define HELD_MIN 512 /* bytes; doubled as a line grows */

struct conn *conn_of_timeout(struct timeout_entry *entry)
{
	return (struct conn *)((char *)entry - offsetof(struct conn, timeout));
}

static int conn_fd(const struct conn *conn)
{
	return conn->event.ev_fd; /* event_get_fd, without the call: three for each line */
}

static size_t pending_len(const struct conn *conn)
{
	return conn->pending == NULL ? 0 : evbuffer_get_length(conn->pending);
}

/* ---- The end -------------------------------------------------------------------------------- */

static void log_end(const struct conn *conn, const char *reason, enum log_level level)
{
	char peer[ADDR_TEXT_MAX];

	address_format(peer, sizeof(peer), &conn->peer.any);
	log_write(level,
		  "connection from %s ended: %s; %" PRIu64 " lines, %" PRIu64 " bytes in, %" PRIu64
		  " bytes out, %.3f s",
		  peer, reason, conn->requests, conn->bytes_in, conn->bytes_out,
		  (double)(clock_coarse_ms() - conn->accepted_at) / 1000);
}

void conn_close(struct conn *conn, const char *reason, _Atomic uint64_t *counter)
{
	struct server *server = conn->server;
	enum log_level level =
		counter == NULL && !conn->too_long ? LOG_LEVEL_INFO : LOG_LEVEL_NOTICE;

	if (counter != NULL)
		counter_add(counter, 1);
	if (log_enabled(level))
		log_end(conn, reason, level);
	event_del(&conn->event);
	close(conn_fd(conn));
	timeouts_remove(&server->timeouts, &conn->timeout);
	if (conn->pending != NULL)
		evbuffer_free(conn->pending);
	free(conn->held);
	free(conn);
	counter_add(&server->counters->closed, 1);
	server->connections--;
	server_check_idle(server);
}

static void close_on_error(struct conn *conn, int error)
{
	struct server *server = conn->server;

	/* A client that goes away is no fault of ours and no news: counted, and logged at level
	 * info. */
	counter_add(&server->counters->resets, 1);
	conn_close(conn, strerror(error), NULL);
}

/* How many bytes the kernel holds that the client has not acknowledged (tcp(7), SIOCOUTQ). */
static int unacknowledged(const struct conn *conn)
{
	int bytes = 0;

	return ioctl(conn_fd(conn), SIOCOUTQ, &bytes) < 0 ? 0 : bytes;
}

/*
 * The kernel reports a socket writable only when a third of its buffer is free: a slow client may
 * have taken much meanwhile. Only one that took nothing is at its end.
 */
static bool takes_something(struct conn *conn, enum timeout_kind kind)
{
	int left = unacknowledged(conn);
	bool progress = left < conn->unacknowledged;

	if (progress) {
		conn->unacknowledged = left;
		timeouts_move(&conn->server->timeouts, &conn->timeout, kind, clock_coarse_ms());
	}
	return progress;
}

void conn_expired(struct timeout_entry *entry)
{
	struct conn *conn = conn_of_timeout(entry);
	struct counters *counters = conn->server->counters;

	switch (entry->kind) {
	case TIMEOUT_IDLE:
		counter_add(&counters->idle_timeouts, 1);
		conn_close(conn, "idle_timeout", NULL);
		break;
	case TIMEOUT_WRITE:
		if (takes_something(conn, TIMEOUT_WRITE))
			break;
		conn_close(conn, "write_timeout: the client does not read",
			   &counters->write_timeouts);
		break;
	default:
		/* The kernel may still be sending a long reply: that is no silence. */
		if (takes_something(conn, TIMEOUT_LINGER))
			break;
		conn_close(conn, conn->end_reason, NULL);
	}
}

/* ---- Which events are watched --------------------------------------------------------------- */

static void on_event(evutil_socket_t fd, short what, void *arg);

/* Watch for these events, and no others. Returns false when the connection had to be closed. */
static bool watch(struct conn *conn, short what)
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
static bool watch_as_pending(struct conn *conn)
{
	size_t len = pending_len(conn);

	if (len == 0)
		return watch(conn, EV_READ);
	if (conn->state == CONN_CLOSING || len >= conn->server->settings.max_pending)
		return watch(conn, EV_WRITE);
	return watch(conn, EV_READ | EV_WRITE);
}

/* ---- Writing -------------------------------------------------------------------------------- */

/* All of the reply is with the kernel. */
static void finish(struct conn *conn)
{
	if (conn->linger && !conn->shut) {
		/*
		 * close() with unread bytes in the receive queue, or bytes that still arrive, makes
		 * the kernel send a reset, and that can overtake the reply (RFC 1122,
		 * section 4.2.2.13). A FIN cannot.
		 */
		/* Before the FIN, which the kernel counts, too: its acknowledgement is no progress.
		 */
		conn->unacknowledged = unacknowledged(conn);
		shutdown(conn_fd(conn), SHUT_WR);
		conn->state = CONN_LINGER;
		timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_LINGER,
			      clock_coarse_ms());
		watch(conn, EV_READ);
		return;
	}
	conn_close(conn, conn->end_reason, NULL);
}

static void release_held(struct conn *conn)
{
	free(conn->held);
	conn->held = NULL;
	conn->held_len = 0;
	conn->held_cap = 0;
}

static void begin_end(struct conn *conn, const char *reason)
{
	conn->end_reason = reason;
	conn->state = CONN_CLOSING;
	release_held(conn);
	if (pending_len(conn) == 0) {
		finish(conn);
		return;
	}
	/* Until it is out, the client has time to send more. */
	conn->linger = true;
	watch_as_pending(conn);
}

/* What the kernel does not take now waits. Returns false when the connection was closed. */
static bool keep_pending(struct conn *conn, const unsigned char *data, size_t len)
{
	if (conn->pending == NULL) {
		conn->pending = evbuffer_new();
		conn->unacknowledged = unacknowledged(conn);
		timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_WRITE,
			      clock_coarse_ms());
	}
	if (conn->pending != NULL && evbuffer_add(conn->pending, data, len) == 0)
		return true;
	conn_close(conn, "no memory for its reply", &conn->server->counters->no_memory);
	return false;
}

/* Returns false when the connection was closed. */
static bool reply(struct conn *conn, const unsigned char *data, size_t len)
{
	ssize_t sent = 0;

	if (conn->pending == NULL) {
		do
			sent = send(conn_fd(conn), data, len, MSG_NOSIGNAL);
		while (sent < 0 && errno == EINTR);
		if (sent < 0 && errno != EAGAIN) {
			close_on_error(conn, errno);
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

/* Returns false when the connection was closed. */
static bool flush(struct conn *conn)
{
	int sent = evbuffer_write(conn->pending, conn_fd(conn));

	if (sent < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return true;
		close_on_error(conn, errno);
		return false;
	}
	conn->bytes_out += (uint64_t)sent;
	counter_add(&conn->server->counters->bytes_out, (uint64_t)sent);
	if (evbuffer_get_length(conn->pending) > 0) {
		conn->unacknowledged = unacknowledged(conn);
		timeouts_touch(&conn->server->timeouts, &conn->timeout, clock_coarse_ms());
		return watch_as_pending(conn);
	}
	evbuffer_free(conn->pending);
	conn->pending = NULL;
	timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_IDLE, clock_coarse_ms());
	if (conn->state == CONN_CLOSING)
		finish(conn);
	else if (conn->server->draining)
		conn_drain(conn);
	else
		return watch_as_pending(conn);
	return false;
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
static bool hold(struct conn *conn, const unsigned char *rest, size_t len)
{
	if (len == 0) {
		if (conn->held != NULL)
			release_held(conn);
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

/*
 * Let the protocol look at `len` bytes, of which `fresh` are new; `full`: recv would have had more
 * room for nothing. Returns false when reading has to stop.
 */
static bool answer(struct conn *conn, const unsigned char *data, size_t len, size_t fresh,
		   bool full)
{
	struct server *server = conn->server;
	struct proto_limits limits = {server->settings.max_requests - conn->requests,
				      server->settings.max_line};
	struct proto_verdict verdict;

	verdict = server->settings.proto->input(&limits, data, len, len - fresh, conn->shut);
	conn->requests += verdict.requests;
	counter_add(&server->counters->requests, verdict.requests);
	if (verdict.reply > 0 && !reply(conn, data, verdict.reply))
		return false;
	if (verdict.next == PROTO_MORE)
		return hold(conn, data + verdict.reply, len - verdict.reply);
	conn->linger = full || verdict.reply < len || conn->bytes_out > SAFE_REPLY;
	if (verdict.next == PROTO_TOO_LONG) {
		counter_add(&server->counters->too_long, 1);
		conn->too_long = true;
	}
	begin_end(conn, verdict.next == PROTO_TOO_LONG ? "a line is longer than max_line"
			: conn->shut		       ? "the client closed"
						       : "all was answered");
	return false;
}

enum received {
	RECEIVED_DATA,	/* it was answered, and there may be more */
	RECEIVED_NONE,	/* nothing can be read now */
	RECEIVED_ENDED, /* the connection is gone or on its way: hands off */
};

/* One recv. */
static enum received receive(struct conn *conn)
{
	struct server *server = conn->server;
	size_t space, before = conn->held_len;
	size_t pending_room = server->settings.max_pending - pending_len(conn);
	unsigned char *into = room(conn, &space);
	ssize_t n;

	if (into == NULL) {
		conn_close(conn, "no memory for its line", &server->counters->no_memory);
		return RECEIVED_ENDED;
	}
	if (space > pending_room)
		space = pending_room;
	do
		n = recv(conn_fd(conn), into, space, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		if (errno == EAGAIN)
			return RECEIVED_NONE;
		close_on_error(conn, errno);
		return RECEIVED_ENDED;
	}
	if (conn->pending == NULL)
		timeouts_touch(&server->timeouts, &conn->timeout, clock_coarse_ms());
	conn->shut = n == 0;
	conn->bytes_in += (uint64_t)n;
	counter_add(&server->counters->bytes_in, (uint64_t)n);
	if (!answer(conn, into - before, before + (size_t)n, (size_t)n, (size_t)n == space))
		return RECEIVED_ENDED;
	return RECEIVED_DATA;
}

/* Throw away what still comes after the reply. */
static void discard(struct conn *conn)
{
	ssize_t n = recv(conn_fd(conn), conn->server->buffer, SERVER_BUFFER, 0);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		conn_close(conn, conn->end_reason, NULL);
}

static bool may_read(const struct conn *conn)
{
	return conn->state == CONN_OPEN && pending_len(conn) < conn->server->settings.max_pending;
}

/*
 * While the server drains, all that has been received is answered; a connection on which nothing
 * more waits, and that has not begun a line, ends.
 */
void conn_drain(struct conn *conn)
{
	enum received received = RECEIVED_DATA;

	/* Bounded: a client that writes faster than we read must not hold up the others. */
	for (int i = 0; i < DRAIN_READS_TURN && received == RECEIVED_DATA && may_read(conn); i++)
		received = receive(conn);
	if (received == RECEIVED_ENDED)
		return;
	if (conn->state != CONN_OPEN)
		return;
	if (received == RECEIVED_DATA || conn->held != NULL) {
		watch_as_pending(conn);
		return;
	}
	conn->linger = true; /* the client may be writing this very moment */
	begin_end(conn, "the server stops");
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct conn *conn = arg;

	(void)fd;
	if (conn->state == CONN_LINGER) {
		discard(conn);
		return;
	}
	if ((what & EV_WRITE) && !flush(conn))
		return;
	if (!(what & EV_READ) || !may_read(conn))
		return;
	if (conn->server->draining)
		conn_drain(conn);
	else if (receive(conn) == RECEIVED_DATA && conn->pending != NULL)
		watch_as_pending(conn);
}

void conn_start(struct server *server, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	counter_add(&server->counters->accepted, 1);
	server->connections++;
	if (conn == NULL || event_assign(&conn->event, server->base, fd, EV_READ | EV_PERSIST,
					 on_event, conn) < 0) {
		counter_add(&server->counters->closed, 1);
		server->connections--;
		free(conn);
		close(fd);
		return;
	}
	conn->server = server;
	conn->accepted_at = clock_coarse_ms();
	memcpy(&conn->peer, peer, peer_len < sizeof(conn->peer) ? peer_len : sizeof(conn->peer));
	timeouts_add(&server->timeouts, &conn->timeout, TIMEOUT_IDLE, conn->accepted_at);
	/* The kernel hands over a deferred connection with its first bytes: a short one never sees
	 * epoll. */
	if (server->draining)
		conn_drain(conn);
	else if (!server->settings.read_at_accept || receive(conn) != RECEIVED_ENDED)
		watch_as_pending(conn);
}
