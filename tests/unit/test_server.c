/*
 * The server of a worker, whole, over loopback: its clients live in the same process and on the
 * same event base, so that nothing here waits for anything but an event.
 */
#include "server_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/server.h"

/* What a server waits for beside its connections; their timer and their poller always are. */
static int watched(const struct fixture *f)
{
	return event_base_get_num_events(f->base, EVENT_BASE_COUNT_ADDED) - 2;
}

/* ---- Answering ------------------------------------------------------------------------------ */

static void with_one_line_allowed_it_goes_back_and_the_connection_ends(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.says.max_requests = 1;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\r\n");
	assert_hears(f, fd, "hello\r\n");
	assert_end(f, fd);
	assert_int_equal(server_connections(f->server), 0);
	assert_int_equal(COUNT(f, requests), 1);
	assert_int_equal(COUNT(f, bytes_in), 7);
	assert_int_equal(COUNT(f, bytes_out), 7);
	close(fd);
}

static void data_that_waits_at_accept_is_read_at_once(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.says.max_requests = 1;
	settings.read_at_accept = true;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\n");
	/* One turn of the loop: accepted, answered and closed. */
	event_base_loop(f->base, EVLOOP_ONCE);
	assert_int_equal(COUNT(f, closed), 1);
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	close(fd);
	/* A client that is silent at first is served too. */
	fd = client(f);
	run_until(f, &f->counters.accepted, 2);
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	close(fd);
}

static void many_lines_go_back_one_by_one(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, lines());
	fd = client(f);
	for (int i = 0; i < 100; i++) {
		client_say(f, fd, "hello\n");
		assert_hears(f, fd, "hello\n");
	}
	assert_int_equal(COUNT(f, requests), 100);
	assert_int_equal(server_connections(f->server), 1);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, resets), 0);
}

static void pipelined_lines_go_back_in_order_and_byte_for_byte(void **state)
{
	struct fixture *f = *state;
	struct support_random random;
	char *data;

	support_random_start(&random);
	data = random_lines(&random, 2 * MIB);
	serve(f, lines());
	for (int i = 0; i < 3; i++) {
		const size_t pieces[] = {7, 4093, 256 * KIB};
		size_t len = i == 0 ? 20 * KIB : 2 * MIB;
		int fd = client(f);

		data[len - 1] = '\n';
		client_exchange(f, fd, data, len, pieces[i]);
		close(fd);
	}
	run_until(f, &f->counters.closed, 3);
	assert_int_equal(COUNT(f, bytes_in), COUNT(f, bytes_out));
	free(data);
}

static void a_line_that_comes_byte_by_byte_goes_back_whole(void **state)
{
	struct fixture *f = *state;
	const char text[] = "one byte after the other";
	int fd;

	serve(f, lines());
	fd = client(f);
	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		client_send(f, fd, &text[i], 1);
		run_until(f, &f->counters.bytes_in, i + 1);
	}
	assert_hears_nothing(f, fd);
	client_say(f, fd, "\nand");
	assert_hears(f, fd, "one byte after the other\n");
	client_say(f, fd, " another\n");
	assert_hears(f, fd, "and another\n");
	close(fd);
}

static void echo_sends_all_bytes_back_without_waiting_for_a_line(void **state)
{
	struct fixture *f = *state;
	struct support_random random;
	char *data;
	int fd;

	support_random_start(&random);
	data = random_lines(&random, 4 * MIB);
	serve(f, echo());
	fd = client(f);
	client_say(f, fd, "no lf");
	assert_hears(f, fd, "no lf");
	client_exchange(f, fd, data, 4 * MIB, 100 * KIB);
	shutdown(fd, SHUT_WR);
	assert_end(f, fd);
	assert_int_equal(COUNT(f, requests), 0);
	close(fd);
	free(data);
}

static void what_stands_before_the_clients_end_of_file_goes_back(void **state)
{
	struct fixture *f = *state;
	int fd, silent;

	serve(f, lines());
	fd = client(f);
	silent = client(f);
	client_say(f, fd, "a line\na tail");
	shutdown(fd, SHUT_WR);
	assert_hears(f, fd, "a line\na tail");
	assert_end(f, fd);
	shutdown(silent, SHUT_WR);
	assert_end(f, silent);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(COUNT(f, requests), 2);
	assert_int_equal(COUNT(f, resets), 0);
	close(fd);
	close(silent);
}

static void a_hundred_clients_at_once_get_each_their_own(void **state)
{
	struct fixture *f = *state;
	struct support_random random;
	int fds[100];
	char text[64];

	support_random_start(&random);
	serve(f, lines());
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	for (size_t i = 0; i < 2000; i++) {
		size_t one = support_random_below(&random, COUNT_OF(fds));

		snprintf(text, sizeof(text), "client %zu says %zu\n", one, i);
		client_say(f, fds[one], text);
		assert_hears(f, fds[one], text);
	}
	assert_int_equal(COUNT(f, accepted), 100);
	assert_int_equal(COUNT(f, requests), 2000);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		close(fds[i]);
	run_until(f, &f->counters.closed, 100);
	assert_int_equal(server_connections(f->server), 0);
}

/* ---- Limits --------------------------------------------------------------------------------- */

static void a_line_of_exactly_max_line_goes_back(void **state)
{
	struct fixture *f = *state;
	char *data = letters(64 * KIB);
	int fd;

	data[64 * KIB - 1] = '\n';
	serve(f, lines());
	fd = client(f);
	client_exchange(f, fd, data, 64 * KIB, 1000);
	client_exchange(f, fd, data, 64 * KIB, 64 * KIB);
	assert_int_equal(COUNT(f, too_long), 0);
	close(fd);
	free(data);
}

static void a_line_that_is_too_long_ends_the_connection_after_the_replies_before_it(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.says.max_line = 8;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "1234567\n12345678");
	assert_hears(f, fd, "1234567\n");
	assert_end(f, fd);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, too_long), 1);
	assert_int_equal(COUNT(f, requests), 1);
	assert_contains(support_log_text(), "a line is longer than max_line");
}

static void the_end_of_a_connection_is_said_once(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.says.max_line = 8;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "123456789");
	assert_end(f, fd);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(support_log_count("connection from 127.0.0.1:"), 1);
}

static void a_client_that_never_reads_holds_at_most_max_pending(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(MIB);
	int fd;

	settings.max_pending = 16 * KIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_stuff(f, fd, data, MIB);
	assert_int_equal(COUNT(f, bytes_in) - COUNT(f, bytes_out), 16 * KIB);
	close(fd);
	free(data);
}

static void lines_of_a_client_that_never_reads_are_bounded_too(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct support_random random;
	char *data;
	int fd;

	support_random_start(&random);
	data = random_lines(&random, MIB);
	settings.max_pending = 16 * KIB;
	settings.says.max_line = 8 * KIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_stuff(f, fd, data, MIB);
	assert_in_range(COUNT(f, bytes_in) - COUNT(f, bytes_out), 8 * KIB, 16 * KIB + 8 * KIB);
	close(fd);
	free(data);
}

/* Send until the kernel takes no more for the moment. Returns how much it took. */
static size_t client_send_some(struct fixture *f, int fd, const char *data, size_t len)
{
	size_t sent = 0;
	ssize_t n;

	while (sent < len && (n = send(fd, data + sent, len - sent, MSG_NOSIGNAL)) > 0) {
		sent += (size_t)n;
		run_all(f);
	}
	return sent;
}

static void a_client_that_reads_late_gets_everything(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct support_random random;
	char *data, *got = malloc(8 * MIB);
	size_t sent, len;
	int fd;

	assert_non_null(got);
	support_random_start(&random);
	data = random_lines(&random, 8 * MIB);
	settings.max_pending = 16 * KIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	sent = client_send_some(f, fd, data, 8 * MIB);
	assert_true(sent < 8 * MIB);
	shutdown(fd, SHUT_WR);
	len = client_read(f, fd, got, 8 * MIB);
	assert_int_equal(len, sent);
	assert_memory_equal(got, data, len);
	close(fd);
	free(got);
	free(data);
}

static void one_client_that_never_reads_does_not_hinder_others(void **state)
{
	struct fixture *f = *state;
	char *data = letters(MIB);
	int deaf, fd;

	serve_with_buffer(f,
			  &(struct server_settings){.proto = &proto_echo, .max_pending = 16 * KIB},
			  16 * KIB);
	deaf = client_with_buffer(f, 4 * KIB);
	client_stuff(f, deaf, data, MIB);
	fd = client(f);
	client_say(f, fd, "hello");
	assert_hears(f, fd, "hello");
	close(fd);
	close(deaf);
	free(data);
}

static void a_client_that_resets_is_counted_and_no_fault(void **state)
{
	struct fixture *f = *state;
	int fd, other;

	log_set_level(LOG_LEVEL_INFO);
	serve(f, lines());
	fd = client(f);
	client_say(f, fd, "half a line");
	run_until(f, &f->counters.bytes_in, 11);
	other = client(f);
	run_until(f, &f->counters.accepted, 2);
	client_reset(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, resets), 1);
	assert_int_equal(support_log_count("Connection reset by peer"), 1);
	/* Though the kernel has forgotten it. */
	assert_int_equal(support_log_count("connection from 127.0.0.1:"), 1);
	close(other);
}

/* ---- Closing never destroys a reply --------------------------------------------------------- */

static void bytes_behind_the_last_line_do_not_destroy_its_reply(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	char *data = letters(200 * KIB), *got = malloc(64 * KIB);
	int fd;

	assert_non_null(got);
	data[60 * KIB - 1] = '\n';
	settings.says.max_requests = 1;
	serve(f, settings);
	fd = client_with_buffer(f, 4 * KIB);
	client_send(f, fd, data, 200 * KIB);
	/* Whatever follows, the line comes back whole and then the end, not a reset. */
	assert_int_equal(client_read(f, fd, got, 64 * KIB), 60 * KIB);
	assert_memory_equal(got, data, 60 * KIB);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	free(got);
	free(data);
}

static void bytes_that_come_while_the_reply_waits_do_not_destroy_it(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	/* Of a length at which no buffer of the server is exactly full. */
	const size_t line = MIB - 12345;
	char *data = letters(line), *got = malloc(2 * MIB);
	size_t len;
	int fd;

	assert_non_null(got);
	data[line - 1] = '\n';
	settings.says.max_requests = 1;
	settings.says.max_line = MIB;
	settings.max_pending = 4 * MIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_send(f, fd, data, line);
	/* Read whole and not yet sent whole: most of the reply waits. */
	run_until(f, &f->counters.requests, 1);
	assert_true(COUNT(f, bytes_out) < line / 2);
	client_say(f, fd, "more than was asked for");
	len = client_read(f, fd, got, 2 * MIB);
	assert_int_equal(len, line);
	assert_memory_equal(got, data, len);
	close(fd);
	free(got);
	free(data);
}

static void a_client_that_does_not_close_is_closed_after_two_seconds(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int64_t start;
	int fd;

	settings.says.max_requests = 1;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\nand more");
	assert_hears(f, fd, "hello\n");
	start = clock_ms();
	assert_end(f, fd);
	assert_int_equal(COUNT(f, closed), 0);
	run_until(f, &f->counters.closed, 1);
	assert_in_range(clock_ms() - start, 1900, 10000);
	close(fd);
}

static void what_still_comes_is_thrown_away_until_the_client_ends(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	char *data = letters(MIB);
	int fd;

	settings.says.max_requests = 1;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\nand more");
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	client_send(f, fd, data, MIB);
	assert_int_equal(COUNT(f, closed), 0);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, resets), 0);
	assert_int_equal(COUNT(f, bytes_out), 6);
	free(data);
}

/* ---- Time-outs ------------------------------------------------------------------------------ */

static void a_silent_client_is_closed_after_idle_timeout(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int64_t start;
	int fd;

	settings.idle_timeout_ms = 60;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	start = clock_coarse_ms();
	assert_end(f, fd);
	/* The coarse clock of the server lags by a tick at most. */
	assert_true(clock_coarse_ms() - start >= 50);
	assert_int_equal(COUNT(f, idle_timeouts), 1);
	close(fd);
}

static void each_byte_puts_idle_timeout_off(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd, silent;

	settings.idle_timeout_ms = 400;
	serve(f, settings);
	fd = client(f);
	silent = client(f);
	run_until(f, &f->counters.accepted, 2);
	for (int i = 0; i < 4; i++) {
		run_for(f, 150);
		client_say(f, fd, "x");
	}
	assert_int_equal(COUNT(f, idle_timeouts), 1);
	assert_end(f, silent);
	client_say(f, fd, "\n");
	assert_hears(f, fd, "xxxx\n");
	assert_int_equal(server_connections(f->server), 1);
	close(fd);
	close(silent);
}

static void a_client_that_reads_nothing_is_closed_after_write_timeout(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(MIB);
	int fd;

	settings.write_timeout_ms = 60;
	settings.idle_timeout_ms = 5;
	settings.max_pending = 16 * KIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_stuff(f, fd, data, MIB);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, write_timeouts), 1);
	/* idle_timeout is shorter: a reply that waits is not idleness. */
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	assert_int_equal(support_log_count("write_timeout: the client does not read"), 1);
	close(fd);
	free(data);
}

static void a_client_that_reads_slowly_is_not_closed_by_write_timeout(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(MIB), *got = malloc(64 * KIB);
	int fd;

	assert_non_null(got);
	settings.write_timeout_ms = 400;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_stuff(f, fd, data, MIB);
	for (int i = 0; i < 5; i++) {
		/* Enough that the window opens and the server writes. */
		assert_int_equal(client_read(f, fd, got, 48 * KIB), 48 * KIB);
		run_for(f, 150);
	}
	assert_int_equal(COUNT(f, write_timeouts), 0);
	assert_int_equal(server_connections(f->server), 1);
	close(fd);
	free(got);
	free(data);
}

/* ---- The polite end ------------------------------------------------------------------------- */

static void draining_ends_idle_connections_with_a_fin(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, lines());
	fd = client(f);
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	start_draining(f);
	assert_end(f, fd);
	assert_int_equal(f->idle_calls, 0);
	close(fd);
	run_until(f, &f->counters.closed, 1);
	assert_true(f->idle_calls > 0);
	assert_int_equal(COUNT(f, cut_off), 0);
	assert_int_equal(COUNT(f, resets), 0);
}

static void draining_answers_what_has_been_received(void **state)
{
	struct fixture *f = *state;
	char *data = letters(300 * KIB), *got = malloc(300 * KIB);
	int fd;

	assert_non_null(got);
	for (size_t i = 99; i < 300 * KIB; i += 100)
		data[i] = '\n';
	data[300 * KIB - 1] = '\n';
	serve(f, lines());
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	/* In the kernel's buffers, and nobody has read it yet. */
	client_send(f, fd, data, 300 * KIB);
	start_draining(f);
	assert_int_equal(client_read(f, fd, got, 300 * KIB), 300 * KIB);
	assert_memory_equal(got, data, 300 * KIB);
	assert_end(f, fd);
	close(fd);
	free(got);
	free(data);
}

static void draining_lets_a_line_half_received_be_finished(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, lines());
	fd = client(f);
	client_say(f, fd, "one\nhalf");
	assert_hears(f, fd, "one\n");
	start_draining(f);
	assert_hears_nothing(f, fd);
	client_say(f, fd, " a");
	assert_hears_nothing(f, fd);
	client_say(f, fd, " line\n");
	assert_hears(f, fd, "half a line\n");
	assert_end(f, fd);
	close(fd);
}

static void draining_waits_for_a_reply_that_the_client_still_reads(void **state)
{
	struct fixture *f = *state;
	char *data = letters(MIB), *got = malloc(MIB);
	size_t sent;
	int fd;

	assert_non_null(got);
	serve_with_buffer(f,
			  &(struct server_settings){.proto = &proto_echo, .max_pending = 64 * KIB},
			  16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	sent = client_stuff(f, fd, data, MIB);
	start_draining(f);
	run_all(f);
	assert_int_equal(server_connections(f->server), 1);
	/* What the client had sent comes back, also what the server had not read before. */
	for (size_t at = 0; at < sent;) {
		size_t n = client_read(f, fd, got, sent - at < MIB ? sent - at : MIB);

		assert_true(n > 0);
		at += n;
	}
	assert_end(f, fd);
	close(fd);
	free(got);
	free(data);
}

static void draining_ends_a_connection_once_its_reply_is_out(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(MIB), *got = malloc(MIB);
	int fd;

	assert_non_null(got);
	settings.max_pending = 2 * MIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_send(f, fd, data, MIB);
	run_until(f, &f->counters.bytes_in, MIB);
	assert_true(COUNT(f, bytes_out) < MIB);
	start_draining(f);
	/* Nothing more comes from the client that could wake the server. */
	assert_int_equal(client_read(f, fd, got, MIB), MIB);
	assert_end(f, fd);
	close(fd);
	free(got);
	free(data);
}

static void connections_in_the_queue_are_served_when_nobody_else_will(void **state)
{
	struct fixture *f = *state;
	int fds[10];

	serve(f, lines());
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		fds[i] = client(f);
		client_say(f, fds[i], "hello\n");
	}
	assert_int_equal(COUNT(f, accepted), 0);
	start_draining(f);
	assert_int_equal(COUNT(f, accepted), 10);
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		assert_hears(f, fds[i], "hello\n");
		assert_end(f, fds[i]);
		close(fds[i]);
	}
	run_until(f, &f->counters.closed, 10);
}

static void a_queue_that_another_process_serves_is_left_to_it(void **state)
{
	struct fixture *f = *state;
	int other, fd, accepted;

	serve(f, lines());
	other = dup(f->listener);
	fd = client(f);
	server_stop_accepting(f->server, false);
	assert_int_equal(COUNT(f, accepted), 0);
	/* Nothing is watched any more: the queue wakes nobody here. */
	run_all(f);
	assert_int_equal(COUNT(f, accepted), 0);
	accepted = accept(other, NULL, NULL);
	assert_true(accepted >= 0);
	close(accepted);
	close(other);
	close(fd);
}

static void without_connections_stopping_is_idle_at_once(void **state)
{
	struct fixture *f = *state;

	serve(f, lines());
	assert_int_equal(f->idle_calls, 0);
	server_stop_accepting(f->server, true);
	assert_true(f->idle_calls > 0);
}

static void the_server_is_idle_when_the_last_connection_has_ended(void **state)
{
	struct fixture *f = *state;
	int one, two;

	serve(f, lines());
	one = client(f);
	two = client(f);
	run_until(f, &f->counters.accepted, 2);
	server_stop_accepting(f->server, false);
	close(one);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(f->idle_calls, 0);
	close(two);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(f->idle_calls, 1);
}

struct blast {
	struct sockaddr_in address;
	int listener;
};

/* A client that never stops, and reads all replies, on the other processor. */
static int blast(void *arg)
{
	struct blast *blast = arg;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	static char data[256 * KIB], got[256 * KIB];
	pid_t reader;

	signal(SIGPIPE, SIG_IGN);
	close(blast->listener);
	CHILD_CHECK(connect(fd, (struct sockaddr *)&blast->address, sizeof(blast->address)) == 0);
	reader = fork();
	if (reader == 0) {
		support_limit_time(10);
		while (read(fd, got, sizeof(got)) > 0)
			;
		_exit(0);
	}
	support_limit_time(10);
	while (send(fd, data, sizeof(data), MSG_NOSIGNAL) > 0)
		;
	close(fd);
	support_wait(reader);
	return 0;
}

static void draining_a_client_that_never_stops_leaves_the_loop_alive(void **state)
{
	struct fixture *f = *state;
	struct blast task;
	int64_t start;
	pid_t pid;

	serve(f, echo());
	task = (struct blast){f->address, f->listener};
	pid = support_fork(blast, &task);
	run_until(f, &f->counters.bytes_in, MIB);
	start = clock_ms();
	/* Time-outs, orders and other clients wait while this runs. */
	start_draining(f);
	assert_in_range(clock_ms() - start, 0, 1000);
	server_cut_off(f->server);
	assert_int_equal(support_wait(pid), 0);
}

/* ---- The quick end -------------------------------------------------------------------------- */

static void cutting_off_closes_everything_at_once_and_counts_it(void **state)
{
	struct fixture *f = *state;
	char *data = letters(MIB);
	struct server_settings settings = lines();
	int idle, half, deaf;

	settings.says.max_line = 2 * MIB;
	settings.max_pending = 4 * KIB;
	serve_with_buffer(f, &settings, 16 * KIB);
	idle = client(f);
	half = client(f);
	deaf = client_with_buffer(f, 4 * KIB);
	client_say(f, half, "half a line");
	data[MIB - 1] = '\n';
	client_stuff(f, deaf, data, MIB);
	assert_int_equal(server_connections(f->server), 3);
	server_stop_accepting(f->server, false);
	server_cut_off(f->server);
	assert_int_equal(server_connections(f->server), 0);
	assert_int_equal(COUNT(f, cut_off), 3);
	assert_true(f->idle_calls > 0);
	assert_end(f, idle);
	close(idle);
	close(half);
	close(deaf);
	free(data);
}

static void cutting_off_does_not_count_who_had_been_answered(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.says.max_requests = 1;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\nand more");
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	server_cut_off(f->server);
	assert_int_equal(COUNT(f, closed), 1);
	assert_int_equal(COUNT(f, cut_off), 0);
	close(fd);
}

static void freeing_closes_connections_and_listening_sockets(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, lines());
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	server_free(f->server);
	f->server = NULL;
	assert_int_equal(COUNT(f, closed), 1);
	assert_int_equal(fcntl(f->listener, F_GETFD), -1);
	assert_int_equal(f->idle_calls, 0);
	close(fd);
}

/* ---- Trouble with accepting ----------------------------------------------------------------- */

/* In a child: the limit is the process's own. Failures there end it by CHILD_CHECK or a signal. */
static int run_out_of_descriptors(void *arg)
{
	struct fixture *f = arg;
	struct rlimit limit;
	int fds[8], lowest_free = dup(0);
	uint64_t pauses;

	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	close(lowest_free);
	CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	/* Room for two of the eight: the number that is free, and the next behind the clients. */
	limit.rlim_cur = (rlim_t)fds[COUNT_OF(fds) - 1] + 2;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	run_for(f, 450);
	CHILD_CHECK(COUNT(f, accepted) == 2);
	/* A pause takes 100 ms: few of them, and no spinning in between. */
	pauses = COUNT(f, accept_pauses);
	CHILD_CHECK(pauses >= 2 && pauses <= 6);
	CHILD_CHECK(support_log_count("Too many open files") == 1);
	limit.rlim_cur = limit.rlim_max;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	run_until(f, &f->counters.accepted, COUNT_OF(fds));
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		client_say(f, fds[i], "hello\n");
		assert_hears(f, fds[i], "hello\n");
	}
	return 0;
}

static int with_a_server_of_its_own(void *arg)
{
	struct fixture *f;
	void *state = NULL;

	(void)arg;
	CHILD_CHECK(setup(&state) == 0);
	f = state;
	serve(f, lines());
	return run_out_of_descriptors(f);
}

static void out_of_descriptors_accepting_pauses_and_recovers(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(with_a_server_of_its_own, NULL), 0);
}

static void a_pause_ends_when_accepting_is_stopped(void **state)
{
	struct fixture *f = *state;
	struct rlimit limit, low;
	int fd;

	serve(f, lines());
	fd = client(f);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = (struct rlimit){(rlim_t)fd + 1, limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	event_base_loop(f->base, EVLOOP_ONCE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(COUNT(f, accept_pauses), 1);
	server_stop_accepting(f->server, false);
	/* The end of the pause is not waited for either. */
	assert_int_equal(watched(f), 0);
	assert_int_equal(COUNT(f, accepted), 0);
	close(fd);
}

static int stop_with_a_broken_listener(void *arg)
{
	struct fixture *f;
	void *state = NULL;

	(void)arg;
	CHILD_CHECK(setup(&state) == 0);
	f = state;
	serve(f, lines());
	/* What any process that shares the socket can do to it: accept gives EINVAL from now on. */
	CHILD_CHECK(shutdown(f->listener, SHUT_RD) == 0);
	support_limit_time(5);
	server_stop_accepting(f->server, true);
	return 0;
}

static void a_listening_socket_that_is_broken_does_not_hang_the_stop(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(stop_with_a_broken_listener, NULL), 0);
}

static void a_listening_socket_that_is_broken_does_not_burn_the_processor(void **state)
{
	struct fixture *f = *state;
	struct rusage before, after;
	int64_t used;

	serve(f, lines());
	assert_int_equal(shutdown(f->listener, SHUT_RD), 0);
	assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
	run_for(f, 1000);
	assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
	used = (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec -
		before.ru_stime.tv_sec) *
		       1000 +
	       (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
		before.ru_stime.tv_usec) /
		       1000;
	assert_in_range(used, 0, 300);
}

static void two_listening_sockets_are_served(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	struct sockaddr_in first;
	int one, two;

	serve(f, lines());
	first = f->address;
	f->listener = bound_listener(f);
	assert_int_equal(listen(f->listener, 16), 0);
	assert_int_equal(server_add_socket(f->server, f->listener, &err), 0);
	assert_int_equal(server_accept_on(f->server, 1, true, &err), 0);
	two = client(f);
	f->address = first;
	one = client(f);
	client_say(f, two, "two\n");
	assert_hears(f, two, "two\n");
	client_say(f, one, "one\n");
	assert_hears(f, one, "one\n");
	close(one);
	close(two);
}

/* ---- Which sockets are accepted on ---------------------------------------------------------- */

/* A listening socket of a server that has several. */
struct door {
	int fd; /* owned by the server */
	struct sockaddr_in address;
};

/* A server that accepts nowhere yet. */
static void open_doors(struct fixture *f, struct door *doors, size_t n)
{
	struct server_settings settings = lines();
	struct error err = {0};

	make_server(f, &settings);
	for (size_t i = 0; i < n; i++) {
		doors[i].fd = bound_listener(f);
		doors[i].address = f->address;
		assert_int_equal(listen(doors[i].fd, 64), 0);
		assert_int_equal(server_add_socket(f->server, doors[i].fd, &err), 0);
	}
}

static void accept_on(struct fixture *f, size_t number, bool accept)
{
	struct error err = {0};

	assert_int_equal(server_accept_on(f->server, number, accept, &err), 0);
	assert_int_equal(err.code, 0);
}

/* A client that has said something, and waits. */
static int client_at(struct fixture *f, const struct door *door)
{
	int fd;

	f->address = door->address;
	fd = client(f);
	client_say(f, fd, "hello\n");
	return fd;
}

static void knock(struct fixture *f, const struct door *door, int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fds[i] = client_at(f, door);
}

/* They are answered, and go. */
static void assert_served(struct fixture *f, int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_hears(f, fds[i], "hello\n");
		close(fds[i]);
	}
}

static void close_all(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static void a_socket_that_is_not_accepted_on_keeps_its_clients_waiting(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int fds[5];

	open_doors(f, &door, 1);
	knock(f, &door, fds, COUNT_OF(fds));
	run_all(f);
	assert_int_equal(COUNT(f, accepted), 0);
	assert_hears_nothing(f, fds[0]);
	accept_on(f, 0, true);
	assert_served(f, fds, COUNT_OF(fds));
	assert_int_equal(COUNT(f, accepted), 5);
	assert_int_equal(COUNT(f, accept_pauses), 0);
}

static void accepting_no_longer_loses_nobody_and_can_begin_again(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int served, fds[5];

	open_doors(f, &door, 1);
	for (unsigned round = 0; round < 3; round++) {
		accept_on(f, 0, true);
		served = client_at(f, &door);
		assert_hears(f, served, "hello\n");
		accept_on(f, 0, false);
		knock(f, &door, fds, COUNT_OF(fds));
		run_all(f);
		assert_int_equal(COUNT(f, accepted), round * 6 + 1);
		assert_hears_nothing(f, fds[4]);
		/* Who was accepted before is served on. */
		client_say(f, served, "hello\n");
		assert_served(f, &served, 1);
		accept_on(f, 0, true);
		assert_served(f, fds, COUNT_OF(fds));
	}
	assert_int_equal(COUNT(f, accepted), 18);
	assert_int_equal(f->idle_calls, 0);
}

static void saying_the_same_again_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int fd;

	open_doors(f, &door, 1);
	accept_on(f, 0, false);
	accept_on(f, 0, true);
	accept_on(f, 0, true);
	assert_int_equal(watched(f), 1);
	accept_on(f, 0, false);
	accept_on(f, 0, false);
	assert_int_equal(watched(f), 0);
	fd = client_at(f, &door);
	assert_hears_nothing(f, fd);
	accept_on(f, 0, true);
	assert_served(f, &fd, 1);
}

static void sockets_are_numbered_in_the_order_in_which_they_came(void **state)
{
	struct fixture *f = *state;
	struct door doors[3];
	int fds[3];

	open_doors(f, doors, COUNT_OF(doors));
	for (size_t i = 0; i < COUNT_OF(doors); i++)
		fds[i] = client_at(f, &doors[i]);
	for (size_t i = 0; i < COUNT_OF(doors); i++) {
		const size_t order[] = {1, 2, 0};

		accept_on(f, order[i], true);
		run_all(f);
		assert_int_equal(COUNT(f, accepted), i + 1);
		assert_served(f, &fds[order[i]], 1);
	}
}

static void a_number_that_there_is_not_is_passed_over(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int fd;

	open_doors(f, &door, 1);
	accept_on(f, 1, true);
	accept_on(f, SIZE_MAX, true);
	server_give_up(f->server, 1);
	server_give_up(f->server, SIZE_MAX);
	fd = client_at(f, &door);
	run_all(f);
	assert_int_equal(COUNT(f, accepted), 0);
	accept_on(f, 0, true);
	accept_on(f, 1, false);
	assert_served(f, &fd, 1);
	server_stop_accepting(f->server, false);
	/* Now there is none at all. */
	accept_on(f, 0, true);
	accept_on(f, 0, false);
	server_give_up(f->server, 0);
	server_stop_accepting(f->server, true);
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(watched(f), 0);
}

/* Let the server find no free descriptor for the next client: `last` is the highest in use. */
static void run_into_a_pause(struct fixture *f, int last)
{
	struct rlimit limit, low;
	uint64_t pauses = COUNT(f, accept_pauses);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = (struct rlimit){(rlim_t)last + 1, limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	event_base_loop(f->base, EVLOOP_ONCE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(COUNT(f, accept_pauses), pauses + 1);
	assert_int_equal(COUNT(f, paused), 1);
}

static void what_is_said_during_a_pause_holds_after_it(void **state)
{
	struct fixture *f = *state;
	struct door doors[3];
	int fds[3];

	open_doors(f, doors, COUNT_OF(doors));
	for (size_t i = 0; i < COUNT_OF(doors); i++)
		fds[i] = client_at(f, &doors[i]);
	accept_on(f, 0, true);
	run_into_a_pause(f, fds[2]);
	accept_on(f, 0, false);
	accept_on(f, 1, true);
	accept_on(f, 2, true);
	accept_on(f, 2, false);
	/* The pause goes on. */
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(COUNT(f, accepted), 0);
	run_until(f, &f->counters.accepted, 1);
	assert_int_equal(COUNT(f, paused), 0);
	assert_served(f, &fds[1], 1);
	assert_hears_nothing(f, fds[0]);
	assert_hears_nothing(f, fds[2]);
	assert_int_equal(COUNT(f, accepted), 1);
	accept_on(f, 0, true);
	accept_on(f, 2, true);
	assert_served(f, &fds[0], 1);
	assert_served(f, &fds[2], 1);
	assert_int_equal(COUNT(f, accept_pauses), 1);
}

static void a_socket_that_comes_during_a_pause_waits_for_its_end(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	struct door first, second;
	int one, two;

	open_doors(f, &first, 1);
	accept_on(f, 0, true);
	second.fd = bound_listener(f);
	second.address = f->address;
	assert_int_equal(listen(second.fd, 64), 0);
	one = client_at(f, &first);
	two = client_at(f, &second);
	run_into_a_pause(f, two);
	assert_int_equal(server_add_socket(f->server, second.fd, &err), 0);
	accept_on(f, 1, true);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(COUNT(f, accepted), 0);
	assert_served(f, &one, 1);
	assert_served(f, &two, 1);
	assert_int_equal(COUNT(f, paused), 0);
}

static void that_accepting_pauses_can_be_read(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int fd;

	open_doors(f, &door, 1);
	assert_int_equal(COUNT(f, paused), 0);
	accept_on(f, 0, true);
	for (unsigned round = 0; round < 2; round++) {
		fd = client_at(f, &door);
		run_into_a_pause(f, fd);
		run_until(f, &f->counters.accepted, round + 1);
		assert_int_equal(COUNT(f, paused), 0);
		assert_served(f, &fd, 1);
		run_until(f, &f->counters.closed, round + 1);
	}
	fd = client_at(f, &door);
	run_into_a_pause(f, fd);
	server_stop_accepting(f->server, false);
	assert_int_equal(COUNT(f, paused), 0);
	assert_int_equal(watched(f), 0);
	close(fd);
}

static void a_pause_does_not_keep_the_queue_from_being_emptied_at_the_end(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int fds[3];

	open_doors(f, &door, 1);
	accept_on(f, 0, true);
	knock(f, &door, fds, COUNT_OF(fds));
	run_into_a_pause(f, fds[2]);
	server_stop_accepting(f->server, true);
	assert_int_equal(COUNT(f, accepted), 3);
	assert_int_equal(COUNT(f, paused), 0);
	assert_served(f, fds, COUNT_OF(fds));
}

static void only_the_queue_that_is_given_up_is_emptied(void **state)
{
	struct fixture *f = *state;
	struct door doors[3];
	int others[2], given_up[2], elsewhere[2][2], accepted;

	open_doors(f, doors, COUNT_OF(doors));
	/* Another process has them too. */
	others[0] = dup(doors[0].fd);
	others[1] = dup(doors[2].fd);
	accept_on(f, 0, true);
	knock(f, &doors[0], elsewhere[0], 2);
	knock(f, &doors[1], given_up, 2);
	knock(f, &doors[2], elsewhere[1], 2);
	server_give_up(f->server, 1);
	server_stop_accepting(f->server, false);
	assert_int_equal(COUNT(f, accepted), 2);
	assert_served(f, given_up, 2);
	run_all(f);
	assert_int_equal(COUNT(f, accepted), 2);
	for (size_t i = 0; i < 2; i++) {
		for (size_t k = 0; k < 2; k++) {
			accepted = accept(others[i], NULL, NULL);
			assert_true(accepted >= 0);
			close(accepted);
		}
		close(others[i]);
		close_all(elsewhere[i], 2);
	}
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(f->idle_calls, 1);
}

static void giving_up_alone_accepts_nobody(void **state)
{
	struct fixture *f = *state;
	struct door door;
	int fd;

	open_doors(f, &door, 1);
	server_give_up(f->server, 0);
	fd = client_at(f, &door);
	assert_hears_nothing(f, fd);
	assert_int_equal(COUNT(f, accepted), 0);
	server_stop_accepting(f->server, false);
	assert_served(f, &fd, 1);
}

static void all_queues_are_emptied_also_those_that_were_never_accepted_on(void **state)
{
	struct fixture *f = *state;
	struct door doors[3];
	int fds[3][4];

	open_doors(f, doors, COUNT_OF(doors));
	accept_on(f, 0, true);
	accept_on(f, 1, true);
	accept_on(f, 1, false);
	for (size_t i = 0; i < COUNT_OF(doors); i++)
		knock(f, &doors[i], fds[i], 4);
	assert_int_equal(COUNT(f, accepted), 0);
	start_draining(f);
	assert_int_equal(COUNT(f, accepted), 12);
	for (size_t i = 0; i < COUNT_OF(doors); i++) {
		for (size_t k = 0; k < 4; k++) {
			assert_hears(f, fds[i][k], "hello\n");
			assert_end(f, fds[i][k]);
		}
		close_all(fds[i], 4);
	}
	run_until(f, &f->counters.closed, 12);
	assert_true(f->idle_calls > 0);
	for (size_t i = 0; i < COUNT_OF(doors); i++)
		assert_int_equal(fcntl(doors[i].fd, F_GETFD), -1);
}

static void a_server_without_sockets_can_be_stopped_and_freed(void **state)
{
	struct fixture *f = *state;

	open_doors(f, NULL, 0);
	assert_int_equal(f->idle_calls, 0);
	server_stop_accepting(f->server, true);
	assert_int_equal(f->idle_calls, 1);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(with_one_line_allowed_it_goes_back_and_the_connection_ends),
		TEST(data_that_waits_at_accept_is_read_at_once),
		TEST(many_lines_go_back_one_by_one),
		TEST(pipelined_lines_go_back_in_order_and_byte_for_byte),
		TEST(a_line_that_comes_byte_by_byte_goes_back_whole),
		TEST(echo_sends_all_bytes_back_without_waiting_for_a_line),
		TEST(what_stands_before_the_clients_end_of_file_goes_back),
		TEST(a_hundred_clients_at_once_get_each_their_own),
		TEST(a_line_of_exactly_max_line_goes_back),
		TEST(a_line_that_is_too_long_ends_the_connection_after_the_replies_before_it),
		TEST(the_end_of_a_connection_is_said_once),
		TEST(a_client_that_never_reads_holds_at_most_max_pending),
		TEST(lines_of_a_client_that_never_reads_are_bounded_too),
		TEST(a_client_that_reads_late_gets_everything),
		TEST(one_client_that_never_reads_does_not_hinder_others),
		TEST(a_client_that_resets_is_counted_and_no_fault),
		TEST(bytes_behind_the_last_line_do_not_destroy_its_reply),
		TEST(bytes_that_come_while_the_reply_waits_do_not_destroy_it),
		TEST(a_client_that_does_not_close_is_closed_after_two_seconds),
		TEST(what_still_comes_is_thrown_away_until_the_client_ends),
		TEST(a_silent_client_is_closed_after_idle_timeout),
		TEST(each_byte_puts_idle_timeout_off),
		TEST(a_client_that_reads_nothing_is_closed_after_write_timeout),
		TEST(a_client_that_reads_slowly_is_not_closed_by_write_timeout),
		TEST(draining_ends_idle_connections_with_a_fin),
		TEST(draining_answers_what_has_been_received),
		TEST(draining_lets_a_line_half_received_be_finished),
		TEST(draining_waits_for_a_reply_that_the_client_still_reads),
		TEST(draining_ends_a_connection_once_its_reply_is_out),
		TEST(connections_in_the_queue_are_served_when_nobody_else_will),
		TEST(a_queue_that_another_process_serves_is_left_to_it),
		TEST(without_connections_stopping_is_idle_at_once),
		TEST(the_server_is_idle_when_the_last_connection_has_ended),
		TEST(draining_a_client_that_never_stops_leaves_the_loop_alive),
		TEST(cutting_off_closes_everything_at_once_and_counts_it),
		TEST(cutting_off_does_not_count_who_had_been_answered),
		TEST(freeing_closes_connections_and_listening_sockets),
		cmocka_unit_test(out_of_descriptors_accepting_pauses_and_recovers),
		TEST(a_pause_ends_when_accepting_is_stopped),
		cmocka_unit_test(a_listening_socket_that_is_broken_does_not_hang_the_stop),
		TEST(a_listening_socket_that_is_broken_does_not_burn_the_processor),
		TEST(two_listening_sockets_are_served),
		TEST(a_socket_that_is_not_accepted_on_keeps_its_clients_waiting),
		TEST(accepting_no_longer_loses_nobody_and_can_begin_again),
		TEST(saying_the_same_again_changes_nothing),
		TEST(sockets_are_numbered_in_the_order_in_which_they_came),
		TEST(a_number_that_there_is_not_is_passed_over),
		TEST(what_is_said_during_a_pause_holds_after_it),
		TEST(a_socket_that_comes_during_a_pause_waits_for_its_end),
		TEST(that_accepting_pauses_can_be_read),
		TEST(a_pause_does_not_keep_the_queue_from_being_emptied_at_the_end),
		TEST(only_the_queue_that_is_given_up_is_emptied),
		TEST(giving_up_alone_accepts_nobody),
		TEST(all_queues_are_emptied_also_those_that_were_never_accepted_on),
		TEST(a_server_without_sockets_can_be_stopped_and_freed),
	};

	support_limit_time(180);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
