/*
 * How fast a connection may go: its own buckets, and those of its source. Nobody is refused here:
 * reading pauses until a bucket has something again.
 */
#include "base/clock.h"
#include "net/server_private.h"

/* The smaller of `left` and what a bucket has. */
static uint64_t at_most(uint64_t left, uint64_t other)
{
	return other < left ? other : left;
}

size_t conn_bytes_left(const struct conn *conn)
{
	const struct server_settings *settings = &conn->server->settings;
	uint64_t left = SIZE_MAX, wait, now;

	if (!conn->paced)
		return SIZE_MAX;
	now = clock_us();
	if (settings->byte_rate > 0)
		left = bucket_left(conn_extra(conn)->byte_arrival, settings->byte_rate, now, &wait);
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (settings->limits[i] != NULL)
			left = at_most(left,
				       limits_bytes_left(settings->limits[i],
							 &conn_extra(conn)->holds[i], now, &wait));
	return (size_t)left;
}

uint64_t conn_requests_left(const struct conn *conn)
{
	const struct server_settings *settings = &conn->server->settings;
	uint64_t left = PROTO_NO_LIMIT, wait, now;

	if (!conn->paced)
		return PROTO_NO_LIMIT;
	now = clock_us();
	if (settings->request_rate > 0)
		left = bucket_left(conn_extra(conn)->request_arrival, settings->request_rate, now,
				   &wait);
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (settings->limits[i] != NULL)
			left = at_most(left, limits_requests_left(settings->limits[i],
								  &conn_extra(conn)->holds[i], now,
								  &wait));
	return left;
}

void conn_charge(struct conn *conn, uint64_t bytes, uint64_t requests)
{
	const struct server_settings *settings = &conn->server->settings;
	uint64_t now;

	if (!conn->paced || (bytes == 0 && requests == 0))
		return;
	now = clock_us();
	if (settings->byte_rate > 0 && bytes > 0)
		bucket_charge(&conn_extra(conn)->byte_arrival, settings->byte_rate, bytes, now);
	if (settings->request_rate > 0 && requests > 0)
		bucket_charge(&conn_extra(conn)->request_arrival, settings->request_rate, requests,
			      now);
	for (int i = 0; i < SERVER_SCOPES; i++) {
		if (settings->limits[i] == NULL)
			continue;
		if (bytes > 0)
			limits_charge_bytes(settings->limits[i], &conn_extra(conn)->holds[i], bytes,
					    now);
		if (requests > 0)
			limits_charge_requests(settings->limits[i], &conn_extra(conn)->holds[i],
					       requests, now);
	}
}

/* ---- Waiting for a limit -------------------------------------------------------------------- */

static void look_later(struct conn *conn)
{
	poller_forget(&conn->server->poller, &conn->socket);
	timeouts_move(&conn->server->timeouts, &conn->timeout, TIMEOUT_THROTTLE, clock_coarse_ms());
}

void conn_throttle(struct conn *conn)
{
	struct server *server = conn->server;

	counter_add(&server->counters->throttled, 1);
	if (conn_pending(conn) > 0) {
		conn_watch_for(conn, EV_WRITE);
		return;
	}
	look_later(conn);
}

static bool is_held_back(const struct conn *conn)
{
	if (conn->produces)
		return conn_bytes_left(conn) == 0;
	if (conn_requests_left(conn) == 0)
		return true;
	return !conn->paused && conn_bytes_left(conn) == 0;
}

void conn_resume(struct conn *conn)
{
	/* It is asked often: nothing is copied, and the same pause is not counted twice. */
	if (is_held_back(conn)) {
		look_later(conn);
		return;
	}
	timeouts_move(&conn->server->timeouts, &conn->timeout, conn_silence(conn),
		      clock_coarse_ms());
	if (conn->produces) {
		stream_produce(conn);
		return;
	}
	if (conn->paused) {
		/* All of it is to be looked at again; where it lies, it may stay. */
		unsigned char *held = conn->has_held ? conn->more->held : conn->server->buffer;
		size_t len = conn_held(conn);

		conn->paused = false;
		if (!conn_answer(conn, held, len, len, true))
			return;
	}
	conn_read_on(conn);
}
