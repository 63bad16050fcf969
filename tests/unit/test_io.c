/* Whole reads and writes. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"

#define MANY (512 * 1024) /* more than a pipe holds */

static char *random_bytes(size_t len)
{
	struct support_random random;
	char *bytes = malloc(len);

	assert_non_null(bytes);
	support_random_start(&random);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (char)support_random_next(&random);
	return bytes;
}

/* A file of that length in the test's directory, open for reading. */
static int file_of(const char *directory, size_t len)
{
	char path[SUPPORT_PATH_MAX];
	int fd;

	support_join(path, directory, "file");
	support_write_file(path, "");
	assert_int_equal(truncate(path, (off_t)len), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_not_equal(fd, -1);
	return fd;
}

static void on_signal(int sig)
{
	(void)sig;
}

/* Signals that interrupt twice a millisecond, also a call that waits. */
static timer_t interrupt_often(void)
{
	/* Without SA_RESTART: read and write fail with EINTR. */
	struct sigaction action = {.sa_handler = on_signal};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec every = {{0, 500000}, {0, 500000}};
	timer_t timer;

	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
	return timer;
}

/* Long enough that the other side waits, and is interrupted while it has nothing to show for it. */
static void let_it_wait(void)
{
	struct timespec pause = {0, 20000000};

	nanosleep(&pause, NULL);
}

struct pump {
	int from;
	int to;
	const char *bytes;
};

/* Read in small pieces what the parent writes, and compare. */
static int read_slowly(void *arg)
{
	struct pump *pump = arg;
	char piece[3000];
	size_t at = 0;
	ssize_t n;

	close(pump->to);
	let_it_wait();
	while ((n = read(pump->from, piece, sizeof(piece))) > 0) {
		CHILD_CHECK(at + (size_t)n <= MANY);
		CHILD_CHECK(memcmp(piece, pump->bytes + at, (size_t)n) == 0);
		at += (size_t)n;
	}
	CHILD_CHECK(at == MANY);
	return 0;
}

static void all_bytes_are_written_however_often_it_is_interrupted(void **state)
{
	char *bytes = random_bytes(MANY);
	struct pump pump = {.bytes = bytes};
	int ends[2];
	pid_t reader;
	timer_t timer;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	pump.from = ends[0];
	pump.to = ends[1];
	reader = support_fork(read_slowly, &pump);
	close(ends[0]);
	timer = interrupt_often();
	assert_int_equal(io_write_all(ends[1], bytes, MANY), 0);
	timer_delete(timer);
	close(ends[1]);
	assert_int_equal(support_wait(reader), 0);
	free(bytes);
}

static int write_slowly(void *arg)
{
	struct pump *pump = arg;

	close(pump->from);
	let_it_wait();
	for (size_t at = 0; at < MANY; at += 4096)
		CHILD_CHECK(write(pump->to, pump->bytes + at, 4096) == 4096);
	return 0;
}

static void a_read_goes_on_until_all_is_there_or_the_end(void **state)
{
	char *bytes = random_bytes(MANY), *got = malloc(MANY + 1);
	struct pump pump = {.bytes = bytes};
	int ends[2];
	pid_t writer;
	timer_t timer;

	(void)state;
	assert_non_null(got);
	assert_int_equal(pipe(ends), 0);
	pump.from = ends[0];
	pump.to = ends[1];
	writer = support_fork(write_slowly, &pump);
	close(ends[1]);
	timer = interrupt_often();
	assert_int_equal(io_read_all(ends[0], got, 5000), 5000);
	assert_int_equal(io_read_all(ends[0], got + 5000, MANY - 5000 + 1), MANY - 5000);
	timer_delete(timer);
	close(ends[0]);
	assert_memory_equal(got, bytes, MANY);
	assert_int_equal(support_wait(writer), 0);
	free(got);
	free(bytes);
}

static void a_failure_is_told_with_errno(void **state)
{
	char byte = 'x';
	size_t len;

	(void)state;
	errno = 0;
	assert_int_equal(io_write_all(-1, &byte, 1), -1);
	assert_int_equal(errno, EBADF);
	errno = 0;
	assert_int_equal(io_read_all(-1, &byte, 1), -1);
	assert_int_equal(errno, EBADF);
	errno = 0;
	assert_null(io_read_to_end(-1, 100, &len));
	assert_int_equal(errno, EBADF);
}

static void a_file_of_any_length_is_read_to_its_end(void **state)
{
	/* Around the first piece of memory, and around its double. */
	const size_t lengths[] = {0, 1, 4094, 4095, 4096, 4097, 8190, 8191, 8192, 100000};

	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		int fd = file_of(*state, lengths[i]);
		size_t len = SIZE_MAX;
		char *text = io_read_to_end(fd, 100000, &len);

		assert_non_null(text);
		assert_int_equal(len, lengths[i]);
		assert_int_equal(text[len], '\0');
		free(text);
		close(fd);
	}
}

static void a_file_over_the_limit_is_refused(void **state)
{
	const size_t limits[] = {0, 9, 4095, 4096, 9999};

	for (size_t i = 0; i < COUNT_OF(limits); i++) {
		int fd = file_of(*state, limits[i] + 1);
		size_t len;

		errno = 0;
		assert_null(io_read_to_end(fd, limits[i], &len));
		assert_int_equal(errno, EFBIG);
		close(fd);
	}
}

static void an_absolute_path_stays_as_it_is(void **state)
{
	struct error err = {0};
	char *path = io_absolute("/a/../b", &err);

	(void)state;
	assert_string_equal(path, "/a/../b");
	free(path);
}

static int absolute_in(void *arg)
{
	struct error err = {0};
	char wanted[SUPPORT_PATH_MAX], cwd[PATH_MAX], *path;

	CHILD_CHECK(chdir(arg) == 0 && getcwd(cwd, sizeof(cwd)) != NULL);
	path = io_absolute("sub/file", &err);
	support_join(wanted, cwd, "sub/file");
	CHILD_CHECK(path != NULL && strcmp(path, wanted) == 0);
	free(path);
	CHILD_CHECK(chdir("/") == 0);
	path = io_absolute("file", &err);
	CHILD_CHECK(path != NULL && strcmp(path, "/file") == 0);
	free(path);
	return 0;
}

static void a_relative_path_is_put_behind_the_current_directory(void **state)
{
	assert_int_equal(support_in_child(absolute_in, *state), 0);
}

static int absolute_nowhere(void *arg)
{
	struct error err = {0};
	char path[SUPPORT_PATH_MAX];

	snprintf(path, sizeof(path), "%s/gone", (const char *)arg);
	CHILD_CHECK(mkdir(path, 0700) == 0 && chdir(path) == 0 && rmdir(path) == 0);
	CHILD_CHECK(io_absolute("file", &err) == NULL);
	CHILD_CHECK(strstr(err.text, "cannot find file: the current directory: ") != NULL);
	return 0;
}

static void a_current_directory_that_is_gone_is_said(void **state)
{
	assert_int_equal(support_in_child(absolute_nowhere, *state), 0);
}

#define TEST_IN_DIRECTORY(test)                                                                    \
	cmocka_unit_test_setup_teardown(test, support_make_directory, support_remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_bytes_are_written_however_often_it_is_interrupted),
		cmocka_unit_test(a_read_goes_on_until_all_is_there_or_the_end),
		cmocka_unit_test(a_failure_is_told_with_errno),
		TEST_IN_DIRECTORY(a_file_of_any_length_is_read_to_its_end),
		TEST_IN_DIRECTORY(a_file_over_the_limit_is_refused),
		cmocka_unit_test(an_absolute_path_stays_as_it_is),
		TEST_IN_DIRECTORY(a_relative_path_is_put_behind_the_current_directory),
		TEST_IN_DIRECTORY(a_current_directory_that_is_gone_is_said),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
