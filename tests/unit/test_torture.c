/*
 * Random settings, random clients: whatever a server is told to do and however its clients behave,
 * what comes back is what was sent, everything ends, and what was held is given back.
 */
#include "server_fixture.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/memory_file.h"

#define ROUNDS	    40
#define CLIENTS_MAX 6
#define ROUND_MS    20000

static const char header[] = "PROXY TCP4 192.0.2.1 198.51.100.1 4711 80\r\n";

struct talker {
	int fd; /* -1: it has ended */
	char *says;
	size_t header; /* so much of it does not come back */
	size_t len;
	size_t out;
	size_t in;
	size_t piece;
	bool leaves; /* without waiting for all, but not within the header: that is an error */
};

struct torture {
	struct fixture *f;
	struct support_random random;
	struct server_settings settings;
	struct talker talkers[CLIENTS_MAX];
	size_t count;
	struct limits *limits;
	int table;
	bool drains;
};

static uint64_t below(struct torture *t, uint64_t n)
{
	return support_random_below(&t->random, n);
}

/* 0 in half of all cases. */
static uint64_t rarely(struct torture *t, uint64_t least, uint64_t most)
{
	return below(t, 2) == 0 ? 0 : least + below(t, most - least + 1);
}

static const struct network everybody = {AF_INET, {0}, 0};

static void make_settings(struct torture *t)
{
	struct limits_rules rules = {
		.connections = 100,
		.byte_rate_per_source = rarely(t, 50 * KIB, 500 * KIB),
		.request_rate_per_source = rarely(t, 300, 3000),
	};
	struct error err = {0};

	t->settings = below(t, 4) == 0 ? echo() : lines();
	t->settings.says.max_line = 4 * KIB + below(t, 60 * KIB);
	t->settings.says.split = below(t, 2) == 0;
	t->settings.max_pending = below(t, 2) == 0 ? 4 * KIB : 256 * KIB;
	t->settings.read_at_accept = below(t, 2) == 0;
	t->settings.byte_rate = rarely(t, 20 * KIB, 200 * KIB);
	t->settings.request_rate = rarely(t, 100, 1000);
	t->settings.idle_timeout_ms = (int64_t)rarely(t, 10000, 20000);
	t->settings.first_byte_timeout_ms = (int64_t)rarely(t, 10000, 20000);
	t->settings.lifetime_ms = (int64_t)rarely(t, 15000, 20000);
	t->settings.proxy = (enum server_proxy)below(t, 3);
	t->settings.proxy_from = &everybody;
	t->settings.proxy_from_count = 1;
	t->limits = NULL;
	if (below(t, 2) == 0)
		return;
	t->table = memory_file_shared("limits", limits_size(1), &err);
	t->limits = limits_open(t->table, 1, 0, &rules, &err);
	assert_non_null(t->limits);
	t->settings.limits[below(t, 2)] = t->limits;
}

/* Lines that no max_line forbids, short or long; in half of all cases a tail. */
static void make_talker(struct torture *t, struct talker *talker)
{
	bool paced = t->settings.byte_rate + t->settings.request_rate > 0 || t->limits != NULL;
	size_t len = 1 + below(t, below(t, 3) == 0 && !paced ? 300 * KIB : 20 * KIB);
	char *data = random_lines(&t->random, len);

	if (below(t, 2) == 0)
		for (size_t i = 0; i < len; i += 1 + below(t, 100))
			data[i] = '\n';
	talker->header = 0;
	if (t->settings.proxy == SERVER_PROXY_REQUIRED ||
	    (t->settings.proxy == SERVER_PROXY_OPTIONAL && below(t, 2) == 0))
		talker->header = sizeof(header) - 1;
	if (below(t, 2) == 0)
		data[len - 1] = 'x';
	data[0] = 'x'; /* not the beginning of a header */
	talker->says = malloc(talker->header + len);
	assert_non_null(talker->says);
	memcpy(talker->says, header, talker->header);
	memcpy(talker->says + talker->header, data, len);
	free(data);
	talker->len = talker->header + len;
	talker->out = talker->in = 0;
	talker->piece = 1 + below(t, below(t, 2) == 0 ? 100 : 30000);
	talker->leaves = below(t, 8) == 0;
	talker->fd = client_with_buffer(t->f, below(t, 2) == 0 ? 4 * KIB : 0);
}

static void end_talker(struct torture *t, struct talker *talker)
{
	const struct linger at_once = {1, 0};

	if (talker->leaves && below(t, 2) == 0)
		setsockopt(talker->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(talker->fd);
	free(talker->says);
	talker->fd = -1;
}

/* Returns whether it could do anything. */
static bool talk(struct torture *t, struct talker *talker)
{
	size_t left = talker->len - talker->out;
	size_t piece = 1 + below(t, talker->piece);
	ssize_t n;

	if (left == 0 || (talker->leaves && below(t, 50) == 0))
		return false;
	n = send(talker->fd, talker->says + talker->out, left < piece ? left : piece, MSG_NOSIGNAL);
	if (n <= 0)
		return false;
	talker->out += (size_t)n;
	if (talker->out == talker->len)
		shutdown(talker->fd, SHUT_WR);
	return true;
}

/* What has come is what was said. */
static bool listen_to(struct torture *t, struct talker *talker)
{
	static char got[64 * KIB];
	size_t most = talker->out > talker->header ? talker->out - talker->header : 0;
	ssize_t n = recv(talker->fd, got, 1 + below(t, sizeof(got)), 0);

	if (n < 0)
		return false;
	if (n == 0) {
		if (!t->drains && talker->in + talker->header != talker->len)
			fail_msg("seed %" PRIu64 ": %zu of %zu bytes came back", t->random.seed,
				 talker->in, talker->len - talker->header);
		end_talker(t, talker);
		return true;
	}
	if (talker->in + (size_t)n > most ||
	    memcmp(got, talker->says + talker->header + talker->in, (size_t)n) != 0)
		fail_msg("seed %" PRIu64 ": something else came back after %zu bytes",
			 t->random.seed, talker->in);
	talker->in += (size_t)n;
	return true;
}

static size_t still_there(const struct torture *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->count; i++)
		n += t->talkers[i].fd >= 0;
	return n;
}

static void one_turn(struct torture *t)
{
	bool idle = true;

	for (size_t i = 0; i < t->count; i++) {
		struct talker *talker = &t->talkers[i];

		if (talker->fd >= 0 && talk(t, talker))
			idle = false;
		if (talker->fd >= 0 && below(t, 3) > 0 && listen_to(t, talker))
			idle = false;
		if (talker->fd >= 0 && talker->leaves && talker->out >= talker->header &&
		    talker->out > talker->len / 2)
			end_talker(t, talker);
	}
	if (idle)
		run_for(t->f, 1);
	else
		event_base_loop(t->f->base, EVLOOP_NONBLOCK);
}

static void run_round(struct torture *t)
{
	int64_t begun = clock_ms();
	uint64_t drain_at = t->drains ? below(t, 300) : UINT64_MAX;

	for (uint64_t turn = 0; still_there(t) > 0; turn++) {
		if (turn == drain_at)
			start_draining(t->f);
		one_turn(t);
		if (clock_ms() - begun > ROUND_MS)
			fail_msg("seed %" PRIu64 ": %zu clients wait for ever", t->random.seed,
				 still_there(t));
	}
}

static void end_round(struct torture *t)
{
	struct fixture *f = t->f;

	run_until(f, &f->counters.closed, COUNT(f, accepted));
	assert_int_equal(server_connections(f->server), 0);
	if (t->limits != NULL)
		assert_int_equal(limits_connections(t->limits), 0);
	server_free(f->server);
	f->server = NULL;
	if (t->limits == NULL)
		return;
	limits_close(t->limits);
	close(t->table);
}

/* In a drain, a client that comes too late is not accepted: all come before. */
static void whatever_the_settings_what_was_said_comes_back(void **state)
{
	struct torture t = {.f = *state};

	support_random_start(&t.random);
	print_message("seed %" PRIu64 "\n", t.random.seed);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t accepted = COUNT(t.f, accepted);

		make_settings(&t);
		t.drains = below(&t, 4) == 0;
		t.count = 1 + below(&t, CLIENTS_MAX);
		serve_with_buffer(t.f, &t.settings, below(&t, 2) == 0 ? 4 * KIB : 0);
		for (size_t i = 0; i < t.count; i++)
			make_talker(&t, &t.talkers[i]);
		run_until(t.f, &t.f->counters.accepted, accepted + t.count);
		run_round(&t);
		end_round(&t);
	}
	assert_int_equal(COUNT(t.f, refused_proxy), 0);
	assert_int_equal(COUNT(t.f, proxy_errors), 0);
	assert_int_equal(COUNT(t.f, no_memory), 0);
	assert_int_equal(COUNT(t.f, write_timeouts), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(whatever_the_settings_what_was_said_comes_back,
						setup, teardown),
	};

	support_limit_time(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
