/*
 * Serving one service's connections in one worker process: accept, read, answer, close. Built on
 * direct libevent events, one for each connection. What is said is up to a protocol
 * (serve/proto.h).
 */
#ifndef ECHOD_NET_SERVER_H
#define ECHOD_NET_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "net/counters.h"
#include "serve/proto.h"

struct event_base;
struct server;

struct server_settings {
	const struct proto *proto;
	uint64_t max_requests;	  /* a connection; PROTO_NO_LIMIT */
	size_t max_line;	  /* bytes, the delimiter included */
	size_t max_pending;	  /* bytes of replies that wait for one client */
	int64_t idle_timeout_ms;  /* 0: never */
	int64_t write_timeout_ms; /* 0: never */
	bool read_at_accept;	  /* the listeners defer: data is there when accept returns */
};

/*
 * A server without listeners. `idle` is called, with `arg`, each time when it no longer accepts and
 * the last connection has ended; it must not free the server. `base`, `counters` must outlive the
 * server. Returns NULL without memory.
 */
struct server *server_new(struct event_base *base, const struct server_settings *settings,
			  struct counters *counters, void (*idle)(void *arg), void *arg);

/* Close everything and free it. */
void server_free(struct server *server);

/*
 * Take a listening socket, which the server owns from now on, without accepting on it. They are
 * numbered from 0 in this order. Returns 0, or -1 without memory.
 */
int server_add_socket(struct server *server, int fd, struct error *err);

/*
 * Accept on this socket, or no longer; a number that there is not is passed over. Returns 0, or -1
 * without memory.
 */
int server_accept_on(struct server *server, size_t number, bool accept, struct error *err);

/* No other process will accept on this socket: its queue is emptied when accepting is stopped. */
void server_give_up(struct server *server, size_t number);

/*
 * Stop accepting and close the listening sockets; the queues of those that are given up, or of
 * `all`, are emptied first, because no other process will.
 */
void server_stop_accepting(struct server *server, bool all);

/*
 * A polite end: what clients have sent is answered, a line half sent may still be finished, idle
 * connections end with a FIN. Accepting must have been stopped.
 */
void server_drain(struct server *server);

/* Close all connections at once, whatever they wait for. */
void server_cut_off(struct server *server);

/* Connections now. */
size_t server_connections(const struct server *server);

#endif
