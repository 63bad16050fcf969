/* Telling a service manager how we are, with a manager of our own. */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "os/notify.h"

struct manager {
	char *directory;
	char path[SUPPORT_PATH_MAX];
	int fd; /* -1: none listens */
};

static int setup(void **state)
{
	struct manager *m = calloc(1, sizeof(*m));

	if (m == NULL || support_make_directory((void **)&m->directory) < 0)
		return -1;
	support_join(m->path, m->directory, "notify");
	m->fd = -1;
	unsetenv("NOTIFY_SOCKET");
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct manager *m = *state;
	int result;

	if (m->fd >= 0)
		close(m->fd);
	unsetenv("NOTIFY_SOCKET");
	result = support_remove_directory((void **)&m->directory);
	free(m);
	return result;
}

/* `name` as NOTIFY_SOCKET has it: a path, or with an @ in front. */
static void listen_at(struct manager *m, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t len = strlen(name);

	assert_true(len < sizeof(address.sun_path));
	memcpy(address.sun_path, name, len);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(m->fd, (struct sockaddr *)&address,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)),
			 0);
	setenv("NOTIFY_SOCKET", name, 1);
}

static void assert_told(const struct manager *m, const char *text)
{
	char message[4096];
	ssize_t len = recv(m->fd, message, sizeof(message) - 1, MSG_DONTWAIT);

	assert_true(len >= 0);
	message[len] = '\0';
	assert_string_equal(message, text);
}

static void a_manager_at_a_path_is_told(void **state)
{
	struct manager *m = *state;

	listen_at(m, m->path);
	assert_int_equal(notify_send("READY=1\nSTATUS=%d workers", 4), 1);
	assert_int_equal(notify_send("STOPPING=1"), 1);
	assert_told(m, "READY=1\nSTATUS=4 workers");
	assert_told(m, "STOPPING=1");
}

static void a_manager_at_an_abstract_address_is_told(void **state)
{
	struct manager *m = *state;
	char name[64];

	snprintf(name, sizeof(name), "@echod-unit-%d", (int)getpid());
	listen_at(m, name);
	assert_int_equal(notify_send("READY=1"), 1);
	assert_told(m, "READY=1");
}

static void without_a_manager_nothing_happens(void **state)
{
	(void)state;
	assert_int_equal(notify_send("READY=1"), 0);
}

static void a_manager_that_is_gone_is_an_error_and_no_wait(void **state)
{
	struct manager *m = *state;

	setenv("NOTIFY_SOCKET", m->path, 1);
	assert_int_equal(notify_send("READY=1"), -1);
	assert_int_equal(errno, ENOENT);
	listen_at(m, m->path);
	close(m->fd);
	m->fd = -1;
	assert_int_equal(notify_send("READY=1"), -1);
	assert_int_equal(errno, ECONNREFUSED);
}

static void a_manager_that_does_not_read_is_not_waited_for(void **state)
{
	struct manager *m = *state;
	int result = 1;

	listen_at(m, m->path);
	/* A call that blocks would end the test by its time limit. */
	for (int i = 0; i < 100000 && result == 1; i++)
		result = notify_send("WATCHDOG=1");
	assert_int_equal(result, -1);
	assert_int_equal(errno, EAGAIN);
}

static void an_address_of_no_known_kind_is_refused(void **state)
{
	char too_long[200];

	(void)state;
	memset(too_long, '/', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = '\0';
	const char *const wrong[] = {"", "@", "/", "relative", "vsock:2:1", too_long};

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		setenv("NOTIFY_SOCKET", wrong[i], 1);
		errno = 0;
		assert_int_equal(notify_send("READY=1"), -1);
		assert_int_equal(errno, EINVAL);
	}
}

static void a_message_that_is_too_long_is_cut(void **state)
{
	struct manager *m = *state;
	char text[5000], got[5000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	listen_at(m, m->path);
	assert_int_equal(notify_send("STATUS=%s", text), 1);
	assert_int_equal(recv(m->fd, got, sizeof(got), MSG_DONTWAIT), 1023);
	assert_memory_equal(got, "STATUS=xxx", 10);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_manager_at_a_path_is_told),
		TEST(a_manager_at_an_abstract_address_is_told),
		TEST(without_a_manager_nothing_happens),
		TEST(a_manager_that_is_gone_is_an_error_and_no_wait),
		TEST(a_manager_that_does_not_read_is_not_waited_for),
		TEST(an_address_of_no_known_kind_is_refused),
		TEST(a_message_that_is_too_long_is_cut),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
