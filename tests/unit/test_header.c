/* Connections that begin with a PROXY header, or might: who the client is then, and to whom. */
#include "server_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "os/memory_file.h"

#define V1	  "PROXY TCP4 192.0.2.1 198.51.100.1 4711 80\r\n"
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

/* A header, with its length: that of version 2 has zeroes in it. */
struct bytes {
	unsigned char data[70000];
	size_t len;
};

static struct bytes *text(const char *what)
{
	struct bytes *bytes = calloc(1, sizeof(*bytes));

	assert_non_null(bytes);
	bytes->len = strlen(what);
	memcpy(bytes->data, what, bytes->len);
	return bytes;
}

/* Version 2, TCP over IPv4, from 192.0.2.2:4712, with a PP2_TYPE_NOOP of so many bytes. */
static struct bytes *v2(size_t padding)
{
	struct bytes *bytes = calloc(1, sizeof(*bytes));
	const unsigned char addresses[12] = {192, 0, 2, 2, 198, 51, 100, 1, 4712 >> 8, 4712 & 255};
	size_t rest = sizeof(addresses) + (padding > 0 ? 3 + padding : 0);

	assert_non_null(bytes);
	memcpy(bytes->data, SIGNATURE, 12);
	bytes->data[12] = 0x21;
	bytes->data[13] = 0x11;
	bytes->data[14] = (unsigned char)(rest >> 8);
	bytes->data[15] = (unsigned char)rest;
	memcpy(bytes->data + 16, addresses, sizeof(addresses));
	if (padding > 0) {
		bytes->data[28] = 4;
		bytes->data[29] = (unsigned char)(padding >> 8);
		bytes->data[30] = (unsigned char)padding;
	}
	bytes->len = 16 + rest;
	return bytes;
}

/* The same command as LOCAL: the proxy speaks for itself. */
static struct bytes *v2_local(void)
{
	struct bytes *bytes = v2(0);

	bytes->data[12] = 0x20;
	return bytes;
}

static void append(struct bytes *bytes, const char *what)
{
	assert_true(bytes->len + strlen(what) <= sizeof(bytes->data));
	memcpy(bytes->data + bytes->len, what, strlen(what));
	bytes->len += strlen(what);
}

static const struct network loopback = {AF_INET, {127, 0, 0, 0}, 24};

/* Headers are allowed from 127.0.0.0/24, and so not from 127.0.1.1. */
static struct server_settings behind(enum server_proxy proxy)
{
	struct server_settings settings = lines();

	settings.proxy = proxy;
	settings.proxy_from = &loopback;
	settings.proxy_from_count = 1;
	return settings;
}

static int strange_client(struct fixture *f)
{
	return client_from(f, "127.0.1.1");
}

static void assert_served(struct fixture *f, int fd)
{
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	close(fd);
}

static void assert_refused(struct fixture *f, int fd)
{
	assert_end(f, fd);
	close(fd);
}

/* ---- Headers, whole and cut ----------------------------------------------------------------- */

static struct bytes *header_of_kind(int kind)
{
	switch (kind) {
	case 0:
		return text(V1);
	case 1:
		return text("PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n");
	case 2:
		return text("PROXY UNKNOWN\r\n");
	case 3:
		return v2(0);
	case 4:
		return v2_local();
	case 5:
		return v2(300);
	default:
		return NULL;
	}
}

/* In two pieces, cut behind `cut` bytes; the server has read the first when the second comes. */
static void exchange_cut(struct fixture *f, const struct bytes *bytes, size_t cut)
{
	uint64_t in = COUNT(f, bytes_in);
	int fd = client(f);

	client_send(f, fd, bytes->data, cut);
	run_until(f, &f->counters.bytes_in, in + cut);
	client_send(f, fd, bytes->data + cut, bytes->len - cut);
	assert_hears(f, fd, "hello\nworld\n");
	close(fd);
}

static void a_header_may_be_cut_anywhere(void **state)
{
	struct fixture *f = *state;
	struct bytes *bytes;
	uint64_t n = 0;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	for (int kind = 0; (bytes = header_of_kind(kind)) != NULL; kind++) {
		append(bytes, "hello\nworld\n");
		for (size_t cut = 0; cut <= bytes->len; cut += cut < 60 ? 1 : 50) {
			exchange_cut(f, bytes, cut);
			n++;
		}
		free(bytes);
	}
	run_until(f, &f->counters.closed, n);
	assert_int_equal(COUNT(f, requests), 2 * n);
	assert_int_equal(COUNT(f, proxy_errors), 0);
	assert_int_equal(COUNT(f, refused_proxy), 0);
	assert_int_equal(COUNT(f, resets), 0);
}

static void a_header_may_come_byte_by_byte(void **state)
{
	struct fixture *f = *state;
	struct bytes *bytes;

	serve(f, behind(SERVER_PROXY_OPTIONAL));
	for (int kind = 0; (bytes = header_of_kind(kind)) != NULL; kind++) {
		uint64_t in = COUNT(f, bytes_in);
		int fd = client(f);

		for (size_t i = 0; i < bytes->len; i++) {
			client_send(f, fd, bytes->data + i, 1);
			run_until(f, &f->counters.bytes_in, in + i + 1);
		}
		assert_hears_nothing(f, fd);
		assert_served(f, fd);
		free(bytes);
	}
}

static void a_header_of_60_kb_is_read_and_its_line_answered(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	struct bytes *bytes = v2(65000);
	int fd;

	append(bytes, "hello\n");
	settings.max_pending = 4 * KIB; /* so it is read in small pieces */
	serve(f, settings);
	fd = client(f);
	client_send(f, fd, bytes->data, bytes->len);
	assert_hears(f, fd, "hello\n");
	close(fd);
	free(bytes);
}

static void a_header_and_the_end_of_file_are_a_client_that_says_nothing(void **state)
{
	struct fixture *f = *state;
	struct bytes *bytes;
	uint64_t n = 0;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	for (int kind = 0; (bytes = header_of_kind(kind)) != NULL; kind++) {
		int fd = client(f);

		client_send(f, fd, bytes->data, bytes->len);
		shutdown(fd, SHUT_WR);
		assert_refused(f, fd);
		fd = client(f);
		append(bytes, "a tail");
		client_send(f, fd, bytes->data, bytes->len);
		shutdown(fd, SHUT_WR);
		assert_hears(f, fd, "a tail");
		assert_refused(f, fd);
		n += 2;
		free(bytes);
	}
	run_until(f, &f->counters.closed, n);
	assert_int_equal(COUNT(f, refused_proxy), 0);
	assert_int_equal(COUNT(f, proxy_errors), 0);
}

/* ---- What is no header ---------------------------------------------------------------------- */

static void where_a_header_is_required_everything_else_is_refused(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	fd = client(f);
	client_say(f, fd, "hello\n");
	assert_refused(f, fd);
	fd = client(f);
	client_say(f, fd, "PROXX");
	assert_refused(f, fd);
	fd = client(f);
	client_say(f, fd, "PRO");
	shutdown(fd, SHUT_WR);
	assert_refused(f, fd);
	fd = client(f);
	shutdown(fd, SHUT_WR);
	assert_refused(f, fd);
	run_until(f, &f->counters.closed, 4);
	assert_int_equal(COUNT(f, refused_proxy), 4);
	assert_int_equal(COUNT(f, requests), 0);
	assert_int_equal(COUNT(f, bytes_out), 0);
	assert_int_equal(support_log_count("refused: proxy_protocol: what came is no PROXY"), 2);
	assert_int_equal(support_log_count("refused: proxy_protocol: the client left before"), 2);
}

static void a_client_that_may_not_send_a_header_is_refused_where_one_is_required(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	int fd;

	settings.refusal = SERVER_MESSAGE;
	f->speaks = true;
	serve(f, settings);
	fd = strange_client(f);
	client_say(f, fd, V1 "hello\n");
	assert_hears(f, fd, "echod: refused: a PROXY header is required\r\n");
	assert_refused(f, fd);
	assert_int_equal(COUNT(f, refused_proxy), 1);
	assert_int_equal(COUNT(f, requests), 0);
	assert_contains(support_log_text(), "proxy_from does not name this address");
}

static void a_malformed_header_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	static const char *const wrong[] = {
		"PROXY TCP4 192.0.2.1 198.51.100.1 4711 65536\r\n",
		"PROXY TCP4 192.0.2.256 198.51.100.1 4711 80\r\n",
		"PROXY TCP6 192.0.2.1 198.51.100.1 4711 80\r\n",
		"PROXY \r\n",
	};
	struct bytes *bytes = v2(0);
	int fd;

	serve(f, behind(SERVER_PROXY_OPTIONAL));
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		fd = client(f);
		client_say(f, fd, wrong[i]);
		assert_refused(f, fd);
	}
	bytes->data[12] = 0x31;
	fd = client(f);
	client_send(f, fd, bytes->data, bytes->len);
	assert_refused(f, fd);
	assert_int_equal(COUNT(f, proxy_errors), COUNT_OF(wrong) + 1);
	assert_int_equal(COUNT(f, closed), COUNT_OF(wrong) + 1);
	/* One line of the log for each. */
	assert_int_equal(support_log_count("malformed PROXY header: "), COUNT_OF(wrong) + 1);
	assert_int_equal(support_log_count("connection from "), COUNT_OF(wrong) + 1);
	free(bytes);
}

static void without_proxy_protocol_a_header_is_what_the_client_says(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_OFF));
	fd = client(f);
	client_say(f, fd, V1);
	assert_hears(f, fd, V1);
	assert_served(f, fd);
}

static void an_optional_header_of_a_client_that_may_not_send_it_is_what_he_says(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_OPTIONAL));
	fd = strange_client(f);
	client_say(f, fd, V1);
	assert_hears(f, fd, V1);
	assert_served(f, fd);
	assert_int_equal(COUNT(f, refused_proxy), 0);
}

static void an_optional_header_may_be_missing(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_OPTIONAL));
	fd = client(f);
	assert_served(f, fd);
	fd = client(f);
	client_say(f, fd, "PRO");
	run_until(f, &f->counters.bytes_in, 9);
	client_say(f, fd, "TO\nand\n");
	assert_hears(f, fd, "PROTO\nand\n");
	assert_served(f, fd);
	/* The beginning of one, and then the end. */
	fd = client(f);
	client_say(f, fd, "PROX");
	shutdown(fd, SHUT_WR);
	assert_hears(f, fd, "PROX");
	assert_refused(f, fd);
	fd = client(f);
	shutdown(fd, SHUT_WR);
	assert_refused(f, fd);
	run_until(f, &f->counters.closed, 4);
	assert_int_equal(COUNT(f, requests), 5);
}

/* Those who wait all wait at the same time: 5 s. */
static void what_looks_like_an_optional_header_for_too_long_is_answered_as_it_is(void **state)
{
	struct fixture *f = *state;
	int silent, empty_lines, tail, leaving;

	serve(f, behind(SERVER_PROXY_OPTIONAL));
	silent = client(f);
	empty_lines = client(f);
	tail = client(f);
	leaving = client(f);
	client_say(f, empty_lines, "\r\n\r\n"); /* version 2 begins like this */
	client_say(f, tail, "PROXY");
	client_say(f, leaving, "P");
	run_until(f, &f->counters.bytes_in, 10);
	close(leaving);
	assert_hears(f, empty_lines, "\r\n\r\n");
	assert_int_equal(COUNT(f, requests), 3); /* with the tail of the one that left */
	assert_served(f, empty_lines);
	client_say(f, tail, " is what I say\n");
	assert_hears(f, tail, "PROXY is what I say\n");
	assert_served(f, tail);
	assert_served(f, silent);
	assert_int_equal(COUNT(f, refused_proxy), 0);
	assert_int_equal(COUNT(f, requests), 7);
}

static void a_required_header_that_does_not_come_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	int64_t begun = clock_ms();
	int silent, slow;

	settings.refusal = SERVER_MESSAGE;
	f->speaks = true;
	serve(f, settings);
	silent = client(f);
	slow = client(f);
	/* What comes does not put it off. */
	for (size_t i = 0; i < 20; i++) {
		client_send(f, slow, &V1[i], 1);
		run_for(f, 100);
	}
	assert_hears(f, silent, "echod: refused: a PROXY header is required\r\n");
	assert_refused(f, silent);
	assert_hears(f, slow, "echod: refused: a PROXY header is required\r\n");
	assert_refused(f, slow);
	assert_true(clock_ms() - begun >= 4900);
	assert_int_equal(COUNT(f, refused_proxy), 2);
	assert_int_equal(support_log_count("refused: proxy_protocol: no PROXY header came"), 2);
}

/* ---- The real client ------------------------------------------------------------------------ */

static void access_is_about_the_real_client(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	struct access_list list = {0};
	struct error err = {0};
	struct bytes *local = v2_local();
	int fd;

	assert_int_equal(access_add(&list, "deny 127.0.0.0/8", "here:1", &err), 0);
	assert_int_equal(access_add(&list, "deny 192.0.2.1", "here:2", &err), 0);
	settings.access[1] = &list;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, V1 "hello\n");
	assert_refused(f, fd);
	fd = client(f);
	client_say(f, fd, "PROXY TCP4 192.0.2.3 198.51.100.1 4711 80\r\n");
	assert_served(f, fd);
	/* The proxy itself is a client like any other. */
	fd = client(f);
	client_send(f, fd, local->data, local->len);
	assert_refused(f, fd);
	assert_int_equal(COUNT(f, refused_access), 2);
	assert_contains(support_log_text(), "connection from 192.0.2.1:4711 (by 127.0.0.1:");
	assert_contains(support_log_text(), "refused: access: 'deny 192.0.2.1' at here:2");
	access_clear(&list);
	free(local);
}

/*
 * Bytes that came before a reset can still be read, when the kernel has already forgotten who sent
 * them.
 */
static void a_reset_does_not_hide_who_came_without_a_header(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_OPTIONAL);
	struct access_list list = {0};
	struct error err = {0};
	int fd, other;

	assert_int_equal(access_add(&list, "deny 127.0.0.1", "here:1", &err), 0);
	settings.access[1] = &list;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	other = client(f);
	run_until(f, &f->counters.accepted, 2);
	client_say(f, fd, "hello\n");
	client_reset(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, refused_access), 1);
	assert_int_equal(COUNT(f, requests), 0);
	assert_contains(support_log_text(), "connection from 127.0.0.1:");
	access_clear(&list);
	close(other);
}

static void limits_are_about_the_real_client(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	const struct limits_rules rules = {.connections_per_source = 1};
	struct error err = {0};
	int table = memory_file_shared("limits", limits_size(1), &err), one, two;
	struct limits *limits = limits_open(table, 1, 0, &rules, &err);
	struct bytes *bytes = v2(0);

	assert_non_null(limits);
	settings.limits[1] = limits;
	serve(f, settings);
	one = client(f);
	client_say(f, one, V1 "hello\n");
	assert_hears(f, one, "hello\n");
	two = client(f);
	client_say(f, two, V1 "hello\n");
	assert_refused(f, two);
	assert_int_equal(COUNT(f, refused_source), 1);
	two = client(f);
	client_send(f, two, bytes->data, bytes->len);
	assert_served(f, two);
	assert_served(f, one);
	run_until(f, &f->counters.closed, 3);
	assert_int_equal(limits_connections(limits), 0);
	server_free(f->server);
	f->server = NULL;
	limits_close(limits);
	close(table);
	free(bytes);
}

static void who_waits_for_a_header_holds_no_limit(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	const struct limits_rules rules = {.connections = 1};
	struct error err = {0};
	int table = memory_file_shared("limits", limits_size(1), &err), waits, fd;
	struct limits *limits = limits_open(table, 1, 0, &rules, &err);

	assert_non_null(limits);
	settings.limits[1] = limits;
	serve(f, settings);
	waits = client(f);
	fd = client(f);
	client_say(f, fd, V1 "hello\n");
	assert_hears(f, fd, "hello\n");
	client_say(f, waits, V1);
	assert_refused(f, waits);
	assert_served(f, fd);
	run_until(f, &f->counters.closed, 2);
	server_free(f->server);
	f->server = NULL;
	limits_close(limits);
	close(table);
}

static void the_log_names_the_client_and_its_proxy(void **state)
{
	struct fixture *f = *state;
	struct bytes *bytes = v2(0);
	int fd;

	log_set_level(LOG_LEVEL_INFO);
	serve(f, behind(SERVER_PROXY_REQUIRED));
	fd = client(f);
	client_say(f, fd, V1);
	assert_served(f, fd);
	fd = client(f);
	client_send(f, fd, bytes->data, bytes->len);
	assert_served(f, fd);
	fd = client(f);
	client_say(f, fd, "PROXY TCP6 2001:db8::1 2001:db8::2 4713 80\r\n");
	assert_served(f, fd);
	fd = client(f);
	client_say(f, fd, "PROXY UNKNOWN\r\n");
	assert_served(f, fd);
	run_until(f, &f->counters.closed, 4);
	assert_contains(support_log_text(), "connection from 192.0.2.1:4711 (by 127.0.0.1:");
	assert_contains(support_log_text(), "connection from 192.0.2.2:4712 (by 127.0.0.1:");
	assert_contains(support_log_text(), "connection from [2001:db8::1]:4713 (by 127.0.0.1:");
	assert_int_equal(support_log_count("connection from 127.0.0.1:"), 1);
	free(bytes);
}

/* ---- Servers that speak --------------------------------------------------------------------- */

static void who_speaks_first_waits_for_a_required_header(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	char got[8];
	int fd;

	settings.proto = &proto_time;
	f->speaks = true;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	assert_hears_nothing(f, fd);
	client_say(f, fd, V1);
	assert_int_equal(client_read(f, fd, got, sizeof(got)), 4);
	close(fd);
	/* With what is none of the header behind it: the answer comes whole, too. */
	fd = client(f);
	client_say(f, fd, V1 "and what I always wanted to say\n");
	assert_int_equal(client_read(f, fd, got, sizeof(got)), 4);
	close(fd);
	fd = client(f);
	client_say(f, fd, V1);
	shutdown(fd, SHUT_WR);
	assert_int_equal(client_read(f, fd, got, sizeof(got)), 4);
	close(fd);
	run_until(f, &f->counters.closed, 3);
	assert_int_equal(COUNT(f, requests), 3);
	assert_int_equal(COUNT(f, resets), 0);
}

static struct server_settings greeting(enum server_proxy proxy)
{
	struct server_settings settings = behind(proxy);

	settings.says.greeting = "%peer: \\n";
	settings.service = "line";
	settings.worker = "line/0";
	settings.host = "here";
	return settings;
}

static void a_greeting_comes_behind_the_header_and_names_the_real_client(void **state)
{
	struct fixture *f = *state;
	int fd;

	f->speaks = true;
	serve(f, greeting(SERVER_PROXY_REQUIRED));
	fd = client(f);
	client_say(f, fd, V1 "hello\n");
	assert_hears(f, fd, "192.0.2.1:4711: \nhello\n");
	assert_served(f, fd);
	fd = client(f);
	client_say(f, fd, V1);
	shutdown(fd, SHUT_WR);
	assert_hears(f, fd, "192.0.2.1:4711: \n");
	assert_refused(f, fd);
}

static void without_a_proxy_a_greeting_comes_at_once_also_to_who_leaves_at_once(void **state)
{
	struct fixture *f = *state;
	int fd;

	f->speaks = true;
	serve(f, greeting(SERVER_PROXY_OFF));
	fd = client(f);
	shutdown(fd, SHUT_WR);
	assert_hears(f, fd, "127.0.0.1:");
	while (client_read(f, fd, (char[1]){0}, 1) > 0)
		;
	close(fd);
	fd = client(f);
	close(fd);
	run_until(f, &f->counters.closed, 2);
}

/* ---- The end -------------------------------------------------------------------------------- */

static void a_drain_answers_who_has_sent_header_and_line_and_ends_the_others(void **state)
{
	struct fixture *f = *state;
	int silent, half, whole;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	silent = client(f);
	half = client(f);
	whole = client(f);
	client_say(f, half, "PROXY TCP4 ");
	run_until(f, &f->counters.bytes_in, 11);
	run_until(f, &f->counters.accepted, 3);
	client_say(f, whole, V1 "hello\n");
	start_draining(f);
	assert_hears(f, whole, "hello\n");
	assert_refused(f, whole);
	assert_refused(f, half);
	assert_refused(f, silent);
	run_until(f, &f->counters.closed, 3);
	assert_true(f->idle_calls > 0);
	assert_int_equal(COUNT(f, refused_proxy), 0);
}

static void a_stream_whose_header_comes_as_the_server_stops_ends(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	char *room = malloc(MIB);
	int fd;

	assert_non_null(room);
	settings.proto = &proto_chargen;
	f->speaks = true;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	client_say(f, fd, V1);
	start_draining(f);
	assert_true(client_read(f, fd, room, MIB) < MIB);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_true(f->idle_calls > 0);
	free(room);
}

static void cutting_off_ends_who_waits_for_a_header(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	fd = client(f);
	client_say(f, fd, "PROXY TCP4 ");
	run_until(f, &f->counters.bytes_in, 11);
	server_cut_off(f->server);
	assert_int_equal(COUNT(f, cut_off), 1);
	assert_int_equal(server_connections(f->server), 0);
	close(fd);
}

static void first_byte_timeout_begins_behind_the_header(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_REQUIRED);
	int silent, talker;

	settings.first_byte_timeout_ms = 300;
	serve(f, settings);
	silent = client(f);
	talker = client(f);
	client_say(f, silent, V1);
	client_say(f, talker, V1 "h");
	assert_end(f, silent);
	assert_int_equal(COUNT(f, first_byte_timeouts), 1);
	client_say(f, talker, "ello\n");
	assert_hears(f, talker, "hello\n");
	close(silent);
	close(talker);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(COUNT(f, first_byte_timeouts), 1);
}

static void lives_end_in_order_however_long_a_header_took(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = behind(SERVER_PROXY_OPTIONAL);
	int slow, quick;

	settings.lifetime_ms = 500;
	serve(f, settings);
	slow = client(f);
	run_until(f, &f->counters.accepted, 1);
	run_for(f, 300);
	quick = strange_client(f);
	run_until(f, &f->counters.accepted, 2);
	client_say(f, slow, V1);
	assert_end(f, quick);
	assert_end(f, slow);
	assert_int_equal(COUNT(f, lifetimes), 2);
	close(slow);
	close(quick);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_header_may_be_cut_anywhere),
		TEST(a_header_may_come_byte_by_byte),
		TEST(a_header_of_60_kb_is_read_and_its_line_answered),
		TEST(a_header_and_the_end_of_file_are_a_client_that_says_nothing),
		TEST(where_a_header_is_required_everything_else_is_refused),
		TEST(a_client_that_may_not_send_a_header_is_refused_where_one_is_required),
		TEST(a_malformed_header_ends_the_connection),
		TEST(without_proxy_protocol_a_header_is_what_the_client_says),
		TEST(an_optional_header_of_a_client_that_may_not_send_it_is_what_he_says),
		TEST(an_optional_header_may_be_missing),
		TEST(what_looks_like_an_optional_header_for_too_long_is_answered_as_it_is),
		TEST(a_required_header_that_does_not_come_ends_the_connection),
		TEST(access_is_about_the_real_client),
		TEST(a_reset_does_not_hide_who_came_without_a_header),
		TEST(limits_are_about_the_real_client),
		TEST(who_waits_for_a_header_holds_no_limit),
		TEST(the_log_names_the_client_and_its_proxy),
		TEST(who_speaks_first_waits_for_a_required_header),
		TEST(a_greeting_comes_behind_the_header_and_names_the_real_client),
		TEST(without_a_proxy_a_greeting_comes_at_once_also_to_who_leaves_at_once),
		TEST(a_drain_answers_who_has_sent_header_and_line_and_ends_the_others),
		TEST(a_stream_whose_header_comes_as_the_server_stops_ends),
		TEST(cutting_off_ends_who_waits_for_a_header),
		TEST(first_byte_timeout_begins_behind_the_header),
		TEST(lives_end_in_order_however_long_a_header_took),
	};

	support_limit_time(180);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
