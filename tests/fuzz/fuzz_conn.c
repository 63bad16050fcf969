/*
 * A whole server and two clients, in a time of their own: whatever the settings, the pieces in
 * which the clients send and read, and the moments at which a limit lets them wait or the server
 * drains, each gets what the protocol says about all of its bytes, no byte twice and none missing.
 *
 * The input: 12 bytes of settings, the number of steps, two bytes a step, and what the clients say.
 */
#include "fuzz.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "net/server.h"
#include "serve/proxy.h"

const char fuzz_name[] = "conn";

#define CLIENTS	     2
#define STREAM_MAX   (32 * 1024)
#define SAID_MAX     (4 * STREAM_MAX) /* as hexadecimal digits, with a greeting */
#define CHARGEN_MAX  (1024 * 1024)
#define STEPS_MAX    64
#define STEPS_MS     4800 /* all steps together: less than what a PROXY header may take */
#define LINGER_MS    2000
#define WAIT_MS	     500
#define ROUNDS_MAX   200000
#define GREETING     "hello, %service\\r\\n"
#define GREETING_IS  "hello, line\r\n"
#define HEADER_V1    "PROXY TCP4 192.0.2.1 198.51.100.1 4711 80\r\n"
#define HEADER_V2    "\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x04\x04\x00\x01x"
#define HEADER_CUT   "PROXY TCP4 192.0.2"
#define HEADER_WRONG "PROXY UDP4 "

struct said {
	struct proto_out out; /* the first */
	uint8_t *bytes;
	size_t len;
	uint64_t requests;
};

struct client {
	int fd;
	uint8_t *stream; /* what it wants to say */
	size_t len;
	size_t sent;
	bool shut;
	bool deaf; /* the server no longer takes anything */
	bool ended;
	size_t heard;
	struct said expected;
	size_t owed; /* what it must at least hear after a drain has begun */
};

struct scene {
	struct event_base *base;
	struct server *server;
	struct server_settings settings;
	struct counters counters;
	struct network unix_clients;
	struct client clients[CLIENTS];
	int64_t elapsed; /* ms */
	bool may_end;	 /* a time-out may have ended a connection */
	bool draining;
	bool lingered; /* long enough that the server closes on its own */
};

/* ---- Time ----------------------------------------------------------------------------------- */

static bool stopped;
static struct timespec stopped_at;

static struct timespec later(struct timespec time, int64_t ms)
{
	time.tv_nsec += ms % 1000 * 1000000;
	time.tv_sec += ms / 1000 + time.tv_nsec / 1000000000;
	time.tv_nsec %= 1000000000;
	return time;
}

/* Instead of libc's, for libevent as well. */
int clock_gettime(clockid_t id, struct timespec *time)
{
	if (!stopped || id == CLOCK_REALTIME)
		return (int)syscall(SYS_clock_gettime, id, time);
	*time = stopped_at;
	return 0;
}

/* The timer of the server's time-outs, which tells its time likewise. */
static int timer = -1;
static struct timespec timer_due; /* 0: not armed */

int timerfd_create(clockid_t clock, int flags)
{
	(void)clock;
	(void)flags;
	timer = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	timer_due = (struct timespec){0, 0};
	return timer;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
	uint64_t times;

	(void)old;
	FUZZ_CHECK(fd == timer && flags == 0);
	FUZZ_CHECK(read(fd, &times, sizeof(times)) >= 0 || errno == EAGAIN);
	timer_due =
		later(stopped_at, new->it_value.tv_sec * 1000 + new->it_value.tv_nsec / 1000000);
	return 0;
}

static void ring(void)
{
	const uint64_t once = 1;

	if (timer_due.tv_sec == 0 || timer_due.tv_sec > stopped_at.tv_sec ||
	    (timer_due.tv_sec == stopped_at.tv_sec && timer_due.tv_nsec > stopped_at.tv_nsec))
		return;
	timer_due = (struct timespec){0, 0};
	FUZZ_CHECK(write(timer, &once, sizeof(once)) == sizeof(once));
}

static void run(struct scene *scene)
{
	/* What happens in a turn may be seen only in the next. */
	for (int i = 0; i < 3; i++)
		event_base_loop(scene->base, EVLOOP_NONBLOCK);
}

static void pass(struct scene *scene, int64_t ms)
{
	stopped_at = later(stopped_at, ms);
	ring();
	scene->elapsed += ms;
	scene->lingered = scene->elapsed >= LINGER_MS;
	run(scene);
}

/* ---- What the protocol says about all of it ------------------------------------------------- */

static void keep(struct proto_out *out, const void *data, size_t len)
{
	struct said *said = (struct said *)out;

	FUZZ_CHECK(said->len + len <= SAID_MAX);
	if (len > 0)
		memcpy(said->bytes + said->len, data, len);
	said->len += len;
}

static void say(const struct server_settings *settings, struct said *said, const uint8_t *payload,
		size_t len, bool at_end)
{
	struct proto_state state = {.allowed = PROTO_NO_LIMIT};
	uint8_t *copy = fuzz_copy(payload, len);
	struct proto_verdict verdict;

	if (settings->says.greeting != NULL && settings->proto->open != NULL)
		keep(&said->out, GREETING_IS, strlen(GREETING_IS));
	if (settings->proto->produce != NULL) {
		said->bytes = realloc(said->bytes, CHARGEN_MAX);
		FUZZ_CHECK(said->bytes != NULL);
		said->len = CHARGEN_MAX;
		settings->proto->produce(0, said->bytes, said->len);
	} else {
		verdict = settings->proto->input(&settings->says, &state, copy, len, 0, at_end,
						 &said->out);
		keep(&said->out, copy, verdict.reply);
		said->requests = verdict.requests;
	}
	free(copy);
}

/* Of the first `len` bytes of a client, which end there or not. */
static struct said said_to(const struct server_settings *settings, const uint8_t *stream,
			   size_t len, bool at_end)
{
	struct said said = {.out.write = keep, .bytes = fuzz_alloc(SAID_MAX)};
	bool required = settings->proxy == SERVER_PROXY_REQUIRED;
	struct proxy_header header = {0};
	enum proxy_result result = PROXY_NONE;
	const char *why;

	if (settings->proxy != SERVER_PROXY_OFF)
		result = proxy_parse(stream, len, &header, &why);
	else
		required = false;
	if (result == PROXY_BAD || (result == PROXY_NONE && required) ||
	    (result == PROXY_MORE && (required || !at_end)))
		return said;
	say(settings, &said, stream + header.len, len - header.len, at_end);
	return said;
}

/* ---- The clients ---------------------------------------------------------------------------- */

static bool client_send(struct client *client, size_t n)
{
	ssize_t sent;

	if (n > client->len - client->sent)
		n = client->len - client->sent;
	if (n == 0 || client->deaf)
		return false;
	sent = send(client->fd, client->stream + client->sent, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	client->deaf = sent < 0 && errno != EAGAIN;
	client->sent += sent > 0 ? (size_t)sent : 0;
	return sent > 0;
}

static bool client_shut(struct client *client)
{
	if (client->shut || (client->sent < client->len && !client->deaf))
		return false;
	shutdown(client->fd, SHUT_WR);
	client->shut = true;
	return true;
}

static bool client_read(const struct scene *scene, struct client *client, size_t most)
{
	static uint8_t room[64 * 1024];
	ssize_t n;

	if (client->ended)
		return false;
	n = recv(client->fd, room, most < sizeof(room) ? most : sizeof(room), MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return false;
	/* The server has closed with bytes unread: over TCP, that could destroy its reply. */
	if (n < 0)
		FUZZ_CHECK(errno == ECONNRESET &&
			   (scene->may_end || scene->lingered || client->expected.len == 0));
	client->ended = n <= 0;
	if (n > 0) {
		FUZZ_CHECK((size_t)n <= client->expected.len - client->heard);
		FUZZ_CHECK(memcmp(room, client->expected.bytes + client->heard, (size_t)n) == 0);
		client->heard += (size_t)n;
	}
	return true;
}

/* ---- The server ----------------------------------------------------------------------------- */

static void choose_settings(struct scene *scene, struct fuzz_input *input)
{
	static const struct proto *const protos[] = {&proto_line, &proto_line,	  &proto_line,
						     &proto_echo, &proto_discard, &proto_chargen};
	static const uint64_t requests[] = {PROTO_NO_LIMIT, 1, 2, 3, 9, 40};
	static const uint64_t rates[] = {0, 0, 20, 1000};
	static const uint64_t byte_rates[] = {0, 0, 700, 50000};
	unsigned flags = fuzz_byte(input), pace = fuzz_byte(input), ends = fuzz_byte(input);
	struct server_settings *settings = &scene->settings;

	settings->proto = protos[fuzz_byte(input) % 6];
	settings->service = settings->worker = "line";
	settings->host = "host";
	settings->says.delimiter = (enum proto_delimiter)(flags % 3);
	settings->says.split = (flags & 4) != 0;
	settings->read_at_accept = (flags & 8) != 0;
	settings->says.greeting = (flags & 16) != 0 ? GREETING : NULL;
	settings->proxy = (enum server_proxy)((flags >> 5) % 3);
	settings->proxy_from = &scene->unix_clients;
	settings->proxy_from_count = 1;
	settings->says.transform = (enum proto_transform)(fuzz_byte(input) % 5);
	settings->says.max_requests = requests[fuzz_byte(input) % 6];
	settings->says.max_line = 2 + (size_t)fuzz_byte(input) * (1 + fuzz_byte(input) % 128);
	settings->max_pending = (size_t)1 << fuzz_byte(input) % 18;
	settings->request_rate = rates[pace % 4];
	settings->byte_rate = byte_rates[pace / 4 % 4];
	settings->idle_timeout_ms = ends % 8 == 1 ? 700 : 0;
	settings->lifetime_ms = ends % 8 == 2 ? 900 : 0;
	settings->first_byte_timeout_ms = ends % 8 == 3 ? 300 : 0;
	scene->may_end = ends % 8 >= 1 && ends % 8 <= 3;
}

static void make_server(struct scene *scene, struct fuzz_input *input)
{
	static struct event_base *base;

	stopped_at = (struct timespec){1000, 0};
	stopped = true;
	if (base == NULL)
		base = event_base_new();
	FUZZ_CHECK(base != NULL);
	scene->base = base;
	scene->unix_clients.family = AF_UNIX;
	choose_settings(scene, input);
	scene->server = server_new(base, &scene->settings, &scene->counters, NULL, NULL);
	FUZZ_CHECK(scene->server != NULL);
}

static void connect_client(struct scene *scene, struct client *client, unsigned small)
{
	struct error err = {0};
	int fds[2], size = 1; /* the least that the kernel knows */

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	if (small)
		setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	client->fd = fds[0];
	FUZZ_CHECK(server_add_connection(scene->server, fds[1], &err) == 0);
}

/* A header that fits the settings or not, and a part of the input, once or again and again. */
static void write_stream(const struct scene *scene, struct client *client,
			 const struct fuzz_input *part, unsigned header, unsigned times)
{
	static const struct {
		const char *bytes;
		size_t len;
	} headers[] = {{HEADER_V1, sizeof(HEADER_V1) - 1},
		       {HEADER_V2, sizeof(HEADER_V2) - 1},
		       {HEADER_CUT, sizeof(HEADER_CUT) - 1},
		       {HEADER_WRONG, sizeof(HEADER_WRONG) - 1},
		       {"", 0}};

	client->stream = fuzz_alloc(STREAM_MAX);
	memcpy(client->stream, headers[header % 5].bytes, headers[header % 5].len);
	client->len = headers[header % 5].len;
	for (times = 1u << times % 12; times > 0; times--) {
		if (part->size > STREAM_MAX - client->len)
			break;
		if (part->size > 0)
			memcpy(client->stream + client->len, part->data, part->size);
		client->len += part->size;
	}
	client->expected = said_to(&scene->settings, client->stream, client->len, true);
}

/* ---- Steps ---------------------------------------------------------------------------------- */

static void drain(struct scene *scene)
{
	if (scene->draining)
		return;
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &scene->clients[i];
		struct said said = said_to(&scene->settings, client->stream, client->sent,
					   client->shut && client->sent == client->len);

		client->owed = scene->settings.proto->produce != NULL ? 0 : said.len;
		free(said.bytes);
	}
	server_stop_accepting(scene->server, true);
	server_drain(scene->server);
	scene->draining = true;
}

static void step(struct scene *scene, unsigned what, unsigned n)
{
	struct client *client = &scene->clients[what & 1];

	switch (what >> 1 & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		client_send(client, 1 + n);
		break;
	case 4:
	case 5:
		client_send(client, (n + 1) * 128);
		break;
	case 6:
	case 7:
		client_read(scene, client, (n + 1) * 16);
		break;
	case 8:
		client_shut(client);
		break;
	case 9:
	case 10:
		pass(scene, scene->elapsed + n < STEPS_MS ? n : 0);
		break;
	case 11:
		if (n % 4 == 0)
			drain(scene);
		break;
	case 12:
		if (n % 8 == 0) {
			scene->may_end = true;
			server_cut_off(scene->server);
		}
		break;
	default:
		run(scene);
	}
}

/* ---- The end -------------------------------------------------------------------------------- */

/* No second has more than a second's worth, and the first has that twice. */
static void check_rates(const struct scene *scene)
{
	const struct server_settings *settings = &scene->settings;
	uint64_t bytes = counter_get(&scene->counters.bytes_in), free_bytes = 0;
	uint64_t ms = 1000 + (uint64_t)scene->elapsed;

	if (settings->proto->produce != NULL)
		bytes += counter_get(&scene->counters.bytes_out);
	if (settings->proxy != SERVER_PROXY_OFF)
		free_bytes = CLIENTS * STREAM_MAX; /* what comes with a header is read as one */
	if (settings->byte_rate > 0)
		FUZZ_CHECK(bytes <= free_bytes + CLIENTS * settings->byte_rate * ms / 1000);
	if (settings->request_rate > 0)
		FUZZ_CHECK(counter_get(&scene->counters.requests) <=
			   CLIENTS * settings->request_rate * ms / 1000);
}

/* Both say and read all there is. */
static void finish(struct scene *scene)
{
	int rounds = 0;

	if (scene->settings.proto->produce != NULL)
		drain(scene);
	while (!scene->clients[0].ended || !scene->clients[1].ended) {
		bool moved = false;

		FUZZ_CHECK(rounds++ < ROUNDS_MAX);
		for (int i = 0; i < CLIENTS; i++) {
			moved |= client_send(&scene->clients[i], STREAM_MAX);
			moved |= client_shut(&scene->clients[i]);
			moved |= client_read(scene, &scene->clients[i], STREAM_MAX);
		}
		run(scene);
		if (!moved)
			pass(scene, WAIT_MS);
		check_rates(scene);
	}
}

static void check_end(struct scene *scene)
{
	const struct counters *counters = &scene->counters;
	uint64_t heard = 0, requests = 0;

	for (int i = 0; i < CLIENTS; i++) {
		const struct client *client = &scene->clients[i];

		if (!scene->may_end)
			FUZZ_CHECK(client->heard >= client->owed);
		if (!scene->may_end && !scene->draining)
			FUZZ_CHECK(client->heard == client->expected.len);
		heard += client->heard;
		requests += client->expected.requests;
		close(client->fd);
	}
	run(scene);
	FUZZ_CHECK(server_connections(scene->server) == 0);
	FUZZ_CHECK(counter_get(&counters->accepted) == CLIENTS);
	FUZZ_CHECK(counter_get(&counters->closed) == CLIENTS);
	FUZZ_CHECK(counter_get(&counters->no_memory) == 0);
	if (scene->may_end)
		return;
	FUZZ_CHECK(counter_get(&counters->bytes_out) == heard);
	if (!scene->draining)
		FUZZ_CHECK(counter_get(&counters->requests) == requests);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size}, parts[CLIENTS];
	struct scene scene = {0};
	unsigned header, times, steps;

	make_server(&scene, &input);
	header = fuzz_byte(&input);
	times = fuzz_byte(&input);
	steps = fuzz_byte(&input) % STEPS_MAX;
	parts[0] = input;
	for (unsigned i = 0; i < 2 * steps; i++)
		fuzz_byte(&input);
	parts[1] = (struct fuzz_input){input.data + input.size / 2, input.size - input.size / 2};
	input.size /= 2;
	for (int i = 0; i < CLIENTS; i++) {
		write_stream(&scene, &scene.clients[i], i == 0 ? &input : &parts[1],
			     i == 0 ? header : header / 5, i == 0 ? times : times / 12);
		connect_client(&scene, &scene.clients[i], times & 128);
	}
	for (unsigned i = 0; i < steps; i++) {
		unsigned what = fuzz_byte(&parts[0]);

		step(&scene, what, fuzz_byte(&parts[0]));
	}
	finish(&scene);
	check_end(&scene);
	server_free(scene.server);
	for (int i = 0; i < CLIENTS; i++) {
		free(scene.clients[i].stream);
		free(scene.clients[i].expected.bytes);
	}
	stopped = false;
	return 0;
}
