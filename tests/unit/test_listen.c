/*
 * Listening sockets, step by step. Each run has a loopback address of its own, so that no other
 * process takes a port between two steps.
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/listen.h"

static const struct listen_options plain = {.nodelay = true, .backlog = 16};

static struct address ipv4(const char *host, uint16_t port)
{
	struct address address = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *)&address.storage;

	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	assert_int_equal(inet_pton(AF_INET, host, &in->sin_addr), 1);
	return address;
}

/* An address of 127.0.0.0/8 that no other running process uses here; `n` makes it another. */
static struct address own(unsigned n, uint16_t port)
{
	unsigned pid = (unsigned)getpid();
	char host[16];

	snprintf(host, sizeof(host), "127.%u.%u.%u", 64 + n * 64 + (pid >> 16 & 63), pid >> 8 & 255,
		 pid & 255);
	return ipv4(host, port);
}

static struct address ipv6(const char *host, uint16_t port)
{
	struct address address = {.len = sizeof(struct sockaddr_in6)};
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address.storage;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	assert_int_equal(inet_pton(AF_INET6, host, &in6->sin6_addr), 1);
	return address;
}

/* With the port that the kernel gave. */
static struct address address_of(int fd)
{
	struct address address = {.len = sizeof(address.storage)};

	assert_int_equal(getsockname(fd, (struct sockaddr *)&address.storage, &address.len), 0);
	return address;
}

static int probe_for(struct address address, int64_t retry_ms, struct error *err)
{
	struct listen_place place = {.transport = TRANSPORT_TCP, .address = address};
	enum listen_failure failure;

	return listen_probe(&place, retry_ms, &failure, err);
}

/* The probe's own answer: 0, or -1 with the sentence in `err`. */
static int probe(struct address address, struct error *err)
{
	return probe_for(address, 0, err);
}

/* -1 with the sentence in `err`. */
static int try_open(struct address address, enum listen_failure *failure, struct error *err)
{
	struct listen_place place = {.transport = TRANSPORT_TCP, .address = address};

	return listen_open(&place, NULL, failure, err);
}

static int open_place(const struct listen_place *place)
{
	const struct local_socket_rights rights = {0600, (uid_t)-1, (gid_t)-1};
	enum listen_failure failure;
	struct error err = {0};
	int fd = listen_open(place, &rights, &failure, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	return fd;
}

static int open_at(struct address address)
{
	struct listen_place place = {.transport = TRANSPORT_TCP, .address = address};

	return open_place(&place);
}

static int open_listening(struct address address)
{
	struct error err = {0};
	int fd = open_at(address);

	assert_int_equal(listen_start(fd, &plain, &err), 0);
	return fd;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
	return value;
}

/* Two connected sockets through a listener: the accepted one is returned. */
static int accepted_from(int listener, int *client)
{
	struct address address = address_of(listener);
	int fd;

	*client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*client, (struct sockaddr *)&address.storage, address.len), 0);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	return fd;
}

static bool no_ipv6(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct address one = ipv6("::1", 0);
	bool missing = fd < 0 || bind(fd, (struct sockaddr *)&one.storage, one.len) < 0;

	if (fd >= 0)
		close(fd);
	return missing;
}

/* ---- The probe ------------------------------------------------------------------------------ */

static void a_free_port_passes_the_probe_and_stays_free(void **state)
{
	struct error err = {0};
	int fd = open_at(own(0, 0));
	struct address address = address_of(fd);

	(void)state;
	close(fd);
	assert_int_equal(probe(address, &err), 0);
	assert_int_equal(probe(address, &err), 0);
	close(open_listening(address));
}

static void a_port_in_use_is_said_even_if_its_owner_shares_it(void **state)
{
	struct error err = {0};
	int fd = open_listening(own(0, 0));
	struct address address = address_of(fd);
	char wanted[ADDR_TEXT_MAX + 64], text[ADDR_TEXT_MAX];

	(void)state;
	assert_int_equal(probe(address, &err), -1);
	address_format(text, sizeof(text), (struct sockaddr *)&address.storage);
	snprintf(wanted, sizeof(wanted), "cannot listen on %s: Address already in use", text);
	assert_string_equal(err.text, wanted);
	close(fd);
	assert_int_equal(probe(address, &err), 0);
}

static uint16_t port_of(struct address address)
{
	/* sin_port and sin6_port stand at the same place. */
	return ntohs(((struct sockaddr_in *)&address.storage)->sin_port);
}

static void one_address_and_all_addresses_are_in_each_others_way(void **state)
{
	struct error err = {0};
	int one = open_listening(own(0, 0)), all = open_listening(ipv4("0.0.0.0", 0));

	(void)state;
	assert_int_equal(probe(ipv4("0.0.0.0", port_of(address_of(one))), &err), -1);
	assert_int_equal(probe(own(1, port_of(address_of(one))), &err), 0);
	assert_int_equal(probe(own(0, port_of(address_of(all))), &err), -1);
	close(one);
	close(all);
}

static void a_port_whose_connections_wait_to_end_passes_the_probe(void **state)
{
	struct error err = {0};
	int listener = open_listening(own(0, 0)), client;
	struct address address = address_of(listener);
	int fd = accepted_from(listener, &client);
	char byte;

	(void)state;
	/* The side that closes first keeps its port in TIME_WAIT. */
	close(fd);
	assert_int_equal(read(client, &byte, 1), 0);
	close(client);
	close(listener);
	assert_int_equal(probe(address, &err), 0);
}

struct owner {
	struct address address;
	int fd;
	int64_t ms;
};

/* Give the port back after a while, as retiring workers of a dead daemon do. */
static int give_back(void *arg)
{
	struct owner *owner = arg;
	struct timespec while_ms = {0, owner->ms * 1000000};

	nanosleep(&while_ms, NULL);
	close(owner->fd);
	return 0;
}

static void a_port_that_becomes_free_in_time_passes_the_probe(void **state)
{
	struct owner owner = {.ms = 200};
	struct error err = {0};
	pid_t pid;

	(void)state;
	owner.fd = open_listening(own(0, 0));
	owner.address = address_of(owner.fd);
	pid = support_fork(give_back, &owner);
	close(owner.fd);
	assert_int_equal(probe_for(owner.address, 20000, &err), 0);
	assert_int_equal(support_wait(pid), 0);
}

static void a_port_that_stays_in_use_is_tried_for_that_time_only(void **state)
{
	struct error err = {0};
	int fd = open_listening(own(0, 0));
	struct address address = address_of(fd);
	int64_t start = clock_ms();

	(void)state;
	assert_int_equal(probe_for(address, 120, &err), -1);
	assert_in_range(clock_ms() - start, 120, 10000);
	close(fd);
}

static void an_address_of_another_machine_is_said_at_once(void **state)
{
	struct error err = {0};
	/* TEST-NET-3 of RFC 5737. */
	struct address address = ipv4("203.0.113.1", 30333);
	int64_t start = clock_ms();

	(void)state;
	assert_int_equal(probe_for(address, 20000, &err), -1);
	assert_contains(err.text, "cannot listen on 203.0.113.1:30333: ");
	assert_in_range(clock_ms() - start, 0, 15000);
}

static int probe_privileged(void *arg)
{
	struct address address = *(struct address *)arg;
	struct error err = {0};

	if (geteuid() == 0)
		CHILD_CHECK(setresuid(65534, 65534, 65534) == 0);
	/* Where the kernel lets everybody have this port, there is nothing to see. */
	if (probe(address, &err) == 0)
		return 77;
	return err.code == EXIT_PERMISSION ? 0 : 1;
}

static void a_port_that_needs_root_has_its_own_exit_code(void **state)
{
	struct address address = own(0, 1);
	int result = support_in_child(probe_privileged, &address);

	(void)state;
	if (result == 77)
		skip();
	assert_int_equal(result, 0);
}

/* ---- Opening -------------------------------------------------------------------------------- */

static void a_port_is_opened_twice_by_those_who_share_it(void **state)
{
	int one = open_at(own(0, 0)), two;
	struct error err = {0};

	(void)state;
	two = open_at(address_of(one));
	assert_int_equal(listen_start(one, &plain, &err), 0);
	assert_int_equal(listen_start(two, &plain, &err), 0);
	assert_int_equal(option(one, SOL_SOCKET, SO_REUSEPORT), 1);
	assert_int_equal(option(two, SOL_SOCKET, SO_REUSEADDR), 1);
	close(one);
	close(two);
}

static void an_open_socket_does_not_listen_block_or_survive_exec(void **state)
{
	int fd = open_at(own(0, 0));

	(void)state;
	assert_int_equal(option(fd, SOL_SOCKET, SO_ACCEPTCONN), 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
}

static void ipv6_leaves_ipv4_to_others(void **state)
{
	int six, four;

	(void)state;
	if (no_ipv6())
		skip();
	six = open_listening(ipv6("::", 0));
	assert_int_equal(option(six, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	four = open_listening(own(0, port_of(address_of(six))));
	close(six);
	close(four);
}

static void opening_what_is_not_ours_is_said_and_no_lack_of_support(void **state)
{
	struct address four = ipv4("203.0.113.1", 30333);
	struct error err = {0};
	enum listen_failure failure = LISTEN_UNSUPPORTED;

	(void)state;
	assert_int_equal(try_open(four, &failure, &err), -1);
	assert_contains(err.text, "cannot listen on 203.0.113.1:30333: ");
	assert_int_equal(failure, LISTEN_FAILED);
}

static void an_ipv6_address_of_another_machine_is_no_lack_of_support(void **state)
{
	/* RFC 3849: no machine has it. */
	struct address six = ipv6("2001:db8::1", 30333);
	struct error err = {0};
	enum listen_failure failure = LISTEN_UNSUPPORTED;

	(void)state;
	if (no_ipv6())
		skip();
	assert_int_equal(try_open(six, &failure, &err), -1);
	assert_int_equal(failure, LISTEN_FAILED);
}

/* A network of its own whose loopback device is down has no ::1, as where IPv6 is switched off. */
static int probe_without_ipv6(void *arg)
{
	struct address one = *(struct address *)arg;
	struct error err = {0};
	enum listen_failure failure = LISTEN_FAILED;

	if (unshare(geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return 77;
	CHILD_CHECK(try_open(one, &failure, &err) == -1);
	CHILD_CHECK(failure == LISTEN_UNSUPPORTED);
	/*
	 * The probe leaves it to listen_open, whose caller knows whether another address will do.
	 */
	CHILD_CHECK(probe(one, &err) == 0);
	return 0;
}

static void probe_and_open_agree_where_ipv6_is_switched_off(void **state)
{
	struct address one = ipv6("::1", 30333);
	int result = support_in_child(probe_without_ipv6, &one);

	(void)state;
	if (result == 77)
		skip();
	assert_int_equal(result, 0);
}

/* ---- Options -------------------------------------------------------------------------------- */

static void options_are_set_and_can_be_read(void **state)
{
	const struct listen_options options = {
		.nodelay = true, .keepalive_ms = 90500, .defer_accept_ms = 1000, .backlog = 16};
	struct error err = {0};
	int fd = open_listening(own(0, 0));

	(void)state;
	assert_int_equal(listen_set(fd, &options, &err), 0);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	/* The kernel has whole seconds: never fewer than asked. */
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 91);
	assert_true(option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT) >= 1);
	close(fd);
}

static void options_can_be_taken_back_on_a_socket_that_listens(void **state)
{
	const struct listen_options on = {
		.nodelay = true, .keepalive_ms = 1000, .defer_accept_ms = 1000, .backlog = 16};
	const struct listen_options off = {.nodelay = false, .backlog = 16};
	struct error err = {0};
	int fd = open_listening(own(0, 0));

	(void)state;
	assert_int_equal(listen_set(fd, &on, &err), 0);
	assert_int_equal(listen_set(fd, &off, &err), 0);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
	close(fd);
}

static void accepted_connections_inherit_the_options(void **state)
{
	const struct listen_options options = {
		.nodelay = true, .keepalive_ms = 77000, .backlog = 16};
	struct error err = {0};
	int listener = open_at(own(0, 0)), client, fd;

	(void)state;
	assert_int_equal(listen_set(listener, &options, &err), 0);
	assert_int_equal(listen_start(listener, &options, &err), 0);
	fd = accepted_from(listener, &client);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 77);
	close(fd);
	close(client);
	close(listener);
}

static void what_is_no_socket_takes_no_options(void **state)
{
	struct error err = {0};
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(listen_set(ends[0], &plain, &err), -1);
	assert_contains(err.text, "cannot set options");
	assert_int_equal(listen_start(ends[0], &plain, &err), -1);
	assert_contains(err.text, "cannot listen");
	close(ends[0]);
	close(ends[1]);
}

static void starting_again_changes_the_backlog_and_keeps_who_waits(void **state)
{
	const struct listen_options larger = {.backlog = 64};
	struct error err = {0};
	int listener = open_listening(own(0, 0)), client, fd;
	struct address address = address_of(listener);

	(void)state;
	client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address.storage, address.len), 0);
	assert_int_equal(listen_start(listener, &larger, &err), 0);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	close(fd);
	close(client);
	close(listener);
}

/* ---- Who waits ------------------------------------------------------------------------------ */

static int connected_to_address(struct address address)
{
	int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address.storage, address.len), 0);
	return fd;
}

static int connected_to(int listener)
{
	return connected_to_address(address_of(listener));
}

/* The kernel may put a client into the queue a moment after its connect returned. */
static void assert_waiting(int listener, unsigned n)
{
	const struct timespec moment = {0, 1000000};
	int64_t until = clock_ms() + 10000;

	while (listen_waiting(listener) != n && clock_ms() < until)
		nanosleep(&moment, NULL);
	assert_int_equal(listen_waiting(listener), n);
}

static void count_the_queue_of(int listener)
{
	int clients[3], fd;

	assert_int_equal(listen_waiting(listener), 0);
	for (unsigned i = 0; i < COUNT_OF(clients); i++) {
		clients[i] = connected_to(listener);
		assert_waiting(listener, i + 1);
	}
	for (unsigned i = COUNT_OF(clients); i > 0; i--) {
		fd = accept(listener, NULL, NULL);
		assert_true(fd >= 0);
		assert_int_equal(listen_waiting(listener), i - 1);
		close(fd);
		close(clients[i - 1]);
	}
	assert_int_equal(listen_waiting(listener), 0);
}

static void clients_that_wait_are_counted(void **state)
{
	int listener = open_listening(own(0, 0));

	(void)state;
	count_the_queue_of(listener);
	close(listener);
}

static void clients_that_wait_are_counted_over_ipv6_too(void **state)
{
	int listener;

	(void)state;
	if (no_ipv6())
		skip();
	listener = open_listening(ipv6("::1", 0));
	count_the_queue_of(listener);
	close(listener);
}

static void each_socket_of_a_group_has_a_queue_of_its_own(void **state)
{
	int one = open_listening(own(0, 0)), two = open_listening(address_of(one)), fds[20];

	(void)state;
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		fds[i] = connected_to(one);
		while (listen_waiting(one) + listen_waiting(two) < i + 1)
			;
	}
	/* Behind the last accept of one, those of the other still wait. */
	for (unsigned n = listen_waiting(one); n > 0; n--)
		close(accept(one, NULL, NULL));
	assert_int_equal(listen_waiting(one), 0);
	for (unsigned n = listen_waiting(two); n > 0; n--)
		close(accept(two, NULL, NULL));
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		close(fds[i]);
	close(one);
	close(two);
}

static void a_client_that_has_gone_waits_until_it_is_accepted(void **state)
{
	int listener = open_listening(own(0, 0));

	(void)state;
	close(connected_to(listener));
	assert_waiting(listener, 1);
	close(accept(listener, NULL, NULL));
	assert_int_equal(listen_waiting(listener), 0);
	close(listener);
}

static void one_that_is_still_connecting_counts_nothing(void **state)
{
	const struct listen_options small = {.backlog = 0};
	struct error err = {0};
	int listener = open_at(own(0, 0)), one, fd;
	struct address address;

	(void)state;
	assert_int_equal(listen_start(listener, &small, &err), 0);
	address = address_of(listener);
	one = connected_to(listener);
	assert_waiting(listener, 1);
	/* The queue is full, and the kernel does not answer: what was sent is not acknowledged. */
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address.storage, address.len), -1);
	assert_int_equal(errno, EINPROGRESS);
	assert_int_equal(listen_waiting(fd), 0);
	assert_int_equal(listen_waiting(listener), 1);
	close(fd);
	close(one);
	close(listener);
}

static void nobody_waits_where_nobody_listens(void **state)
{
	int bound = open_at(own(0, 0)), listener = open_listening(own(0, 0)), client;
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ends[2], fd;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(listen_waiting(bound), 0);
	assert_int_equal(listen_waiting(udp), 0);
	assert_int_equal(listen_waiting(ends[0]), 0);
	assert_int_equal(listen_waiting(-1), 0);
	/* A connection has numbers in the same place that mean something else. */
	fd = accepted_from(listener, &client);
	assert_int_equal(shutdown(listener, SHUT_RD), 0);
	assert_int_equal(listen_waiting(listener), 0);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(send(client, "hello", 5, MSG_NOSIGNAL), 5);
		assert_int_equal(listen_waiting(client), 0);
		assert_int_equal(listen_waiting(fd), 0);
	}
	close(fd);
	close(client);
	close(bound);
	close(listener);
	close(udp);
	close(ends[0]);
	close(ends[1]);
}

/* ---- Verifying what was handed over --------------------------------------------------------- */

static void a_handed_over_socket_is_known_by_its_address(void **state)
{
	int fd = open_at(own(0, 0));
	struct address address = address_of(fd), other = own(1, 0);
	struct error err = {0};
	bool listening = true;

	(void)state;
	assert_true(listen_verify(fd, TRANSPORT_TCP, &address, &listening));
	assert_false(listening);
	assert_int_equal(listen_start(fd, &plain, &err), 0);
	assert_true(listen_verify(fd, TRANSPORT_TCP, &address, &listening));
	assert_true(listening);
	assert_false(listen_verify(fd, TRANSPORT_TCP, &other, &listening));
	close(fd);
}

static void what_is_no_tcp_socket_is_not_verified(void **state)
{
	struct address address = own(0, 0), bound;
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), pair[2];
	bool listening;

	(void)state;
	assert_int_equal(bind(udp, (struct sockaddr *)&address.storage, address.len), 0);
	bound = address_of(udp);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_false(listen_verify(udp, TRANSPORT_TCP, &bound, &listening));
	assert_false(listen_verify(null, TRANSPORT_TCP, &bound, &listening));
	assert_false(listen_verify(pair[0], TRANSPORT_TCP, &bound, &listening));
	assert_false(listen_verify(-1, TRANSPORT_TCP, &bound, &listening));
	close(udp);
	close(null);
	close(pair[0]);
	close(pair[1]);
}

/* ---- Other transports ----------------------------------------------------------------------- */

static struct listen_place udp_place(struct address address)
{
	return (struct listen_place){.transport = TRANSPORT_UDP, .address = address};
}

static int probe_place(const struct listen_place *place, struct error *err)
{
	enum listen_failure failure;

	return listen_probe(place, 0, &failure, err);
}

static void udp_ports_are_shared_by_us_and_by_nobody_else(void **state)
{
	struct listen_place place = udp_place(own(0, 0));
	int one = open_place(&place), two;
	struct error err = {0};

	(void)state;
	place.address = address_of(one);
	two = open_place(&place);
	assert_int_equal(option(one, SOL_SOCKET, SO_REUSEPORT), 1);
	assert_int_equal(option(two, SOL_SOCKET, SO_REUSEADDR), 0);
	assert_int_equal(listen_start(one, &plain, &err), 0);
	assert_true(listen_is_on(one));
	assert_int_equal(probe_place(&place, &err), -1);
	assert_contains(err.text, "cannot listen on udp:127.");
	/* A TCP port of that number is another one. */
	assert_int_equal(probe(place.address, &err), 0);
	close(one);
	close(two);
	assert_int_equal(probe_place(&place, &err), 0);
}

static void udp_sockets_have_room_for_bursts(void **state)
{
	const struct listen_options passed = {.passed = true}, small = {.receive_buffer = 65536};
	struct listen_place place = udp_place(own(0, 0));
	struct error err = {0};
	int fd = open_place(&place), usual = option(fd, SOL_SOCKET, SO_RCVBUF), most = 2 << 20;
	int other = open_place(&place);
	bool may = setsockopt(other, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most)) == 0;

	(void)state;
	assert_int_equal(listen_set(fd, &passed, &err), 0);
	assert_int_equal(option(fd, SOL_SOCKET, SO_RCVBUF), usual);
	assert_int_equal(listen_set(fd, &plain, &err), 0);
	assert_int_equal(option(fd, SOL_SOCKET, SO_RCVBUF),
			 may && usual < 2 * most ? 2 * most : usual);
	assert_int_equal(listen_set(fd, &small, &err), 0);
	assert_int_equal(option(fd, SOL_SOCKET, SO_RCVBUF), 131072);
	close(other);
	close(fd);
}

/* In a network of its own there are few ports to choose from: sharing would show. */
static int choose_udp_ports(void *arg)
{
	struct listen_place place = udp_place(ipv4("127.0.0.1", 0));
	enum listen_failure failure;
	struct error err = {0};
	int range, up;
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};

	(void)arg;
	if (unshare(geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return 77;
	range = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC);
	up = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (range < 0 || write(range, "40000 40003", 11) != 11 || ioctl(up, SIOCSIFFLAGS, &lo) < 0)
		return 77;
	for (int i = 0; i < 4; i++)
		CHILD_CHECK(listen_open(&place, NULL, &failure, &err) >= 0);
	CHILD_CHECK(listen_open(&place, NULL, &failure, &err) == -1);
	CHILD_CHECK(failure == LISTEN_IN_USE);
	return 0;
}

static void a_port_that_the_kernel_chooses_is_not_one_that_we_have(void **state)
{
	int result = support_in_child(choose_udp_ports, NULL);

	(void)state;
	if (result == 77)
		skip();
	assert_int_equal(result, 0);
}

static void ports_of_the_kernels_choice_can_be_shared(void **state)
{
	int one = open_at(own(0, 0)), two = open_at(address_of(one)), clients = 17;
	struct error err = {0};
	int fds[17], of_two = 0, fd;

	(void)state;
	assert_int_equal(listen_start(one, &plain, &err), 0);
	assert_int_equal(listen_start(two, &plain, &err), 0);
	for (int i = 0; i < clients; i++)
		fds[i] = connected_to(one);
	while ((fd = accept4(two, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		close(fd);
		of_two++;
	}
	assert_in_range(of_two, 1, clients - 1);
	for (int i = 0; i < clients; i++)
		close(fds[i]);
	close(one);
	close(two);
}

static void datagrams_tell_where_they_were_sent_to(void **state)
{
	struct listen_place place = udp_place(own(0, 0));
	int fd = open_place(&place);

	(void)state;
	assert_int_equal(option(fd, IPPROTO_IP, IP_PKTINFO), 1);
	assert_int_equal(option(fd, IPPROTO_IP, IP_RECVTTL), 1);
	assert_int_equal(option(fd, IPPROTO_IP, IP_RECVTOS), 1);
	close(fd);
	if (no_ipv6())
		return;
	place.address = ipv6("::", 0);
	place.both_families = true;
	fd = open_place(&place);
	assert_int_equal(option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO), 1);
	assert_int_equal(option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT), 1);
	assert_int_equal(option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS), 1);
	assert_int_equal(option(fd, IPPROTO_IP, IP_PKTINFO), 1);
	close(fd);
}

static void waiting_datagrams_are_seen(void **state)
{
	struct listen_place place = udp_place(own(0, 0));
	int fd = open_place(&place), client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct address address = address_of(fd);
	char byte;

	(void)state;
	assert_int_equal(listen_waiting(fd), 0);
	assert_int_equal(
		sendto(client, "x", 1, 0, (struct sockaddr *)&address.storage, address.len), 1);
	assert_waiting(fd, 1);
	assert_int_equal(recv(fd, &byte, 1, 0), 1);
	assert_int_equal(listen_waiting(fd), 0);
	close(client);
	close(fd);
}

static void a_datagram_socket_that_was_connected_is_healed(void **state)
{
	struct listen_place place = udp_place(own(0, 0));
	int fd = open_place(&place);
	struct address address = address_of(fd), after, peer = own(1, 7);
	struct error err = {0};

	(void)state;
	assert_true(listen_is_on(fd));
	assert_int_equal(connect(fd, (struct sockaddr *)&peer.storage, peer.len), 0);
	assert_false(listen_is_on(fd));
	assert_int_equal(listen_start(fd, &plain, &err), 0);
	assert_true(listen_is_on(fd));
	after = address_of(fd);
	assert_true(address_equal(&address, &after));
	close(fd);
}

/* What the client sent with its SYN: a worker asks an accepted socket for it. */
static void an_accepted_socket_knows_the_ttl_and_tos_of_its_client(void **state)
{
	int listener = open_listening(own(0, 0)), fd, client, ttl = 77, tos = 0x28;
	struct address address = address_of(listener);
	_Alignas(struct cmsghdr) char data[256];
	struct msghdr message = {.msg_control = data};
	socklen_t len = sizeof(data);
	int seen = 0;

	(void)state;
	client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_TTL, &ttl, sizeof(ttl)), 0);
	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_TOS, &tos, sizeof(tos)), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address.storage, address.len), 0);
	fd = accept(listener, NULL, NULL);
	assert_int_equal(getsockopt(fd, IPPROTO_IP, IP_PKTOPTIONS, data, &len), 0);
	message.msg_controllen = len;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
		if (c->cmsg_type == IP_TTL)
			seen += *(int *)CMSG_DATA(c) == ttl;
		if (c->cmsg_type == IP_TOS)
			seen += *CMSG_DATA(c) == tos;
	}
	assert_int_equal(seen, 2);
	close(fd);
	close(client);
	close(listener);
}

static void sockets_can_be_bound_to_an_interface(void **state)
{
	struct listen_place place = {.address = own(0, 0), .device = "lo"};
	enum listen_failure failure;
	struct error err = {0};
	char name[IF_NAMESIZE];
	socklen_t len = sizeof(name);
	int fd = listen_open(&place, NULL, &failure, &err);

	(void)state;
	if (fd < 0 && err.code == EXIT_PERMISSION)
		skip();
	assert_true(fd >= 0);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len), 0);
	assert_string_equal(name, "lo");
	close(fd);
	snprintf(place.device, sizeof(place.device), "no-such-device");
	assert_int_equal(listen_open(&place, NULL, &failure, &err), -1);
	assert_contains(err.text, "cannot bind to the interface of 127.");
	assert_contains(err.text, "%no-such-device:0: No such device");
}

static void one_socket_serves_both_families_where_it_shall(void **state)
{
	struct listen_place place = {.address = ipv6("::", 0), .both_families = true};
	struct error err = {0};
	int fd, client;

	(void)state;
	if (no_ipv6())
		skip();
	fd = open_place(&place);
	assert_int_equal(listen_start(fd, &plain, &err), 0);
	client = connected_to_address(own(0, port_of(address_of(fd))));
	assert_true(client >= 0);
	close(client);
	close(fd);
}

static void mptcp_is_used_where_there_is_one(void **state)
{
	const struct listen_options options = {.nodelay = true,
					       .keepalive_ms = 1000,
					       .defer_accept_ms = 1000,
					       .user_timeout_ms = 1000,
					       .tos = 16,
					       .ttl = 64,
					       .mss = 1000,
					       .backlog = 16};
	struct listen_place place = {.address = own(0, 0), .mptcp = true};
	int fd = open_place(&place), two, protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
	struct address address = address_of(fd);
	struct error err = {0};
	bool listening;

	(void)state;
	assert_true(protocol == IPPROTO_TCP || protocol == 262);
	/* Other sockets of the group are bound to its port. */
	place.address = address;
	two = open_place(&place);
	assert_int_equal(listen_set(fd, &options, &err), 0);
	assert_int_equal(listen_start(fd, &options, &err), 0);
	assert_int_equal(listen_start(two, &options, &err), 0);
	assert_true(listen_is_on(fd));
	assert_true(listen_verify(fd, TRANSPORT_TCP, &address, &listening));
	assert_true(listening);
	close(connected_to(fd));
	close(fd);
	close(two);
}

static void more_options_are_set_and_can_be_read(void **state)
{
	const struct listen_options options = {.user_timeout_ms = 5000,
					       .fastopen = 7,
					       .mss = 1000,
					       .receive_buffer = 65536,
					       .send_buffer = 32768,
					       .tos = 0x28,
					       .ttl = 33,
					       .backlog = 16};
	const struct listen_options none = {.backlog = 16};
	const struct listen_options passed = {.backlog = 16, .passed = true};
	struct error err = {0};
	int fd = open_at(own(0, 0)), usual = option(fd, IPPROTO_IP, IP_TTL);

	(void)state;
	assert_int_equal(listen_set(fd, &options, &err), 0);
	assert_int_equal(listen_set(fd, &passed, &err), 0);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 5000);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_FASTOPEN), 7);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_MAXSEG), 1000);
	/* The kernel doubles it for its own needs (socket(7)). */
	assert_int_equal(option(fd, SOL_SOCKET, SO_RCVBUF), 131072);
	assert_int_equal(option(fd, SOL_SOCKET, SO_SNDBUF), 65536);
	assert_int_equal(option(fd, IPPROTO_IP, IP_TOS), 0x28);
	assert_int_equal(option(fd, IPPROTO_IP, IP_TTL), 33);
	assert_int_equal(listen_set(fd, &none, &err), 0);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_FASTOPEN), 0);
	assert_int_equal(option(fd, IPPROTO_IP, IP_TOS), 0);
	assert_int_equal(option(fd, IPPROTO_IP, IP_TTL), usual);
	close(fd);
}

static void an_option_that_cannot_be_set_is_said_with_its_address(void **state)
{
	const struct listen_options options = {.mss = 1, .backlog = 16};
	struct error err = {0};
	int fd = open_at(own(0, 0));

	(void)state;
	assert_int_equal(listen_set(fd, &options, &err), -1);
	assert_contains(err.text, "cannot set TCP_MAXSEG on 127.");
	assert_contains(err.text, ": Invalid argument");
	close(fd);
}

/* ---- Unix sockets --------------------------------------------------------------------------- */

static struct listen_place unix_place(enum transport transport, const char *text)
{
	struct endpoint endpoint = {.transport = transport};
	struct listen_place place = {.transport = transport};
	struct error err = {0};

	assert_true(strlen(text) < sizeof(endpoint.path));
	snprintf(endpoint.path, sizeof(endpoint.path), "%s", text);
	assert_int_equal(endpoint_resolve(&endpoint, &place.address, 1, &err), 1);
	return place;
}

static struct listen_place file_place(enum transport transport, const char *directory, char *path)
{
	support_join(path, directory, "s");
	return unix_place(transport, path);
}

static void a_stale_file_is_removed_by_the_probe(void **state)
{
	static const enum transport kinds[] = {TRANSPORT_UNIX, TRANSPORT_UNIXGRAM};
	char path[SUPPORT_PATH_MAX];

	for (size_t i = 0; i < COUNT_OF(kinds); i++) {
		struct listen_place place = file_place(kinds[i], *state, path);
		struct error err = {0};

		close(open_place(&place));
		assert_int_equal(access(path, F_OK), 0);
		support_log_capture();
		assert_int_equal(probe_place(&place, &err), 0);
		assert_int_equal(access(path, F_OK), -1);
		assert_int_equal(support_log_count("left behind"), 1);
	}
}

static void a_socket_of_somebody_is_left_alone(void **state)
{
	static const enum transport kinds[] = {TRANSPORT_UNIX, TRANSPORT_UNIXGRAM};
	char path[SUPPORT_PATH_MAX];

	for (size_t i = 0; i < COUNT_OF(kinds); i++) {
		struct listen_place place = file_place(kinds[i], *state, path);
		struct listen_place other = file_place(kinds[1 - i], *state, path);
		struct error err = {0};
		int fd = open_place(&place);

		/* Bound is enough: before it listens, it refuses as a stale one does. */
		assert_int_equal(probe_place(&place, &err), -1);
		assert_contains(err.text, "another process listens at the socket ");
		assert_int_equal(listen_start(fd, &plain, &err), 0);
		assert_int_equal(probe_place(&place, &err), -1);
		assert_int_equal(probe_place(&other, &err), -1);
		assert_int_equal(access(path, F_OK), 0);
		close(fd);
		assert_int_equal(probe_place(&place, &err), 0);
	}
}

static void what_is_no_socket_is_left_alone(void **state)
{
	char path[SUPPORT_PATH_MAX], target[SUPPORT_PATH_MAX];
	struct listen_place place = file_place(TRANSPORT_UNIX, *state, path);
	struct error err = {0};
	struct stat st;

	support_write_file(path, "precious");
	assert_int_equal(probe_place(&place, &err), -1);
	assert_contains(err.text, "is no socket");
	assert_int_equal(rename(path, (support_join(target, *state, "t"), target)), 0);
	assert_int_equal(symlink(target, path), 0);
	assert_int_equal(probe_place(&place, &err), -1);
	assert_contains(err.text, "is no socket");
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
}

static void a_unix_socket_has_its_rights_and_can_change_them(void **state)
{
	const struct local_socket_rights open_to_all = {0666, (uid_t)-1, (gid_t)-1};
	char path[SUPPORT_PATH_MAX];
	struct listen_place place = file_place(TRANSPORT_UNIX, *state, path);
	int fd = open_place(&place);
	struct local_socket_file file = local_socket_look(path), other = {file.device, 1};
	struct error err = {0};
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(local_socket_set_rights(path, file, &open_to_all, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0666);
	assert_int_equal(local_socket_set_rights(path, other, &open_to_all, &err), -1);
	local_socket_remove(path, other);
	assert_int_equal(access(path, F_OK), 0);
	local_socket_remove(path, file);
	assert_int_equal(access(path, F_OK), -1);
	close(fd);
}

static void abstract_names_need_no_file(void **state)
{
	struct listen_place place;
	struct error err = {0};
	bool listening = true;
	char name[64];
	int fd;

	(void)state;
	snprintf(name, sizeof(name), "@echod-unit-%d", (int)getpid());
	place = unix_place(TRANSPORT_UNIX, name);
	assert_int_equal(probe_place(&place, &err), 0);
	fd = open_place(&place);
	assert_int_equal(probe_place(&place, &err), -1);
	assert_contains(err.text, "cannot listen on unix:@echod-unit-");
	assert_true(listen_verify(fd, TRANSPORT_UNIX, &place.address, &listening));
	assert_false(listening);
	assert_false(listen_verify(fd, TRANSPORT_UNIXGRAM, &place.address, &listening));
	assert_int_equal(listen_start(fd, &plain, &err), 0);
	assert_true(listen_is_on(fd));
	assert_int_equal(listen_set(fd, &plain, &err), 0);
	close(connected_to(fd));
	/* The kernel does not tell how many wait. */
	assert_int_equal(listen_waiting(fd), 0);
	close(fd);
}

static void what_somebody_passes_is_identified(void **state)
{
	struct listen_place place, udp = udp_place(own(0, 0));
	int fd = open_at(own(0, 0)), datagrams = open_place(&udp), pair[2], ends[2];
	struct error err = {0};

	(void)state;
	assert_int_equal(listen_identify(fd, &place, &err), 0);
	assert_int_equal(place.transport, TRANSPORT_TCP);
	assert_int_equal(port_of(place.address), port_of(address_of(fd)));
	assert_int_equal(listen_identify(datagrams, &place, &err), 0);
	assert_int_equal(place.transport, TRANSPORT_UDP);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(listen_identify(pair[0], &place, &err), -1);
	assert_contains(err.text, "is a connection");
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(listen_identify(ends[0], &place, &err), -1);
	assert_contains(err.text, "is no socket");
	close(fd);
	close(datagrams);
	for (int i = 0; i < 2; i++) {
		close(pair[i]);
		close(ends[i]);
	}
}

#define IN_DIRECTORY(test)                                                                         \
	cmocka_unit_test_setup_teardown(test, support_make_directory, support_remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_free_port_passes_the_probe_and_stays_free),
		cmocka_unit_test(a_port_in_use_is_said_even_if_its_owner_shares_it),
		cmocka_unit_test(one_address_and_all_addresses_are_in_each_others_way),
		cmocka_unit_test(a_port_whose_connections_wait_to_end_passes_the_probe),
		cmocka_unit_test(a_port_that_becomes_free_in_time_passes_the_probe),
		cmocka_unit_test(a_port_that_stays_in_use_is_tried_for_that_time_only),
		cmocka_unit_test(an_address_of_another_machine_is_said_at_once),
		cmocka_unit_test(a_port_that_needs_root_has_its_own_exit_code),
		cmocka_unit_test(a_port_is_opened_twice_by_those_who_share_it),
		cmocka_unit_test(an_open_socket_does_not_listen_block_or_survive_exec),
		cmocka_unit_test(ipv6_leaves_ipv4_to_others),
		cmocka_unit_test(opening_what_is_not_ours_is_said_and_no_lack_of_support),
		cmocka_unit_test(an_ipv6_address_of_another_machine_is_no_lack_of_support),
		cmocka_unit_test(probe_and_open_agree_where_ipv6_is_switched_off),
		cmocka_unit_test(options_are_set_and_can_be_read),
		cmocka_unit_test(options_can_be_taken_back_on_a_socket_that_listens),
		cmocka_unit_test(accepted_connections_inherit_the_options),
		cmocka_unit_test(what_is_no_socket_takes_no_options),
		cmocka_unit_test(starting_again_changes_the_backlog_and_keeps_who_waits),
		cmocka_unit_test(clients_that_wait_are_counted),
		cmocka_unit_test(clients_that_wait_are_counted_over_ipv6_too),
		cmocka_unit_test(each_socket_of_a_group_has_a_queue_of_its_own),
		cmocka_unit_test(a_client_that_has_gone_waits_until_it_is_accepted),
		cmocka_unit_test(one_that_is_still_connecting_counts_nothing),
		cmocka_unit_test(nobody_waits_where_nobody_listens),
		cmocka_unit_test(a_handed_over_socket_is_known_by_its_address),
		cmocka_unit_test(what_is_no_tcp_socket_is_not_verified),
		cmocka_unit_test(udp_ports_are_shared_by_us_and_by_nobody_else),
		cmocka_unit_test(udp_sockets_have_room_for_bursts),
		cmocka_unit_test(a_port_that_the_kernel_chooses_is_not_one_that_we_have),
		cmocka_unit_test(ports_of_the_kernels_choice_can_be_shared),
		cmocka_unit_test(datagrams_tell_where_they_were_sent_to),
		cmocka_unit_test(waiting_datagrams_are_seen),
		cmocka_unit_test(a_datagram_socket_that_was_connected_is_healed),
		cmocka_unit_test(an_accepted_socket_knows_the_ttl_and_tos_of_its_client),
		cmocka_unit_test(sockets_can_be_bound_to_an_interface),
		cmocka_unit_test(one_socket_serves_both_families_where_it_shall),
		cmocka_unit_test(mptcp_is_used_where_there_is_one),
		cmocka_unit_test(more_options_are_set_and_can_be_read),
		cmocka_unit_test(an_option_that_cannot_be_set_is_said_with_its_address),
		IN_DIRECTORY(a_stale_file_is_removed_by_the_probe),
		IN_DIRECTORY(a_socket_of_somebody_is_left_alone),
		IN_DIRECTORY(what_is_no_socket_is_left_alone),
		IN_DIRECTORY(a_unix_socket_has_its_rights_and_can_change_them),
		cmocka_unit_test(abstract_names_need_no_file),
		cmocka_unit_test(what_somebody_passes_is_identified),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
