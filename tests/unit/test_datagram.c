/*
 * Datagrams over loopback: a server of the worker's kind and its clients in one process and on one
 * event base. What a client sends lies in the server's queue when sendto returns, and the replies
 * in the client's when the server's turn is over: nothing here waits for a time to pass.
 */
#include "support.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/clock.h"
#include "net/server.h"
#include "serve/proxy.h"

#define MANY	    1000
#define QUEUE_BYTES (8 * 1024 * 1024)
#define BIG	    65536

struct fixture {
	struct event_base *base;
	struct counters counters;
	struct server *server;
	struct address address; /* where a client finds it */
	int fd;			/* owned by the server */
	struct server *other;
	int other_fd; /* owned by it */
	struct counters other_counters;
	char *directory;
	bool large_queues; /* root may have them */
};

#define COUNT(f, name) counter_get(&(f)->counters.name)

/* ---- Protocols ------------------------------------------------------------------------------ */

static const unsigned char *say_back(const struct proto_settings *settings,
				     const struct proto_facts *facts, unsigned char *data,
				     size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)room;
	*reply = len;
	return data;
}

static const unsigned char *say_nothing(const struct proto_settings *settings,
					const struct proto_facts *facts, unsigned char *data,
					size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)data;
	(void)len;
	(void)room;
	(void)reply;
	return NULL;
}

/* More than anybody may have. */
static const unsigned char *say_much(const struct proto_settings *settings,
				     const struct proto_facts *facts, unsigned char *data,
				     size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)data;
	(void)len;
	memset(room, 'x', PROTO_DATAGRAM_MAX);
	*reply = PROTO_DATAGRAM_MAX;
	return room;
}

/* Each time something else. */
static const unsigned char *say_a_number(const struct proto_settings *settings,
					 const struct proto_facts *facts, unsigned char *data,
					 size_t len, unsigned char *room, size_t *reply)
{
	static uint64_t number;

	(void)settings;
	(void)facts;
	(void)data;
	(void)len;
	number++;
	memcpy(room, &number, sizeof(number));
	*reply = sizeof(number);
	return room;
}

static struct {
	struct timespec now;
	char transport[16];
	char peer[ADDR_TEXT_MAX];
	char local[ADDR_TEXT_MAX];
	sa_family_t local_family;
	struct sockaddr_un unix_peer;
	char client[ADDR_TEXT_MAX]; /* of a PROXY header */
	int ttl;
	int traffic_class;
	bool has_ids;
	uid_t uid;
	pid_t pid;
} seen;

static const unsigned char *say_back_and_remember(const struct proto_settings *settings,
						  const struct proto_facts *facts,
						  unsigned char *data, size_t len,
						  unsigned char *room, size_t *reply)
{
	memset(&seen, 0, sizeof(seen));
	seen.now = facts->now;
	snprintf(seen.transport, sizeof(seen.transport), "%s", facts->transport);
	seen.local_family = facts->local->sa_family;
	if (facts->peer->sa_family == AF_UNIX) {
		memcpy(&seen.unix_peer, facts->peer, sizeof(seen.unix_peer));
	} else {
		address_format(seen.peer, sizeof(seen.peer), facts->peer);
		address_format(seen.local, sizeof(seen.local), facts->local);
	}
	if (facts->proxy != NULL && !facts->proxy->local)
		address_format(seen.client, sizeof(seen.client),
			       (const struct sockaddr *)&facts->proxy->source.storage);
	seen.ttl = facts->ttl;
	seen.traffic_class = facts->traffic_class;
	seen.has_ids = facts->has_ids;
	seen.uid = facts->uid;
	seen.pid = facts->pid;
	return say_back(settings, facts, data, len, room, reply);
}

static const struct proto echo = {.name = "echo", .datagram = say_back};
static const struct proto discard = {.name = "discard", .datagram = say_nothing};
static const struct proto generous = {.name = "generous", .datagram = say_much};
static const struct proto numbers = {.name = "numbers", .datagram = say_a_number};
static const struct proto facts_proto = {
	.name = "facts", .datagram = say_back_and_remember, .heeds_facts = true};
static const struct proto streams_only = {.name = "streams"};

static struct server_settings settings_of(const struct proto *proto)
{
	return (struct server_settings){
		.proto = proto,
		.service = "echo",
		.worker = "echo/0",
		.host = "here",
	};
}

/* ---- The server ----------------------------------------------------------------------------- */

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	void *directory = NULL;

	signal(SIGPIPE, SIG_IGN);
	support_log_capture();
	*state = f;
	if (f == NULL || support_make_directory(&directory) < 0)
		return -1;
	f->directory = directory;
	f->fd = -1;
	f->base = event_base_new();
	return f->base == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	void *directory = f->directory;

	server_free(f->server);
	server_free(f->other);
	event_base_free(f->base);
	free(f);
	return support_remove_directory(&directory);
}

static void set(int fd, int level, int option, int value)
{
	assert_int_equal(setsockopt(fd, level, option, &value, sizeof(value)), 0);
}

static bool set_queue(int fd)
{
	int bytes = QUEUE_BYTES;

	return setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) == 0;
}

static struct address address_of(const char *host, uint16_t port)
{
	struct address address = {0};
	struct sockaddr_in *in = (struct sockaddr_in *)&address.storage;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address.storage;

	if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		address.len = sizeof(*in);
	} else {
		assert_int_equal(inet_pton(AF_INET6, host, &in6->sin6_addr), 1);
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		address.len = sizeof(*in6);
	}
	return address;
}

static uint16_t port_of(int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	return ntohs(((struct sockaddr_in *)&address)->sin_port); /* of IPv6, in the same place */
}

/* As the supervisor makes it. */
static int udp_socket(const char *host, uint16_t port, bool v6only)
{
	struct address address = address_of(host, port);
	int family = address.storage.ss_family;
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (family == AF_INET6) {
		set(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only);
		set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
		set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
		set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
	}
	if (family == AF_INET || !v6only) {
		set(fd, IPPROTO_IP, IP_PKTINFO, 1);
		set(fd, IPPROTO_IP, IP_RECVTTL, 1);
		set(fd, IPPROTO_IP, IP_RECVTOS, 1);
	}
	if (bind(fd, (struct sockaddr *)&address.storage, address.len) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool has_ipv6(void)
{
	struct address address = address_of("::1", 0);
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool has = fd >= 0 && bind(fd, (struct sockaddr *)&address.storage, address.len) == 0;

	if (fd >= 0)
		close(fd);
	return has;
}

/* A port that no kernel gives to a client. */
static int low_udp_socket(const char *host)
{
	for (uint16_t port = 20001; port < 30000; port++) {
		int fd = udp_socket(host, port, true);

		if (fd >= 0)
			return fd;
	}
	fail_msg("no free port");
	return -1;
}

static struct server *serve_fd(struct fixture *f, int fd, const struct server_settings *settings,
			       struct counters *counters)
{
	struct error err = {0};
	struct server *server = server_new(f->base, settings, counters, NULL, NULL);

	assert_non_null(server);
	f->large_queues = set_queue(fd);
	if (server_add_socket(server, fd, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(server_accept_on(server, 0, true, &err), 0);
	return server;
}

static void serve_on(struct fixture *f, const char *host, const char *ask,
		     const struct server_settings *settings)
{
	f->fd = udp_socket(host, 0, strcmp(host, "::") != 0);
	assert_true(f->fd >= 0);
	f->address = address_of(ask, port_of(f->fd));
	f->server = serve_fd(f, f->fd, settings, &f->counters);
}

static void serve(struct fixture *f, const struct proto *proto)
{
	struct server_settings settings = settings_of(proto);

	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
}

/* Everything that can be done without waiting. */
static void run(struct fixture *f)
{
	uint64_t before;

	do {
		before = COUNT(f, datagrams) + counter_get(&f->other_counters.datagrams);
		event_base_loop(f->base, EVLOOP_NONBLOCK);
	} while (before != COUNT(f, datagrams) + counter_get(&f->other_counters.datagrams));
}

/* ---- Clients -------------------------------------------------------------------------------- */

/* It hears only what comes from the address that it asks. */
static int client_of(const struct address *server, const char *from)
{
	int fd = socket(server->storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct address own;

	assert_true(fd >= 0);
	set_queue(fd);
	if (from != NULL) {
		own = address_of(from, 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&own.storage, own.len), 0);
	}
	assert_int_equal(connect(fd, (const struct sockaddr *)&server->storage, server->len), 0);
	return fd;
}

static int client(const struct fixture *f)
{
	return client_of(&f->address, NULL);
}

static void say(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, 0), len);
}

static void assert_hears(int fd, const void *data, size_t len)
{
	static unsigned char got[BIG + 1];

	assert_int_equal(recv(fd, got, sizeof(got), 0), len);
	assert_memory_equal(got, data, len);
}

static void assert_hears_nothing(int fd)
{
	char got[64];

	assert_int_equal(recv(fd, got, sizeof(got), 0), -1);
	assert_int_equal(errno, EAGAIN);
}

/* One question, and nothing but its answer. */
static void assert_answered(struct fixture *f, int fd, const void *data, size_t len)
{
	say(fd, data, len);
	run(f);
	assert_hears(fd, data, len);
	assert_hears_nothing(fd);
}

static void assert_silence(struct fixture *f, int fd, const _Atomic uint64_t *counter)
{
	uint64_t before = counter_get(counter);

	say(fd, "hello", 5);
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(counter_get(counter), before + 1);
	assert_int_equal(COUNT(f, datagram_replies), 0);
}

/* ---- Answers -------------------------------------------------------------------------------- */

static void a_datagram_comes_back_as_it_was(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, &echo);
	fd = client(f);
	assert_answered(f, fd, "hello\0world\n", 12);
	assert_int_equal(COUNT(f, datagrams), 1);
	assert_int_equal(COUNT(f, datagram_replies), 1);
	assert_int_equal(COUNT(f, bytes_in), 12);
	assert_int_equal(COUNT(f, bytes_out), 12);
	assert_int_equal(COUNT(f, accepted), 0);
	close(fd);
}

static void try_sizes(struct fixture *f, int fd, size_t largest)
{
	const size_t sizes[] = {0, 1, 2, 63, 64, 65, 1472, 1473, 9000, largest - 1, largest};
	unsigned char *data = malloc(largest);

	assert_non_null(data);
	for (size_t i = 0; i < largest; i++)
		data[i] = (unsigned char)(i * 7 + i / 251);
	for (size_t i = 0; i < COUNT_OF(sizes); i++)
		assert_answered(f, fd, data, sizes[i]);
	free(data);
}

static void every_size_is_answered(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, &echo);
	fd = client(f);
	try_sizes(f, fd, 65507);
	close(fd);
}

static void every_size_is_answered_over_ipv6(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	int fd;

	if (!has_ipv6())
		skip();
	serve_on(f, "::1", "::1", &settings);
	fd = client(f);
	try_sizes(f, fd, 65527);
	close(fd);
}

static void try_many(struct fixture *f, uint32_t n)
{
	/* More than these do not fit into an ordinary queue. */
	uint32_t most = f->large_queues ? n : 64, said = 0, heard = 0;
	int fd = client(f);

	while (heard < n) {
		for (; said < n && said - heard < most; said++)
			say(fd, &said, sizeof(said));
		run(f);
		for (; heard < said; heard++)
			assert_hears(fd, &heard, sizeof(heard));
	}
	assert_hears_nothing(fd);
	close(fd);
}

static void batches_of_all_lengths_are_answered_in_order(void **state)
{
	struct fixture *f = *state;
	const unsigned lengths[] = {1, 2, 63, 64, 65, 128, 256, 257, MANY};
	uint64_t all = 0;

	serve(f, &echo);
	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		try_many(f, lengths[i]);
		all += lengths[i];
	}
	assert_int_equal(COUNT(f, datagrams), all);
	assert_int_equal(COUNT(f, datagram_replies), all);
}

/* All of them at once: each buffer must be its own. */
static void large_datagrams_of_a_batch_do_not_mix(void **state)
{
	struct fixture *f = *state;
	unsigned char *data = malloc(60000);
	unsigned n = 30;
	int fds[30];

	assert_non_null(data);
	serve(f, &echo);
	for (unsigned i = 0; i < n; i++) {
		fds[i] = client(f);
		memset(data, (int)i, 60000);
		say(fds[i], data, 60000 - i);
		if (!f->large_queues)
			run(f);
	}
	run(f);
	for (unsigned i = 0; i < n; i++) {
		memset(data, (int)i, 60000);
		assert_hears(fds[i], data, 60000 - i);
		close(fds[i]);
	}
	free(data);
}

static void the_reply_comes_from_the_address_that_was_asked(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&facts_proto);
	int fds[8];

	serve_on(f, "0.0.0.0", "127.0.0.1", &settings);
	/* Several in one batch. */
	for (int i = 0; i < 8; i++) {
		char host[32];
		struct address ask;

		snprintf(host, sizeof(host), "127.0.0.%d", 2 + i % 4);
		ask = address_of(host, port_of(f->fd));
		fds[i] = client_of(&ask, i < 4 ? NULL : "127.0.0.9");
		say(fds[i], host, strlen(host));
	}
	run(f);
	for (int i = 0; i < 8; i++) {
		char host[32];

		snprintf(host, sizeof(host), "127.0.0.%d", 2 + i % 4);
		assert_hears(fds[i], host, strlen(host));
		close(fds[i]);
	}
	assert_contains(seen.local, "127.0.0.5:");
	assert_contains(seen.peer, "127.0.0.9:");
}

static void a_socket_of_both_families_answers_both(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&facts_proto);
	struct address ask;
	char expected[ADDR_TEXT_MAX];
	int fd;

	if (!has_ipv6())
		skip();
	serve_on(f, "::", "::1", &settings);
	fd = client(f);
	assert_answered(f, fd, "six", 3);
	snprintf(expected, sizeof(expected), "[::1]:%u", port_of(f->fd));
	assert_string_equal(seen.local, expected);
	close(fd);
	ask = address_of("127.0.0.3", port_of(f->fd));
	fd = client_of(&ask, NULL);
	assert_answered(f, fd, "four", 4);
	snprintf(expected, sizeof(expected), "127.0.0.3:%u", port_of(f->fd));
	assert_string_equal(seen.local, expected);
	close(fd);
	ask = address_of("127.255.255.255", port_of(f->fd));
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	set(fd, SOL_SOCKET, SO_BROADCAST, 1);
	assert_int_equal(sendto(fd, "x", 1, 0, (struct sockaddr *)&ask.storage, ask.len), 1);
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, datagrams_not_for_us), 1);
	close(fd);
}

static void protocols_are_told_what_came_along(void **state)
{
	struct fixture *f = *state;
	char expected[ADDR_TEXT_MAX];
	time_t now = time(NULL);
	int fd;

	serve(f, &facts_proto);
	fd = client(f);
	set(fd, IPPROTO_IP, IP_TTL, 33);
	set(fd, IPPROTO_IP, IP_TOS, 0xb8);
	assert_answered(f, fd, "x", 1);
	assert_string_equal(seen.transport, "udp");
	assert_int_equal(seen.ttl, 33);
	assert_int_equal(seen.traffic_class, 0xb8);
	snprintf(expected, sizeof(expected), "127.0.0.1:%u", port_of(fd));
	assert_string_equal(seen.peer, expected);
	snprintf(expected, sizeof(expected), "127.0.0.1:%u", port_of(f->fd));
	assert_string_equal(seen.local, expected);
	assert_true(seen.now.tv_sec >= now && seen.now.tv_sec <= now + 60);
	assert_false(seen.has_ids);
	close(fd);
}

static void protocols_are_told_what_came_along_over_ipv6(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&facts_proto);
	int fd;

	if (!has_ipv6())
		skip();
	serve_on(f, "::1", "::1", &settings);
	fd = client(f);
	set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44);
	set(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
	assert_answered(f, fd, "x", 1);
	assert_int_equal(seen.ttl, 44);
	assert_int_equal(seen.traffic_class, 0x20);
	assert_contains(seen.peer, "[::1]:");
	close(fd);
}

static void a_protocol_may_say_nothing(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, &discard);
	fd = client(f);
	assert_silence(f, fd, &f->counters.datagrams);
	close(fd);
}

static void no_reply_is_longer_than_its_request_or_64_bytes(void **state)
{
	struct fixture *f = *state;
	const size_t sizes[][2] = {{0, 64}, {1, 64}, {64, 64}, {65, 65}, {1400, 1400}};
	char data[2000] = {0}, expected[2000];
	int fd;

	memset(expected, 'x', sizeof(expected));
	serve(f, &generous);
	fd = client(f);
	for (size_t i = 0; i < COUNT_OF(sizes); i++) {
		say(fd, data, sizes[i][0]);
		run(f);
		assert_hears(fd, expected, sizes[i][1]);
	}
	close(fd);
}

/* ---- Silence -------------------------------------------------------------------------------- */

static void broadcast_and_multicast_are_not_answered(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	const char *const hosts[] = {"127.255.255.255", "224.0.0.1"};
	struct in_addr loopback = {htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	serve_on(f, "0.0.0.0", "127.0.0.1", &settings);
	set(fd, SOL_SOCKET, SO_BROADCAST, 1);
	assert_int_equal(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &loopback, sizeof(loopback)),
			 0);
	for (size_t i = 0; i < COUNT_OF(hosts); i++) {
		struct address to = address_of(hosts[i], port_of(f->fd));

		assert_int_equal(sendto(fd, "x", 1, 0, (struct sockaddr *)&to.storage, to.len), 1);
		run(f);
		assert_hears_nothing(fd);
		assert_int_equal(COUNT(f, datagrams), i + 1);
		assert_int_equal(COUNT(f, datagrams_not_for_us), i + 1);
	}
	assert_int_equal(COUNT(f, datagram_replies), 0);
	close(fd);
}

static void ipv6_multicast_is_not_answered(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	unsigned loopback = if_nametoindex("lo");
	struct address to;
	int fd;

	if (!has_ipv6() || loopback == 0)
		skip();
	serve_on(f, "::", "::1", &settings);
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)loopback);
	to = address_of("ff01::1", port_of(f->fd));
	if (sendto(fd, "x", 1, 0, (struct sockaddr *)&to.storage, to.len) != 1)
		skip(); /* no route for it here */
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, datagrams_not_for_us), 1);
	close(fd);
}

static void silent_ports_are_not_answered(void **state)
{
	struct fixture *f = *state;
	struct port_set *silent = calloc(1, sizeof(*silent));
	struct server_settings settings = settings_of(&echo);
	int fd;

	assert_non_null(silent);
	settings.silent_ports = silent;
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
	fd = client(f);
	port_set_add(silent, port_of(fd));
	assert_silence(f, fd, &f->counters.datagrams_port);
	close(fd);
	fd = client(f);
	assert_answered(f, fd, "x", 1);
	close(fd);
	free(silent);
}

/* As nobody can send it who is not root. */
static bool send_raw(const struct fixture *f, uint16_t source_port)
{
	unsigned char packet[sizeof(struct udphdr) + 1] = {0};
	struct udphdr header = {.uh_sport = htons(source_port),
				.uh_dport = htons(port_of(f->fd)),
				.uh_ulen = htons(sizeof(packet))};
	struct address to = address_of("127.0.0.1", 0);
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);

	if (fd < 0)
		return false;
	memcpy(packet, &header, sizeof(header));
	assert_int_equal(
		sendto(fd, packet, sizeof(packet), 0, (struct sockaddr *)&to.storage, to.len),
		sizeof(packet));
	close(fd);
	return true;
}

static void source_port_0_is_not_answered(void **state)
{
	struct fixture *f = *state;

	serve(f, &echo);
	if (!send_raw(f, 0))
		skip();
	run(f);
	assert_int_equal(COUNT(f, datagrams), 1);
	assert_int_equal(COUNT(f, datagrams_port), 1);
	assert_int_equal(COUNT(f, datagram_replies), 0);
}

static void access_rules_hold_in_both_scopes(void **state)
{
	struct fixture *f = *state;
	struct access_list all = {0}, own = {0};
	struct server_settings settings = settings_of(&echo);
	struct error err;
	int denied_to_all, denied_here, allowed;

	assert_int_equal(access_add(&all, "deny 127.0.0.3", "test:1", &err), 0);
	assert_int_equal(access_add(&own, "deny 127.0.0.4", "test:2", &err), 0);
	settings.access[0] = &all;
	settings.access[1] = &own;
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
	denied_to_all = client_of(&f->address, "127.0.0.3");
	denied_here = client_of(&f->address, "127.0.0.4");
	allowed = client_of(&f->address, "127.0.0.5");
	assert_silence(f, denied_to_all, &f->counters.refused_access);
	assert_silence(f, denied_here, &f->counters.refused_access);
	assert_answered(f, allowed, "x", 1);
	close(denied_to_all);
	close(denied_here);
	close(allowed);
	access_clear(&all);
	access_clear(&own);
}

static void a_flood_that_is_refused_is_one_message_a_second(void **state)
{
	struct fixture *f = *state;
	struct access_list rules = {0};
	struct server_settings settings = settings_of(&echo);
	struct timespec second = {1, 10000000};
	struct error err;
	int fd;

	assert_int_equal(access_add(&rules, "deny *", "test:1", &err), 0);
	settings.access[1] = &rules;
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
	fd = client(f);
	for (int i = 0; i < 50; i++) {
		say(fd, "x", 1);
		run(f);
	}
	assert_int_equal(COUNT(f, refused_access), 50);
	assert_int_equal(support_log_count("refused"), 1);
	assert_contains(support_log_text(), "1 datagram refused: access: 'deny *' at test:1; "
					    "the last from 127.0.0.1:");
	nanosleep(&second, NULL); /* a second is what is tested */
	say(fd, "x", 1);
	run(f);
	assert_int_equal(support_log_count("refused"), 2);
	assert_contains(support_log_text(), "50 datagrams refused: access");
	close(fd);
	access_clear(&rules);
}

static void nothing_is_answered_outside_of_the_times(void **state)
{
	struct fixture *f = *state;
	struct schedule times = {0};
	struct server_settings settings = settings_of(&echo);
	struct error err;
	char text[32];
	struct tm local;
	time_t now = time(NULL);
	int fd, hour;

	localtime_r(&now, &local);
	hour = (local.tm_hour + 12) % 24;
	snprintf(text, sizeof(text), "%02d:00-%02d:30", hour, hour);
	assert_int_equal(schedule_add(&times, text, &err), 0);
	settings.times[1] = &times;
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
	fd = client(f);
	assert_silence(f, fd, &f->counters.refused_times);
	close(fd);
	schedule_clear(&times);
}

static void nothing_is_answered_under_load(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	struct sysinfo info;
	int fd;

	settings.max_load = 1; /* 0.01 */
	if (sysinfo(&info) < 0 || info.loads[0] * 100 >> SI_LOAD_SHIFT < 3)
		skip();
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
	fd = client(f);
	assert_silence(f, fd, &f->counters.refused_load);
	close(fd);
}

static void try_rate(struct fixture *f, void (*say_50)(int fd))
{
	struct server_settings settings = settings_of(&echo);
	struct limits_rules rules = {.datagram_rate = 10};
	struct error err = {0};
	int memory = memfd_create("limits", MFD_CLOEXEC), fd;

	assert_true(memory >= 0);
	assert_int_equal(ftruncate(memory, (off_t)limits_size(1)), 0);
	settings.limits[1] = limits_open(memory, 1, 0, &rules, &err);
	assert_non_null(settings.limits[1]);
	close(memory);
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
	fd = client(f);
	say_50(fd);
	run(f);
	assert_int_equal(COUNT(f, datagrams), 50);
	assert_in_range(COUNT(f, datagram_replies), 9, 12);
	assert_int_equal(COUNT(f, datagrams_rate), 50 - COUNT(f, datagram_replies));
	close(fd);
	server_free(f->server);
	f->server = NULL;
	limits_close(settings.limits[1]);
}

static void say_one_by_one(int fd)
{
	for (int i = 0; i < 50; i++)
		say(fd, "x", 1);
}

static void the_rate_of_datagrams_is_limited(void **state)
{
	try_rate(*state, say_one_by_one);
}

/* ---- Trains --------------------------------------------------------------------------------- */

union train_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int))];
};

/* Datagrams of `segment` bytes, of which the last may be shorter. False: the kernel has none. */
static bool say_train(int fd, const void *data, size_t len, uint16_t segment)
{
	union train_control control = {.align = {.cmsg_level = IPPROTO_UDP,
						 .cmsg_type = UDP_SEGMENT,
						 .cmsg_len = CMSG_LEN(sizeof(segment))}};
	struct iovec all = {(void *)(uintptr_t)data, len};
	struct msghdr message = {.msg_iov = &all,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = CMSG_SPACE(sizeof(segment))};
	ssize_t sent;

	memcpy(CMSG_DATA(&control.align), &segment, sizeof(segment));
	sent = sendmsg(fd, &message, 0);
	if (sent < 0 && (errno == EINVAL || errno == ENOPROTOOPT))
		return false;
	assert_int_equal(sent, len);
	return true;
}

/* A client that is given trains as they are. */
static int train_client(const struct fixture *f)
{
	int fd = client(f), on = 1;

	if (setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* One message: a train of such datagrams, or with `segment` 0 a single one. */
static void assert_hears_train(int fd, const void *data, size_t len, int segment)
{
	static unsigned char got[BIG + 1];
	union train_control control;
	struct iovec all = {got, sizeof(got)};
	struct msghdr message = {.msg_iov = &all,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	int size = 0;

	assert_int_equal(recvmsg(fd, &message, 0), len);
	assert_memory_equal(got, data, len);
	if (message.msg_controllen > 0 && control.align.cmsg_type == UDP_GRO)
		memcpy(&size, CMSG_DATA(&control.align), sizeof(size));
	assert_int_equal(size, segment);
}

/* Every byte says where it stands. */
static const unsigned char *numbered(void)
{
	static unsigned char data[BIG];

	for (size_t i = 0; i < BIG; i++)
		data[i] = (unsigned char)(i * 7 + i / 251);
	return data;
}

static void assert_hears_each(int fd, const unsigned char *data, size_t len, size_t segment)
{
	for (; len > 0; data += segment, len -= segment) {
		if (segment > len)
			segment = len;
		assert_hears(fd, data, segment);
	}
	assert_hears_nothing(fd);
}

static void try_train(struct fixture *f, size_t len, uint16_t segment)
{
	size_t each = (len + segment - 1) / segment;
	uint64_t replies = COUNT(f, datagram_replies), datagrams = COUNT(f, datagrams);
	uint64_t bytes_in = COUNT(f, bytes_in), bytes_out = COUNT(f, bytes_out);
	int fd = client(f), trains = train_client(f);

	if (!say_train(fd, numbered(), len, segment))
		skip();
	run(f);
	assert_hears_each(fd, numbered(), len, segment);
	assert_int_equal(COUNT(f, datagrams) - datagrams, each);
	assert_int_equal(COUNT(f, datagram_replies) - replies, each);
	assert_int_equal(COUNT(f, bytes_in) - bytes_in, len);
	assert_int_equal(COUNT(f, bytes_out) - bytes_out, len);
	/* The very longest are cut on their way already: they exceed the device's gso_max_size. */
	if (trains >= 0 && len <= 65000) {
		assert_true(say_train(trains, numbered(), len, segment));
		run(f);
		assert_hears_train(trains, numbered(), len, len > segment ? segment : 0);
		assert_hears_nothing(trains);
	}
	if (trains >= 0)
		close(trains);
	close(fd);
}

static void a_train_comes_back_as_it_came(void **state)
{
	struct fixture *f = *state;

	serve(f, &echo);
	try_train(f, 200, 100);
	try_train(f, 4037, 100);
	try_train(f, 101, 100);
	try_train(f, 100, 100);
	try_train(f, 64, 1);
	try_train(f, 64 * 1023, 1023);
	try_train(f, 65507, 1472);
	try_train(f, 65507, 65506);
}

static void a_train_comes_back_over_ipv6(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&facts_proto);

	if (!has_ipv6())
		skip();
	serve_on(f, "::", "::1", &settings);
	try_train(f, 4037, 100);
	try_train(f, 65507, 1452);
	assert_contains(seen.local, "[::1]:");
}

/* What waits from one client leaves as a train, as far as the sizes allow it. */
static void replies_that_wait_are_joined(void **state)
{
	struct fixture *f = *state;
	const unsigned char *data = numbered();
	int fd;

	serve(f, &echo);
	fd = train_client(f);
	if (fd < 0)
		skip();
	for (size_t i = 0; i < 4; i++)
		say(fd, data + i * 50, 50);
	run(f);
	assert_hears_train(fd, data, 200, 50);
	say(fd, data, 50);
	say(fd, data + 50, 20);
	say(fd, data, 0);
	say(fd, data, 30);
	run(f);
	assert_hears_train(fd, data, 70, 50);
	assert_hears_train(fd, data, 0, 0);
	assert_hears_train(fd, data, 30, 0);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, datagram_replies), 8);
	close(fd);
}

/* Sizes that can be joined and sizes that cannot, of clients that speak in turns. */
static void replies_of_all_sizes_keep_their_order(void **state)
{
	struct fixture *f = *state;
	const size_t sizes[] = {10, 10, 5, 10, 20, 20, 0,  20, 0, 0, 3000, 3000, 3000, 1,
				1,  1,	1, 2,  2,  64, 63, 65, 0, 1, 9000, 9000, 8999, 9000};
	const unsigned char *data = numbered();
	int fds[3];

	serve(f, &echo);
	for (size_t k = 0; k < COUNT_OF(fds); k++)
		fds[k] = client(f);
	for (size_t i = 0; i < COUNT_OF(sizes); i++)
		for (size_t k = 0; k < COUNT_OF(fds); k++)
			if (i % (k + 1) == 0)
				say(fds[k], data + 100 * i + k, sizes[i]);
	run(f);
	for (size_t k = 0; k < COUNT_OF(fds); k++) {
		for (size_t i = 0; i < COUNT_OF(sizes); i++)
			if (i % (k + 1) == 0)
				assert_hears(fds[k], data + 100 * i + k, sizes[i]);
		assert_hears_nothing(fds[k]);
		close(fds[k]);
	}
	assert_int_equal(COUNT(f, datagram_replies), 28 + 14 + 10);
}

/* Of one client, too: its datagrams to two addresses are no train. */
static void joined_replies_come_from_the_address_that_was_asked(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	struct sockaddr_in from;
	char host[16];
	int fd;

	serve_on(f, "0.0.0.0", "127.0.0.1", &settings);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	for (int i = 0; i < 12; i++) {
		struct address ask;

		snprintf(host, sizeof(host), "127.0.0.%d", 2 + i % 3);
		ask = address_of(host, port_of(f->fd));
		assert_int_equal(sendto(fd, host, 9, 0, (struct sockaddr *)&ask.storage, ask.len),
				 9);
	}
	run(f);
	for (int i = 0; i < 12; i++) {
		socklen_t len = sizeof(from);

		assert_int_equal(recvfrom(fd, host, 9, 0, (struct sockaddr *)&from, &len), 9);
		assert_int_equal(host[8] - '0', ntohl(from.sin_addr.s_addr) & 0xff);
	}
	assert_hears_nothing(fd);
	close(fd);
}

/* Each longer than the one before it: none can be joined, and each stands in the room. */
static const unsigned char *say_more_and_more(const struct proto_settings *settings,
					      const struct proto_facts *facts, unsigned char *data,
					      size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)len;
	memset(room, 'x', PROTO_DATAGRAM_MAX); /* as it may */
	*reply = data[0];
	memset(room, data[0], data[0]);
	return room;
}

static void replies_of_a_train_may_differ(void **state)
{
	static const struct proto more = {.name = "more", .datagram = say_more_and_more};
	struct fixture *f = *state;
	unsigned char data[64 * 100] = {0}, expected[100];
	int fd;

	serve(f, &more);
	fd = client(f);
	for (unsigned i = 0; i < 64; i++)
		data[100 * i] = (unsigned char)(i + 1);
	if (!say_train(fd, data, sizeof(data), 100))
		skip();
	run(f);
	for (unsigned i = 0; i < 64; i++) {
		memset(expected, (int)i + 1, i + 1);
		assert_hears(fd, expected, i + 1);
	}
	assert_hears_nothing(fd);
	close(fd);
}

/* A route that takes no trains: one is lost by the attempt, and none is tried again. */
static void what_cannot_leave_as_a_train_leaves_alone(void **state)
{
	struct fixture *f = *state;
	const unsigned char *data = numbered();
	int fd;

	serve(f, &echo);
	fd = train_client(f);
	if (fd < 0)
		skip();
	set(f->fd, SOL_SOCKET, SO_NO_CHECK, 1); /* EINVAL (net/ipv4/udp.c, udp_send_skb) */
	for (int turn = 0; turn < 2; turn++) {
		assert_true(say_train(fd, data, 250, 100));
		run(f);
		assert_hears_train(fd, data, 100, 0);
		assert_hears_train(fd, data + 100, 100, 0);
		assert_hears_train(fd, data + 200, 50, 0);
		assert_hears_nothing(fd);
	}
	/* Larger ones are not tried either; smaller ones may pass where those cannot. */
	set(f->fd, SOL_SOCKET, SO_NO_CHECK, 0);
	assert_true(say_train(fd, data, 400, 200));
	run(f);
	assert_hears_train(fd, data, 200, 0);
	assert_hears_train(fd, data + 200, 200, 0);
	assert_true(say_train(fd, data, 198, 99));
	run(f);
	assert_hears_train(fd, data, 198, 99);
	assert_int_equal(COUNT(f, datagrams), 10);
	assert_int_equal(COUNT(f, datagram_replies), 10);
	assert_int_equal(COUNT(f, datagrams_unsent), 0);
	close(fd);
}

static void a_silent_protocol_is_silent_to_trains(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, &discard);
	fd = client(f);
	if (!say_train(fd, numbered(), 1000, 100))
		skip();
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, datagrams), 10);
	close(fd);
}

static void say_50_in_a_train(int fd)
{
	assert_true(say_train(fd, numbered(), 50, 1));
}

static void the_rate_counts_each_of_a_train(void **state)
{
	struct fixture *f = *state;
	struct address any = address_of("127.0.0.1", 9);
	int fd = client_of(&any, NULL);
	bool has_trains = say_train(fd, "xy", 2, 1);

	close(fd);
	if (!has_trains)
		skip();
	try_rate(f, say_50_in_a_train);
}

/* ---- Loops ---------------------------------------------------------------------------------- */

/* Two servers; a forged datagram makes the first one speak to the second. */
static void start_loop(struct fixture *f, const struct proto *first, const struct proto *second)
{
	struct server_settings settings = settings_of(first);

	f->other_fd = low_udp_socket("127.0.0.1");
	f->fd = low_udp_socket("127.0.0.1");
	f->address = address_of("127.0.0.1", port_of(f->fd));
	f->server = serve_fd(f, f->fd, &settings, &f->counters);
	settings = settings_of(second);
	f->other = serve_fd(f, f->other_fd, &settings, &f->other_counters);
}

/* Of a loop without an end, more than `most` datagrams would come. */
static void assert_ends(struct fixture *f, uint64_t most)
{
	uint64_t before;

	do {
		before = COUNT(f, datagrams) + counter_get(&f->other_counters.datagrams);
		event_base_loop(f->base, EVLOOP_NONBLOCK);
	} while (before != COUNT(f, datagrams) + counter_get(&f->other_counters.datagrams) &&
		 before <= 2 * most);
	assert_in_range(COUNT(f, datagrams), 100, most);
	assert_in_range(COUNT(f, datagrams_looping) +
				counter_get(&f->other_counters.datagrams_looping),
			1, 2000);
	assert_contains(support_log_text(), "come back again and again: not answered for 10 s");
}

/* As if the first server had asked the second. */
static void forge(struct fixture *f, const void *data, size_t len)
{
	struct address other = address_of("127.0.0.1", port_of(f->other_fd));

	assert_int_equal(sendto(f->fd, data, len, 0, (struct sockaddr *)&other.storage, other.len),
			 len);
}

static void two_servers_that_answer_each_other_fall_silent(void **state)
{
	struct fixture *f = *state;

	start_loop(f, &echo, &echo);
	forge(f, "ping", 4);
	assert_ends(f, 1000);
	/* And again, while they are muted. */
	forge(f, "pong", 4);
	run(f);
	assert_in_range(COUNT(f, datagrams), 100, 1000);
}

static void empty_datagrams_are_no_way_around_it(void **state)
{
	struct fixture *f = *state;

	start_loop(f, &echo, &echo);
	forge(f, "", 0);
	assert_ends(f, 1000);
}

static void many_loops_at_once_fall_silent(void **state)
{
	struct fixture *f = *state;

	start_loop(f, &echo, &echo);
	for (int i = 0; i < 50; i++)
		forge(f, &i, sizeof(i));
	assert_ends(f, 50000);
}

static void a_loop_is_found_though_its_bytes_change(void **state)
{
	struct fixture *f = *state;

	start_loop(f, &numbers, &echo);
	forge(f, "01234567", 8);
	assert_ends(f, 1000);
}

static void a_client_may_ask_the_same_as_often_as_it_likes(void **state)
{
	struct fixture *f = *state;
	char data[32] = "the same thirty-two bytes again";
	int64_t until = clock_ms() + 20000;
	int fd;

	serve(f, &echo);
	fd = client(f);
	assert_true(port_of(fd) >= 32768);
	/* As many as a slow machine can do in its time. */
	for (int i = 0; i < 20000 && clock_ms() < until; i++) {
		say(fd, data, sizeof(data));
		event_base_loop(f->base, EVLOOP_NONBLOCK);
		assert_hears(fd, data, sizeof(data));
	}
	/* Windows of it, too. */
	for (int i = 0; i < 50; i++) {
		for (int k = 0; k < 64; k++)
			say(fd, data, sizeof(data));
		run(f);
		for (int k = 0; k < 64; k++)
			assert_hears(fd, data, sizeof(data));
	}
	assert_int_equal(COUNT(f, datagrams_looping), 0);
	close(fd);
}

/* ---- The PROXY protocol --------------------------------------------------------------------- */

/* Version 2, UDP over IPv4, from 192.0.2.1:4711 to 198.51.100.1:7. */
static const unsigned char header[] = {
	'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T',	 '\n',	      0x21, 0x12,
	0,    12,   192,  0,	2, 1,	 198,  51,  100, 1,   4711 >> 8, 4711 & 0xff, 0,    7};

static void serve_behind_proxy(struct fixture *f, enum server_proxy proxy,
			       const struct access_list *rules)
{
	static struct network from;
	struct server_settings settings = settings_of(&facts_proto);
	struct error err;

	assert_int_equal(network_parse("127.0.0.1", &from, &err), 0);
	settings.proxy = proxy;
	settings.proxy_from = &from;
	settings.proxy_from_count = 1;
	settings.access[1] = rules;
	serve_on(f, "127.0.0.1", "127.0.0.1", &settings);
}

static void say_through_proxy(int fd, const char *text)
{
	unsigned char data[sizeof(header) + 64];

	memcpy(data, header, sizeof(header));
	memcpy(data + sizeof(header), text, strlen(text));
	say(fd, data, sizeof(header) + strlen(text));
}

static void a_proxy_header_is_taken_off(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve_behind_proxy(f, SERVER_PROXY_REQUIRED, NULL);
	fd = client(f);
	say_through_proxy(fd, "hello");
	run(f);
	assert_hears(fd, "hello", 5);
	assert_string_equal(seen.client, "192.0.2.1:4711");
	assert_contains(seen.peer, "127.0.0.1:");
	say_through_proxy(fd, "");
	run(f);
	assert_hears(fd, "", 0);
	close(fd);
}

/* Each datagram of a train has its own, or none. */
static void each_of_a_train_has_its_own_header(void **state)
{
	struct fixture *f = *state;
	unsigned char data[3 * (sizeof(header) + 5)];
	size_t each = sizeof(header) + 5;
	int fd;

	serve_behind_proxy(f, SERVER_PROXY_REQUIRED, NULL);
	fd = client(f);
	memset(data, 'x', sizeof(data));
	for (size_t i = 0; i < 3; i += 2) {
		memcpy(data + i * each, header, sizeof(header));
		memcpy(data + i * each + sizeof(header), i == 0 ? "first" : "third", 5);
	}
	if (!say_train(fd, data, sizeof(data), (uint16_t)each))
		skip();
	run(f);
	assert_hears(fd, "first", 5);
	assert_hears(fd, "third", 5);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, refused_proxy), 1);
	assert_int_equal(COUNT(f, datagrams), 3);
	close(fd);
}

static void a_header_that_is_required_must_be_there(void **state)
{
	struct fixture *f = *state;
	int fd, stranger;

	serve_behind_proxy(f, SERVER_PROXY_REQUIRED, NULL);
	fd = client(f);
	assert_silence(f, fd, &f->counters.refused_proxy);
	stranger = client_of(&f->address, "127.0.0.2");
	say_through_proxy(stranger, "x");
	run(f);
	assert_hears_nothing(stranger);
	assert_int_equal(COUNT(f, refused_proxy), 2);
	close(fd);
	close(stranger);
}

static void a_header_may_be_optional(void **state)
{
	struct fixture *f = *state;
	unsigned char data[sizeof(header) + 64];
	int fd, stranger;

	serve_behind_proxy(f, SERVER_PROXY_OPTIONAL, NULL);
	fd = client(f);
	assert_answered(f, fd, "hello", 5);
	assert_string_equal(seen.client, "");
	assert_answered(f, fd, "", 0);
	assert_answered(f, fd, "\r\n", 2);
	say_through_proxy(fd, "x");
	run(f);
	assert_hears(fd, "x", 1);
	/* Of others it is a datagram like any. */
	stranger = client_of(&f->address, "127.0.0.2");
	memcpy(data, header, sizeof(header));
	assert_answered(f, stranger, data, sizeof(header));
	close(fd);
	close(stranger);
}

static void a_malformed_header_is_refused(void **state)
{
	struct fixture *f = *state;
	unsigned char data[sizeof(header)];
	int fd;

	serve_behind_proxy(f, SERVER_PROXY_OPTIONAL, NULL);
	fd = client(f);
	for (size_t len = 12; len < sizeof(header); len++) {
		say(fd, header, len); /* cut off */
		run(f);
		assert_hears_nothing(fd);
		assert_int_equal(COUNT(f, proxy_errors), len - 11);
	}
	memcpy(data, header, sizeof(header));
	data[12] = 0x31; /* version 3 */
	say(fd, data, sizeof(data));
	run(f);
	assert_hears_nothing(fd);
	assert_contains(support_log_text(), "malformed PROXY header");
	close(fd);
}

static void access_rules_are_about_who_the_header_names(void **state)
{
	struct fixture *f = *state;
	struct access_list rules = {0};
	struct error err;
	int fd;

	assert_int_equal(access_add(&rules, "deny 192.0.2.0/24", "test:1", &err), 0);
	serve_behind_proxy(f, SERVER_PROXY_OPTIONAL, &rules);
	fd = client(f);
	assert_answered(f, fd, "x", 1);
	say_through_proxy(fd, "x");
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, refused_access), 1);
	assert_contains(support_log_text(), "the last from 192.0.2.1:4711 (by 127.0.0.1:");
	close(fd);
	access_clear(&rules);
}

/* ---- Unix sockets --------------------------------------------------------------------------- */

static void serve_unix(struct fixture *f, struct server_settings settings, bool ids)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char path[SUPPORT_PATH_MAX];

	support_join(path, f->directory, "server");
	memcpy(address.sun_path, path, strlen(path) + 1);
	f->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (ids)
		set(f->fd, SOL_SOCKET, SO_PASSCRED, 1);
	assert_int_equal(bind(f->fd, (struct sockaddr *)&address, sizeof(address)), 0);
	memcpy(&f->address.storage, &address, sizeof(address));
	f->address.len = sizeof(address);
	f->server = serve_fd(f, f->fd, &settings, &f->counters);
}

/* `name` NULL: none; "@name": abstract. Not connected: it could be sent to by nobody else. */
static int unix_client(struct fixture *f, const char *name)
{
	struct sockaddr_un own = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(own);
	char path[SUPPORT_PATH_MAX];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (name == NULL)
		return fd;
	if (name[0] == '@') {
		len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
		memcpy(own.sun_path + 1, name + 1, strlen(name) - 1);
	} else {
		support_join(path, f->directory, name);
		memcpy(own.sun_path, path, strlen(path) + 1);
	}
	assert_int_equal(bind(fd, (struct sockaddr *)&own, len), 0);
	return fd;
}

static void say_unix(struct fixture *f, int fd, const void *data, size_t len)
{
	assert_int_equal(
		sendto(fd, data, len, 0, (struct sockaddr *)&f->address.storage, f->address.len),
		len);
}

static void unix_clients_are_answered_by_name(void **state)
{
	struct fixture *f = *state;
	char abstract[64];
	int with_path, with_name;

	snprintf(abstract, sizeof(abstract), "@echod-test-%d", (int)getpid());
	serve_unix(f, settings_of(&facts_proto), false);
	with_path = unix_client(f, "client");
	with_name = unix_client(f, abstract);
	say_unix(f, with_name, "name", 4);
	say_unix(f, with_path, "path", 4);
	run(f);
	assert_hears(with_name, "name", 4);
	assert_hears(with_path, "path", 4);
	assert_string_equal(seen.transport, "unixgram");
	assert_contains(seen.unix_peer.sun_path, "/client");
	assert_int_equal(seen.local_family, AF_UNIX);
	assert_int_equal(seen.ttl, -1);
	assert_false(seen.has_ids);
	close(with_path);
	close(with_name);
}

static void a_unix_client_without_a_name_cannot_be_answered(void **state)
{
	struct fixture *f = *state;
	int fd, named;

	serve_unix(f, settings_of(&echo), false);
	named = unix_client(f, "client");
	fd = unix_client(f, NULL);
	say_unix(f, named, "x", 1);
	say_unix(f, fd, "y", 1);
	say_unix(f, named, "z", 1);
	run(f);
	assert_hears(named, "x", 1);
	assert_hears(named, "z", 1);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, datagrams_nameless), 1);
	assert_contains(support_log_text(), "from a Unix socket without a name");
	close(fd);
	close(named);
}

static void unix_clients_are_known_by_their_ids(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&facts_proto);
	struct access_list rules = {0};
	struct error err;
	char rule[64];
	int fd;

	snprintf(rule, sizeof(rule), "allow uid:%u", (unsigned)getuid());
	assert_int_equal(access_add(&rules, rule, "test:1", &err), 0);
	settings.access[1] = &rules;
	serve_unix(f, settings, true);
	fd = unix_client(f, "client");
	say_unix(f, fd, "x", 1);
	run(f);
	assert_hears(fd, "x", 1);
	assert_true(seen.has_ids);
	assert_int_equal(seen.uid, getuid());
	assert_int_equal(seen.pid, getpid());
	access_clear(&rules);
	snprintf(rule, sizeof(rule), "deny uid:%u", (unsigned)getuid());
	assert_int_equal(access_add(&rules, rule, "test:1", &err), 0);
	say_unix(f, fd, "x", 1);
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, refused_access), 1);
	close(fd);
	access_clear(&rules);
}

static unsigned open_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(directory);
	while (readdir(directory) != NULL)
		n++;
	closedir(directory);
	return n;
}

static void try_descriptors(struct fixture *f, bool ids)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control = {0};
	struct iovec data = {(void *)(uintptr_t) "x", 1};
	struct msghdr message = {.msg_name = &f->address.storage,
				 .msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	int fds[4] = {0, 0, 0, 0};
	unsigned before;
	int fd;

	serve_unix(f, settings_of(&echo), ids);
	message.msg_namelen = f->address.len;
	fd = unix_client(f, "client");
	before = open_descriptors();
	control.align = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(fds)),
					 .cmsg_level = SOL_SOCKET,
					 .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.align), fds, sizeof(fds));
	assert_int_equal(sendmsg(fd, &message, 0), 1);
	run(f);
	assert_hears(fd, "x", 1);
	assert_int_equal(open_descriptors(), before);
	close(fd);
}

static void descriptors_that_a_client_sends_along_are_dropped(void **state)
{
	try_descriptors(*state, false);
}

static void descriptors_are_dropped_where_ids_are_wanted(void **state)
{
	try_descriptors(*state, true);
}

static void what_is_too_long_is_not_answered_at_all(void **state)
{
	struct fixture *f = *state;
	unsigned char *data = calloc(1, BIG + 1);
	int fd;

	assert_non_null(data);
	serve_unix(f, settings_of(&echo), false);
	fd = unix_client(f, "client");
	say_unix(f, fd, data, BIG + 1);
	say_unix(f, fd, data, BIG);
	run(f);
	assert_hears(fd, data, BIG);
	assert_hears_nothing(fd);
	assert_int_equal(COUNT(f, datagrams), 2);
	assert_int_equal(COUNT(f, datagrams_unsent), 1);
	assert_contains(support_log_text(), "too long to be answered");
	close(fd);
	free(data);
}

/* They share their buffers. */
static void sockets_of_both_kinds_take_turns(void **state)
{
	struct fixture *f = *state;
	struct error err;
	struct address udp;
	int own, fd, of_unix, turns = 3;
	char name[16];

	serve_unix(f, settings_of(&facts_proto), false);
	own = udp_socket("0.0.0.0", 0, true);
	assert_int_equal(server_add_socket(f->server, own, &err), 0);
	assert_int_equal(server_accept_on(f->server, 1, true, &err), 0);
	udp = address_of("127.0.0.2", port_of(own));
	fd = client_of(&udp, NULL);
	for (int i = 0; i < turns; i++) {
		snprintf(name, sizeof(name), i == 0 ? "a-long-name" : "%d", i);
		of_unix = unix_client(f, name);
		for (int k = 0; k < 70; k++)
			assert_answered(f, fd, "udp", 3);
		assert_string_equal(seen.transport, "udp");
		assert_contains(seen.local, "127.0.0.2:");
		say_unix(f, of_unix, "unix", 4);
		run(f);
		assert_hears(of_unix, "unix", 4);
		assert_int_equal(seen.unix_peer.sun_path[strlen(f->directory) + 1], name[0]);
		for (size_t at = strlen(seen.unix_peer.sun_path);
		     at < sizeof(seen.unix_peer.sun_path); at++)
			assert_int_equal(seen.unix_peer.sun_path[at], 0);
		close(of_unix);
	}
	close(fd);
}

/* ---- What the kernel does not take ---------------------------------------------------------- */

static void a_reply_that_fails_takes_no_other_with_it(void **state)
{
	struct fixture *f = *state;
	int living[4], dead[4];
	char name[16];

	serve_unix(f, settings_of(&echo), false);
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "dead%d", i);
		dead[i] = unix_client(f, name);
		snprintf(name, sizeof(name), "living%d", i);
		living[i] = unix_client(f, name);
	}
	/* First, last, in the middle, two in a row. */
	say_unix(f, dead[0], "x", 1);
	for (int i = 0; i < 3; i++)
		say_unix(f, living[i], "x", 1);
	say_unix(f, dead[1], "x", 1);
	say_unix(f, dead[2], "x", 1);
	say_unix(f, living[3], "x", 1);
	say_unix(f, dead[3], "x", 1);
	for (int i = 0; i < 4; i++)
		close(dead[i]);
	run(f);
	for (int i = 0; i < 4; i++) {
		assert_hears(living[i], "x", 1);
		close(living[i]);
	}
	assert_int_equal(COUNT(f, datagram_replies), 4);
	assert_int_equal(COUNT(f, datagrams_unsent), 4);
	assert_int_equal(COUNT(f, bytes_out), 4);
}

static void a_client_that_does_not_read_delays_nobody(void **state)
{
	struct fixture *f = *state;
	uint64_t answered = 0;
	int lazy, reader;

	serve_unix(f, settings_of(&echo), false);
	lazy = unix_client(f, "lazy");
	reader = unix_client(f, "reader");
	for (int i = 0; i < 600; i++) {
		say_unix(f, lazy, "x", 1);
		say_unix(f, reader, "y", 1);
		run(f);
		assert_hears(reader, "y", 1);
	}
	while (recv(lazy, &(char){0}, 1, 0) == 1)
		answered++;
	assert_int_equal(COUNT(f, datagrams_unsent), 600 - answered);
	assert_in_range(answered, 1, 599);
	close(lazy);
	close(reader);
}

/* ---- The life of the sockets ---------------------------------------------------------------- */

static void nothing_is_received_before_the_order_and_after_its_end(void **state)
{
	struct fixture *f = *state;
	struct error err;
	int fd;

	serve(f, &echo);
	fd = client(f);
	assert_int_equal(server_accept_on(f->server, 0, false, &err), 0);
	say(fd, "x", 1);
	run(f);
	assert_hears_nothing(fd);
	assert_int_equal(server_accept_on(f->server, 0, true, &err), 0);
	assert_int_equal(server_accept_on(f->server, 0, true, &err), 0);
	run(f);
	assert_hears(fd, "x", 1);
	assert_int_equal(COUNT(f, datagrams), 1);
	close(fd);
}

static void on_idle(void *arg)
{
	(*(unsigned *)arg)++;
}

/* Without a turn of the loop. */
static void the_queue_is_emptied_for_who_gives_up(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	struct error err;
	unsigned idle = 0;
	int sockets[3], clients[3];

	f->server = server_new(f->base, &settings, &f->counters, on_idle, &idle);
	for (int i = 0; i < 3; i++) {
		struct address address;

		sockets[i] = udp_socket("127.0.0.1", 0, true);
		assert_int_equal(server_add_socket(f->server, sockets[i], &err), 0);
		assert_int_equal(server_accept_on(f->server, (size_t)i, i < 2, &err), 0);
		address = address_of("127.0.0.1", port_of(sockets[i]));
		clients[i] = client_of(&address, NULL);
		for (int k = 0; k < 100; k++)
			say(clients[i], "x", 1);
	}
	server_give_up(f->server, 1);
	assert_int_equal(idle, 0);
	server_stop_accepting(f->server, false);
	assert_int_equal(idle, 1);
	assert_int_equal(COUNT(f, datagrams), 100);
	assert_int_equal(COUNT(f, datagram_replies), 100);
	assert_hears(clients[1], "x", 1);
	for (int i = 0; i < 3; i++) {
		/* Closed: nobody has the port any more. */
		errno = 0;
		while (send(clients[i], "x", 1, 0) == 1)
			;
		assert_int_equal(errno, ECONNREFUSED);
		close(clients[i]);
	}
}

static void all_queues_are_emptied_at_a_stop(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, &echo);
	fd = client(f);
	for (int i = 0; i < 150; i++)
		say(fd, "x", 1);
	server_stop_accepting(f->server, true);
	server_drain(f->server);
	assert_int_equal(COUNT(f, datagram_replies), 150);
	close(fd);
}

static void streams_and_datagrams_live_side_by_side(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	struct address address = address_of("127.0.0.1", 0);
	struct error err;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), fd;

	f->server = server_new(f->base, &settings, &f->counters, NULL, NULL);
	assert_int_equal(bind(listener, (struct sockaddr *)&address.storage, address.len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(server_add_socket(f->server, listener, &err), 0);
	f->fd = udp_socket("127.0.0.1", 0, true);
	assert_int_equal(server_add_socket(f->server, f->fd, &err), 0);
	assert_int_equal(server_accept_on(f->server, 0, true, &err), 0);
	assert_int_equal(server_accept_on(f->server, 1, true, &err), 0);
	f->address = address_of("127.0.0.1", port_of(f->fd));
	fd = client(f);
	assert_answered(f, fd, "x", 1);
	close(fd);
}

static void a_socket_that_does_not_tell_who_was_asked_is_not_taken(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&echo);
	struct error err = {0};
	int fd = udp_socket("127.0.0.1", 0, true);

	f->server = server_new(f->base, &settings, &f->counters, NULL, NULL);
	set(fd, IPPROTO_IP, IP_PKTINFO, 0);
	assert_int_equal(server_add_socket(f->server, fd, &err), -1);
	assert_contains(err.text, "which address was asked");
	assert_int_equal(close(fd), 0);
}

static void a_protocol_without_datagrams_takes_no_socket(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = settings_of(&streams_only);
	struct error err = {0};
	int fd = udp_socket("127.0.0.1", 0, true);

	f->server = server_new(f->base, &settings, &f->counters, NULL, NULL);
	assert_int_equal(server_add_socket(f->server, fd, &err), -1);
	assert_contains(err.text, "'streams' has no datagrams");
	assert_int_equal(close(fd), 0);
}

/* shutdown(2) leaves it readable for ever, without anything to read. */
static void a_broken_socket_does_not_spin(void **state)
{
	struct fixture *f = *state;
	struct timeval limit = {0, 300000};
	int turns = 0;

	serve(f, &echo);
	shutdown(f->fd, SHUT_RD);
	while (support_log_count("cannot receive datagrams") == 0)
		event_base_loop(f->base, EVLOOP_ONCE);
	event_base_loopexit(f->base, &limit);
	for (; !event_base_got_exit(f->base) && turns < 100000; turns++)
		event_base_loop(f->base, EVLOOP_ONCE);
	assert_true(turns < 1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_datagram_comes_back_as_it_was),
		TEST(every_size_is_answered),
		TEST(every_size_is_answered_over_ipv6),
		TEST(batches_of_all_lengths_are_answered_in_order),
		TEST(large_datagrams_of_a_batch_do_not_mix),
		TEST(the_reply_comes_from_the_address_that_was_asked),
		TEST(a_socket_of_both_families_answers_both),
		TEST(protocols_are_told_what_came_along),
		TEST(protocols_are_told_what_came_along_over_ipv6),
		TEST(a_protocol_may_say_nothing),
		TEST(no_reply_is_longer_than_its_request_or_64_bytes),
		TEST(broadcast_and_multicast_are_not_answered),
		TEST(ipv6_multicast_is_not_answered),
		TEST(silent_ports_are_not_answered),
		TEST(source_port_0_is_not_answered),
		TEST(access_rules_hold_in_both_scopes),
		TEST(a_flood_that_is_refused_is_one_message_a_second),
		TEST(nothing_is_answered_outside_of_the_times),
		TEST(nothing_is_answered_under_load),
		TEST(the_rate_of_datagrams_is_limited),
		TEST(the_rate_counts_each_of_a_train),
		TEST(a_train_comes_back_as_it_came),
		TEST(a_train_comes_back_over_ipv6),
		TEST(replies_that_wait_are_joined),
		TEST(replies_of_all_sizes_keep_their_order),
		TEST(joined_replies_come_from_the_address_that_was_asked),
		TEST(replies_of_a_train_may_differ),
		TEST(what_cannot_leave_as_a_train_leaves_alone),
		TEST(a_silent_protocol_is_silent_to_trains),
		TEST(two_servers_that_answer_each_other_fall_silent),
		TEST(empty_datagrams_are_no_way_around_it),
		TEST(many_loops_at_once_fall_silent),
		TEST(a_loop_is_found_though_its_bytes_change),
		TEST(a_client_may_ask_the_same_as_often_as_it_likes),
		TEST(a_proxy_header_is_taken_off),
		TEST(each_of_a_train_has_its_own_header),
		TEST(a_header_that_is_required_must_be_there),
		TEST(a_header_may_be_optional),
		TEST(a_malformed_header_is_refused),
		TEST(access_rules_are_about_who_the_header_names),
		TEST(unix_clients_are_answered_by_name),
		TEST(a_unix_client_without_a_name_cannot_be_answered),
		TEST(unix_clients_are_known_by_their_ids),
		TEST(descriptors_that_a_client_sends_along_are_dropped),
		TEST(descriptors_are_dropped_where_ids_are_wanted),
		TEST(what_is_too_long_is_not_answered_at_all),
		TEST(sockets_of_both_kinds_take_turns),
		TEST(a_reply_that_fails_takes_no_other_with_it),
		TEST(a_client_that_does_not_read_delays_nobody),
		TEST(nothing_is_received_before_the_order_and_after_its_end),
		TEST(the_queue_is_emptied_for_who_gives_up),
		TEST(all_queues_are_emptied_at_a_stop),
		TEST(streams_and_datagrams_live_side_by_side),
		TEST(a_socket_that_does_not_tell_who_was_asked_is_not_taken),
		TEST(a_protocol_without_datagrams_takes_no_socket),
		TEST(a_broken_socket_does_not_spin),
	};

	support_limit_time(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
