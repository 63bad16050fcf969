/* Which tables of limits a generation has, and what becomes of those that are handed over. */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/memory_file.h"
#include "run/child.h"
#include "run/generation.h"
#include "run/supervisor.h"
#include "run/tables.h"

#define SERVICES                                                                                   \
	"services = ("                                                                             \
	" { name = \"a\"; protocol = \"line\"; listen = [ \"127.0.0.1:1\" ]; workers = 2;"         \
	"   max_connections = 3; },"                                                               \
	" { name = \"p\"; command = [ \"/bin/sh\" ]; },"                                           \
	" { name = \"b\"; protocol = \"line\"; listen = [ \"127.0.0.1:2\" ]; workers = 3; });\n"

static struct supervisor supervisor;

static struct generation *make_generation(const char *directory, const char *text)
{
	struct conf_errors errors = {0};
	struct conf_overrides overrides = {0};
	struct error err = {0};
	char path[SUPPORT_PATH_MAX];
	struct conf_source *source;
	struct generation *generation;
	struct conf *conf;

	support_join(path, directory, "echod.conf");
	support_write_file(path, text);
	source = conf_source_load(path, &errors);
	assert_non_null(source);
	conf = conf_parse(source, &overrides, &errors);
	if (errors.count > 0)
		fail_msg("%s", errors.lines[0]);
	generation = generation_new(&supervisor, 1, source, conf, &err);
	assert_non_null(generation);
	return generation;
}

static void open_tables(struct generation *generation)
{
	struct error err = {0};

	if (tables_open(generation, &err) < 0)
		fail_msg("%s", err.text);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void each_rule_has_its_setting(void **state)
{
	struct conf_limits limits = {
		.max_connections = 1,
		.max_connections_per_source = 2,
		.max_connections_per_prefix = 3,
		.max_connection_rate = 4,
		.max_connection_rate_per_source = 5,
		.max_byte_rate = 77, /* of a connection: no table */
		.max_byte_rate_per_source = 6,
		.max_request_rate = 77,
		.max_request_rate_per_source = 7,
		.max_datagram_rate = 8,
	};
	struct limits_rules rules = limits_rules_of(&limits);
	const struct limits_rules wanted = {1, 2, 3, 4, 5, 6, 7, 8};

	(void)state;
	assert_memory_equal(&rules, &wanted, sizeof(rules));
}

static void places_are_numbered_over_all_services_of_a_protocol(void **state)
{
	struct generation *generation = make_generation(*state, SERVICES);

	open_tables(generation);
	assert_int_equal(generation->places, 5);
	assert_int_equal(generation_service(generation, "a")->first_place, 0);
	assert_int_equal(generation_service(generation, "b")->first_place, 2);
	generation_free(generation);
}

static void only_who_needs_a_table_has_one(void **state)
{
	struct generation *generation = make_generation(*state, SERVICES);
	const struct service *a = generation_service(generation, "a");
	int fd;

	open_tables(generation);
	assert_int_equal(generation->limits_fd, -1);
	assert_int_equal(generation_service(generation, "b")->limits_fd, -1);
	assert_int_equal(generation_service(generation, "p")->limits_fd, -1);
	fd = a->limits_fd;
	assert_true(memory_file_is_shared(fd, limits_size(2)));
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	generation_free(generation);
	assert_false(is_open(fd));
}

static void a_limit_of_datagrams_needs_a_socket_for_them(void **state)
{
	struct generation *generation = make_generation(
		*state,
		"max_datagram_rate = 5;\n"
		"services = ({ name = \"a\"; protocol = \"echo\"; listen = [ \"*:1\", \"udp:*:1\" ]; },"
		" { name = \"b\"; protocol = \"echo\"; listen = [ \"*:2\" ]; });\n");

	open_tables(generation);
	assert_int_not_equal(generation->limits_fd, -1);
	assert_int_not_equal(generation_service(generation, "a")->limits_fd, -1);
	assert_int_equal(generation_service(generation, "b")->limits_fd, -1);
	generation_free(generation);
	generation = make_generation(*state, "max_datagram_rate = 5;\n" SERVICES);
	open_tables(generation);
	assert_int_equal(generation->limits_fd, -1);
	generation_free(generation);
}

static void what_is_set_for_all_has_a_table_with_room_for_all(void **state)
{
	struct generation *generation =
		make_generation(*state, "max_connection_rate_per_source = 10;\n" SERVICES);
	int fd;

	open_tables(generation);
	fd = generation->limits_fd;
	assert_true(memory_file_is_shared(fd, limits_size(5)));
	generation_free(generation);
	assert_false(is_open(fd));
}

static void a_table_that_was_handed_over_goes_on(void **state)
{
	struct generation *generation = make_generation(*state, "max_connections = 10;\n" SERVICES);
	struct error err = {0};
	int all = memory_file_shared("test", limits_size(5), &err);
	int own = memory_file_shared("test", limits_size(2), &err);

	generation->limits_fd = all;
	generation_service(generation, "a")->limits_fd = own;
	open_tables(generation);
	assert_int_equal(generation->limits_fd, all);
	assert_int_equal(generation_service(generation, "a")->limits_fd, own);
	generation_free(generation);
}

static bool same_file(int fd, const struct stat *st)
{
	struct stat now;

	return fstat(fd, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino;
}

static void what_does_not_fit_is_closed_and_made_anew(void **state)
{
	struct generation *generation = make_generation(*state, "max_connections = 10;\n" SERVICES);
	struct service *a = generation_service(generation, "a");
	struct service *b = generation_service(generation, "b");
	struct error err = {0};
	struct stat all, own;
	int unneeded = memory_file_shared("test", limits_size(3), &err);

	generation->limits_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	a->limits_fd = memory_file_shared("test", limits_size(3), &err);
	b->limits_fd = unneeded;
	fstat(generation->limits_fd, &all);
	fstat(a->limits_fd, &own);
	open_tables(generation);
	assert_true(memory_file_is_shared(generation->limits_fd, limits_size(5)));
	assert_true(memory_file_is_shared(a->limits_fd, limits_size(2)));
	assert_false(same_file(generation->limits_fd, &all));
	assert_false(same_file(a->limits_fd, &own));
	assert_int_equal(b->limits_fd, -1);
	generation_free(generation);
}

static struct limits *enter(int fd, unsigned places, unsigned place)
{
	struct limits_rules rules = {.connections = 10};
	struct limits_source source = {{0}, {0}};
	struct limits_hold hold;
	struct error err = {0};
	struct limits *limits = limits_open(fd, places, place, &rules, &err);
	bool full;

	assert_non_null(limits);
	assert_int_equal(limits_enter(limits, &source, 1, &hold, &full), LIMITS_ALLOWED);
	return limits;
}

static void what_an_ended_worker_held_is_given_back(void **state)
{
	struct generation *generation = make_generation(*state, "max_connections = 10;\n" SERVICES);
	struct service *a = generation_service(generation, "a");
	struct child child = {.service = a, .index = 1};
	struct limits *all, *own, *others;

	open_tables(generation);
	all = enter(generation->limits_fd, 5, 1);
	own = enter(a->limits_fd, 2, 1);
	others = enter(generation->limits_fd, 5, 3);
	assert_int_equal(limits_connections(others), 2);
	tables_give_back(&child);
	assert_int_equal(limits_connections(others), 1);
	assert_int_equal(limits_connections(own), 0);
	child.service = generation_service(generation, "b");
	tables_give_back(&child);
	assert_int_equal(limits_connections(all), 0);
	/* One that retires belongs to no service any more. */
	child.service = NULL;
	tables_give_back(&child);
	child.service = generation_service(generation, "p");
	child.index = 0;
	tables_give_back(&child);
	limits_close(all);
	limits_close(own);
	limits_close(others);
	generation_free(generation);
}

#define IN_DIRECTORY(test)                                                                         \
	cmocka_unit_test_setup_teardown(test, support_make_directory, support_remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_rule_has_its_setting),
		IN_DIRECTORY(places_are_numbered_over_all_services_of_a_protocol),
		IN_DIRECTORY(only_who_needs_a_table_has_one),
		IN_DIRECTORY(a_limit_of_datagrams_needs_a_socket_for_them),
		IN_DIRECTORY(what_is_set_for_all_has_a_table_with_room_for_all),
		IN_DIRECTORY(a_table_that_was_handed_over_goes_on),
		IN_DIRECTORY(what_does_not_fit_is_closed_and_made_anew),
		IN_DIRECTORY(what_an_ended_worker_held_is_given_back),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
