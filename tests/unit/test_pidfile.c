/* The pid lock: one daemon a pidfile, and the right pid to signal. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/pidfile.h"

struct fixture {
	char *directory;
	char path[SUPPORT_PATH_MAX];
	pid_t holder; /* a child that holds the lock; 0: none */
	int order;    /* closed, it ends the child */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (f == NULL || support_make_directory((void **)&f->directory) < 0)
		return -1;
	support_join(f->path, f->directory, "echod.pid");
	support_log_capture();
	*state = f;
	return 0;
}

static int holder_end(struct fixture *f)
{
	int result = 0;

	if (f->holder > 0) {
		close(f->order);
		result = support_wait(f->holder);
		f->holder = 0;
	}
	return result;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int result = holder_end(f);

	result |= support_remove_directory((void **)&f->directory);
	free(f);
	return result;
}

/* ---- Processes that lock -------------------------------------------------------------------- */

struct holder_task {
	const char *path;
	int said;  /* a byte goes there once the lock is held */
	int order; /* end of file: time to end */
	int to_close;
	int (*take)(const char *path);
};

static int take_as_daemon(const char *path)
{
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};
	int fd;

	CHILD_CHECK(pidfile_lock(&pidfile, path, &err) == 0);
	fd = pidfile.fd;
	free(pidfile.path);
	return fd;
}

/* What anybody who can read the file can do. */
static int take_as_stranger(const char *path)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	int fd = open(path, O_RDONLY);

	CHILD_CHECK(fd >= 0 && fcntl(fd, F_SETLK, &lock) == 0);
	return fd;
}

static int order_of_holder;

/*
 * The child has the descriptor too, and lives on after its parent until the test closes the order.
 */
static int take_and_leave_a_child(const char *path)
{
	int fd = take_as_daemon(path);
	char byte;

	if (fork() == 0)
		_exit((int)read(order_of_holder, &byte, 1));
	return fd;
}

static int hold(void *arg)
{
	struct holder_task *task = arg;
	char byte = 'x';

	close(task->to_close);
	order_of_holder = task->order;
	CHILD_CHECK(task->take(task->path) >= 0);
	CHILD_CHECK(write(task->said, &byte, 1) == 1);
	CHILD_CHECK(read(task->order, &byte, 1) == 0);
	return 0;
}

/* A child that holds a lock on the file until holder_end. */
static void holder_start(struct fixture *f, int (*take)(const char *path))
{
	int said[2], order[2];
	struct holder_task task = {.path = f->path, .take = take};
	char byte;

	assert_int_equal(pipe(said), 0);
	assert_int_equal(pipe(order), 0);
	task.said = said[1];
	task.order = order[0];
	task.to_close = order[1];
	f->holder = support_fork(hold, &task);
	f->order = order[1];
	close(order[0]);
	close(said[1]);
	assert_int_equal(read(said[0], &byte, 1), 1);
	close(said[0]);
}

static int lock_fails(struct fixture *f, struct error *err)
{
	struct pidfile pidfile = PIDFILE_NONE;
	int result = pidfile_lock(&pidfile, f->path, err);

	assert_int_equal(result, -1);
	assert_int_equal(pidfile.fd, -1);
	assert_null(pidfile.path);
	return err->code;
}

static void assert_holds(const char *path, const char *text)
{
	char found[128];

	support_read_file(path, found, sizeof(found));
	assert_string_equal(found, text);
}

static const char *own_pid(void)
{
	static char text[32];

	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	return text;
}

/* Who holds it, asked from outside: a process does not see its own lock. */
static int ask_holder(void *arg)
{
	struct pidfile_holder holder;
	struct error err = {0};

	CHILD_CHECK(pidfile_find(arg, &holder, &err) == 0);
	return holder.pid == getppid() ? 42 : holder.pid == 0 ? 0 : 1;
}

static bool we_hold(const struct fixture *f)
{
	int answer = support_in_child(ask_holder, (void *)f->path);

	assert_true(answer == 42 || answer == 0);
	return answer == 42;
}

/* ---- Locking -------------------------------------------------------------------------------- */

static void a_new_pidfile_has_the_pid_and_mode_0644_and_is_held(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};
	struct stat st;
	mode_t mask = umask(077);

	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	umask(mask);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(fcntl(pidfile.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_true(we_hold(f));
	/* Only now: reading the file in the process that holds it gives the lock up. */
	assert_holds(f->path, own_pid());
	assert_string_equal(support_log_text(), "");
	pidfile_remove(&pidfile);
	assert_int_equal(pidfile.fd, -1);
	assert_int_equal(access(f->path, F_OK), -1);
}

static void a_second_lock_says_already_running_with_the_pid(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	char wanted[64];

	holder_start(f, take_as_daemon);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	snprintf(wanted, sizeof(wanted), "already running (pid %d)", (int)f->holder);
	assert_string_equal(err.text, wanted);
	snprintf(wanted, sizeof(wanted), "%d\n", (int)f->holder);
	assert_holds(f->path, wanted);
}

static void the_file_of_a_dead_daemon_is_taken_over_with_a_notice(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};

	support_write_file(f->path, "2147483647\nand more, longer than any pid\n");
	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	assert_holds(f->path, own_pid());
	assert_int_equal(support_log_count("was left behind by process 2147483647"), 1);
	pidfile_remove(&pidfile);
}

static void the_end_of_the_holder_by_kill_frees_the_lock(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};

	holder_start(f, take_as_daemon);
	assert_int_equal(kill(f->holder, SIGKILL), 0);
	assert_int_equal(holder_end(f), 128 + SIGKILL);
	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	assert_holds(f->path, own_pid());
	pidfile_remove(&pidfile);
}

static int close_inherited(void *arg)
{
	struct pidfile *pidfile = arg;

	CHILD_CHECK(close(pidfile->fd) == 0);
	return 0;
}

static void the_lock_survives_a_child_that_closes_its_copy(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};

	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	assert_int_equal(support_in_child(close_inherited, &pidfile), 0);
	assert_true(we_hold(f));
	pidfile_remove(&pidfile);
}

static void a_child_does_not_keep_the_lock_of_a_dead_parent(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};

	holder_start(f, take_and_leave_a_child);
	assert_int_equal(kill(f->holder, SIGKILL), 0);
	assert_int_equal(support_wait(f->holder), 128 + SIGKILL);
	f->holder = 0;
	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	pidfile_remove(&pidfile);
	close(f->order);
}

/* ---- What is no pidfile --------------------------------------------------------------------- */

static void a_symbolic_link_is_refused_and_its_target_unchanged(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	char target[SUPPORT_PATH_MAX];

	support_join(target, f->directory, "target");
	support_write_file(target, "precious");
	assert_int_equal(symlink(target, f->path), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "is a symbolic link");
	assert_holds(target, "precious");
}

static void a_symbolic_link_to_nothing_creates_nothing(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	char target[SUPPORT_PATH_MAX];

	support_join(target, f->directory, "target");
	assert_int_equal(symlink(target, f->path), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "is a symbolic link");
	assert_int_equal(access(target, F_OK), -1);
}

static void a_fifo_is_refused_without_waiting(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};

	assert_int_equal(mkfifo(f->path, 0600), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "is not a regular file");
	assert_int_equal(access(f->path, F_OK), 0);
}

static void a_socket_is_refused(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct error err = {0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(strlen(f->path) < sizeof(address.sun_path));
	strcpy(address.sun_path, f->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "is not a regular file");
	close(fd);
}

static void a_directory_is_refused(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};

	assert_int_equal(mkdir(f->path, 0700), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "is a directory");
}

static void a_file_with_a_second_name_is_refused_and_unchanged(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	char target[SUPPORT_PATH_MAX];

	support_join(target, f->directory, "target");
	support_write_file(target, "precious");
	assert_int_equal(link(target, f->path), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "hard link");
	assert_holds(target, "precious");
}

static void a_missing_directory_is_said(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};

	support_join(f->path, f->directory, "missing/echod.pid");
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	assert_contains(err.text, "missing/echod.pid: No such file or directory");
}

static void a_file_that_we_may_not_write_has_its_own_exit_code(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};

	if (geteuid() == 0)
		skip(); /* root may */
	support_write_file(f->path, "");
	assert_int_equal(chmod(f->path, 0444), 0);
	assert_int_equal(lock_fails(f, &err), EXIT_PERMISSION);
	assert_contains(err.text, "Permission denied");
}

static void a_strangers_read_lock_is_named_as_such(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	char wanted[64];

	support_write_file(f->path, "4711\n");
	holder_start(f, take_as_stranger);
	assert_int_equal(lock_fails(f, &err), EXIT_FAILED);
	snprintf(wanted, sizeof(wanted), "process %d holds a read lock", (int)f->holder);
	assert_contains(err.text, wanted);
	assert_holds(f->path, "4711\n");
}

/* ---- Races ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t time_is_up;

static void on_time(int sig)
{
	(void)sig;
	time_is_up = 1;
}

/* Unlinks, or replaces, the file as fast as it can for a while. */
static int disturb(void *arg)
{
	struct fixture *f = arg;
	char other[SUPPORT_PATH_MAX];

	signal(SIGALRM, on_time);
	alarm(2);
	for (unsigned i = 0; !time_is_up; i++) {
		int fd;

		snprintf(other, sizeof(other), "%s/other-%d", f->directory, (int)getpid());
		fd = open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		CHILD_CHECK(fd >= 0 && close(fd) == 0);
		if (i % 2 == 0)
			CHILD_CHECK(rename(other, f->path) == 0);
		else
			unlink(f->path);
	}
	return 0;
}

/* Whenever a lock was granted, it was that of the file that stood under the name. */
static void a_file_that_is_replaced_between_open_and_lock_is_not_ours(void **state)
{
	struct fixture *f = *state;
	pid_t disturber = support_fork(disturb, f);
	unsigned granted = 0;
	int status;

	while (waitpid(disturber, &status, WNOHANG) == 0) {
		struct pidfile pidfile = PIDFILE_NONE;
		struct error err = {0};
		struct stat st;

		if (pidfile_lock(&pidfile, f->path, &err) < 0) {
			assert_contains(err.text, "replaced again and again");
			continue;
		}
		granted++;
		assert_int_equal(fstat(pidfile.fd, &st), 0);
		assert_true(st.st_dev == pidfile.device && st.st_ino == pidfile.inode);
		pidfile_remove(&pidfile);
	}
	assert_int_equal(status, 0);
	assert_true(granted > 0);
}

struct contest {
	const char *path;
	char mark[SUPPORT_PATH_MAX]; /* a file that the holder creates, and nobody else can
					meanwhile */
};

static int contend(void *arg)
{
	struct contest *contest = arg;
	int won = 0;

	for (int i = 0; i < 3000 || won == 0; i++) {
		struct pidfile pidfile = PIDFILE_NONE;
		struct error err = {0};
		int mark;

		if (pidfile_lock(&pidfile, contest->path, &err) < 0)
			continue;
		mark = open(contest->mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		CHILD_CHECK(mark >= 0 && close(mark) == 0 && unlink(contest->mark) == 0);
		pidfile_remove(&pidfile);
		won++;
	}
	return 0;
}

static void of_many_that_come_and_go_never_two_hold_the_lock(void **state)
{
	struct fixture *f = *state;
	struct contest contest = {.path = f->path};
	pid_t pids[4];
	int failed = 0;

	support_join(contest.mark, f->directory, "mark");
	for (size_t i = 0; i < COUNT_OF(pids); i++)
		pids[i] = support_fork(contend, &contest);
	for (size_t i = 0; i < COUNT_OF(pids); i++)
		failed += support_wait(pids[i]) != 0;
	assert_int_equal(failed, 0);
	assert_int_equal(access(f->path, F_OK), -1);
}

/* ---- Removing ------------------------------------------------------------------------------- */

static void a_file_that_replaced_ours_is_not_removed(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};

	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	assert_int_equal(unlink(f->path), 0);
	support_write_file(f->path, "another daemon's\n");
	pidfile_unlink_in_signal(&pidfile);
	assert_holds(f->path, "another daemon's\n");
	pidfile_remove(&pidfile);
	assert_holds(f->path, "another daemon's\n");
}

static void unlinking_in_a_signal_handler_leaves_the_lock(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};

	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	pidfile_unlink_in_signal(&pidfile);
	assert_int_equal(access(f->path, F_OK), -1);
	assert_int_not_equal(fcntl(pidfile.fd, F_GETFD), -1);
	pidfile_remove(&pidfile);
}

static void removing_nothing_does_nothing(void **state)
{
	struct pidfile pidfile = PIDFILE_NONE;

	(void)state;
	pidfile_unlink_in_signal(&pidfile);
	pidfile_remove(&pidfile);
	assert_int_equal(pidfile.fd, -1);
}

/* ---- Adopting ------------------------------------------------------------------------------- */

static void after_exec_the_descriptor_is_adopted_with_its_lock(void **state)
{
	struct fixture *f = *state;
	struct pidfile before = PIDFILE_NONE, after = PIDFILE_NONE;
	struct error err = {0};

	assert_int_equal(pidfile_lock(&before, f->path, &err), 0);
	assert_int_equal(pidfile_adopt(&after, &before, &err), 0);
	assert_true(we_hold(f));
	assert_string_equal(after.path, f->path);
	free(before.path);
	pidfile_remove(&after);
	assert_int_equal(access(f->path, F_OK), -1);
}

static void a_descriptor_that_is_no_file_is_not_adopted(void **state)
{
	struct fixture *f = *state;
	struct pidfile former = {f->path, -1, 0, 0}, pidfile = PIDFILE_NONE;
	struct error err = {0};
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(pidfile_adopt(&pidfile, &former, &err), -1);
	former.fd = ends[1];
	assert_int_equal(pidfile_adopt(&pidfile, &former, &err), -1);
	assert_int_equal(pidfile.fd, -1);
	close(ends[0]);
	close(ends[1]);
}

static void a_descriptor_of_another_file_is_not_adopted(void **state)
{
	struct fixture *f = *state;
	struct pidfile former = {f->path, -1, 0, 0}, pidfile = PIDFILE_NONE;
	struct error err = {0};
	char other[SUPPORT_PATH_MAX];
	struct stat st;

	support_join(other, f->directory, "other");
	support_write_file(other, "precious");
	support_write_file(f->path, "4711\n");
	former.fd = open(other, O_RDWR | O_CLOEXEC);
	assert_true(former.fd >= 0);
	assert_int_equal(stat(f->path, &st), 0);
	former.device = st.st_dev;
	former.inode = st.st_ino;
	assert_int_equal(pidfile_adopt(&pidfile, &former, &err), -1);
	close(former.fd);
}

static void a_file_that_an_administrator_removed_is_adopted(void **state)
{
	struct fixture *f = *state;
	struct pidfile before = PIDFILE_NONE, after = PIDFILE_NONE;
	struct error err = {0};

	assert_int_equal(pidfile_lock(&before, f->path, &err), 0);
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(pidfile_adopt(&after, &before, &err), 0);
	free(before.path);
	pidfile_remove(&after);
}

static void a_file_that_holds_no_pid_is_not_overwritten(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};
	char text[64];
	size_t len;
	FILE *file;

	support_write_file(f->path, "127.0.0.1 localhost\n");
	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), -1);
	assert_contains(err.text, "something other than a pid");
	file = fopen(f->path, "r");
	assert_non_null(file);
	len = fread(text, 1, sizeof(text), file);
	fclose(file);
	assert_int_equal(len, strlen("127.0.0.1 localhost\n"));
}

static void a_file_of_nul_bytes_is_taken_over(void **state)
{
	struct fixture *f = *state;
	struct pidfile pidfile = PIDFILE_NONE;
	struct error err = {0};
	int fd = open(f->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	/* What some file systems leave of a file that was written just before the power went. */
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 5), 0);
	close(fd);
	assert_int_equal(pidfile_lock(&pidfile, f->path, &err), 0);
	pidfile_remove(&pidfile);
}

static void a_lock_that_somebody_else_took_is_not_adopted(void **state)
{
	struct fixture *f = *state;
	struct pidfile former = {f->path, -1, 0, 0}, pidfile = PIDFILE_NONE;
	struct error err = {0};
	struct stat st;

	holder_start(f, take_as_daemon);
	former.fd = open(f->path, O_RDWR | O_CLOEXEC);
	assert_true(former.fd >= 0);
	assert_int_equal(fstat(former.fd, &st), 0);
	former.device = st.st_dev;
	former.inode = st.st_ino;
	assert_int_equal(pidfile_adopt(&pidfile, &former, &err), -1);
	assert_contains(err.text, "was lost");
	close(former.fd);
}

/* ---- The side of the verbs ------------------------------------------------------------------ */

static void the_holder_is_found_signalled_and_its_end_seen(void **state)
{
	struct fixture *f = *state;
	struct pidfile_holder holder;
	struct error err = {0};

	holder_start(f, take_as_daemon);
	assert_int_equal(pidfile_find(f->path, &holder, &err), 0);
	assert_int_equal(holder.pid, f->holder);
	assert_true(holder.file_exists);
	assert_int_equal(pidfile_await_end(&holder, 0, &err), 0);
	assert_int_equal(pidfile_await_end(&holder, 20, &err), 0);
	assert_int_equal(pidfile_signal(&holder, SIGTERM, &err), 0);
	assert_int_equal(pidfile_await_end(&holder, 10000, &err), 1);
	assert_int_equal(holder_end(f), 128 + SIGTERM);
	/* It has ended: no error, and nobody else is signalled. */
	assert_int_equal(pidfile_signal(&holder, SIGTERM, &err), 0);
	pidfile_holder_close(&holder);
	assert_int_equal(holder.pidfd, -1);
	pidfile_holder_close(&holder);
}

static void without_a_file_nobody_is_found(void **state)
{
	struct fixture *f = *state;
	struct pidfile_holder holder;
	struct error err = {0};

	assert_int_equal(pidfile_find(f->path, &holder, &err), 0);
	assert_int_equal(holder.pid, 0);
	assert_int_equal(holder.pidfd, -1);
	assert_false(holder.file_exists);
	support_join(f->path, f->directory, "missing/echod.pid");
	assert_int_equal(pidfile_find(f->path, &holder, &err), 0);
	assert_false(holder.file_exists);
}

static void a_pid_in_an_unlocked_file_is_never_believed(void **state)
{
	struct fixture *f = *state;
	struct pidfile_holder holder;
	struct error err = {0};

	support_write_file(f->path, own_pid());
	assert_int_equal(pidfile_find(f->path, &holder, &err), 0);
	assert_int_equal(holder.pid, 0);
	assert_int_equal(holder.pidfd, -1);
	assert_true(holder.file_exists);
}

static void the_lock_counts_and_not_the_text(void **state)
{
	struct fixture *f = *state;
	struct pidfile_holder holder;
	struct error err = {0};

	holder_start(f, take_as_daemon);
	support_write_file(f->path, "1\n");
	assert_int_equal(pidfile_find(f->path, &holder, &err), 0);
	assert_int_equal(holder.pid, f->holder);
	pidfile_holder_close(&holder);
}

static void a_strangers_read_lock_is_not_taken_for_a_daemon(void **state)
{
	struct fixture *f = *state;
	struct pidfile_holder holder;
	struct error err = {0};

	support_write_file(f->path, "4711\n");
	holder_start(f, take_as_stranger);
	assert_int_equal(pidfile_find(f->path, &holder, &err), 0);
	assert_int_equal(holder.pid, 0);
}

static void verbs_do_not_follow_a_link_and_do_not_wait_for_a_fifo(void **state)
{
	struct fixture *f = *state;
	struct pidfile_holder holder;
	struct error err = {0};

	assert_int_equal(symlink("/dev/null", f->path), 0);
	assert_int_equal(pidfile_find(f->path, &holder, &err), -1);
	assert_contains(err.text, "is a symbolic link");
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(mkfifo(f->path, 0600), 0);
	assert_int_equal(pidfile_find(f->path, &holder, &err), -1);
	assert_contains(err.text, "is not a regular file");
	assert_int_equal(holder.pid, 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_new_pidfile_has_the_pid_and_mode_0644_and_is_held),
		TEST(a_second_lock_says_already_running_with_the_pid),
		TEST(the_file_of_a_dead_daemon_is_taken_over_with_a_notice),
		TEST(the_end_of_the_holder_by_kill_frees_the_lock),
		TEST(the_lock_survives_a_child_that_closes_its_copy),
		TEST(a_child_does_not_keep_the_lock_of_a_dead_parent),
		TEST(a_symbolic_link_is_refused_and_its_target_unchanged),
		TEST(a_symbolic_link_to_nothing_creates_nothing),
		TEST(a_fifo_is_refused_without_waiting),
		TEST(a_socket_is_refused),
		TEST(a_directory_is_refused),
		TEST(a_file_with_a_second_name_is_refused_and_unchanged),
		TEST(a_missing_directory_is_said),
		TEST(a_file_that_we_may_not_write_has_its_own_exit_code),
		TEST(a_strangers_read_lock_is_named_as_such),
		TEST(a_file_that_is_replaced_between_open_and_lock_is_not_ours),
		TEST(of_many_that_come_and_go_never_two_hold_the_lock),
		TEST(a_file_that_replaced_ours_is_not_removed),
		TEST(unlinking_in_a_signal_handler_leaves_the_lock),
		TEST(removing_nothing_does_nothing),
		TEST(after_exec_the_descriptor_is_adopted_with_its_lock),
		TEST(a_descriptor_that_is_no_file_is_not_adopted),
		TEST(a_descriptor_of_another_file_is_not_adopted),
		TEST(a_file_that_an_administrator_removed_is_adopted),
		TEST(a_file_that_holds_no_pid_is_not_overwritten),
		TEST(a_file_of_nul_bytes_is_taken_over),
		TEST(a_lock_that_somebody_else_took_is_not_adopted),
		TEST(the_holder_is_found_signalled_and_its_end_seen),
		TEST(without_a_file_nobody_is_found),
		TEST(a_pid_in_an_unlocked_file_is_never_believed),
		TEST(the_lock_counts_and_not_the_text),
		TEST(a_strangers_read_lock_is_not_taken_for_a_daemon),
		TEST(verbs_do_not_follow_a_link_and_do_not_wait_for_a_fifo),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
