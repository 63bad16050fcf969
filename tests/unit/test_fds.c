/* File descriptors: which are open, which survive. Each test in a child, whose table is its own. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "os/fds.h"

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static bool is_null(int fd)
{
	struct stat st, null;

	return fstat(fd, &st) == 0 && stat("/dev/null", &null) == 0 && S_ISCHR(st.st_mode) &&
	       st.st_rdev == null.st_rdev;
}

/* Put something on that number; it must be free. */
static void open_at(int fd)
{
	int pipes[2];

	CHILD_CHECK(!is_open(fd));
	CHILD_CHECK(pipe(pipes) == 0);
	if (pipes[0] != fd)
		CHILD_CHECK(dup2(pipes[0], fd) == fd && close(pipes[0]) == 0);
	if (pipes[1] != fd)
		close(pipes[1]);
}

/* ---- 0, 1 and 2 ----------------------------------------------------------------------------- */

/* Without CHILD_CHECK, which writes to stderr: that is one of those. */
static int secure_each_set(void *arg)
{
	(void)arg;
	for (int closed = 0; closed < 8; closed++) {
		for (int fd = 0; fd < 3; fd++)
			if (closed & 1 << fd)
				close(fd);
		if (fds_secure_standard() != 0)
			return 2;
		for (int fd = 0; fd < 3; fd++)
			if (!is_open(fd) || ((closed & 1 << fd) && !is_null(fd)))
				return 3 + fd;
	}
	return 0;
}

static void closed_standard_descriptors_are_put_on_dev_null(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(secure_each_set, NULL), 0);
}

static int secure_nothing(void *arg)
{
	struct stat before[3], after;
	int next = dup(0), again;

	(void)arg;
	for (int fd = 0; fd < 3; fd++)
		CHILD_CHECK(fstat(fd, &before[fd]) == 0);
	CHILD_CHECK(fds_secure_standard() == 0);
	for (int fd = 0; fd < 3; fd++)
		CHILD_CHECK(fstat(fd, &after) == 0 && after.st_ino == before[fd].st_ino);
	close(next);
	again = dup(0);
	CHILD_CHECK(again == next);
	return 0;
}

static void open_standard_descriptors_stay_as_they_are(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(secure_nothing, NULL), 0);
}

static int redirect(void *arg)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)arg;
	CHILD_CHECK(null > STDERR_FILENO);
	if (fds_redirect_standard(null) != 0)
		return 2;
	for (int fd = 0; fd < 3; fd++)
		if (!is_null(fd) || fcntl(fd, F_GETFD) != 0)
			return 3 + fd;
	return is_open(null) ? 0 : 6;
}

static void standard_descriptors_are_redirected_and_survive_exec(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(redirect, NULL), 0);
}

static int redirect_to_nothing(void *arg)
{
	(void)arg;
	return fds_redirect_standard(-1) == -1 && errno == EBADF ? 0 : 1;
}

static void redirecting_to_a_closed_descriptor_fails(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(redirect_to_nothing, NULL), 0);
}

/* ---- Closing the others --------------------------------------------------------------------- */

static int close_except_some(void *arg)
{
	static const int opened[] = {40, 41, 42, 43, 57, 100, 101, 500};
	int keep[] = {101, -1, 42, 2, 43, 42, 500, -1, 40};
	static const int kept[] = {40, 42, 43, 101, 500};

	(void)arg;
	for (size_t i = 0; i < COUNT_OF(opened); i++)
		open_at(opened[i]);
	fds_close_except(keep, COUNT_OF(keep));
	for (int fd = 0; fd < 1024; fd++) {
		bool wanted = fd < 3;

		for (size_t i = 0; i < COUNT_OF(kept); i++)
			wanted = wanted || fd == kept[i];
		CHILD_CHECK(is_open(fd) == wanted);
	}
	return 0;
}

static void all_but_the_kept_and_the_standard_ones_are_closed(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(close_except_some, NULL), 0);
}

static int close_all(void *arg)
{
	(void)arg;
	open_at(40);
	fds_close_except(NULL, 0);
	CHILD_CHECK(is_open(0) && is_open(1) && is_open(2));
	for (int fd = 3; fd < 1024; fd++)
		CHILD_CHECK(!is_open(fd));
	return 0;
}

static void with_nothing_to_keep_only_the_standard_ones_stay(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(close_all, NULL), 0);
}

/* ---- Flags and limits ----------------------------------------------------------------------- */

static void close_on_exec_is_set_and_cleared(void **state)
{
	int fd = open("/dev/null", O_RDONLY);

	(void)state;
	assert_int_equal(fds_set_cloexec(fd, 1), 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fds_set_cloexec(fd, 0), 0);
	assert_int_equal(fcntl(fd, F_GETFD), 0);
	close(fd);
	assert_int_equal(fds_set_cloexec(-1, 1), -1);
	assert_int_equal(errno, EBADF);
}

static int raise_limit(void *arg)
{
	struct rlimit limit = {32, 48};

	(void)arg;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHILD_CHECK(fds_raise_limit() == 48);
	CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHILD_CHECK(limit.rlim_cur == 48 && limit.rlim_max == 48);
	CHILD_CHECK(fds_raise_limit() == 48);
	return 0;
}

static void the_soft_limit_is_raised_to_the_hard_one(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(raise_limit, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(closed_standard_descriptors_are_put_on_dev_null),
		cmocka_unit_test(open_standard_descriptors_stay_as_they_are),
		cmocka_unit_test(standard_descriptors_are_redirected_and_survive_exec),
		cmocka_unit_test(redirecting_to_a_closed_descriptor_fails),
		cmocka_unit_test(all_but_the_kept_and_the_standard_ones_are_closed),
		cmocka_unit_test(with_nothing_to_keep_only_the_standard_ones_stay),
		cmocka_unit_test(close_on_exec_is_set_and_cleared),
		cmocka_unit_test(the_soft_limit_is_raised_to_the_hard_one),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
