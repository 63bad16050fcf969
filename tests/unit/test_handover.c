/* What a restart in place hands over: all of it comes back, and nothing damaged is believed. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run/child.h"
#include "run/handover.h"
#include "run/launch.h"
#include "run/verbs.h"

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

static char *const sensor_command[] = {(char *)"/bin/sensor", (char *)"--loop", (char *)"", NULL};

static void fill_services(struct handover *sent)
{
	sent->service_count = 3;
	sent->services = calloc(sent->service_count, sizeof(*sent->services));
	assert_non_null(sent->services);
	sent->services[0] = (struct handover_service){
		.name = (char *)"line",
		.places = 4,
		.privileges = {true, 1000, 1001, "echod"},
		.ended = {.accepted = 7, .log_dropped = 9},
		.limits = 16,
	};
	sent->services[1] = (struct handover_service){
		.name = (char *)"echo",
		.places = 1,
		.stopped = true,
		.privileges = {false, 0, 0, ""},
		.limits = -1,
	};
	sent->services[2] = (struct handover_service){
		.name = (char *)"sensor",
		.places = 1,
		.privileges = {true, 65534, 65533, "nobody"},
		.ended = {.requests = 1},
		.limits = -1,
		.added = true,
		.command = (char **)sensor_command,
		.user = (char *)"nobody",
		.restart = (char *)"on-failure",
	};
}

static void fill_sockets(struct handover *sent)
{
	sent->socket_count = 2;
	sent->sockets = calloc(sent->socket_count, sizeof(*sent->sockets));
	assert_non_null(sent->sockets);
	sent->sockets[0] = (struct handover_socket){
		.fd = 7,
		.service = (char *)"line",
		.address = loopback(1),
		.key = {.place = {.address = loopback(0), .device = "eth0", .mptcp = true},
			.service = "line"},
		.file = {1, 2},
	};
	sent->sockets[1] = (struct handover_socket){
		.fd = 8,
		.service = (char *)"echo",
		.number = 3,
		.address = loopback(2),
		.key = {.place = {.transport = TRANSPORT_UDP,
				  .address = loopback(2),
				  .both_families = true}},
		.shared = true,
		.passed = true,
	};
}

static void fill_children(struct handover *sent)
{
	sent->child_count = 3;
	sent->children = calloc(sent->child_count, sizeof(*sent->children));
	assert_non_null(sent->children);
	sent->children[0] = (struct handover_child){
		.pid = 4711,
		.channel = 9,
		.counters = 10,
		.service = (char *)"line",
		.index = 2,
		.kind = CHILD_WORKER,
		.generation = 40,
		.state = CHILD_RETIRING,
		.ready = true,
		.since = -5,
		.text = (char *)"",
	};
	/* Without a process. */
	sent->children[1] = (struct handover_child){
		.channel = -1,
		.counters = -1,
		.service = (char *)"line",
		.index = 1,
		.kind = CHILD_WORKER,
		.generation = 41,
		.state = CHILD_BACKING_OFF,
		.in_place = true,
		.since = 1000,
		.due = 1600,
		.failures = 5,
		.restarts = 6,
		.text = (char *)"was ended by signal SIGSEGV",
	};
	sent->children[2] = (struct handover_child){
		.pid = 4712,
		.program = 4713,
		.channel = 13,
		.counters = 14,
		.service = (char *)"sensor",
		.kind = CHILD_PROGRAM,
		.generation = 39,
		.state = CHILD_DRAINING,
		.in_place = true,
		.ready = true,
		.killed = SIGHUP,
		.killed_at = 77,
		.ended = true,
		.status = 0x8b,
		.failure_code = 4,
		.condemned = true,
		.start_again = true,
		.since = 2000,
		.due = 2001,
		.failures = 1,
		.restarts = UINT64_MAX,
		.stop_timeout = 10000,
		.text = (char *)"",
	};
}

static void fill_clients(struct handover *sent)
{
	sent->client_count = 2;
	sent->clients = calloc(sent->client_count, sizeof(*sent->clients));
	assert_non_null(sent->clients);
	sent->clients[0] = (struct handover_client){
		.fd = 11,
		.waits_for = 42,
		.input = (unsigned char *)"{\"ve",
		.input_len = 4,
		.output = (unsigned char *)"ok\0\n",
		.output_len = 4,
	};
	sent->clients[1] = (struct handover_client){
		.fd = 15,
		.awaits = AWAIT_STOPPED,
		.service = (char *)"echo",
		.input = (unsigned char *)"",
		.output = (unsigned char *)"",
	};
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
		.limits = 17,
		.nofile = {1024, RLIM_INFINITY},
		.restarts_begun = 42,
		.restarts_ended = 41,
		.restarts_failed = 1,
		.again = true,
		.ended = {.accepted = 17, .log_dropped = 19},
		.source = make_source(f->directory),
	};
	fill_services(sent);
	fill_sockets(sent);
	fill_children(sent);
	fill_clients(sent);
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
	free(f->sent.services);
	free(f->sent.sockets);
	free(f->sent.children);
	free(f->sent.clients);
	blob_writer_free(&f->writer);
	free(f);
	return result;
}

/* What the fixture has packed, read back; to be freed with handover_free. */
static struct handover unpacked(struct fixture *f)
{
	struct handover got;
	struct error err = {0};

	if (handover_unpack(&got, f->writer.data, f->writer.len, &err) < 0)
		fail_msg("%s", err.text);
	return got;
}

/* ---- All of it comes back ------------------------------------------------------------------- */

static void all_of_it_comes_back(void **state)
{
	struct fixture *f = *state;
	struct handover got = unpacked(f);

	assert_int_equal(got.pid, getpid());
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
	assert_int_equal(got.limits, 17);
	assert_int_equal(got.nofile.rlim_cur, 1024);
	assert_true(got.nofile.rlim_max == RLIM_INFINITY);
	assert_int_equal(got.restarts_begun, 42);
	assert_int_equal(got.restarts_ended, 41);
	assert_int_equal(got.restarts_failed, 1);
	assert_true(got.again);
	assert_false(got.had_terminal);
	assert_int_equal(got.ended.accepted, 17);
	assert_int_equal(got.ended.log_dropped, 19);
	assert_string_equal(conf_source_path(got.source), conf_source_path(f->sent.source));
	handover_free(&got);
}

static void services_come_back(void **state)
{
	struct handover got = unpacked(*state);

	assert_int_equal(got.service_count, 3);
	assert_string_equal(got.services[0].name, "line");
	assert_int_equal(got.services[0].places, 4);
	assert_false(got.services[0].stopped);
	assert_true(got.services[0].privileges.change);
	assert_int_equal(got.services[0].privileges.uid, 1000);
	assert_int_equal(got.services[0].privileges.gid, 1001);
	assert_string_equal(got.services[0].privileges.user, "echod");
	assert_int_equal(got.services[0].ended.accepted, 7);
	assert_int_equal(got.services[0].ended.log_dropped, 9);
	assert_int_equal(got.services[0].limits, 16);
	assert_false(got.services[0].added);
	assert_null(got.services[0].command);
	assert_null(got.services[0].user);
	assert_null(got.services[0].restart);
	assert_string_equal(got.services[1].name, "echo");
	assert_int_equal(got.services[1].places, 1);
	assert_true(got.services[1].stopped);
	assert_int_equal(got.services[1].limits, -1);
	assert_false(got.services[1].privileges.change);
	assert_string_equal(got.services[1].privileges.user, "");
	handover_free(&got);
}

static void a_service_that_was_added_comes_back_with_what_it_was_added_with(void **state)
{
	struct handover got = unpacked(*state);

	assert_string_equal(got.services[2].name, "sensor");
	assert_int_equal(got.services[2].privileges.uid, 65534);
	assert_int_equal(got.services[2].privileges.gid, 65533);
	assert_string_equal(got.services[2].privileges.user, "nobody");
	assert_int_equal(got.services[2].ended.requests, 1);
	assert_true(got.services[2].added);
	for (size_t i = 0; i < 3; i++)
		assert_string_equal(got.services[2].command[i], sensor_command[i]);
	assert_null(got.services[2].command[3]);
	assert_string_equal(got.services[2].user, "nobody");
	assert_string_equal(got.services[2].restart, "on-failure");
	handover_free(&got);
}

static void what_was_not_said_when_it_was_added_is_not_said_after_it(void **state)
{
	struct fixture *f = *state;
	struct handover got;

	/* "" is something that was said. */
	f->sent.services[2].user = NULL;
	f->sent.services[2].restart = (char *)"";
	f->writer.len = 0;
	handover_pack(&f->sent, &f->writer);
	got = unpacked(f);
	assert_null(got.services[2].user);
	assert_string_equal(got.services[2].restart, "");
	handover_free(&got);
}

static void sockets_come_back(void **state)
{
	struct fixture *f = *state;
	struct handover got = unpacked(f);

	assert_int_equal(got.socket_count, 2);
	assert_int_equal(got.sockets[0].fd, 7);
	assert_int_equal(got.sockets[1].fd, 8);
	assert_string_equal(got.sockets[1].service, "echo");
	assert_int_equal(got.sockets[1].number, 3);
	for (size_t i = 0; i < got.socket_count; i++) {
		const struct handover_socket *one = &got.sockets[i], *sent = &f->sent.sockets[i];

		assert_true(address_equal(&one->address, &sent->address));
		assert_true(socket_key_equal(&one->key, &sent->key));
		assert_int_equal(one->shared, sent->shared);
		assert_int_equal(one->passed, sent->passed);
		assert_int_equal(one->file.device, sent->file.device);
		assert_int_equal(one->file.inode, sent->file.inode);
	}
	handover_free(&got);
}

static void assert_same_child(const struct handover_child *got, const struct handover_child *sent)
{
	assert_int_equal(got->pid, sent->pid);
	assert_int_equal(got->program, sent->program);
	assert_int_equal(got->channel, sent->channel);
	assert_int_equal(got->counters, sent->counters);
	assert_string_equal(got->service, sent->service);
	assert_int_equal(got->index, sent->index);
	assert_int_equal(got->kind, sent->kind);
	assert_int_equal(got->generation, sent->generation);
	assert_int_equal(got->state, sent->state);
	assert_int_equal(got->in_place, sent->in_place);
	assert_int_equal(got->ready, sent->ready);
	assert_int_equal(got->killed, sent->killed);
	assert_int_equal(got->killed_at, sent->killed_at);
	assert_int_equal(got->ended, sent->ended);
	assert_int_equal(got->status, sent->status);
	assert_int_equal(got->failure_code, sent->failure_code);
	assert_int_equal(got->condemned, sent->condemned);
	assert_int_equal(got->start_again, sent->start_again);
	assert_int_equal(got->since, sent->since);
	assert_int_equal(got->due, sent->due);
	assert_int_equal(got->failures, sent->failures);
	assert_int_equal(got->restarts, sent->restarts);
	assert_int_equal(got->stop_timeout, sent->stop_timeout);
	assert_string_equal(got->text, sent->text);
}

static void children_with_and_without_a_process_come_back(void **state)
{
	struct fixture *f = *state;
	struct handover got = unpacked(f);

	assert_int_equal(got.child_count, 3);
	for (size_t i = 0; i < got.child_count; i++)
		assert_same_child(&got.children[i], &f->sent.children[i]);
	handover_free(&got);
}

/* Each flag stands in a place of its own: set alone, it alone comes back. */
static void each_flag_of_a_child_comes_back_as_itself(void **state)
{
	struct fixture *f = *state;
	struct handover_child *child = &f->sent.children[1];
	bool *const flags[] = {&child->in_place, &child->ready, &child->condemned,
			       &child->start_again, &child->ended};
	struct handover got;

	for (size_t i = 0; i < COUNT_OF(flags); i++) {
		for (size_t k = 0; k < COUNT_OF(flags); k++)
			*flags[k] = k == i;
		f->writer.len = 0;
		handover_pack(&f->sent, &f->writer);
		got = unpacked(f);
		assert_same_child(&got.children[1], child);
		handover_free(&got);
	}
}

static void clients_come_back_with_what_they_wait_for(void **state)
{
	struct handover got = unpacked(*state);

	assert_int_equal(got.client_count, 2);
	assert_int_equal(got.clients[0].fd, 11);
	assert_int_equal(got.clients[0].waits_for, 42);
	assert_int_equal(got.clients[0].awaits, AWAIT_NOTHING);
	assert_null(got.clients[0].service);
	assert_int_equal(got.clients[0].input_len, 4);
	assert_memory_equal(got.clients[0].input, "{\"ve", 4);
	assert_int_equal(got.clients[0].output_len, 4);
	assert_memory_equal(got.clients[0].output, "ok\0\n", 4);
	assert_int_equal(got.clients[1].fd, 15);
	assert_int_equal(got.clients[1].waits_for, 0);
	assert_int_equal(got.clients[1].awaits, AWAIT_STOPPED);
	assert_string_equal(got.clients[1].service, "echo");
	assert_int_equal(got.clients[1].input_len, 0);
	assert_int_equal(got.clients[1].output_len, 0);
	handover_free(&got);
}

static void nothing_at_all_comes_back_as_nothing(void **state)
{
	struct fixture *f = *state;
	struct handover bare = {
		.pid = getpid(),
		.pidfile = {(char *)"", -1, 0, 0},
		.log = -1,
		.control = -1,
		.control_path = (char *)"",
		.source = f->sent.source,
	};
	struct handover got;

	f->writer.len = 0;
	handover_pack(&bare, &f->writer);
	got = unpacked(f);
	assert_int_equal(got.log, -1);
	assert_int_equal(got.control, -1);
	assert_int_equal(got.service_count + got.socket_count + got.child_count + got.client_count,
			 0);
	handover_free(&got);
}

/* ---- Nothing damaged is believed ------------------------------------------------------------ */

static void assert_damaged(struct fixture *f, const char *what)
{
	struct handover got;
	struct error err = {0};
	/* Its own memory, so that a sanitizer sees a read beyond the end. */
	void *copy = malloc(f->writer.len > 0 ? f->writer.len : 1);

	assert_non_null(copy);
	memcpy(copy, f->writer.data, f->writer.len);
	if (handover_unpack(&got, copy, f->writer.len, &err) == 0)
		fail_msg("not seen: %s", what);
	free(copy);
	assert_int_equal(err.code, EXIT_FAILED);
	assert_string_equal(err.text, "the hand-over is damaged");
	/* It holds nothing, and may be freed again. */
	assert_null(got.services);
	handover_free(&got);
}

static void repack(struct fixture *f)
{
	f->writer.len = 0;
	handover_pack(&f->sent, &f->writer);
	assert_false(f->writer.failed);
}

/* Where the two texts differ first; both have changed in one field only. */
static size_t difference(const struct fixture *f, const unsigned char *former, size_t len)
{
	size_t at = 0;

	assert_int_equal(f->writer.len, len);
	while (at < len && f->writer.data[at] == former[at])
		at++;
	assert_true(at + sizeof(uint64_t) <= len);
	return at;
}

/* Where a field stands that is 0 or 1 now and the other after `change`; the field stays changed. */
static size_t place_of_flag(struct fixture *f, bool *flag)
{
	size_t len = f->writer.len, at;
	unsigned char *former = malloc(len);

	assert_non_null(former);
	memcpy(former, f->writer.data, len);
	*flag = !*flag;
	repack(f);
	at = difference(f, former, len);
	free(former);
	return at;
}

static void put_word(struct fixture *f, size_t at, uint64_t value)
{
	memcpy(f->writer.data + at, &value, sizeof(value));
}

static void a_flag_that_is_neither_yes_nor_no_is_seen(void **state)
{
	static const uint64_t wrong[] = {2, 256, UINT64_C(1) << 32, UINT64_MAX};
	struct fixture *f = *state;
	struct handover *h = &f->sent;
	bool *const flags[] = {
		&h->again,
		&h->had_terminal,
		&h->services[0].stopped,
		&h->services[0].privileges.change,
		&h->services[1].stopped,
		&h->services[2].added,
		&h->sockets[0].shared,
		&h->sockets[0].passed,
		&h->sockets[1].key.place.mptcp,
		&h->sockets[1].key.place.both_families,
		&h->children[0].in_place,
		&h->children[0].ready,
		&h->children[1].ended,
		&h->children[1].condemned,
		&h->children[2].start_again,
	};

	for (size_t i = 0; i < COUNT_OF(flags); i++) {
		bool was = *flags[i];
		size_t at = place_of_flag(f, flags[i]);

		*flags[i] = was;
		for (size_t k = 0; k < COUNT_OF(wrong); k++) {
			char what[64];

			snprintf(what, sizeof(what), "flag %zu, value %zu", i, k);
			repack(f);
			put_word(f, at, wrong[k]);
			assert_damaged(f, what);
		}
		repack(f);
	}
}

static void no_descriptor_is_below_minus_one(void **state)
{
	struct fixture *f = *state;
	struct handover *h = &f->sent;
	int *const fds[] = {
		&h->pidfile.fd,
		&h->log,
		&h->control,
		&h->sockets[0].fd,
		&h->sockets[1].fd,
		&h->children[0].channel,
		&h->children[1].channel,
		&h->children[2].counters,
		&h->clients[0].fd,
		&h->clients[1].fd,
	};

	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		char what[64];
		int was = *fds[i];

		snprintf(what, sizeof(what), "descriptor %zu", i);
		*fds[i] = -2;
		repack(f);
		assert_damaged(f, what);
		*fds[i] = INT32_MIN;
		repack(f);
		assert_damaged(f, what);
		*fds[i] = was;
	}
}

/* Numbers that cannot be written as a field of the struct. */
static void no_descriptor_is_larger_than_the_kernel_has(void **state)
{
	static const uint64_t wrong[] = {UINT64_C(1) << 31, UINT64_C(1) << 32, INT64_MAX,
					 (uint64_t)INT64_MIN};
	struct fixture *f = *state;
	size_t len, at;
	unsigned char *former = malloc(f->writer.len);

	assert_non_null(former);
	len = f->writer.len;
	memcpy(former, f->writer.data, len);
	f->sent.log++;
	repack(f);
	at = difference(f, former, len);
	free(former);
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		put_word(f, at, wrong[i]);
		assert_damaged(f, "the log's descriptor");
	}
}

static void a_service_without_places_or_with_too_many_is_seen(void **state)
{
	struct fixture *f = *state;

	f->sent.services[0].places = 0;
	repack(f);
	assert_damaged(f, "no place");
	f->sent.services[0].places = 1000001;
	repack(f);
	assert_damaged(f, "too many places");
	f->sent.services[0].places = UINT32_MAX;
	repack(f);
	assert_damaged(f, "far too many places");
}

static void a_service_that_was_added_without_a_command_is_seen(void **state)
{
	struct fixture *f = *state;
	char *nothing[] = {NULL};

	f->sent.services[2].command = NULL;
	repack(f);
	assert_damaged(f, "no command");
	f->sent.services[2].command = nothing;
	repack(f);
	assert_damaged(f, "an empty command");
	f->sent.services[2].command = (char **)sensor_command;
	f->sent.services[1].added = true;
	repack(f);
	assert_damaged(f, "no command");
}

static void numbers_of_a_socket_have_limits(void **state)
{
	struct fixture *f = *state;
	struct handover_socket *socket = &f->sent.sockets[1];

	socket->number = 1000001;
	repack(f);
	assert_damaged(f, "the number");
	socket->number = 3;
	socket->address.len = sizeof(sa_family_t) - 1;
	repack(f);
	assert_damaged(f, "an address that is too short");
	socket->address.len = 0;
	repack(f);
	assert_damaged(f, "an empty address");
	socket->address = loopback(2);
	socket->key.place.address.len = 0;
	repack(f);
	assert_damaged(f, "an empty address that was asked for");
	socket->key.place.address = loopback(2);
	socket->key.place.transport = TRANSPORTS;
	repack(f);
	assert_damaged(f, "the transport");
}

/* The address is written from larger memory: its length is the only thing that is wrong. */
static void an_address_that_is_too_long_is_seen(void **state)
{
	struct fixture *f = *state;
	struct {
		struct handover_socket socket;
		char more[64];
	} large = {.socket = f->sent.sockets[0]};

	large.socket.address.len = sizeof(large.socket.address.storage) + 1;
	f->sent.socket_count = 1;
	free(f->sent.sockets);
	f->sent.sockets = malloc(sizeof(large));
	assert_non_null(f->sent.sockets);
	memcpy(f->sent.sockets, &large, sizeof(large));
	repack(f);
	assert_damaged(f, "an address that is too long");
}

static void refuse_child(struct fixture *f, size_t i, struct handover_child child, const char *what)
{
	struct handover_child was = f->sent.children[i];

	f->sent.children[i] = child;
	repack(f);
	assert_damaged(f, what);
	f->sent.children[i] = was;
}

#define REFUSE_CHILD(f, i, field, value)                                                           \
	do {                                                                                       \
		struct handover_child child_ = (f)->sent.children[i];                              \
		child_.field = (value);                                                            \
		refuse_child(f, i, child_, #field " = " #value);                                   \
	} while (0)

static void a_process_has_its_descriptors_and_no_other_record_has_any(void **state)
{
	struct fixture *f = *state;

	REFUSE_CHILD(f, 0, channel, -1);
	REFUSE_CHILD(f, 0, counters, -1);
	REFUSE_CHILD(f, 1, channel, 0);
	REFUSE_CHILD(f, 1, counters, 9);
	REFUSE_CHILD(f, 0, pid, 0);
	REFUSE_CHILD(f, 1, pid, 4714);
}

static void no_process_is_init_or_a_group_or_everybody(void **state)
{
	struct fixture *f = *state;

	REFUSE_CHILD(f, 0, pid, 1);
	REFUSE_CHILD(f, 1, pid, 1);
	REFUSE_CHILD(f, 0, pid, -1);
	REFUSE_CHILD(f, 1, pid, -1);
	REFUSE_CHILD(f, 0, pid, -4711);
	REFUSE_CHILD(f, 0, pid, (int64_t)INT32_MAX + 1);
	REFUSE_CHILD(f, 0, pid, INT64_MAX);
	REFUSE_CHILD(f, 0, pid, INT64_MIN);
	REFUSE_CHILD(f, 2, program, -1);
	REFUSE_CHILD(f, 2, program, (int64_t)INT32_MAX + 1);
	REFUSE_CHILD(f, 2, program, INT64_MIN);
}

static void a_child_is_of_a_known_kind_in_a_known_state_and_place(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < f->sent.child_count; i++) {
		REFUSE_CHILD(f, i, kind, CHILD_PROGRAM + 1);
		REFUSE_CHILD(f, i, kind, UINT32_MAX);
		REFUSE_CHILD(f, i, state, CHILD_STATES);
		REFUSE_CHILD(f, i, state, UINT32_MAX);
		REFUSE_CHILD(f, i, index, 1000001);
		REFUSE_CHILD(f, i, index, UINT32_MAX);
	}
}

/* What stands behind a list that says a wrong number is no entry of it, or no list. */
static void refuse_count(struct fixture *f, size_t *count, const char *what)
{
	size_t was = *count, at = 0, len = f->writer.len;
	unsigned char *whole = malloc(len);
	uint64_t written;

	assert_non_null(whole);
	memcpy(whole, f->writer.data, len);
	/* With an entry less, the count is the first thing that differs. */
	*count = was - 1;
	repack(f);
	while (whole[at] == f->writer.data[at])
		at++;
	free(whole);
	*count = was;
	repack(f);
	memcpy(&written, f->writer.data + at, sizeof(written));
	assert_int_equal(written, was);
	for (size_t wrong = 0; wrong <= was + 3; wrong++) {
		if (wrong == was)
			continue;
		put_word(f, at, wrong);
		assert_damaged(f, what);
	}
	put_word(f, at, len);
	assert_damaged(f, what);
	put_word(f, at, UINT64_MAX);
	assert_damaged(f, what);
	repack(f);
}

static void lists_that_are_longer_or_shorter_than_they_say_are_seen(void **state)
{
	struct fixture *f = *state;

	refuse_count(f, &f->sent.service_count, "services");
	refuse_count(f, &f->sent.socket_count, "sockets");
	refuse_count(f, &f->sent.child_count, "children");
	refuse_count(f, &f->sent.client_count, "clients");
}

static void a_configuration_that_is_no_text_is_seen(void **state)
{
	struct fixture *f = *state;
	struct blob_writer source = {0};
	size_t at = 0;

	conf_source_pack(f->sent.source, &source);
	assert_false(source.failed);
	while (memcmp(f->writer.data + at, source.data, source.len) != 0)
		at++;
	put_word(f, at, UINT64_MAX);
	assert_damaged(f, "the length of the configuration");
	blob_writer_free(&source);
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

static void the_former_version_and_the_next_one_are_refused(void **state)
{
	struct fixture *f = *state;

	for (uint64_t version = 0; version < HANDOVER_VERSION + 2; version++) {
		struct handover got;
		struct error err = {0};

		if (version == HANDOVER_VERSION)
			continue;
		put_word(f, 8, version);
		assert_int_equal(handover_unpack(&got, f->writer.data, f->writer.len, &err), -1);
		assert_contains(err.text, "the hand-over is not of version ");
		handover_free(&got);
	}
}

static void each_cut_is_seen(void **state)
{
	struct fixture *f = *state;
	size_t whole = f->writer.len;

	for (size_t len = 0; len < whole; len++) {
		struct handover got;
		struct error err = {0};
		/* Its own memory, so that a sanitizer sees a read beyond the end. */
		void *cut = malloc(len > 0 ? len : 1);

		assert_non_null(cut);
		memcpy(cut, f->writer.data, len);
		assert_int_equal(handover_unpack(&got, cut, len, &err), -1);
		handover_free(&got);
		free(cut);
	}
}

static void a_byte_too_many_is_seen(void **state)
{
	struct fixture *f = *state;

	blob_put_bytes(&f->writer, "", 0);
	assert_damaged(f, "eight bytes behind the end");
	repack(f);
	f->writer.len++;
	assert_true(f->writer.len <= f->writer.cap);
	f->writer.data[f->writer.len - 1] = 0;
	assert_damaged(f, "a byte behind the end");
}

/* What is read in spite of a changed byte keeps what the rest of the daemon relies on. */
static void assert_sound(const struct handover *got)
{
	assert_non_null(got->pidfile.path);
	assert_non_null(got->control_path);
	assert_non_null(got->source);
	for (size_t i = 0; i < got->service_count; i++) {
		assert_non_null(got->services[i].name);
		assert_true(got->services[i].places > 0);
		assert_true(!got->services[i].added || got->services[i].command != NULL);
		assert_true(strlen(got->services[i].privileges.user) <
			    sizeof(got->services[i].privileges.user));
	}
	for (size_t i = 0; i < got->socket_count; i++)
		assert_non_null(got->sockets[i].service);
	for (size_t i = 0; i < got->child_count; i++) {
		const struct handover_child *child = &got->children[i];

		assert_true(child->pid == 0 || child->pid > 1);
		assert_int_equal(child->pid > 1, child->channel >= 0);
		assert_int_equal(child->pid > 1, child->counters >= 0);
		assert_true(child->state < CHILD_STATES && child->kind <= CHILD_PROGRAM);
		assert_true(child->service != NULL && child->text != NULL);
	}
	for (size_t i = 0; i < got->client_count; i++)
		assert_true(got->clients[i].input != NULL && got->clients[i].output != NULL);
}

static void try_damaged(const struct fixture *f)
{
	struct handover got;
	struct error err = {0};

	if (handover_unpack(&got, f->writer.data, f->writer.len, &err) == 0)
		assert_sound(&got);
	handover_free(&got);
}

static void damage_never_crashes(void **state)
{
	struct fixture *f = *state;
	struct support_random random;

	support_random_start(&random);
	for (int i = 0; i < 20000; i++) {
		size_t at = 24 + support_random_below(&random, f->writer.len - 24);
		unsigned char was = f->writer.data[at];

		f->writer.data[at] = (unsigned char)support_random_next(&random);
		try_damaged(f);
		f->writer.data[at] = was;
	}
}

/* Each byte once to its extremes: that finds every length and every count. */
static void each_byte_may_be_anything(void **state)
{
	struct fixture *f = *state;

	for (size_t at = 24; at < f->writer.len; at++) {
		unsigned char was = f->writer.data[at];
		const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff, was + 1, was - 1};

		for (size_t k = 0; k < sizeof(values); k++) {
			f->writer.data[at] = values[k];
			try_damaged(f);
		}
		f->writer.data[at] = was;
	}
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_of_it_comes_back),
		TEST(services_come_back),
		TEST(a_service_that_was_added_comes_back_with_what_it_was_added_with),
		TEST(what_was_not_said_when_it_was_added_is_not_said_after_it),
		TEST(sockets_come_back),
		TEST(children_with_and_without_a_process_come_back),
		TEST(each_flag_of_a_child_comes_back_as_itself),
		TEST(clients_come_back_with_what_they_wait_for),
		TEST(nothing_at_all_comes_back_as_nothing),
		TEST(a_flag_that_is_neither_yes_nor_no_is_seen),
		TEST(no_descriptor_is_below_minus_one),
		TEST(no_descriptor_is_larger_than_the_kernel_has),
		TEST(a_service_without_places_or_with_too_many_is_seen),
		TEST(a_service_that_was_added_without_a_command_is_seen),
		TEST(numbers_of_a_socket_have_limits),
		TEST(an_address_that_is_too_long_is_seen),
		TEST(a_process_has_its_descriptors_and_no_other_record_has_any),
		TEST(no_process_is_init_or_a_group_or_everybody),
		TEST(a_child_is_of_a_known_kind_in_a_known_state_and_place),
		TEST(lists_that_are_longer_or_shorter_than_they_say_are_seen),
		TEST(a_configuration_that_is_no_text_is_seen),
		TEST(something_else_is_refused_with_the_reason),
		TEST(the_former_version_and_the_next_one_are_refused),
		TEST(each_cut_is_seen),
		TEST(a_byte_too_many_is_seen),
		TEST(damage_never_crashes),
		TEST(each_byte_may_be_anything),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
