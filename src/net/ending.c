/* How a connection ends: by a time-out, an error, or once the reply is with the client. */
#include <errno.h>
#include <event2/buffer.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/server_private.h"

static void log_end(const struct conn *conn, const char *reason, enum log_level level)
{
	char client[CONN_TEXT_MAX];

	conn_format(client, sizeof(client), conn);
	log_write(level,
		  "connection from %s ended: %s; %" PRIu64 " lines, %" PRIu64 " bytes in, %" PRIu64
		  " bytes out, %.3f s",
		  client, reason, conn->requests, conn->bytes_in, conn->bytes_out,
		  (double)(clock_coarse_ms() - (int64_t)conn->accepted_at) / 1000);
}

void conn_close(struct conn *conn, const char *reason, _Atomic uint64_t *counter)
{
	struct server *server = conn->server;
	enum log_level level =
		counter == NULL && conn->end != CONN_TOO_LONG ? LOG_LEVEL_INFO : LOG_LEVEL_NOTICE;

	if (counter != NULL)
		counter_add(counter, 1);
	if (log_enabled(level))
		log_end(conn, reason, level);
	poller_forget(&server->poller, &conn->socket);
	close(conn_fd(conn));
	timeouts_remove(&server->timeouts, &conn->timeout);
	conn_more_free(conn);
	if (server->peer_of == conn)
		server->peer_of = NULL;
	server->refused -= conn->refused;
	free(conn);
	counter_add(&server->counters->closed, 1);
	server->connections--;
	server_check_idle(server);
}

void conn_close_on_error(struct conn *conn, int error)
{
	struct server *server = conn->server;

	/* A client that goes away is no fault of ours and no news: counted, and for the curious. */
	counter_add(&server->counters->resets, 1);
	conn_close(conn, strerror(error), NULL);
}

/* How many bytes the kernel holds that the client has not acknowledged (tcp(7), SIOCOUTQ). */
static int unacknowledged(const struct conn *conn)
{
	int bytes = 0;

	return ioctl(conn_fd(conn), SIOCOUTQ, &bytes) < 0 ? 0 : bytes;
}

void conn_note_progress(struct conn *conn)
{
	struct conn_more *more = conn_get_more(conn);

	/* Without memory nothing is known of it, and it has only the time that all have. */
	if (more != NULL)
		more->unacknowledged = unacknowledged(conn);
}

/*
 * The kernel reports a socket writable only when a third of its buffer is free: a slow client may
 * have taken much meanwhile. Only one that took nothing is at its end.
 */
static bool takes_something(struct conn *conn)
{
	struct conn_more *more = conn->more;
	int left = unacknowledged(conn);
	bool progress = more != NULL && left < more->unacknowledged;

	if (progress) {
		more->unacknowledged = left;
		timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_WRITE,
			      clock_coarse_ms());
	}
	return progress;
}

/*
 * The kernel may still be sending a long reply, which is no silence. Most have long been
 * acknowledged when anybody looks for the first time; the FIN, which counts as one byte, says
 * nothing.
 */
static bool still_takes_reply(struct conn *conn)
{
	int left = unacknowledged(conn);
	int before = conn->more == NULL ? 0 : conn->more->unacknowledged;

	if (left <= 1 || (before > 0 && left >= before))
		return false;
	conn_note_progress(conn);
	timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_LINGER, clock_coarse_ms());
	return conn->more != NULL;
}

/* Whether it has failed, which nobody has seen yet: then it is closed. */
static bool has_failed(struct conn *conn)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(conn_fd(conn), SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error == 0)
		return false;
	conn_close_on_error(conn, error);
	return true;
}

static const char *end_text(const struct conn *conn)
{
	static const char *const texts[] = {
		[CONN_ALL_ANSWERED] = "all was answered",
		[CONN_ALL_SAID] = "all was said",
		[CONN_CLIENT_CLOSED] = "the client closed",
		[CONN_TOO_LONG] = "a line is longer than max_line",
		[CONN_SERVER_STOPS] = "the server stops",
		[CONN_LIFETIME] = "lifetime",
		[CONN_REFUSED] = "refused",
	};

	return texts[conn->end];
}

/* ---- Politely ------------------------------------------------------------------------------- */

void conn_finish(struct conn *conn)
{
	/*
	 * close() with unread bytes in the receive queue, or bytes that still arrive, makes the
	 * kernel send a reset, and that can overtake the reply (RFC 1122, section 4.2.2.13) or take
	 * its place. A FIN cannot. Behind the client's own FIN nothing arrives.
	 */
	if (!conn->shut && (conn->linger || conn->corked))
		shutdown(conn_fd(conn), SHUT_WR);
	if (conn->shut || !conn->linger) {
		conn_close(conn, end_text(conn), NULL);
		return;
	}
	if (conn->more != NULL)
		conn->more->unacknowledged = 0;
	conn->state = CONN_LINGER;
	timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_LINGER, clock_coarse_ms());
	conn_watch_for(conn, EV_READ);
}

void conn_begin_end(struct conn *conn, enum conn_end end)
{
	conn->end = end;
	conn->state = CONN_CLOSING;
	conn_release_held(conn);
	if (conn_pending(conn) == 0) {
		conn_finish(conn);
		return;
	}
	/* Until it is out, the client has time to send more. */
	conn->linger = true;
	conn_watch(conn);
}

void conn_discard(struct conn *conn)
{
	ssize_t n = recv(conn_fd(conn), conn->server->buffer, SERVER_BUFFER, 0);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		conn_close(conn, end_text(conn), NULL);
}

/* ---- By time -------------------------------------------------------------------------------- */

struct conn *conn_of_timeout(struct timeout_entry *entry)
{
	return (struct conn *)((char *)entry - offsetof(struct conn, timeout));
}

static struct conn_extra *extra_of_timeout(struct timeout_entry *entry)
{
	return (struct conn_extra *)((char *)entry - offsetof(struct conn_extra, life));
}

/* The client had its time: what it was promised still goes out. */
static void life_over(struct conn *conn)
{
	timeouts_remove(&conn->server->timeouts, &conn_extra(conn)->life);
	conn_extra(conn)->has_life = false;
	if (conn->state != CONN_OPEN)
		return;
	counter_add(&conn->server->counters->lifetimes, 1);
	conn->linger = true;
	conn_begin_end(conn, CONN_LIFETIME);
}

void conn_expired(struct timeout_entry *entry)
{
	struct conn *conn;
	struct counters *counters;

	if (timeout_kind(entry) == TIMEOUT_LIFETIME) {
		life_over(extra_of_timeout(entry)->conn);
		return;
	}
	conn = conn_of_timeout(entry);
	counters = conn->server->counters;
	switch (timeout_kind(entry)) {
	case TIMEOUT_IDLE:
		if (conn_hear(conn))
			break;
		counter_add(&counters->idle_timeouts, 1);
		conn_close(conn, "idle_timeout", NULL);
		break;
	case TIMEOUT_FIRST:
		if (conn_hear(conn))
			break;
		counter_add(&counters->first_byte_timeouts, 1);
		conn_close(conn, "first_byte_timeout", NULL);
		break;
	case TIMEOUT_HEADER:
		if (!conn_hear(conn))
			conn_header_expired(conn);
		break;
	case TIMEOUT_THROTTLE:
		conn_resume(conn);
		break;
	case TIMEOUT_WRITE:
		if (takes_something(conn) || has_failed(conn))
			break;
		conn_close(conn, "write_timeout: the client does not read",
			   &counters->write_timeouts);
		break;
	default:
		if (still_takes_reply(conn))
			break;
		conn_close(conn, end_text(conn), NULL);
	}
}
