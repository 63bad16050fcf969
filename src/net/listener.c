/* Accepting connections. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/server_private.h"

static bool is_want(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

/*
 * Without descriptors or memory the connection stays in the queue, and the socket stays readable:
 * asking again at once would burn the processor (1.5 million errors in 2 s were seen). So nobody
 * asks for a while.
 */
static void pause_accepting(struct server *server, int error)
{
	struct timeval tv = {0, SERVER_PAUSE_MS * 1000};
	int64_t now = clock_ms();

	for (struct listener *l = server->listeners; l != NULL; l = l->next)
		if (l->datagram == NULL)
			event_del(&l->event);
	server->paused = true;
	/* A socket that somebody broke is no excuse: the watchdog may end this worker for it. */
	counter_set(&server->counters->paused, is_want(error));
	evtimer_add(server->resume, &tv);
	counter_add(&server->counters->accept_pauses, 1);
	if (now - server->pause_said >= 1000) {
		server->pause_said = now;
		log_warning("cannot accept a connection: %s; new ones wait %d ms", strerror(error),
			    SERVER_PAUSE_MS);
	}
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct server *server = arg;

	(void)fd;
	(void)what;
	server->paused = false;
	counter_set(&server->counters->paused, 0);
	for (struct listener *l = server->listeners; l != NULL; l = l->next)
		if (l->accepts && l->datagram == NULL && event_add(&l->event, NULL) < 0) {
			pause_accepting(server, ENOMEM);
			return;
		}
}

/* Returns 1 after a connection, 0 when the queue is empty, -1 when accepting has to pause. */
static int accept_one(struct listener *listener)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	int fd =
		accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		conn_start(listener->server, fd, (struct sockaddr *)&peer, len);
		return 1;
	}
	switch (errno) {
	case EAGAIN:
		return 0;
	case EINTR:
	case ECONNABORTED:
	case EPERM: /* a firewall's word */
	case EPROTO:
	case ENOPROTOOPT:
	case EOPNOTSUPP:
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENONET:
		/* The client has gone, or its network has (accept(2), "Error handling"): the next.
		 */
		return 1;
	default:
		/* No descriptors, no memory; or a socket that somebody broke, which must not spin.
		 */
		return -1;
	}
}

/*
 * To ask for one connection too many costs a system call. Where they come one by one, nobody asks
 * for a second one for a while, twice as long each time: if one waits all the same, epoll says so
 * in the next turn. Not while so much is answered in each turn that the next one may be far away.
 */
static bool asks_for_one(struct listener *listener)
{
	uint64_t requests = counter_get(&listener->server->counters->requests);
	bool busy = requests - listener->requests > SERVER_BUSY_TURN;

	listener->requests = requests;
	if (busy || listener->single == 0)
		return false;
	listener->single--;
	return true;
}

static void learn(struct listener *listener, int accepted)
{
	if (accepted > 1)
		listener->alone = 0;
	else if (listener->alone < SERVER_SINGLE_MAX)
		listener->alone = listener->alone * 2 + 1;
	listener->single = listener->alone;
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	struct listener *listener = arg;
	int accepted = 0, result = 1;

	(void)fd;
	(void)what;
	if (asks_for_one(listener)) {
		result = accept_one(listener);
	} else {
		/* Bounded, so that a flood of new clients does not starve those that are served. */
		for (; accepted < SERVER_ACCEPTS_TURN && result > 0; accepted += result > 0)
			result = accept_one(listener);
		learn(listener, accepted);
	}
	if (result < 0)
		pause_accepting(listener->server, errno);
}

static bool is_datagram(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_DGRAM;
}

int server_add_socket(struct server *server, int fd, struct error *err)
{
	struct listener *listener = calloc(1, sizeof(*listener)), **last = &server->listeners;

	if (server->resume == NULL)
		server->resume = evtimer_new(server->base, on_resume, server);
	if (listener == NULL || server->resume == NULL ||
	    event_assign(&listener->event, server->base, fd, EV_READ | EV_PERSIST, on_acceptable,
			 listener) < 0) {
		free(listener);
		return error_set(err, EXIT_FAILED, "no memory for a listening socket");
	}
	if (is_datagram(fd) && (listener->datagram = datagram_new(server, fd, err)) == NULL) {
		free(listener);
		return -1;
	}
	listener->fd = fd;
	listener->server = server;
	while (*last != NULL)
		last = &(*last)->next;
	*last = listener;
	return 0;
}

int server_add_connection(struct server *server, int fd, struct error *err)
{
	struct sockaddr_storage peer = {0};
	socklen_t len = sizeof(peer);

	/* Of one that is gone already, nobody is the peer: it ends at once. */
	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		len = sizeof(peer.ss_family);
	if (!conn_start(server, fd, (struct sockaddr *)&peer, len))
		return error_set(err, EXIT_FAILED, "no memory for a connection");
	return 0;
}

static struct listener *find(const struct server *server, size_t number)
{
	struct listener *listener = server->listeners;

	while (listener != NULL && number-- > 0)
		listener = listener->next;
	return listener;
}

int server_accept_on(struct server *server, size_t number, bool accept, struct error *err)
{
	struct listener *listener = find(server, number);

	if (listener == NULL || listener->accepts == accept)
		return 0;
	if (listener->datagram != NULL) {
		if (datagram_receive(listener->datagram, accept) < 0)
			return error_set(err, EXIT_FAILED, "cannot watch a datagram socket");
	} else if (!server->paused && /* else nobody asks; the end of the pause looks at all */
		   (accept ? event_add(&listener->event, NULL) : event_del(&listener->event)) < 0)
		return error_set(err, EXIT_FAILED, "cannot watch a listening socket");
	listener->accepts = accept;
	return 0;
}

void server_give_up(struct server *server, size_t number)
{
	struct listener *listener = find(server, number);

	if (listener != NULL)
		listener->given_up = true;
}

/* Bounded: a queue is never longer, but a flood could refill it for ever. */
static void empty_queue(struct listener *listener)
{
	if (listener->datagram != NULL) {
		datagram_empty(listener->datagram);
		return;
	}
	for (int i = 0; i < SERVER_QUEUE_MAX && accept_one(listener) > 0; i++)
		;
}

void server_stop_accepting(struct server *server, bool all)
{
	struct listener *listener;

	if (server->resume != NULL)
		evtimer_del(server->resume);
	counter_set(&server->counters->paused, 0);
	while ((listener = server->listeners) != NULL) {
		/* Before close: epoll keeps a socket that another process still holds. */
		if (listener->datagram == NULL)
			event_del(&listener->event);
		if (all || listener->given_up)
			empty_queue(listener);
		/* Only now: an empty list and no connection would mean that all is done. */
		server->listeners = listener->next;
		if (listener->datagram != NULL)
			datagram_free(listener->datagram);
		else
			close(listener->fd);
		free(listener);
	}
	server_check_idle(server);
}
