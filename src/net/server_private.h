/* What listener.c, conn.c and server.c share; nobody else includes it. */
#ifndef ECHOD_NET_SERVER_PRIVATE_H
#define ECHOD_NET_SERVER_PRIVATE_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>

#include "net/server.h"
#include "net/timeouts.h"

#define SERVER_BUFFER	    (64 * 1024) /* bytes of one recv */
#define SERVER_LINGER_MS    2000
#define SERVER_ACCEPTS_TURN 64
#define SERVER_PAUSE_MS	    100
#define SERVER_QUEUE_MAX    65536 /* the largest backlog (listen(2)) */

struct evbuffer;

struct listener {
	struct event event;
	struct listener *next; /* in the order of their numbers */
	struct server *server;
	int fd;
	bool accepts;  /* when accepting is not paused */
	bool given_up; /* by all others */
};

struct server {
	unsigned char *buffer; /* one for all connections: nothing stays in it between two events */
	struct timeouts timeouts;
	struct counters *counters;
	struct server_settings settings;
	struct event_base *base;
	size_t connections;
	bool draining;
	struct listener *listeners;
	struct event *resume; /* accepting again after a pause */
	bool paused;
	int64_t pause_said; /* when a pause was last logged */
	void (*idle)(void *arg);
	void *idle_arg;
};

enum conn_state {
	CONN_OPEN,    /* reading and answering */
	CONN_CLOSING, /* nothing more is read; the rest of the reply must go out */
	CONN_LINGER,  /* half-closed; what still comes is thrown away */
};

struct conn {
	struct event event;	      /* the only one; its fd is the connection's */
	struct timeout_entry timeout; /* in exactly one list, always */
	struct server *server;
	unsigned char *held; /* the beginning of a line, allocated only while there is one */
	size_t held_len;
	size_t held_cap;
	struct evbuffer *pending; /* what the kernel did not take, allocated only then */
	uint64_t requests;
	uint64_t bytes_in;
	uint64_t bytes_out;
	int64_t accepted_at;
	int unacknowledged;	/* by the client, when it last took something of what is pending */
	const char *end_reason; /* once it is closing */
	enum conn_state state;
	bool too_long; /* its end is a notice */
	bool linger;   /* closing at once could destroy the reply */
	bool shut;     /* the client has sent its FIN */
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} peer;
};

/* Take over an accepted connection. Closes it when there is no memory. */
void conn_start(struct server *server, int fd, const struct sockaddr *peer, socklen_t peer_len);

/* Part of server_drain. */
void conn_drain(struct conn *conn);

/* Close at once. `reason` is for the log; `counter` may be NULL. */
void conn_close(struct conn *conn, const char *reason, _Atomic uint64_t *counter);

/* For struct timeouts. */
void conn_expired(struct timeout_entry *entry);

/* Tell the owner when nothing is left to do. */
void server_check_idle(struct server *server);

struct conn *conn_of_timeout(struct timeout_entry *entry);

#endif
