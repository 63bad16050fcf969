#include "net/server.h"

#include <event2/buffer.h>
#include <stdlib.h>

#include "net/server_private.h"

static bool needs_extra(const struct server_settings *settings)
{
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (settings->limits[i] != NULL && limits_concern_connections(settings->limits[i]))
			return true;
	return settings->byte_rate > 0 || settings->request_rate > 0 || settings->lifetime_ms > 0;
}

static bool paces(const struct server_settings *settings)
{
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (settings->limits[i] != NULL && limits_concern_rates(settings->limits[i]))
			return true;
	return settings->byte_rate > 0 || settings->request_rate > 0;
}

static uint64_t never_plain(const struct proto_settings *settings, uint64_t requests,
			    const unsigned char *data, size_t len)
{
	(void)settings;
	(void)requests;
	(void)data;
	(void)len;
	return PROTO_NO_LIMIT;
}

/* What it has had since it was made. */
static void free_own(struct server *server)
{
	poller_free(&server->poller);
	timeouts_free(&server->timeouts);
	if (server->out.bytes != NULL)
		evbuffer_free(server->out.bytes);
	free(server->buffer);
	free(server);
}

struct server *server_new(struct event_base *base, const struct server_settings *settings,
			  struct counters *counters, void (*idle)(void *arg), void *arg)
{
	struct server *server = calloc(1, sizeof(*server));
	const int64_t after_ms[TIMEOUT_KINDS] = {
		[TIMEOUT_IDLE] = settings->idle_timeout_ms,
		[TIMEOUT_WRITE] = settings->write_timeout_ms,
		[TIMEOUT_LINGER] = SERVER_LINGER_MS,
		[TIMEOUT_FIRST] = settings->first_byte_timeout_ms,
		[TIMEOUT_HEADER] = SERVER_HEADER_MS,
		[TIMEOUT_THROTTLE] = SERVER_THROTTLE_MS,
		[TIMEOUT_LIFETIME] = settings->lifetime_ms,
	};

	if (server == NULL)
		return NULL;
	server->settings = *settings;
	server->base = base;
	server->counters = counters;
	server->idle = idle;
	server->idle_arg = arg;
	server->pause_said = INT64_MIN / 2;
	server->room =
		settings->max_pending < SERVER_BUFFER ? settings->max_pending : SERVER_BUFFER;
	server->plain = settings->proto->plain != NULL ? settings->proto->plain : never_plain;
	server->needs_extra = needs_extra(settings);
	server->paces = paces(settings);
	server->timeouts.fd = server->poller.fd = -1;
	gate_init(&server->gate);
	server->buffer = malloc(SERVER_BUFFER);
	if (server->buffer == NULL || server_out_init(&server->out) < 0 ||
	    timeouts_init(&server->timeouts, base, after_ms, conn_expired) < 0 ||
	    poller_init(&server->poller, base, conn_ready) < 0) {
		free_own(server);
		return NULL;
	}
	return server;
}

/*
 * Every connection stands in one list of the time-outs. `act` must take it out, or move it behind.
 */
static void for_each_conn(struct server *server, enum timeout_kind kind, void (*act)(struct conn *))
{
	struct timeout_list *list = &server->timeouts.lists[kind];
	struct timeout_entry *entry = TAILQ_FIRST(list), *last = TAILQ_LAST(list, timeout_list);
	struct timeout_entry *next;

	for (; entry != NULL; entry = next) {
		bool at_last = entry == last;

		next = TAILQ_NEXT(entry, link);
		act(conn_of_timeout(entry));
		if (at_last)
			break;
	}
}

static void cut_off(struct conn *conn)
{
	conn_close(conn, "the server stops", &conn->server->counters->cut_off);
}

static void discard(struct conn *conn)
{
	conn_close(conn, "all was answered", NULL);
}

void server_cut_off(struct server *server)
{
	for_each_conn(server, TIMEOUT_IDLE, cut_off);
	for_each_conn(server, TIMEOUT_FIRST, cut_off);
	for_each_conn(server, TIMEOUT_HEADER, cut_off);
	for_each_conn(server, TIMEOUT_THROTTLE, cut_off);
	for_each_conn(server, TIMEOUT_WRITE, cut_off);
	for_each_conn(server, TIMEOUT_LINGER, discard);
}

/* Others end once their replies are out. */
static void drain_stream(struct conn *conn)
{
	if (conn->produces)
		conn_drain(conn);
}

void server_drain(struct server *server)
{
	server->draining = true;
	for_each_conn(server, TIMEOUT_IDLE, conn_drain);
	for_each_conn(server, TIMEOUT_FIRST, conn_drain);
	for_each_conn(server, TIMEOUT_HEADER, conn_drain);
	for_each_conn(server, TIMEOUT_THROTTLE, conn_drain);
	for_each_conn(server, TIMEOUT_WRITE, drain_stream);
	server_check_idle(server);
}

void server_free(struct server *server)
{
	if (server == NULL)
		return;
	server->idle = NULL;
	server_stop_accepting(server, false);
	server_cut_off(server);
	if (server->resume != NULL)
		event_free(server->resume);
	free_own(server);
}

size_t server_connections(const struct server *server)
{
	return server->connections;
}

void server_check_idle(struct server *server)
{
	if (server->idle != NULL && server->connections == 0 && server->listeners == NULL)
		server->idle(server->idle_arg);
}
