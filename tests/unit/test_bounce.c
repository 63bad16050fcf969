/* Telling a loop of two servers from a client. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "net/bounce.h"

#define START 1000000 /* ms */

static int setup(void **state)
{
	*state = bounce_new();
	return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	bounce_free(*state);
	return 0;
}

static struct bounce_peer peer(const struct bounce *bounce, const char *host, uint16_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

	assert_int_equal(inet_pton(AF_INET, host, &address.sin_addr), 1);
	return bounce_peer_of(bounce, (struct sockaddr *)&address);
}

/* The same bytes `n` times, `gap` ms apart; how often until it is muted, 0 when it never is. */
static unsigned long repeat(struct bounce *bounce, struct bounce_peer who, unsigned long n,
			    int64_t gap, int64_t *now, int64_t *muted)
{
	for (unsigned long i = 1; i <= n; i++, *now += gap) {
		*muted = bounce_exchange(bounce, who, 7, 7, i, *now);
		if (*muted != 0)
			return i;
	}
	return 0;
}

static void a_server_that_returns_our_answers_is_muted_for_ten_seconds(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 20777);
	int64_t now = START, muted;

	assert_int_equal(repeat(bounce, who, 1000, 1, &now, &muted), 257);
	assert_int_equal(muted, 10000);
	assert_true(bounce_is_muted(bounce, who, now));
	assert_true(bounce_is_muted(bounce, who, now + 9999));
	assert_false(bounce_is_muted(bounce, who, now + 10000));
	/* Nobody else is. */
	assert_false(bounce_is_muted(bounce, peer(bounce, "192.0.2.1", 20778), now));
	assert_false(bounce_is_muted(bounce, peer(bounce, "192.0.2.2", 20777), now));
}

static void a_second_loop_is_found_as_the_first(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 9);
	int64_t now = START, muted;

	repeat(bounce, who, 1000, 1, &now, &muted);
	now += 10000;
	assert_int_equal(repeat(bounce, who, 1000, 1, &now, &muted), 257);
}

static void a_monitor_is_never_muted(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 123);
	int64_t now = START, muted;

	assert_int_equal(repeat(bounce, who, 100000, 100, &now, &muted), 0);
}

static void a_measuring_client_is_muted_after_a_million_times_for_a_second(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 32768);
	int64_t now = START, muted;

	assert_int_equal(repeat(bounce, who, 2000000, 0, &now, &muted), 1000001);
	assert_int_equal(muted, 1000);
	assert_true(bounce_is_muted(bounce, who, now + 999));
	assert_false(bounce_is_muted(bounce, who, now + 1000));
}

static void fresh_bytes_are_no_loop(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 7);

	for (uint64_t i = 0; i < 100000; i++)
		assert_int_equal(bounce_exchange(bounce, who, i, i, i, START + (int64_t)i / 100),
				 0);
}

/* An echo server returns what we said, which is each time something else. */
static void what_we_said_comes_back_as_something_new_each_time(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 7);
	uint64_t i;

	for (i = 1; i < 1000; i++)
		if (bounce_exchange(bounce, who, i, i + 1, i, START) != 0)
			break;
	assert_int_equal(i, 257);
}

static void many_loops_at_once_do_not_hide_each_other(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 7);
	uint64_t i;

	/* 500 datagrams circulate, 30,000 arrive a second. */
	for (i = 0; i < 1000000; i++)
		if (bounce_exchange(bounce, who, i % 500, i % 500, i / 64, START + (int64_t)i / 30))
			break;
	assert_int_equal(i / 500, 256);
}

static void what_comes_twice_before_our_answer_is_no_echo_of_it(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 7);

	for (int i = 0; i < 10000; i++)
		assert_int_equal(bounce_exchange(bounce, who, 7, 7, 1, START), 0);
}

static void a_crowd_does_not_hide_a_loop(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 7);
	uint64_t turn = 0;

	/* Ten clients a turn, of 50,000: more than there are places. */
	for (;; turn++) {
		int64_t now = START + (int64_t)turn / 10;

		for (uint64_t i = 0; i < 10; i++) {
			uint64_t client = (turn * 10 + i) % 50000;
			char host[32];

			snprintf(host, sizeof(host), "10.0.%d.%d", (int)(client / 250),
				 (int)(client % 250));
			assert_int_equal(
				bounce_exchange(bounce, peer(bounce, host, 40000), 1, 1, turn, now),
				0);
		}
		if (bounce_exchange(bounce, who, 7, 7, turn, now) != 0)
			break;
		assert_true(turn < 5000);
	}
}

static void a_muted_peer_keeps_its_place(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 7);
	int64_t now = START, muted;

	repeat(bounce, who, 1000, 1, &now, &muted);
	for (uint64_t i = 0; i < 100000; i++) {
		struct bounce_peer other = {i, 40000};

		bounce_exchange(bounce, other, i, i, i, now + 5000);
	}
	assert_true(bounce_is_muted(bounce, who, now + 5000));
}

static void hashes_tell_bytes_and_lengths_apart(void **state)
{
	struct bounce *bounce = *state;
	unsigned char data[200] = {0};
	uint64_t seen[COUNT_OF(data) * 2];
	size_t n = 0;

	for (size_t len = 0; len < sizeof(data); len++)
		seen[n++] = bounce_hash(bounce, data, len);
	for (size_t i = 0; i < sizeof(data); i++) {
		data[i] = 1;
		seen[n++] = bounce_hash(bounce, data, sizeof(data));
		data[i] = 0;
	}
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n; j++)
			assert_true(seen[i] != seen[j]);
}

static void of_a_long_datagram_both_ends_count(void **state)
{
	struct bounce *bounce = *state;
	static unsigned char data[65507];
	uint64_t first = bounce_hash(bounce, data, sizeof(data));

	data[0] = 1;
	assert_true(bounce_hash(bounce, data, sizeof(data)) != first);
	data[0] = 0;
	data[sizeof(data) - 1] = 1;
	assert_true(bounce_hash(bounce, data, sizeof(data)) != first);
	data[sizeof(data) - 1] = 0;
	assert_true(bounce_hash(bounce, data, sizeof(data)) == first);
	assert_true(bounce_hash(bounce, data, sizeof(data) - 1) != first);
}

static void peers_of_ipv6_differ_by_address_port_and_interface(void **state)
{
	struct bounce *bounce = *state;
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(7)};
	uint64_t first = bounce_peer_of(bounce, (struct sockaddr *)&address).key;

	assert_int_equal(bounce_peer_of(bounce, (struct sockaddr *)&address).port, 7);
	address.sin6_scope_id = 2;
	assert_true(bounce_peer_of(bounce, (struct sockaddr *)&address).key != first);
	address.sin6_scope_id = 0;
	address.sin6_addr.s6_addr[15] = 1;
	assert_true(bounce_peer_of(bounce, (struct sockaddr *)&address).key != first);
	address.sin6_addr.s6_addr[15] = 0;
	address.sin6_port = htons(8);
	assert_true(bounce_peer_of(bounce, (struct sockaddr *)&address).key != first);
}

static void a_turn_that_has_counted_need_not_be_asked_again(void **state)
{
	struct bounce *bounce = *state;
	struct bounce_peer who = peer(bounce, "192.0.2.1", 9);

	assert_true(bounce_matters(bounce, who, 1));
	bounce_exchange(bounce, who, 7, 7, 1, START);
	assert_false(bounce_matters(bounce, who, 1));
	assert_true(bounce_matters(bounce, who, 2));
	assert_true(bounce_matters(bounce, peer(bounce, "192.0.2.1", 10), 1));
	/* Something else came: what is watched may still come in this turn. */
	bounce_exchange(bounce, who, 8, 8, 2, START);
	assert_true(bounce_matters(bounce, who, 2));
	bounce_exchange(bounce, who, 7, 7, 2, START);
	assert_false(bounce_matters(bounce, who, 2));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_server_that_returns_our_answers_is_muted_for_ten_seconds),
		TEST(a_second_loop_is_found_as_the_first),
		TEST(a_monitor_is_never_muted),
		TEST(a_measuring_client_is_muted_after_a_million_times_for_a_second),
		TEST(fresh_bytes_are_no_loop),
		TEST(what_we_said_comes_back_as_something_new_each_time),
		TEST(many_loops_at_once_do_not_hide_each_other),
		TEST(what_comes_twice_before_our_answer_is_no_echo_of_it),
		TEST(a_crowd_does_not_hide_a_loop),
		TEST(a_turn_that_has_counted_need_not_be_asked_again),
		TEST(a_muted_peer_keeps_its_place),
		TEST(hashes_tell_bytes_and_lengths_apart),
		TEST(of_a_long_datagram_both_ends_count),
		TEST(peers_of_ipv6_differ_by_address_port_and_interface),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
