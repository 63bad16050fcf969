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

static struct conn_extra *extra_of_timeout(struct timeout_entry *entry)
{
	return (struct conn_extra *)((char *)entry - offsetof(struct conn_extra, life));
}

static void resume(struct conn *conn);
static void produce(struct conn *conn);

static size_t pending_len(const struct conn *conn)
{
	return conn->pending == NULL ? 0 : evbuffer_get_length(conn->pending);
}

/* ---- The end -------------------------------------------------------------------------------- */

static void log_end(const struct conn *conn, const char *reason, enum log_level level)
{
	char client[CONN_TEXT_MAX];

	conn_format(client, sizeof(client), conn);
	log_write(level,
		  "connection from %s ended: %s; %" PRIu64 " lines, %" PRIu64 " bytes in, %" PRIu64
		  " bytes out, %.3f s",
		  client, reason, conn->spoken.requests, conn->bytes_in, conn->bytes_out,
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
	conn_extra_free(conn);
	free(conn->held);
	server->refused -= conn->refused;
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

/* The client had its time: what it was promised still goes out. */
static void life_over(struct conn *conn)
{
	timeouts_remove(&conn->server->timeouts, &conn->extra->life);
	conn->extra->has_life = false;
	if (conn->state != CONN_OPEN)
		return;
	counter_add(&conn->server->counters->lifetimes, 1);
	conn->linger = true;
	conn_begin_end(conn, "lifetime");
}

void conn_expired(struct timeout_entry *entry)
{
	struct conn *conn;
	struct counters *counters;

	if (entry->kind == TIMEOUT_LIFETIME) {
		life_over(extra_of_timeout(entry)->conn);
		return;
	}
	conn = conn_of_timeout(entry);
	counters = conn->server->counters;
	switch (entry->kind) {
	case TIMEOUT_IDLE:
		counter_add(&counters->idle_timeouts, 1);
		conn_close(conn, "idle_timeout", NULL);
		break;
	case TIMEOUT_FIRST:
		counter_add(&counters->first_byte_timeouts, 1);
		conn_close(conn, "first_byte_timeout", NULL);
		break;
	case TIMEOUT_HEADER:
		conn_header_expired(conn);
		break;
	case TIMEOUT_THROTTLE:
		resume(conn);
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

static enum timeout_kind first_kind(const struct server *server)
{
	return server->settings.first_byte_timeout_ms > 0 ? TIMEOUT_FIRST : TIMEOUT_IDLE;
}

/* Nothing keeps this client from speaking: which time-out holds for it? */
static enum timeout_kind silence_of(const struct conn *conn)
{
	size_t header = conn->extra == NULL ? 0 : conn->extra->header.len;

	return conn->bytes_in > header ? TIMEOUT_IDLE : first_kind(conn->server);
}

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
bool conn_watch(struct conn *conn)
{
	size_t len = pending_len(conn);

	if (len == 0)
		return watch(conn, EV_READ);
	if (conn->state == CONN_CLOSING || conn->paused ||
	    len >= conn->server->settings.max_pending)
		return watch(conn, EV_WRITE);
	return watch(conn, EV_READ | EV_WRITE);
}

static void look_later(struct conn *conn)
{
	event_del(&conn->event);
	timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_THROTTLE, clock_coarse_ms());
}

/*
 * A limit is reached: nothing is read until it allows more. What the client must take first goes
 * on; then the limit is asked again.
 */
static void throttle(struct conn *conn)
{
	struct server *server = conn->server;

	counter_add(&server->counters->throttled, 1);
	if (pending_len(conn) > 0) {
		watch(conn, EV_WRITE);
		return;
	}
	look_later(conn);
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

void conn_release_held(struct conn *conn)
{
	free(conn->held);
	conn->held = NULL;
	conn->held_len = 0;
	conn->held_cap = 0;
}

void conn_begin_end(struct conn *conn, const char *reason)
{
	conn->end_reason = reason;
	conn->state = CONN_CLOSING;
	conn_release_held(conn);
	if (pending_len(conn) == 0) {
		finish(conn);
		return;
	}
	/* Until it is out, the client has time to send more. */
	conn->linger = true;
	conn_watch(conn);
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
static inline __attribute__((always_inline)) bool reply(struct conn *conn,
							const unsigned char *data, size_t len)
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
		close_on_error(conn, errno);
		return false;
	}
	conn->bytes_out += (uint64_t)sent;
	counter_add(&conn->server->counters->bytes_out, (uint64_t)sent);
	if (evbuffer_get_length(conn->pending) > 0) {
		conn->unacknowledged = unacknowledged(conn);
		timeouts_touch(&conn->server->timeouts, &conn->timeout, clock_coarse_ms());
		return conn_watch(conn);
	}
	evbuffer_free(conn->pending);
	conn->pending = NULL;
	timeouts_move(&conn->server->timeouts, &conn->timeout, silence_of(conn), clock_coarse_ms());
	if (conn->state == CONN_CLOSING)
		finish(conn);
	else if (conn->paused)
		resume(conn);
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
	throttle(conn);
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
	size_t max = conn->server->settings.max_pending, pending = pending_len(conn), left;

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
		throttle(conn);
		return RECEIVED_ENDED;
	}
	do
		n = recv(conn_fd(conn), into, space, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		if (errno == EAGAIN)
			return RECEIVED_NONE;
		close_on_error(conn, errno);
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

/* Throw away what still comes after the reply. */
static void discard(struct conn *conn)
{
	ssize_t n = recv(conn_fd(conn), conn->server->buffer, SERVER_BUFFER, 0);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		conn_close(conn, conn->end_reason, NULL);
}

static bool may_read(const struct conn *conn)
{
	return (conn->state == CONN_OPEN || conn->state == CONN_HEADER) && !conn->paused &&
	       pending_len(conn) < conn->server->settings.max_pending;
}

/* It would go on for ever. */
static void end_stream(struct conn *conn)
{
	if (conn->state != CONN_OPEN)
		return;
	conn->linger = true;
	conn_begin_end(conn, "the server stops");
}

/*
 * While the server drains, all that has been received is answered; a connection on which nothing
 * more waits, and that has not begun a line, ends.
 */
void conn_drain(struct conn *conn)
{
	enum received received = RECEIVED_DATA;

	if (conn->produces) {
		end_stream(conn);
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

/* Read on after a pause. */
static void read_on(struct conn *conn)
{
	if (conn->server->draining)
		conn_drain(conn);
	else if (!may_read(conn) || receive(conn) != RECEIVED_ENDED)
		conn_watch(conn);
}

static bool is_held_back(const struct conn *conn)
{
	if (conn->produces)
		return conn_bytes_left(conn) == 0;
	if (conn_requests_left(conn) == 0)
		return true;
	return !conn->paused && conn_bytes_left(conn) == 0;
}

/* A limit may allow more by now. */
static void resume(struct conn *conn)
{
	/* Cheap, as it is asked often: nothing is copied, and the same pause is not counted twice.
	 */
	if (is_held_back(conn)) {
		look_later(conn);
		return;
	}
	timeouts_move(&conn->server->timeouts, &conn->timeout, silence_of(conn), clock_coarse_ms());
	if (conn->produces) {
		produce(conn);
		return;
	}
	if (conn->paused) {
		/* All of it is to be looked at again; where it lies, it may stay. */
		unsigned char *held = conn->held != NULL ? conn->held : conn->server->buffer;

		conn->paused = false;
		if (!conn_answer(conn, held, conn->held_len, conn->held_len, true))
			return;
	}
	read_on(conn);
}

/* ---- A stream without end ------------------------------------------------------------------- */

/*
 * What the client sends is no part of it, but the same limits hold for it. Returns false when there
 * is nothing more to do now, or the connection was closed.
 */
static bool throw_away(struct conn *conn)
{
	size_t len = conn_bytes_left(conn);
	ssize_t n;

	if (len == 0) {
		throttle(conn);
		return false;
	}
	n = recv(conn_fd(conn), conn->server->buffer, len < SERVER_BUFFER ? len : SERVER_BUFFER, 0);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		close_on_error(conn, errno);
		return false;
	}
	if (n > 0) {
		conn->bytes_in += (uint64_t)n;
		counter_add(&conn->server->counters->bytes_in, (uint64_t)n);
		conn_charge(conn, (uint64_t)n, 0);
	}
	/* A client that only says that it will send no more still wants to read. */
	conn->shut = n == 0;
	return true;
}

static void produce(struct conn *conn)
{
	struct server *server = conn->server;
	size_t len = conn_bytes_left(conn);
	ssize_t sent;

	if (server->draining) {
		end_stream(conn);
		return;
	}
	if (len == 0) {
		throttle(conn);
		return;
	}
	if (len > SERVER_BUFFER)
		len = SERVER_BUFFER;
	server->settings.proto->produce(conn->bytes_out, server->buffer, len);
	sent = send(conn_fd(conn), server->buffer, len, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN && errno != EINTR) {
		close_on_error(conn, errno);
		return;
	}
	if (sent > 0) {
		conn->bytes_out += (uint64_t)sent;
		counter_add(&server->counters->bytes_out, (uint64_t)sent);
		conn_charge(conn, (uint64_t)sent, 0);
	}
	/* Also when the kernel took all: it may say only much later that it takes more. */
	conn->unacknowledged = unacknowledged(conn);
	timeouts_move(&server->timeouts, &conn->timeout, TIMEOUT_WRITE, clock_coarse_ms());
	watch(conn, conn->shut ? EV_WRITE : EV_READ | EV_WRITE);
}

static void on_stream_event(struct conn *conn, short what)
{
	if ((what & EV_READ) && !throw_away(conn))
		return;
	if (what & EV_WRITE)
		produce(conn);
	else if (conn->shut)
		watch(conn, EV_WRITE);
}

/* ---- The loop's words ----------------------------------------------------------------------- */

/* What is rare of it: something waits, or the connection is not simply open. */
static __attribute__((noinline)) void on_rare_event(struct conn *conn, short what)
{
	if (conn->state == CONN_LINGER) {
		discard(conn);
		return;
	}
	if (conn->produces && conn->state == CONN_OPEN) {
		on_stream_event(conn, what);
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
	produce(conn);
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
