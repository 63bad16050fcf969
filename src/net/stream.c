/* A stream without end (RFC 864): what the protocol produces, as fast as the client takes it. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "net/server_private.h"

void stream_end(struct conn *conn)
{
	if (conn->state != CONN_OPEN)
		return;
	conn->linger = true;
	conn_begin_end(conn, CONN_SERVER_STOPS);
}

/*
 * What the client sends is no part of it, but the same limits hold for it. Returns false when there
 * is nothing more to do now, or the connection was closed.
 */
static bool throw_away(struct conn *conn)
{
	size_t len = conn_bytes_left(conn);
	ssize_t n;

	if (len == 0) {
		conn_throttle(conn);
		return false;
	}
	n = recv(conn_fd(conn), conn->server->buffer, len < SERVER_BUFFER ? len : SERVER_BUFFER, 0);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		conn_close_on_error(conn, errno);
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

void stream_produce(struct conn *conn)
{
	struct server *server = conn->server;
	size_t len = conn_bytes_left(conn);
	ssize_t sent;

	if (server->draining) {
		stream_end(conn);
		return;
	}
	if (len == 0) {
		conn_throttle(conn);
		return;
	}
	if (len > SERVER_BUFFER)
		len = SERVER_BUFFER;
	server->settings.proto->produce(conn->bytes_out, server->buffer, len);
	sent = send(conn_fd(conn), server->buffer, len, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN && errno != EINTR) {
		conn_close_on_error(conn, errno);
		return;
	}
	if (sent > 0) {
		conn->bytes_out += (uint64_t)sent;
		counter_add(&server->counters->bytes_out, (uint64_t)sent);
		conn_charge(conn, (uint64_t)sent, 0);
	}
	/* Also when the kernel took all: it may say only much later that it takes more. */
	conn_note_progress(conn);
	timeouts_move(&server->timeouts, &conn->timeout, TIMEOUT_WRITE, clock_coarse_ms());
	conn_watch_for(conn, conn->shut ? EV_WRITE : EV_READ | EV_WRITE);
}

void stream_event(struct conn *conn, short what)
{
	if ((what & EV_READ) && !throw_away(conn))
		return;
	if (what & EV_WRITE)
		stream_produce(conn);
	else if (conn->shut)
		conn_watch_for(conn, EV_WRITE);
}
