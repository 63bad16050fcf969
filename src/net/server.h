/*
 * Serving one service's connections in one worker process: accept, read, answer, close. All runs in
 * libevent's loop; of connections it hears from their poller (net/poller.h). What is said is up to
 * a protocol (serve/proto.h).
 */
#ifndef ECHOD_NET_SERVER_H
#define ECHOD_NET_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/access.h"
#include "base/error.h"
#include "base/network.h"
#include "base/schedule.h"
#include "net/counters.h"
#include "net/datagram.h"
#include "net/limits.h"
#include "serve/proto.h"

struct event_base;
struct server;

enum server_refusal {
	SERVER_CLOSE,	/* a FIN */
	SERVER_RESET,	/* an RST: the client's next call fails with ECONNRESET */
	SERVER_MESSAGE, /* a line that says why, and a FIN; in a flood of them, only a FIN */
};

enum server_proxy {
	SERVER_PROXY_OFF,
	SERVER_PROXY_OPTIONAL, /* a header where there is one */
	SERVER_PROXY_REQUIRED,
};

/* Two scopes: all services of the daemon together, and this one. NULL: nothing is said there. */
#define SERVER_SCOPES 2

/* What it points to must outlive the server. */
struct server_settings {
	const struct proto *proto;
	struct proto_settings says;
	const char *service;   /* its name */
	const char *worker;    /* "line/0" */
	const char *host;      /* gethostname(2) */
	bool read_at_accept;   /* the listeners defer: data is there when accept returns */
	size_t max_pending;    /* bytes of replies that wait for one client */
	unsigned busy_poll_us; /* how long to look on before sleeping; 0: not at all */

	int64_t idle_timeout_ms; /* 0: never; of the others, too */
	int64_t write_timeout_ms;
	int64_t first_byte_timeout_ms;
	int64_t lifetime_ms;

	const struct access_list *access[SERVER_SCOPES];
	const struct schedule *times[SERVER_SCOPES];
	unsigned max_load; /* hundredths; 0: none */
	struct limits *limits[SERVER_SCOPES];
	uint64_t byte_rate;    /* a second, of one connection; 0: none */
	uint64_t request_rate; /* the same */
	enum server_refusal refusal;

	enum server_proxy proxy;
	const struct network *proxy_from; /* who may send a PROXY header */
	size_t proxy_from_count;

	const struct port_set *silent_ports; /* datagrams from there are not answered; NULL: none */
};

/*
 * A server without listeners. `idle` is called, with `arg`, each time when it no longer accepts and
 * the last connection has ended; it must not free the server. `base`, `counters` must outlive the
 * server. Returns NULL with errno: without memory or descriptors.
 */
struct server *server_new(struct event_base *base, const struct server_settings *settings,
			  struct counters *counters, void (*idle)(void *arg), void *arg);

/*
 * Run the loop until it is told to end, as event_base_dispatch does; with `busy_poll_us` it looks
 * on for so long before it sleeps, where that lately brought requests (net/busy.h). Who runs the
 * loop in another way goes without.
 */
void server_run(struct server *server);

/* Close everything and free it. */
void server_free(struct server *server);

/*
 * Take a listening socket, which the server owns from now on, without accepting on it. They are
 * numbered from 0 in this order. Returns 0, or -1 without memory.
 */
int server_add_socket(struct server *server, int fd, struct error *err);

/*
 * Serve a connection that somebody else has accepted, and that does not block. It is closed in any
 * case. Returns 0, or -1 without memory.
 */
int server_add_connection(struct server *server, int fd, struct error *err);

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
