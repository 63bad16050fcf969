#include "net/server.h"

#include <stdlib.h>

#include "net/server_private.h"

struct server *server_new(struct event_base *base, const struct server_settings *settings,
			  struct counters *counters, void (*idle)(void *arg), void *arg)
{
	struct server *server = calloc(1, sizeof(*server));
	const int64_t after_ms[TIMEOUT_KINDS] = {
		[TIMEOUT_IDLE] = settings->idle_timeout_ms,
		[TIMEOUT_WRITE] = settings->write_timeout_ms,
		[TIMEOUT_LINGER] = SERVER_LINGER_MS,
	};

	if (server == NULL)
		return NULL;
	server->settings = *settings;
	server->base = base;
	server->counters = counters;
	server->idle = idle;
	server->idle_arg = arg;
	server->pause_said = INT64_MIN / 2;
	server->buffer = malloc(SERVER_BUFFER);
	if (server->buffer == NULL ||
	    timeouts_init(&server->timeouts, base, after_ms, conn_expired) < 0) {
		free(server->buffer);
		free(server);
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
	for_each_conn(server, TIMEOUT_WRITE, cut_off);
	for_each_conn(server, TIMEOUT_LINGER, discard);
}

void server_drain(struct server *server)
{
	server->draining = true;
	for_each_conn(server, TIMEOUT_IDLE, conn_drain);
	server_check_idle(server);
}

void server_free(struct server *server)
{
	if (server == NULL)
		return;
	server->idle = NULL;
	server_stop_accepting(server, false);
	server_cut_off(server);
	timeouts_free(&server->timeouts);
	if (server->resume != NULL)
		event_free(server->resume);
	free(server->buffer);
	free(server);
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
