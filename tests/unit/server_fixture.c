#include "server_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

#define WAIT_SECONDS 20 /* an event that takes longer does not come */

struct server_settings lines(void)
{
	return (struct server_settings){
		.proto = &proto_line,
		.says = {.max_requests = PROTO_NO_LIMIT, .max_line = 64 * KIB},
		.max_pending = 256 * KIB,
	};
}

struct server_settings echo(void)
{
	struct server_settings settings = lines();

	settings.proto = &proto_echo;
	return settings;
}

int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	/* As in a worker: writing to a client that has gone is an error, not a signal. */
	signal(SIGPIPE, SIG_IGN);
	support_log_capture();
	/* That of the configuration: with more, each connection keeps memory of its own. */
	log_set_level(LOG_LEVEL_NOTICE);
	*state = f;
	if (f == NULL)
		return -1;
	f->listener = -1;
	f->base = event_base_new();
	return f->base == NULL ? -1 : 0;
}

int teardown(void **state)
{
	struct fixture *f = *state;
	int result = 0;

	server_free(f->server);
	if (COUNT(f, accepted) != COUNT(f, closed) ||
	    (!f->speaks && COUNT(f, bytes_out) > COUNT(f, bytes_in))) {
		print_error("%" PRIu64 " accepted, %" PRIu64 " closed; %" PRIu64
			    " bytes in, %" PRIu64 " out\n",
			    COUNT(f, accepted), COUNT(f, closed), COUNT(f, bytes_in),
			    COUNT(f, bytes_out));
		result = -1;
	}
	event_base_free(f->base);
	free(f);
	return result;
}

/* ---- The server ----------------------------------------------------------------------------- */

static void on_idle(void *arg)
{
	struct fixture *f = arg;

	f->idle_calls++;
}

int bound_listener(struct fixture *f)
{
	socklen_t len = sizeof(f->address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	f->address = (struct sockaddr_in){.sin_family = AF_INET,
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&f->address, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&f->address, &len), 0);
	return fd;
}

void make_server(struct fixture *f, const struct server_settings *settings)
{
	f->server = server_new(f->base, settings, &f->counters, on_idle, f);
	assert_non_null(f->server);
}

void serve_at(struct fixture *f, const struct server_settings *settings, int listener)
{
	struct error err = {0};

	make_server(f, settings);
	f->listener = listener;
	assert_int_equal(listen(f->listener, 1024), 0);
	assert_int_equal(server_add_socket(f->server, f->listener, &err), 0);
	assert_int_equal(server_accept_on(f->server, 0, true, &err), 0);
}

void serve_with_buffer(struct fixture *f, const struct server_settings *settings, int buffer)
{
	int listener = bound_listener(f);

	if (buffer > 0)
		assert_int_equal(
			setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)), 0);
	serve_at(f, settings, listener);
}

void serve(struct fixture *f, struct server_settings settings)
{
	serve_with_buffer(f, &settings, 0);
}

void start_draining(struct fixture *f)
{
	server_stop_accepting(f->server, true);
	server_drain(f->server);
}

/* ---- Passing time --------------------------------------------------------------------------- */

static void on_time(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(bool *)arg = true;
}

struct event *start_timer(struct fixture *f, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	struct event *timer = evtimer_new(f->base, on_time, &f->time_is_up);

	f->time_is_up = false;
	assert_int_equal(evtimer_add(timer, &tv), 0);
	return timer;
}

void run_until(struct fixture *f, const _Atomic uint64_t *counter, uint64_t n)
{
	struct event *timer = start_timer(f, WAIT_SECONDS * 1000);

	while (counter_get(counter) < n && !f->time_is_up)
		event_base_loop(f->base, EVLOOP_ONCE);
	event_free(timer);
	if (counter_get(counter) < n)
		fail_msg("a counter stays at %" PRIu64 " and does not reach %" PRIu64,
			 counter_get(counter), n);
}

void run_all(struct fixture *f)
{
	uint64_t before;
	int quiet = 0;

	while (quiet < 5) {
		before = COUNT(f, bytes_in) + COUNT(f, bytes_out) + COUNT(f, accepted) +
			 COUNT(f, closed);
		event_base_loop(f->base, EVLOOP_NONBLOCK);
		quiet = before == COUNT(f, bytes_in) + COUNT(f, bytes_out) + COUNT(f, accepted) +
						COUNT(f, closed)
				? quiet + 1
				: 0;
	}
}

void run_for(struct fixture *f, int ms)
{
	struct event *timer = start_timer(f, ms);

	while (!f->time_is_up)
		event_base_loop(f->base, EVLOOP_ONCE);
	event_free(timer);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	*(short *)arg = what;
}

void run_until_ready(struct fixture *f, int fd, short what)
{
	short happened = 0;
	struct timeval limit = {WAIT_SECONDS, 0};
	struct event *event = event_new(f->base, fd, what, on_ready, &happened);

	assert_int_equal(event_add(event, &limit), 0);
	while (happened == 0)
		event_base_loop(f->base, EVLOOP_ONCE);
	event_free(event);
	if (!(happened & what))
		fail_msg("the client waits for ever");
}

/* ---- Clients -------------------------------------------------------------------------------- */

static int connect_client(struct fixture *f, const char *source, int buffer)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	struct sockaddr_in from = {.sin_family = AF_INET};

	assert_true(fd >= 0);
	if (buffer > 0)
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)), 0);
	if (source != NULL) {
		assert_int_equal(inet_pton(AF_INET, source, &from.sin_addr), 1);
		assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	}
	/* The kernel answers; the server accepts later. */
	assert_int_equal(connect(fd, (struct sockaddr *)&f->address, sizeof(f->address)), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

int client_with_buffer(struct fixture *f, int buffer)
{
	return connect_client(f, NULL, buffer);
}

int client_from(struct fixture *f, const char *source)
{
	return connect_client(f, source, 0);
}

int client(struct fixture *f)
{
	return connect_client(f, NULL, 0);
}

void client_reset(int fd)
{
	const struct linger at_once = {1, 0};

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
	close(fd);
}

void client_send(struct fixture *f, int fd, const void *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = send(fd, (const char *)data + at, len - at, MSG_NOSIGNAL);

		if (n > 0)
			at += (size_t)n;
		else if (errno == EAGAIN)
			run_until_ready(f, fd, EV_WRITE);
		else
			fail_msg("a client cannot send: %s", strerror(errno));
	}
}

void client_say(struct fixture *f, int fd, const char *text)
{
	client_send(f, fd, text, strlen(text));
}

size_t client_read(struct fixture *f, int fd, void *data, size_t want)
{
	size_t at = 0;

	while (at < want) {
		ssize_t n = recv(fd, (char *)data + at, want - at, 0);

		if (n == 0)
			break;
		if (n > 0)
			at += (size_t)n;
		else if (errno == EAGAIN)
			run_until_ready(f, fd, EV_READ);
		else
			fail_msg("after %zu bytes: %s", at, strerror(errno));
	}
	return at;
}

void assert_hears(struct fixture *f, int fd, const char *text)
{
	char got[4096];
	size_t len = strlen(text);

	assert_true(len < sizeof(got));
	got[client_read(f, fd, got, len)] = '\0';
	assert_string_equal(got, text);
}

void assert_end(struct fixture *f, int fd)
{
	char byte;

	assert_int_equal(client_read(f, fd, &byte, 1), 0);
}

void assert_reset(struct fixture *f, int fd)
{
	char byte;
	ssize_t n;

	while ((n = recv(fd, &byte, 1, 0)) < 0 && errno == EAGAIN)
		run_until_ready(f, fd, EV_READ);
	assert_int_equal(n, -1);
	assert_int_equal(errno, ECONNRESET);
}

void assert_hears_nothing(struct fixture *f, int fd)
{
	char byte;

	run_all(f);
	assert_int_equal(recv(fd, &byte, 1, 0), -1);
	assert_int_equal(errno, EAGAIN);
}

void client_exchange(struct fixture *f, int fd, const char *data, size_t len, size_t piece)
{
	char *got = malloc(piece);
	size_t out = 0, in = 0;

	assert_non_null(got);
	while (in < len) {
		size_t left = len - out < piece ? len - out : piece;
		ssize_t sent = left > 0 ? send(fd, data + out, left, MSG_NOSIGNAL) : -1;
		ssize_t n = recv(fd, got, piece, 0);

		if (sent > 0)
			out += (size_t)sent;
		if (n == 0 || (n > 0 && (size_t)n > out - in) || (n < 0 && errno != EAGAIN))
			fail_msg("after %zu bytes: recv gives %zd", in, n);
		if (n > 0)
			assert_memory_equal(got, data + in, (size_t)n);
		in += n > 0 ? (size_t)n : 0;
		if (sent < 0 && n < 0)
			run_until_ready(f, fd, out < len ? EV_READ | EV_WRITE : EV_READ);
	}
	free(got);
}

size_t client_stuff(struct fixture *f, int fd, const char *data, size_t len)
{
	size_t sent = 0, before;

	do {
		ssize_t n;

		before = sent;
		while ((n = send(fd, data, len, MSG_NOSIGNAL)) > 0)
			sent += (size_t)n;
		assert_int_equal(errno, EAGAIN);
		run_all(f);
	} while (sent != before);
	return sent;
}

char *random_lines(struct support_random *random, size_t len)
{
	char *data = malloc(len);

	assert_non_null(data);
	for (size_t i = 0; i < len; i++)
		data[i] = (char)support_random_next(random);
	for (size_t i = 0; i < len; i += 1 + support_random_below(random, 3000))
		data[i] = '\n';
	data[len - 1] = '\n';
	return data;
}

char *letters(size_t len)
{
	char *data = malloc(len);

	assert_non_null(data);
	memset(data, 'x', len);
	return data;
}
