/* What a service manager passes, by its variables. In children: each has its own environment. */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/passed.h"

struct variables {
	const char *fds;
	const char *names; /* NULL: not set */
	int pid;	   /* added to the true one */
};

/* Sets them, with /dev/null on the descriptors 3 and 4. */
static int take(const struct variables *variables, struct passed *passed, struct error *err)
{
	char pid[16];
	int null = open("/dev/null", O_RDWR);

	CHILD_CHECK(dup2(null, 3) == 3 && dup2(null, 4) == 4);
	snprintf(pid, sizeof(pid), "%d", (int)getpid() + variables->pid);
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", variables->fds, 1);
	unsetenv("LISTEN_FDNAMES");
	if (variables->names != NULL)
		setenv("LISTEN_FDNAMES", variables->names, 1);
	int result = passed_take(passed, err);

	CHILD_CHECK(getenv("LISTEN_PID") == NULL && getenv("LISTEN_FDS") == NULL);
	CHILD_CHECK(getenv("LISTEN_FDNAMES") == NULL);
	return result;
}

static int take_names(void *arg)
{
	struct variables variables = {.fds = "2", .names = arg};
	struct passed passed;
	struct error err = {0};

	CHILD_CHECK(take(&variables, &passed, &err) == 0);
	CHILD_CHECK(passed.count == 2 && passed.sockets[0].fd == 3 && passed.sockets[1].fd == 4);
	CHILD_CHECK((fcntl(4, F_GETFD) & FD_CLOEXEC) != 0);
	CHILD_CHECK(strcmp(passed.sockets[0].name, "line") == 0);
	CHILD_CHECK(strcmp(passed.sockets[1].name, "") == 0);
	passed_free(&passed);
	return 0;
}

static void names_are_those_that_somebody_has_chosen(void **state)
{
	static const char *const names[] = {"line:", "line:unknown", "line:echod.socket"};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(names); i++)
		assert_int_equal(support_in_child(take_names, (void *)names[i]), 0);
}

static int take_none(void *arg)
{
	struct passed passed;
	struct error err = {0};

	CHILD_CHECK(take(arg, &passed, &err) == 0);
	CHILD_CHECK(passed.count == 0);
	return 0;
}

static void what_is_for_another_process_is_not_taken(void **state)
{
	struct variables other = {.fds = "2", .pid = 1}, none = {.fds = "0"};

	(void)state;
	assert_int_equal(support_in_child(take_none, &other), 0);
	assert_int_equal(support_in_child(take_none, &none), 0);
}

static int refuse(void *arg)
{
	struct passed passed;
	struct error err = {0};

	CHILD_CHECK(take(arg, &passed, &err) == -1);
	CHILD_CHECK(err.text[0] != '\0' && passed.count == 0);
	return 0;
}

static void what_nobody_can_have_meant_is_refused(void **state)
{
	static struct variables wrong[] = {
		{.fds = "-1"},
		{.fds = "x"},
		{.fds = "99999999999"},
		{.fds = "2", .names = "a"},
		{.fds = "2", .names = "a:b:c"},
		{.fds = "1", .names = "a:"},
		{.fds = "4096"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		assert_int_equal(support_in_child(refuse, &wrong[i]), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_those_that_somebody_has_chosen),
		cmocka_unit_test(what_is_for_another_process_is_not_taken),
		cmocka_unit_test(what_nobody_can_have_meant_is_refused),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
