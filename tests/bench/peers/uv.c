/*
 * An echo of bytes on libuv.
 *
 *     uv [--port P] [--once]      --once: closes after the first answer
 *
 * It prints its port, and serves 127.0.0.1 until it is killed. What comes is sent at once, from the
 * buffer into which it was read; only what the kernel does not take is copied and waits, and
 * nothing more is read meanwhile.
 */
#include <err.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "options.h"

#define BACKLOG 4096

struct connection {
	uv_tcp_t tcp; /* first: a stream is its connection */
	uv_write_t write;
	char *rest; /* being written */
	bool once;
};

/* Of all connections: nothing is in it between two reads. */
static char buffer[65536];

static void must(int result, const char *what)
{
	if (result < 0)
		errx(EXIT_FAILURE, "cannot %s: %s", what, uv_strerror(result));
}

static void *allocate(size_t size)
{
	void *memory = malloc(size);

	if (memory == NULL)
		errx(EXIT_FAILURE, "out of memory for %zu bytes", size);
	return memory;
}

/* ---- Connections ---------------------------------------------------------------------------- */

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *data);

static void on_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *data)
{
	(void)handle;
	(void)suggested;
	*data = uv_buf_init(buffer, sizeof(buffer));
}

static void on_closed(uv_handle_t *handle)
{
	free(handle);
}

static void on_written(uv_write_t *write, int status)
{
	struct connection *connection = (struct connection *)write->handle;

	free(connection->rest);
	if (status < 0 || connection->once)
		uv_close((uv_handle_t *)write->handle, on_closed);
	else
		must(uv_read_start(write->handle, on_buffer, on_read), "read again");
}

static void write_later(struct connection *connection, const char *data, size_t len)
{
	uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
	uv_buf_t rest;

	connection->rest = allocate(len);
	memcpy(connection->rest, data, len);
	rest = uv_buf_init(connection->rest, (unsigned)len);
	uv_read_stop(stream);
	must(uv_write(&connection->write, stream, &rest, 1, on_written), "write");
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *data)
{
	struct connection *connection = (struct connection *)stream;
	uv_buf_t answer = uv_buf_init(data->base, len > 0 ? (unsigned)len : 0);
	int sent;

	if (len == 0) /* EAGAIN */
		return;
	sent = len > 0 ? uv_try_write(stream, &answer, 1) : (int)len;
	if (sent == UV_EAGAIN)
		sent = 0;
	if (sent >= 0 && sent < len)
		write_later(connection, data->base + sent, (size_t)(len - sent));
	else if (sent < 0 || connection->once)
		uv_close((uv_handle_t *)stream, on_closed);
}

static void on_connection(uv_stream_t *listener, int status)
{
	const struct options *options = listener->data;
	struct connection *connection;

	must(status, "accept a connection (more of them need ulimit -n)");
	connection = allocate(sizeof(*connection));
	connection->once = options->once;
	must(uv_tcp_init(listener->loop, &connection->tcp), "make a connection");
	must(uv_accept(listener, (uv_stream_t *)&connection->tcp), "accept a connection");
	must(uv_read_start((uv_stream_t *)&connection->tcp, on_buffer, on_read), "read");
}

/* ---- Start ---------------------------------------------------------------------------------- */

static void open_listener(uv_loop_t *loop, uv_tcp_t *listener, struct options *options)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options->port)};
	int len = sizeof(address);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener->data = options;
	must(uv_tcp_init(loop, listener), "make a listener");
	must(uv_tcp_bind(listener, (struct sockaddr *)&address, 0), "bind to the port");
	/* Those that are accepted inherit it. */
	must(uv_tcp_nodelay(listener, 1), "set TCP_NODELAY");
	must(uv_listen((uv_stream_t *)listener, BACKLOG, on_connection), "listen on the port");
	must(uv_tcp_getsockname(listener, (struct sockaddr *)&address, &len), "ask for the port");
	options_print_port(ntohs(address.sin_port));
}

int main(int argc, char **argv)
{
	struct options options = options_parse(argc, argv, false);
	uv_loop_t loop;
	uv_tcp_t listener;

	signal(SIGPIPE, SIG_IGN); /* libuv writes without MSG_NOSIGNAL */
	must(uv_loop_init(&loop), "make an event loop");
	open_listener(&loop, &listener, &options);
	uv_run(&loop, UV_RUN_DEFAULT);
	errx(EXIT_FAILURE, "libuv has stopped to wait for events");
}
