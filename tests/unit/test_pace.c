/*
 * How fast a connection may go, and streams without end. A time that must have passed is exact; one
 * that must not be exceeded leaves room for a busy machine.
 */
#include "server_fixture.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/memory_file.h"

#define FAST_ENOUGH_MS 15000

/* "line 0", "line 1", ... */
static char *numbered_lines(unsigned n, size_t *len)
{
	char *data = malloc((size_t)n * 16);
	size_t at = 0;

	assert_non_null(data);
	for (unsigned i = 0; i < n; i++)
		at += (size_t)sprintf(data + at, "line %u\n", i);
	*len = at;
	return data;
}

/* Everything that is said comes back, and then the end; says how long that took, in ms. */
static int64_t read_back(struct fixture *f, int fd, const char *data, size_t len)
{
	int64_t begun = clock_ms();
	char *got = malloc(len + 1);

	assert_non_null(got);
	assert_int_equal(client_read(f, fd, got, len + 1), len);
	assert_memory_equal(got, data, len);
	free(got);
	return clock_ms() - begun;
}

/* ---- Requests ------------------------------------------------------------------------------- */

static void pipelined_lines_are_answered_at_the_rate_and_none_is_lost(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	size_t len;
	char *data = numbered_lines(60, &len);
	int64_t took;
	int fd;

	settings.request_rate = 20;
	serve(f, settings);
	fd = client(f);
	client_send(f, fd, data, len);
	/* The end of file comes while most lines still wait. */
	shutdown(fd, SHUT_WR);
	took = read_back(f, fd, data, len);
	/* A second's worth at once, the rest in two seconds. */
	assert_true(took >= 1900);
	assert_true(took <= FAST_ENOUGH_MS);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, requests), 60);
	assert_int_equal(COUNT(f, resets), 0);
	free(data);
}

static void no_second_has_more_than_the_rate_after_the_first(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	size_t len;
	char *data = numbered_lines(1000, &len);
	int64_t begun = clock_ms();
	int fd;

	settings.request_rate = 100;
	serve(f, settings);
	fd = client(f);
	client_send(f, fd, data, len);
	for (int i = 0; i < 15; i++) {
		run_for(f, 100);
		/* What came before the clock was read is at most what it allows then. */
		assert_true((int64_t)COUNT(f, requests) <= 101 + (clock_ms() - begun) / 10);
	}
	assert_true(COUNT(f, requests) >= 150);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	free(data);
}

static void who_asks_slowly_enough_never_waits(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.request_rate = 50;
	settings.byte_rate = 1000;
	serve(f, settings);
	fd = client(f);
	for (int i = 0; i < 60; i++) {
		client_say(f, fd, "hello\n");
		assert_hears(f, fd, "hello\n");
		run_for(f, 25);
	}
	assert_int_equal(COUNT(f, throttled), 0);
	close(fd);
}

static void a_pause_is_counted_once(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.request_rate = 1;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "one\ntwo\n");
	assert_hears(f, fd, "one\n");
	assert_hears(f, fd, "two\n");
	assert_true(COUNT(f, throttled) >= 1);
	assert_true(COUNT(f, throttled) <= 3);
	close(fd);
	run_until(f, &f->counters.closed, 1);
}

static void a_client_that_leaves_during_a_pause_is_closed(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int leaves, breaks;

	settings.request_rate = 1;
	serve(f, settings);
	leaves = client(f);
	breaks = client(f);
	client_say(f, leaves, "one\ntwo\n");
	client_say(f, breaks, "one\ntwo\n");
	assert_hears(f, leaves, "one\n");
	assert_hears(f, breaks, "one\n");
	close(leaves);
	client_reset(breaks);
	run_until(f, &f->counters.closed, 2);
	assert_true(COUNT(f, throttled) >= 2);
}

static void a_drain_answers_all_that_a_limit_keeps_waiting(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	size_t len;
	char *data = numbered_lines(30, &len);
	int idle, busy;

	settings.request_rate = 10;
	serve(f, settings);
	idle = client(f);
	busy = client(f);
	client_send(f, busy, data, len);
	run_until(f, &f->counters.requests, 10);
	start_draining(f);
	assert_end(f, idle);
	assert_true(read_back(f, busy, data, len) >= 1500);
	close(idle);
	close(busy);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(COUNT(f, requests), 30);
	assert_int_equal(COUNT(f, cut_off), 0);
	assert_true(f->idle_calls > 0);
	free(data);
}

static void cutting_off_ends_who_is_kept_waiting(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int paused, throttled;

	settings.request_rate = 1;
	serve(f, settings);
	paused = client(f);
	throttled = client(f);
	client_say(f, paused, "one\ntwo\n");
	client_say(f, throttled, "one\n");
	assert_hears(f, paused, "one\n");
	assert_hears(f, throttled, "one\n");
	client_say(f, throttled, "two\n");
	run_until(f, &f->counters.throttled, 2);
	server_cut_off(f->server);
	assert_int_equal(COUNT(f, cut_off), 2);
	assert_int_equal(server_connections(f->server), 0);
	close(paused);
	close(throttled);
}

static void a_life_ends_also_during_a_pause(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.request_rate = 1;
	settings.lifetime_ms = 300;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "one\ntwo\n");
	assert_hears(f, fd, "one\n");
	assert_end(f, fd);
	assert_int_equal(COUNT(f, lifetimes), 1);
	assert_int_equal(COUNT(f, requests), 1);
	close(fd);
	run_until(f, &f->counters.closed, 1);
}

static void waiting_for_a_limit_is_no_silence_of_the_client(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.request_rate = 1;
	settings.idle_timeout_ms = 400;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "one\ntwo\nthree\n");
	assert_hears(f, fd, "one\ntwo\nthree\n");
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	assert_end(f, fd);
	assert_int_equal(COUNT(f, idle_timeouts), 1);
	close(fd);
}

static void first_byte_timeout_still_holds_after_a_pause_for_others(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	const struct limits_rules rules = {.request_rate_per_source = 1};
	struct error err = {0};
	int table = memory_file_shared("limits", limits_size(1), &err), talker, silent;
	struct limits *limits = limits_open(table, 1, 0, &rules, &err);

	assert_non_null(limits);
	settings.limits[1] = limits;
	settings.first_byte_timeout_ms = 300;
	settings.read_at_accept = true;
	serve(f, settings);
	talker = client(f);
	client_say(f, talker, "hello\n");
	assert_hears(f, talker, "hello\n");
	/* The bucket of its source is empty: it is not even asked for its first byte. */
	silent = client(f);
	assert_end(f, silent);
	assert_int_equal(COUNT(f, first_byte_timeouts), 1);
	close(silent);
	close(talker);
	run_until(f, &f->counters.closed, 2);
	server_free(f->server);
	f->server = NULL;
	limits_close(limits);
	close(table);
}

static void two_connections_of_a_source_share_its_rate(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	const struct limits_rules rules = {.request_rate_per_source = 20};
	struct error err = {0};
	int table = memory_file_shared("limits", limits_size(1), &err), one, two, other;
	struct limits *limits = limits_open(table, 1, 0, &rules, &err);
	int64_t begun = clock_ms();
	size_t len;
	char *data = numbered_lines(30, &len);

	assert_non_null(limits);
	settings.limits[0] = limits;
	serve(f, settings);
	one = client(f);
	two = client(f);
	client_send(f, one, data, len);
	client_send(f, two, data, len);
	shutdown(one, SHUT_WR);
	shutdown(two, SHUT_WR);
	run_until(f, &f->counters.throttled, 2);
	/* Another source has its own. */
	other = client_from(f, "127.0.0.2");
	client_say(f, other, "hello\n");
	assert_hears(f, other, "hello\n");
	read_back(f, one, data, len);
	read_back(f, two, data, len);
	assert_true(clock_ms() - begun >= 1900);
	close(one);
	close(two);
	close(other);
	run_until(f, &f->counters.closed, 3);
	server_free(f->server);
	f->server = NULL;
	limits_close(limits);
	close(table);
	free(data);
}

/* ---- Bytes ---------------------------------------------------------------------------------- */

static void bytes_go_back_at_the_rate(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	struct support_random random;
	int64_t begun = clock_ms(), took;
	char *data;
	int fd;

	support_random_start(&random);
	data = random_lines(&random, 600 * KIB);
	settings.byte_rate = 200 * KIB;
	serve(f, settings);
	fd = client(f);
	client_exchange(f, fd, data, 600 * KIB, 50 * KIB);
	took = clock_ms() - begun;
	assert_true(took >= 1900);
	assert_true(took <= FAST_ENOUGH_MS);
	shutdown(fd, SHUT_WR);
	assert_end(f, fd);
	assert_true(COUNT(f, throttled) > 0);
	close(fd);
	free(data);
}

static void no_moment_has_more_bytes_than_the_rate_allows(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	char *data = letters(4 * MIB);
	int64_t begun = clock_ms();
	int fd;

	for (size_t i = 99; i < 4 * MIB; i += 100)
		data[i] = '\n';
	settings.byte_rate = 100 * 1000;
	serve(f, settings);
	fd = client(f);
	/* It sends much more than it may, and reads nothing. */
	client_stuff(f, fd, data, MIB);
	for (int i = 0; i < 10; i++) {
		run_for(f, 100);
		assert_true((int64_t)COUNT(f, bytes_in) <= 100 * (1001 + clock_ms() - begun));
	}
	assert_true(COUNT(f, bytes_in) >= 150 * 1000);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	free(data);
}

static void both_rates_hold_together(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	size_t len;
	char *data = numbered_lines(100, &len); /* 790 bytes */
	int64_t took;
	int fd;

	settings.request_rate = 40;
	settings.byte_rate = 300;
	serve(f, settings);
	fd = client(f);
	client_send(f, fd, data, len);
	shutdown(fd, SHUT_WR);
	took = read_back(f, fd, data, len);
	assert_true(took >= 1500);
	assert_true(took <= FAST_ENOUGH_MS);
	close(fd);
	free(data);
}

static void a_client_that_reads_late_is_paced_and_loses_nothing(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	size_t len;
	char *data = numbered_lines(20000, &len);
	int fd;

	settings.request_rate = 15000;
	settings.max_pending = 4 * KIB;
	serve_with_buffer(f, &settings, 4 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_exchange(f, fd, data, len, 3000);
	shutdown(fd, SHUT_WR);
	assert_end(f, fd);
	assert_int_equal(COUNT(f, requests), 20000);
	close(fd);
	free(data);
}

static void a_long_reply_after_a_pause_does_not_let_more_in_than_max_pending(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	char *data = letters(60 * KIB);
	int fd;

	/* A short line, one that fills the rest of max_pending, and much more behind it. */
	data[1] = data[32 * KIB - 1] = '\n';
	settings.request_rate = 1;
	settings.says.transform = PROTO_HEX; /* twice as long as what it answers */
	settings.max_pending = 32 * KIB;
	f->speaks = true;
	serve_with_buffer(f, &settings, 2 * KIB);
	fd = client_with_buffer(f, 2 * KIB);
	assert_int_equal(send(fd, data, 60 * KIB, MSG_NOSIGNAL), 60 * KIB);
	run_until(f, &f->counters.requests, 2);
	assert_int_equal(COUNT(f, bytes_in), 32 * KIB);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	free(data);
}

/* ---- A stream without end ------------------------------------------------------------------- */

static struct server_settings chargen(struct fixture *f)
{
	struct server_settings settings = lines();

	settings.proto = &proto_chargen;
	f->speaks = true;
	return settings;
}

/* Read so many bytes and compare them with the stream from `at` on. */
static void assert_stream(struct fixture *f, int fd, uint64_t at, size_t len)
{
	unsigned char *got = malloc(len), *expected = malloc(len);

	assert_non_null(got);
	assert_non_null(expected);
	proto_chargen.produce(at, expected, len);
	assert_int_equal(client_read(f, fd, got, len), len);
	assert_memory_equal(got, expected, len);
	free(got);
	free(expected);
}

/* Up to its end. */
static size_t read_rest(struct fixture *f, int fd)
{
	char *room = malloc(MIB);
	size_t total = 0, n;

	assert_non_null(room);
	while ((n = client_read(f, fd, room, MIB)) > 0)
		total += n;
	free(room);
	return total;
}

static void a_stream_comes_whole_and_in_order(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, chargen(f));
	fd = client(f);
	assert_stream(f, fd, 0, 3 * MIB);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, bytes_in), 0);
}

static void what_the_client_of_a_stream_says_is_thrown_away(void **state)
{
	struct fixture *f = *state;
	char *data = letters(MIB);
	int fd;

	serve(f, chargen(f));
	fd = client(f);
	client_say(f, fd, "be silent\n");
	assert_stream(f, fd, 0, MIB);
	client_send(f, fd, data, MIB);
	run_until(f, &f->counters.bytes_in, MIB + 10);
	assert_stream(f, fd, MIB, MIB);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	free(data);
}

static void the_end_of_file_of_its_client_does_not_end_a_stream(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, chargen(f));
	fd = client(f);
	shutdown(fd, SHUT_WR);
	assert_stream(f, fd, 0, 2 * MIB);
	assert_int_equal(COUNT(f, closed), 0);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, resets), 1);
}

static void a_stream_that_nobody_reads_ends_by_write_timeout(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = chargen(f);
	int fd;

	settings.write_timeout_ms = 300;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, write_timeouts), 1);
	close(fd);
}

/* Whatever the buffers, also where the kernel takes all of a piece and then nothing for long. */
static void a_stream_that_is_read_slowly_goes_on(void **state)
{
	struct fixture *f = *state;
	const int buffers[] = {8 * KIB, 44 * KIB, 64 * KIB, 200 * KIB};
	int fds[COUNT_OF(buffers)];
	char byte[512];

	f->speaks = true;
	for (size_t i = 0; i < COUNT_OF(buffers); i++) {
		struct server_settings settings = chargen(f);

		settings.write_timeout_ms = 400;
		serve_with_buffer(f, &settings, buffers[i]);
		fds[i] = client_with_buffer(f, 2 * KIB);
		for (int turn = 0; turn < 8; turn++) {
			run_for(f, 100);
			assert_int_equal(client_read(f, fds[i], byte, sizeof(byte)), sizeof(byte));
			assert_int_equal(client_read(f, fds[i], byte, sizeof(byte)), sizeof(byte));
			assert_int_equal(client_read(f, fds[i], byte, sizeof(byte)), sizeof(byte));
		}
		assert_int_equal(COUNT(f, write_timeouts), 0);
		close(fds[i]);
		run_until(f, &f->counters.closed, i + 1);
		server_free(f->server);
		f->server = NULL;
	}
}

static void a_stream_keeps_to_its_rate(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = chargen(f);
	int64_t begun = clock_ms();
	int fd;

	settings.byte_rate = 50 * 1000;
	serve(f, settings);
	fd = client(f);
	assert_stream(f, fd, 0, 140 * 1000);
	assert_true(clock_ms() - begun >= 1700);
	assert_true(clock_ms() - begun <= FAST_ENOUGH_MS);
	assert_true((int64_t)COUNT(f, bytes_out) <= 50 * (1001 + clock_ms() - begun));
	assert_true(COUNT(f, throttled) > 0);
	close(fd);
	run_until(f, &f->counters.closed, 1);
}

/* What they send is thrown away, but it must be received first. */
static void clients_of_a_stream_send_no_faster_than_the_rate(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = chargen(f);
	char *data = letters(MIB);
	int64_t begun = clock_ms();
	int fd;

	settings.byte_rate = 10 * 1000;
	serve(f, settings);
	fd = client(f);
	for (int i = 0; i < 5; i++) {
		send(fd, data, MIB, MSG_NOSIGNAL);
		run_for(f, 100);
	}
	assert_true((int64_t)(COUNT(f, bytes_in) + COUNT(f, bytes_out)) <=
		    10 * (1001 + clock_ms() - begun));
	close(fd);
	free(data);
}

static void draining_ends_streams_with_a_fin(void **state)
{
	struct fixture *f = *state;
	int reads, stuck;

	serve(f, chargen(f));
	reads = client(f);
	stuck = client_with_buffer(f, 4 * KIB);
	assert_stream(f, reads, 0, 100 * KIB);
	run_until(f, &f->counters.accepted, 2);
	start_draining(f);
	read_rest(f, reads);
	close(reads);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(f->idle_calls, 0);
	read_rest(f, stuck);
	close(stuck);
	run_until(f, &f->counters.closed, 2);
	assert_true(f->idle_calls > 0);
	assert_int_equal(COUNT(f, cut_off), 0);
	assert_int_equal(COUNT(f, resets), 0);
}

/* `says` something that waits to be read when the drain begins. */
static void drain_a_stream_that_a_limit_keeps_waiting(struct fixture *f, bool says)
{
	struct server_settings settings = chargen(f);
	int fd;

	settings.byte_rate = 1000;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.throttled, COUNT(f, throttled) + 1);
	if (says) {
		client_say(f, fd, "hello\n");
		/* The bucket has something again, and nobody has looked since. */
		usleep(30 * 1000);
	}
	start_draining(f);
	assert_true(read_rest(f, fd) < 3000);
	close(fd);
	run_until(f, &f->counters.closed, COUNT(f, accepted));
	assert_true(f->idle_calls > 0);
	server_free(f->server);
	f->server = NULL;
}

static void draining_ends_streams_that_a_limit_keeps_waiting(void **state)
{
	drain_a_stream_that_a_limit_keeps_waiting(*state, false);
	drain_a_stream_that_a_limit_keeps_waiting(*state, true);
}

static void a_stream_ends_at_the_end_of_its_life(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = chargen(f);
	int64_t begun = clock_ms();
	int fd, paced;

	settings.lifetime_ms = 300;
	serve(f, settings);
	fd = client(f);
	read_rest(f, fd);
	assert_true(clock_ms() - begun >= 280);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	server_free(f->server);
	settings.byte_rate = 100;
	serve(f, settings);
	paced = client(f);
	assert_true(read_rest(f, paced) < 1000);
	close(paced);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(COUNT(f, lifetimes), 2);
	assert_int_equal(COUNT(f, resets), 0);
}

static void a_client_of_a_stream_is_never_silent(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = chargen(f);
	int fd;

	settings.idle_timeout_ms = 200;
	settings.first_byte_timeout_ms = 200;
	settings.byte_rate = 1000;
	serve(f, settings);
	fd = client(f);
	assert_stream(f, fd, 0, 2000);
	assert_int_equal(COUNT(f, closed), 0);
	close(fd);
}

static void cutting_off_ends_streams(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = chargen(f);
	int fd;

	settings.byte_rate = 1000;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.throttled, 1);
	server_cut_off(f->server);
	assert_int_equal(COUNT(f, cut_off), 1);
	assert_int_equal(COUNT(f, closed), 1);
	close(fd);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(pipelined_lines_are_answered_at_the_rate_and_none_is_lost),
		TEST(no_second_has_more_than_the_rate_after_the_first),
		TEST(who_asks_slowly_enough_never_waits),
		TEST(a_pause_is_counted_once),
		TEST(a_client_that_leaves_during_a_pause_is_closed),
		TEST(a_drain_answers_all_that_a_limit_keeps_waiting),
		TEST(cutting_off_ends_who_is_kept_waiting),
		TEST(a_life_ends_also_during_a_pause),
		TEST(waiting_for_a_limit_is_no_silence_of_the_client),
		TEST(first_byte_timeout_still_holds_after_a_pause_for_others),
		TEST(two_connections_of_a_source_share_its_rate),
		TEST(bytes_go_back_at_the_rate),
		TEST(no_moment_has_more_bytes_than_the_rate_allows),
		TEST(both_rates_hold_together),
		TEST(a_client_that_reads_late_is_paced_and_loses_nothing),
		TEST(a_long_reply_after_a_pause_does_not_let_more_in_than_max_pending),
		TEST(a_stream_comes_whole_and_in_order),
		TEST(what_the_client_of_a_stream_says_is_thrown_away),
		TEST(the_end_of_file_of_its_client_does_not_end_a_stream),
		TEST(a_stream_that_nobody_reads_ends_by_write_timeout),
		TEST(a_stream_that_is_read_slowly_goes_on),
		TEST(a_stream_keeps_to_its_rate),
		TEST(clients_of_a_stream_send_no_faster_than_the_rate),
		TEST(draining_ends_streams_with_a_fin),
		TEST(draining_ends_streams_that_a_limit_keeps_waiting),
		TEST(a_stream_ends_at_the_end_of_its_life),
		TEST(a_client_of_a_stream_is_never_silent),
		TEST(cutting_off_ends_streams),
	};

	support_limit_time(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
