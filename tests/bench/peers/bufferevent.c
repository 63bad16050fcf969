/*
 * An echo of lines on libevent's bufferevents, as its documentation teaches it.
 *
 *     bufferevent [--port P] [--once]      --once: closes after the first line
 *
 * It prints its port, and serves 127.0.0.1 until it is killed. It is a yardstick and no server:
 * what a client sends and does not read back stays in memory, however much that is.
 */
#include <err.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "options.h"

#define BACKLOG 4096

/* ---- Connections ---------------------------------------------------------------------------- */

static void on_event(struct bufferevent *connection, short what, void *arg);

static void on_written(struct bufferevent *connection, void *arg)
{
	(void)arg;
	bufferevent_free(connection);
}

static void close_when_written(struct bufferevent *connection)
{
	bufferevent_disable(connection, EV_READ);
	if (evbuffer_get_length(bufferevent_get_output(connection)) == 0)
		bufferevent_free(connection);
	else
		bufferevent_setcb(connection, NULL, on_written, on_event, NULL);
}

static void on_read(struct bufferevent *connection, void *arg)
{
	const struct options *options = arg;
	struct evbuffer *input = bufferevent_get_input(connection);
	struct evbuffer *output = bufferevent_get_output(connection);
	size_t len;
	char *line;

	while ((line = evbuffer_readln(input, &len, EVBUFFER_EOL_LF)) != NULL) {
		if (evbuffer_add(output, line, len) < 0 || evbuffer_add(output, "\n", 1) < 0)
			errx(EXIT_FAILURE, "out of memory for a line of %zu bytes", len);
		free(line);
		if (options->once) {
			close_when_written(connection);
			return;
		}
	}
}

static void on_event(struct bufferevent *connection, short what, void *arg)
{
	(void)arg;
	if (!(what & BEV_EVENT_EOF)) {
		bufferevent_free(connection);
		return;
	}
	/* What has no line feed at the end of the stream is the last line. */
	if (bufferevent_write_buffer(connection, bufferevent_get_input(connection)) < 0)
		errx(EXIT_FAILURE, "out of memory for the end of a stream");
	close_when_written(connection);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
		      int len, void *arg)
{
	struct event_base *base = evconnlistener_get_base(listener);
	struct bufferevent *connection = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);

	(void)address;
	(void)len;
	if (connection == NULL)
		errx(EXIT_FAILURE, "out of memory for a connection");
	bufferevent_setcb(connection, on_read, NULL, on_event, arg);
	if (bufferevent_enable(connection, EV_READ) < 0)
		errx(EXIT_FAILURE, "cannot watch a connection");
}

static void on_accept_error(struct evconnlistener *listener, void *arg)
{
	(void)listener;
	(void)arg;
	err(EXIT_FAILURE, "cannot accept a connection (more of them need ulimit -n)");
}

/* ---- Start ---------------------------------------------------------------------------------- */

static struct evconnlistener *open_listener(struct event_base *base, struct options *options)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options->port)};
	struct evconnlistener *listener;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = evconnlistener_new_bind(base, on_accept, options,
					   LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE |
						   LEV_OPT_CLOSE_ON_EXEC,
					   BACKLOG, (struct sockaddr *)&address, sizeof(address));
	if (listener == NULL)
		err(EXIT_FAILURE, "cannot listen on port %u", options->port);
	evconnlistener_set_error_cb(listener, on_accept_error);
	return listener;
}

static void say_port(int fd)
{
	struct sockaddr_in address;
	socklen_t len = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		err(EXIT_FAILURE, "cannot ask for the port");
	options_print_port(ntohs(address.sin_port));
}

int main(int argc, char **argv)
{
	struct options options = options_parse(argc, argv, false);
	struct event_base *base = event_base_new();
	struct evconnlistener *listener;
	int on = 1;

	if (base == NULL)
		errx(EXIT_FAILURE, "libevent finds no way to wait for events");
	signal(SIGPIPE, SIG_IGN); /* libevent writes with writev(2), which has no MSG_NOSIGNAL */
	listener = open_listener(base, &options);
	/* Those that are accepted inherit it. */
	if (setsockopt(evconnlistener_get_fd(listener), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) <
	    0)
		err(EXIT_FAILURE, "cannot set TCP_NODELAY");
	say_port(evconnlistener_get_fd(listener));
	event_base_dispatch(base);
	errx(EXIT_FAILURE, "libevent has stopped to wait for events");
}
