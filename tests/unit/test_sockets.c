/* The table of listening sockets: what is found again, what is kept, which files go. */
#include "support.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "run/service.h"
#include "run/settings.h"
#include "run/sockets.h"

static struct socket_table table;

static int setup(void **state)
{
	TAILQ_INIT(&table);
	return support_make_directory(state);
}

static int teardown(void **state)
{
	sockets_close(&table);
	return support_remove_directory(state);
}

/* Of an address as it is written. */
static struct socket_key key_of(const char *text, const char *service)
{
	struct endpoint endpoint;
	struct socket_key key = {0};
	struct error err = {0};

	if (endpoint_parse(text, &endpoint, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	assert_int_equal(endpoint_resolve(&endpoint, &key.place.address, 1, &err), 1);
	key.place.transport = endpoint.transport;
	snprintf(key.service, sizeof(key.service), "%s", service);
	return key;
}

static struct socket_key key_at(enum transport transport, const char *directory, const char *name)
{
	char text[SUPPORT_PATH_MAX + 16];

	snprintf(text, sizeof(text), "%s:%s/%s", transport_name(transport), directory, name);
	return key_of(text, "");
}

static struct socket_entry *open_one(const struct socket_key *key, uint16_t port)
{
	const struct local_socket_rights rights = {0600, (uid_t)-1, (gid_t)-1};
	const struct socket_wish wish = {.port = port, .rights = &rights};
	enum listen_failure failure;
	struct error err = {0};
	struct socket_entry *entry = sockets_open(&table, key, &wish, &failure, &err);

	if (entry == NULL)
		fail_msg("%s", err.text);
	entry->users++;
	return entry;
}

static void a_group_of_any_port_has_one_port_and_is_found_by_its_service(void **state)
{
	struct socket_key key = key_of("127.0.0.1:0", "a"), other = key_of("127.0.0.1:0", "b");
	struct socket_entry *first = open_one(&key, 0), *second;

	(void)state;
	assert_int_not_equal(address_port(&first->address), 0);
	second = open_one(&key, address_port(&first->address));
	assert_int_equal(second->number, 1);
	assert_true(address_equal(&first->address, &second->address));
	assert_ptr_equal(sockets_find(&table, &key, 0), first);
	assert_ptr_equal(sockets_find(&table, &key, 1), second);
	assert_int_equal(sockets_group_size(&table, &key), 2);
	assert_null(sockets_find(&table, &other, 0));
	assert_false(address_equal(&open_one(&other, 0)->address, &first->address));
}

static void keys_differ_in_everything_that_was_asked_for(void **state)
{
	struct socket_key key = key_of("127.0.0.1:7", ""), other = key;

	(void)state;
	assert_true(socket_key_equal(&key, &other));
	other.place.transport = TRANSPORT_UDP;
	assert_false(socket_key_equal(&key, &other));
	other = key;
	other.place.device[0] = 'x';
	assert_false(socket_key_equal(&key, &other));
	other = key;
	other.place.mptcp = true;
	assert_false(socket_key_equal(&key, &other));
	other = key;
	other.place.both_families = true;
	assert_false(socket_key_equal(&key, &other));
	other = key_of("127.0.0.1:8", "");
	assert_false(socket_key_equal(&key, &other));
}

static void tcp_and_udp_of_one_number_are_probed_each_for_itself(void **state)
{
	struct socket_key tcp = key_of("127.0.0.1:0", "a"), udp;
	struct socket_entry *entry = open_one(&tcp, 0);
	const struct socket_wish wish = {0};
	enum listen_failure failure;
	struct error err = {0};
	struct socket_key taken;
	char text[ADDR_TEXT_MAX];
	int fd;

	(void)state;
	snprintf(text, sizeof(text), "udp:127.0.0.1:%u", address_port(&entry->address));
	udp = key_of(text, "");
	/* Somebody who would share it: only the probe sees them. */
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)), 0);
	assert_int_equal(
		bind(fd, (struct sockaddr *)&udp.place.address.storage, udp.place.address.len), 0);
	taken = udp;
	assert_null(sockets_open(&table, &taken, &wish, &failure, &err));
	assert_int_equal(failure, LISTEN_IN_USE);
	close(fd);
	assert_int_equal(open_one(&udp, 0)->number, 0);
}

static void a_file_goes_with_its_socket_unless_it_is_another(void **state)
{
	struct socket_key one = key_at(TRANSPORT_UNIX, *state, "one");
	struct socket_key two = key_at(TRANSPORT_UNIXGRAM, *state, "two");
	struct socket_entry *first = open_one(&one, 0), *second = open_one(&two, 0);
	char path[SUPPORT_PATH_MAX];

	assert_true(first->shared && second->shared);
	support_join(path, *state, "one");
	sockets_release(&table, first);
	assert_int_equal(access(path, F_OK), -1);
	support_join(path, *state, "two");
	assert_int_equal(unlink(path), 0);
	support_write_file(path, "somebody's");
	sockets_release(&table, second);
	assert_int_equal(access(path, F_OK), 0);
}

static void a_socket_whose_file_is_gone_is_not_found(void **state)
{
	struct socket_key key = key_at(TRANSPORT_UNIX, *state, "s");
	struct socket_entry *former = open_one(&key, 0), *next;
	char path[SUPPORT_PATH_MAX];

	support_join(path, *state, "s");
	assert_ptr_equal(sockets_find(&table, &key, 0), former);
	assert_int_equal(unlink(path), 0);
	assert_null(sockets_find(&table, &key, 0));
	next = open_one(&key, 0);
	assert_ptr_equal(sockets_find(&table, &key, 0), next);
	sockets_release(&table, former);
	assert_int_equal(access(path, F_OK), 0);
}

static void what_was_passed_stays_without_a_user(void **state)
{
	struct socket_key key = key_of("127.0.0.1:0", "a");
	int fd = dup(open_one(&key, 0)->fd);
	struct socket_entry *passed;
	struct error err = {0};

	(void)state;
	assert_int_equal(sockets_take_passed(&table, fd, "a", &err), 0);
	passed = TAILQ_LAST(&table, socket_table);
	assert_true(passed->passed && passed->shared);
	assert_ptr_not_equal(sockets_find(&table, &passed->key, 0), passed);
	passed->users++;
	sockets_release(&table, passed);
	assert_ptr_equal(TAILQ_LAST(&table, socket_table), passed);
	assert_int_equal(sockets_take_passed(&table, STDIN_FILENO, "a", &err), -1);
}

static void another_socket_than_was_handed_over_is_refused(void **state)
{
	struct socket_key key = key_of("127.0.0.1:0", "a");
	struct socket_entry like = *open_one(&key, 0);
	struct error err = {0};

	(void)state;
	like.fd = dup(like.fd);
	assert_non_null(sockets_adopt(&table, &like, &err));
	like.key.place.transport = TRANSPORT_UDP;
	like.fd = dup(like.fd);
	assert_null(sockets_adopt(&table, &like, &err));
	assert_contains(err.text, "is no socket of udp:127.0.0.1:");
	assert_int_equal(fcntl(like.fd, F_GETFD), -1);
}

static void a_file_of_ours_is_not_taken_by_another_path(void **state)
{
	struct socket_key key = key_at(TRANSPORT_UNIX, *state, "s"), same;
	const struct local_socket_rights rights = {0600, (uid_t)-1, (gid_t)-1};
	const struct socket_wish wish = {.rights = &rights};
	struct socket_entry *entry = open_one(&key, 0);
	enum listen_failure failure;
	struct error err = {0};

	same = key_at(TRANSPORT_UNIX, *state, "/s");
	assert_null(sockets_open(&table, &same, &wish, &failure, &err));
	assert_contains(err.text, "is the same file as unix:");
	assert_int_equal(failure, LISTEN_FAILED);
	same = key_at(TRANSPORT_UNIXGRAM, *state, "s");
	assert_null(sockets_open(&table, &same, &wish, &failure, &err));
	assert_contains(err.text, "is the same file as unix:");
	assert_ptr_equal(sockets_find(&table, &key, 0), entry);
}

static void ports_of_udp_sockets_are_told(void **state)
{
	static struct port_set ports;
	struct socket_key udp = key_of("udp:127.0.0.1:0", "a"), tcp = key_of("127.0.0.1:0", "a");
	const struct socket_entry *of_udp = open_one(&udp, 0), *of_tcp = open_one(&tcp, 0);

	(void)state;
	socket_entry_add_udp_port(of_tcp, &ports);
	assert_false(port_set_has(&ports, address_port(&of_tcp->address)));
	socket_entry_add_udp_port(of_udp, &ports);
	assert_true(port_set_has(&ports, address_port(&of_udp->address)));
}

static void a_server_that_speaks_first_does_not_wait_for_its_client(void **state)
{
	static const char *const first[] = {"chargen", "daytime", "time", "whoami"};
	struct conf_service service = {.protocol = (char *)"line"};

	(void)state;
	assert_true(settings_client_speaks_first(&service));
	service.greeting = (char *)"hello";
	assert_false(settings_client_speaks_first(&service));
	service.greeting = NULL;
	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
		service.protocol = (char *)first[i];
		assert_false(settings_client_speaks_first(&service));
	}
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_group_of_any_port_has_one_port_and_is_found_by_its_service),
		TEST(keys_differ_in_everything_that_was_asked_for),
		TEST(tcp_and_udp_of_one_number_are_probed_each_for_itself),
		TEST(a_file_goes_with_its_socket_unless_it_is_another),
		TEST(a_socket_whose_file_is_gone_is_not_found),
		TEST(what_was_passed_stays_without_a_user),
		TEST(another_socket_than_was_handed_over_is_refused),
		TEST(a_file_of_ours_is_not_taken_by_another_path),
		TEST(ports_of_udp_sockets_are_told),
		TEST(a_server_that_speaks_first_does_not_wait_for_its_client),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
