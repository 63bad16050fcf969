/* The time of a client is over, and what it has said was not looked at yet. */
#include "server_fixture.h"

#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/server_private.h"

#define LONG_MS	    60000
#define PATIENCE_MS 20000

static const char header[] = "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n";

static struct server_settings idle(void)
{
	struct server_settings settings = lines();

	settings.idle_timeout_ms = LONG_MS;
	return settings;
}

static struct server_settings behind(enum server_proxy proxy)
{
	static const struct network loopback = {AF_INET, {127, 0, 0, 0}, 8};
	struct server_settings settings = lines();

	settings.proxy = proxy;
	settings.proxy_from = &loopback;
	settings.proxy_from_count = 1;
	return settings;
}

static int accepted_client(struct fixture *f)
{
	int fd = client(f);

	run_until(f, &f->counters.accepted, 1);
	return fd;
}

/*
 * The time of all such clients is over, and the loop has not seen it: of all that has happened
 * meanwhile, it will see that first.
 */
static void let_time_pass(struct fixture *f, enum timeout_kind kind)
{
	struct timeouts *timeouts = &f->server->timeouts;
	struct timeout_entry *entry;
	struct pollfd timer = {.fd = timeouts->fd, .events = POLLIN};
	struct itimerspec at_once = {.it_value = {0, 1}};

	assert_non_null(TAILQ_FIRST(&timeouts->lists[kind]));
	TAILQ_FOREACH (entry, &timeouts->lists[kind], link)
		entry->stamp = timeouts_stamp(kind, clock_coarse_ms() - timeouts->after_ms[kind]);
	assert_int_equal(timerfd_settime(timeouts->fd, 0, &at_once, NULL), 0);
	assert_int_equal(poll(&timer, 1, PATIENCE_MS), 1);
}

static void a_line_is_answered(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, idle());
	fd = accepted_client(f);
	for (int i = 0; i < 3; i++) {
		let_time_pass(f, TIMEOUT_IDLE);
		client_say(f, fd, "hello\n");
		assert_hears(f, fd, "hello\n");
	}
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	assert_int_equal(server_connections(f->server), 1);
	let_time_pass(f, TIMEOUT_IDLE);
	assert_end(f, fd);
	assert_int_equal(COUNT(f, idle_timeouts), 1);
	close(fd);
}

static void a_part_of_a_line_is_heard(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, idle());
	fd = accepted_client(f);
	let_time_pass(f, TIMEOUT_IDLE);
	client_say(f, fd, "hel");
	run_until(f, &f->counters.bytes_in, 3);
	client_say(f, fd, "lo\n");
	assert_hears(f, fd, "hello\n");
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	close(fd);
}

static void the_first_byte_is_heard(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = idle();
	int fd;

	settings.first_byte_timeout_ms = LONG_MS;
	serve(f, settings);
	fd = accepted_client(f);
	let_time_pass(f, TIMEOUT_FIRST);
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	assert_int_equal(COUNT(f, first_byte_timeouts), 0);
	close(fd);
}

static void who_has_left_is_not_idle(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, idle());
	fd = accepted_client(f);
	let_time_pass(f, TIMEOUT_IDLE);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, idle_timeouts), 0);
}

static void who_was_reset_is_not_idle(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, idle());
	fd = accepted_client(f);
	let_time_pass(f, TIMEOUT_IDLE);
	client_reset(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, resets), 1);
	assert_int_equal(COUNT(f, idle_timeouts), 0);
}

/* Of those whose time is over, whoever has spoken stays. */
static void each_is_asked(void **state)
{
	struct fixture *f = *state;
	int fds[5];

	serve(f, idle());
	for (int i = 0; i < 5; i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, 5);
	let_time_pass(f, TIMEOUT_IDLE);
	for (int i = 1; i < 5; i += 2)
		client_say(f, fds[i], "hello\n");
	run_until(f, &f->counters.closed, 3);
	for (int i = 0; i < 5; i++) {
		if (i % 2 != 0)
			assert_hears(f, fds[i], "hello\n");
		else
			assert_end(f, fds[i]);
		close(fds[i]);
	}
	assert_int_equal(COUNT(f, idle_timeouts), 3);
}

/* A reply that is longer than the kernel takes at once. */
static void what_does_not_fit_waits(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(100 * KIB), *got = malloc(100 * KIB);
	int fd;

	assert_non_null(got);
	settings.idle_timeout_ms = LONG_MS;
	settings.max_pending = 16 * KIB;
	serve_with_buffer(f, &settings, 8 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	run_until(f, &f->counters.accepted, 1);
	let_time_pass(f, TIMEOUT_IDLE);
	client_stuff(f, fd, data, 100 * KIB);
	assert_int_equal(client_read(f, fd, got, 16 * KIB), 16 * KIB);
	assert_memory_equal(got, data, 16 * KIB);
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	close(fd);
	free(got);
	free(data);
}

/* Not that it does not read: it is gone. */
static void who_was_reset_before_its_reply_is_gone(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(MIB);
	int fd;

	settings.write_timeout_ms = LONG_MS;
	settings.max_pending = 16 * KIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_stuff(f, fd, data, MIB);
	run_until(f, &f->counters.bytes_out, 1);
	run_for(f, 50);
	conn_note_progress(conn_of_timeout(TAILQ_FIRST(&f->server->timeouts.lists[TIMEOUT_WRITE])));
	let_time_pass(f, TIMEOUT_WRITE);
	client_reset(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, resets), 1);
	assert_int_equal(COUNT(f, write_timeouts), 0);
	free(data);
}

/* All that waits, as for anybody else; then it ends, as everybody does. */
static void a_server_that_drains_answers_too(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, idle());
	fd = accepted_client(f);
	client_say(f, fd, "hel");
	run_until(f, &f->counters.bytes_in, 3);
	start_draining(f);
	let_time_pass(f, TIMEOUT_IDLE);
	client_say(f, fd, "lo\n");
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	close(fd);
}

static void a_whole_header_is_heard(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	fd = accepted_client(f);
	client_say(f, fd, "PROXY ");
	run_until(f, &f->counters.bytes_in, 6);
	let_time_pass(f, TIMEOUT_HEADER);
	client_say(f, fd, header + 6);
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	assert_int_equal(COUNT(f, refused_proxy), 0);
	close(fd);
}

/* Its time is counted from the beginning: a byte now and then does not prolong it. */
static void a_part_of_a_header_is_not_enough(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_REQUIRED));
	fd = accepted_client(f);
	let_time_pass(f, TIMEOUT_HEADER);
	client_say(f, fd, "PROXY ");
	assert_end(f, fd);
	assert_int_equal(COUNT(f, refused_proxy), 1);
	close(fd);
}

/* What looked like the beginning of one was the client's own. */
static void where_none_is_needed_it_is_said(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, behind(SERVER_PROXY_OPTIONAL));
	fd = accepted_client(f);
	let_time_pass(f, TIMEOUT_HEADER);
	client_say(f, fd, "PROXY ");
	run_until(f, &f->counters.bytes_in, 6);
	client_say(f, fd, "me\n");
	assert_hears(f, fd, "PROXY me\n");
	close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_line_is_answered),
		TEST(a_part_of_a_line_is_heard),
		TEST(the_first_byte_is_heard),
		TEST(who_has_left_is_not_idle),
		TEST(who_was_reset_is_not_idle),
		TEST(each_is_asked),
		TEST(what_does_not_fit_waits),
		TEST(who_was_reset_before_its_reply_is_gone),
		TEST(a_server_that_drains_answers_too),
		TEST(a_whole_header_is_heard),
		TEST(a_part_of_a_header_is_not_enough),
		TEST(where_none_is_needed_it_is_said),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
