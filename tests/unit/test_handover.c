/* What a restart in place hands over: all of it comes back, and nothing damaged is believed. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run/handover.h"
#include "run/launch.h"

struct fixture {
	char *directory;
	struct handover sent;
	struct blob_writer writer;
};

static struct address loopback(uint16_t port)
{
	struct address address = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *)&address.storage;

	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static struct conf_source *make_source(const char *directory)
{
	struct conf_errors errors = {0};
	char path[SUPPORT_PATH_MAX];
	struct conf_source *source;

	support_join(path, directory, "echod.conf");
	support_write_file(path, "# a comment with \xff, which is no UTF-8\nnice = 3;\n");
	source = conf_source_load(path, &errors);
	assert_int_equal(errors.count, 0);
	assert_non_null(source);
	return source;
}

static void fill(struct fixture *f)
{
	struct handover *sent = &f->sent;

	*sent = (struct handover){
		.pid = getpid(),
		.since = 1234567890,
		.pidfile = {(char *)"/run/echod.pid", 5, 77, 88},
		.log = 12,
		.control = 6,
		.control_device = 99,
		.control_inode = 111,
		.control_path = (char *)"/run/echod.sock",
		.generation = 41,
		.privileges = {true, 1000, 1001, "echod"},
		.restarts_begun = 42,
		.restarts_ended = 41,
		.restarts_failed = 1,
		.again = true,
		.had_terminal = true,
		.ended = {.accepted = 7, .log_dropped = 9},
		.source = make_source(f->directory),
	};
	sent->sockets = calloc(2, sizeof(*sent->sockets));
	sent->children = calloc(1, sizeof(*sent->children));
	sent->clients = calloc(1, sizeof(*sent->clients));
	assert_true(sent->sockets != NULL && sent->children != NULL && sent->clients != NULL);
	sent->socket_count = 2;
	sent->sockets[0] = (struct handover_socket){7, (char *)"line", 0, loopback(1)};
	sent->sockets[1] = (struct handover_socket){8, (char *)"echo", 3, loopback(2)};
	sent->child_count = 1;
	sent->children[0] =
		(struct handover_child){4711, 9, 10, (char *)"line", 2, 40, 2, true, -5};
	sent->client_count = 1;
	sent->clients[0] = (struct handover_client){
		11, 42, (unsigned char *)"{\"ve", 4, (unsigned char *)"ok\0\n", 4};
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (f == NULL || support_make_directory((void **)&f->directory) != 0)
		return -1;
	fill(f);
	handover_pack(&f->sent, &f->writer);
	*state = f;
	return f->writer.failed ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int result = support_remove_directory((void **)&f->directory);

	conf_source_free(f->sent.source);
	free(f->sent.sockets);
	free(f->sent.children);
	free(f->sent.clients);
	blob_writer_free(&f->writer);
	free(f);
	return result;
}

static void all_of_it_comes_back(void **state)
{
	struct fixture *f = *state;
	struct handover got;
	struct error err = {0};

	assert_int_equal(handover_unpack(&got, f->writer.data, f->writer.len, &err), 0);
	assert_int_equal(got.since, 1234567890);
	assert_string_equal(got.pidfile.path, "/run/echod.pid");
	assert_int_equal(got.pidfile.fd, 5);
	assert_int_equal(got.pidfile.device, 77);
	assert_int_equal(got.pidfile.inode, 88);
	assert_int_equal(got.log, 12);
	assert_int_equal(got.control, 6);
	assert_int_equal(got.control_device, 99);
	assert_int_equal(got.control_inode, 111);
	assert_string_equal(got.control_path, "/run/echod.sock");
	assert_int_equal(got.generation, 41);
	assert_true(got.privileges.change);
	assert_int_equal(got.privileges.uid, 1000);
	assert_int_equal(got.privileges.gid, 1001);
	assert_string_equal(got.privileges.user, "echod");
	assert_int_equal(got.restarts_begun, 42);
	assert_int_equal(got.restarts_ended, 41);
	assert_int_equal(got.restarts_failed, 1);
	assert_true(got.again && got.had_terminal);
	assert_int_equal(got.ended.accepted, 7);
	assert_int_equal(got.ended.log_dropped, 9);
	assert_string_equal(conf_source_path(got.source), conf_source_path(f->sent.source));
	handover_free(&got);
}

static void lists_come_back(void **state)
{
	struct fixture *f = *state;
	struct handover got;
	struct error err = {0};

	assert_int_equal(handover_unpack(&got, f->writer.data, f->writer.len, &err), 0);
	assert_int_equal(got.socket_count, 2);
	assert_int_equal(got.sockets[1].fd, 8);
	assert_string_equal(got.sockets[1].service, "echo");
	assert_int_equal(got.sockets[1].number, 3);
	assert_true(address_equal(&got.sockets[1].address, &f->sent.sockets[1].address));
	assert_int_equal(got.child_count, 1);
	assert_int_equal(got.children[0].pid, 4711);
	assert_int_equal(got.children[0].channel, 9);
	assert_int_equal(got.children[0].counters, 10);
	assert_string_equal(got.children[0].service, "line");
	assert_int_equal(got.children[0].index, 2);
	assert_int_equal(got.children[0].generation, 40);
	assert_int_equal(got.children[0].state, 2);
	assert_true(got.children[0].ready);
	assert_int_equal(got.children[0].started_at, -5);
	assert_int_equal(got.client_count, 1);
	assert_int_equal(got.clients[0].fd, 11);
	assert_int_equal(got.clients[0].waits_for, 42);
	assert_int_equal(got.clients[0].input_len, 4);
	assert_memory_equal(got.clients[0].input, "{\"ve", 4);
	assert_int_equal(got.clients[0].output_len, 4);
	assert_memory_equal(got.clients[0].output, "ok\0\n", 4);
	handover_free(&got);
}

/* Each field of the header stands in eight bytes: magic, version, pid. */
static void refuse_changed(struct fixture *f, size_t field, const char *reason)
{
	struct handover got;
	struct error err = {0};

	f->writer.data[field * 8] ^= 1;
	assert_int_equal(handover_unpack(&got, f->writer.data, f->writer.len, &err), -1);
	assert_non_null(strstr(err.text, reason));
	f->writer.data[field * 8] ^= 1;
}

static void something_else_is_refused_with_the_reason(void **state)
{
	refuse_changed(*state, 0, "no hand-over");
	refuse_changed(*state, 1, "version");
	refuse_changed(*state, 2, "not for this process");
}

static void each_cut_is_seen(void **state)
{
	struct fixture *f = *state;
	struct handover got;
	struct error err = {0};

	for (size_t len = 0; len < f->writer.len; len++) {
		/* Its own memory, so that a sanitizer sees a read beyond the end. */
		void *cut = malloc(len + 1);

		assert_non_null(cut);
		memcpy(cut, f->writer.data, len);
		assert_int_equal(handover_unpack(&got, cut, len, &err), -1);
		free(cut);
	}
}

static void a_byte_too_many_is_seen(void **state)
{
	struct fixture *f = *state;
	struct handover got;
	struct error err = {0};

	blob_put_bytes(&f->writer, "", 0);
	assert_int_equal(handover_unpack(&got, f->writer.data, f->writer.len, &err), -1);
	assert_non_null(strstr(err.text, "damaged"));
}

static void damage_never_crashes(void **state)
{
	struct fixture *f = *state;
	struct support_random random;

	support_random_start(&random);
	for (int i = 0; i < 20000; i++) {
		struct handover got;
		struct error err = {0};
		size_t at = 24 + support_random_below(&random, f->writer.len - 24);
		unsigned char was = f->writer.data[at];

		f->writer.data[at] = (unsigned char)support_random_next(&random);
		if (handover_unpack(&got, f->writer.data, f->writer.len, &err) == 0)
			handover_free(&got);
		f->writer.data[at] = was;
	}
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_of_it_comes_back),
		TEST(lists_come_back),
		TEST(something_else_is_refused_with_the_reason),
		TEST(each_cut_is_seen),
		TEST(a_byte_too_many_is_seen),
		TEST(damage_never_crashes),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
