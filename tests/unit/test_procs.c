/* The processes of /proc: what a line says, who descends from whom, and that no other is hit. */
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/procs.h"

#define WAIT_MS 20000 /* what takes longer does not come */

/* Between two looks at something that no event tells of. */
static void pause_briefly(void)
{
	poll(NULL, 0, 2);
}

/* ---- One line ------------------------------------------------------------------------------- */

/* Fields 4 to 24: parent 7, group 8, utime 250, stime 50, one thread, started 9001, 3 pages. */
#define NUMBERS                                                                                    \
	" 7 8 9 0 -1 4194560 1 2 3 4 250 50 5 6 20 0 1 0 9001 12345678 3 18446744073709551615 0\n"

static void a_line_is_read(void **state)
{
	uint64_t tick_ms = 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
	struct proc proc;

	(void)state;
	assert_int_equal(procs_parse("42 (cat) S" NUMBERS, &proc), 0);
	assert_int_equal(proc.pid, 42);
	assert_int_equal(proc.parent, 7);
	assert_int_equal(proc.group, 8);
	assert_int_equal(proc.state, 'S');
	assert_true(proc.alive);
	assert_int_equal(proc.started, 9001);
	assert_int_equal(proc.cpu_ms, 300 * tick_ms);
	assert_int_equal(proc.memory, 3 * sysconf(_SC_PAGESIZE));
}

static void a_name_may_hold_spaces_and_parentheses(void **state)
{
	static const char *const lines[] = {
		"42 (a b) S" NUMBERS,	  "42 (a) R 1 2 3) S" NUMBERS, "42 ()) S" NUMBERS,
		"42 ((() S" NUMBERS,	  "42 () S" NUMBERS,	       "42 (\\n) S" NUMBERS,
		"42 (1 (x) Z) S" NUMBERS,
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lines); i++) {
		struct proc proc;

		assert_int_equal(procs_parse(lines[i], &proc), 0);
		assert_int_equal(proc.pid, 42);
		assert_int_equal(proc.state, 'S');
		assert_int_equal(proc.parent, 7);
	}
}

static void what_is_no_such_line_is_refused(void **state)
{
	static const char *const lines[] = {
		"",
		"42",
		"42 (cat)",
		"42 (cat) ",
		"42 (cat) S",
		"42 (cat) S 7 8",
		"42 cat S" NUMBERS,
		"0 (cat) S" NUMBERS,
		"x (cat) S" NUMBERS,
		"42 (cat) 7" NUMBERS,
		"42 (cat) S 7 8 nine 0 -1 4194560 1 2 3 4 250 50 5 6 20 0 1 0 9001 12345678 3\n",
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lines); i++) {
		struct proc proc;

		if (procs_parse(lines[i], &proc) == 0)
			fail_msg("'%s' was taken", lines[i]);
	}
}

static void only_a_zombie_without_threads_has_ended(void **state)
{
	struct proc proc;

	(void)state;
	assert_int_equal(procs_parse("42 (cat) Z" NUMBERS, &proc), 0);
	assert_false(proc.alive);
	assert_int_equal(procs_parse("42 (cat) X" NUMBERS, &proc), 0);
	assert_false(proc.alive);
	assert_int_equal(
		procs_parse("42 (cat) Z 7 8 9 0 -1 0 1 2 3 4 5 6 5 6 20 0 2 0 9 1 3 0\n", &proc),
		0);
	assert_true(proc.alive);
}

/* ---- Real processes ------------------------------------------------------------------------- */

static void scan(struct procs *procs)
{
	struct error err = {0};

	if (procs_scan(procs, &err) < 0)
		fail_msg("%s", err.text);
}

/* A child of the test that forks as `body` says; it writes pids into `pipe`. */
struct family {
	int pipe[2];
	pid_t child;
};

static void tell(const struct family *family, pid_t pid)
{
	CHILD_CHECK(write(family->pipe[1], &pid, sizeof(pid)) == sizeof(pid));
}

static pid_t hear(const struct family *family)
{
	struct pollfd readable = {.fd = family->pipe[0], .events = POLLIN};
	pid_t pid;

	assert_int_equal(poll(&readable, 1, WAIT_MS), 1);
	assert_int_equal(read(family->pipe[0], &pid, sizeof(pid)), sizeof(pid));
	return pid;
}

static void start_family(struct family *family, int (*body)(void *arg))
{
	/* What it leaves behind comes to the test, which is how the test can wait for it. */
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	assert_int_equal(pipe(family->pipe), 0);
	family->child = support_fork(body, family);
}

static void end_family(struct family *family)
{
	struct procs procs;

	scan(&procs);
	procs_mark_descendants(&procs, getpid());
	for (size_t i = 0; i < procs.count; i++)
		if (procs.list[i].below)
			procs_signal(&procs.list[i], SIGKILL);
	procs_free(&procs);
	while (waitpid(-1, NULL, 0) > 0)
		;
	close(family->pipe[0]);
	close(family->pipe[1]);
}

static _Noreturn void wait_for_ever(void)
{
	support_limit_time(2 * WAIT_MS / 1000);
	for (;;)
		pause();
}

static int child_grandchild_and_stray(void *arg)
{
	struct family *family = arg;
	pid_t stray;

	if (fork() == 0) {
		tell(family, getpid());
		wait_for_ever();
	}
	stray = fork();
	if (stray == 0) {
		/* Its parent ends, so that it belongs to whoever reaps what the test leaves. */
		setsid();
		if (fork() == 0) {
			setsid();
			tell(family, getpid());
			wait_for_ever();
		}
		_exit(0);
	}
	waitpid(stray, NULL, 0);
	tell(family, getpid());
	wait_for_ever();
}

static void all_descendants_are_marked_and_nobody_else(void **state)
{
	struct family family;
	struct procs procs;
	pid_t told[3];

	(void)state;
	start_family(&family, child_grandchild_and_stray);
	for (int i = 0; i < 3; i++)
		told[i] = hear(&family);
	scan(&procs);
	assert_int_equal(procs_mark_descendants(&procs, getpid()), 3);
	for (int i = 0; i < 3; i++) {
		const struct proc *proc = procs_find(&procs, told[i]);

		assert_non_null(proc);
		assert_true(proc->below && proc->alive);
		assert_int_equal(proc->group, getpgid(told[i]));
	}
	assert_false(procs_find(&procs, getpid())->below);
	assert_false(procs_find(&procs, getppid())->below);
	/* The stray is the test's, no longer the child's. */
	assert_int_equal(procs_mark_descendants(&procs, family.child), 1);
	procs_free(&procs);
	end_family(&family);
}

#define GENERATIONS 40

static int long_line(void *arg)
{
	for (int i = 1; i < GENERATIONS; i++)
		if (fork() != 0)
			wait_for_ever();
	tell(arg, getpid());
	wait_for_ever();
}

static void descent_is_followed_to_any_depth(void **state)
{
	struct family family;
	struct procs procs;
	struct procs_use use;

	(void)state;
	start_family(&family, long_line);
	hear(&family);
	scan(&procs);
	assert_int_equal(procs_mark_descendants(&procs, getpid()), GENERATIONS);
	assert_int_equal(procs_mark_descendants(&procs, family.child), GENERATIONS - 1);
	use = procs_sum(&procs, family.child);
	assert_int_equal(use.count, GENERATIONS);
	assert_true(use.memory > 0);
	procs_free(&procs);
	end_family(&family);
}

static int end_at_once(void *arg)
{
	(void)arg;
	return 0;
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0;
}

static void a_zombie_is_listed_and_not_alive(void **state)
{
	struct family family;
	struct procs procs;
	const struct proc *zombie;

	(void)state;
	start_family(&family, end_at_once);
	assert_true(has_ended(family.child));
	scan(&procs);
	assert_int_equal(procs_mark_descendants(&procs, getpid()), 1);
	zombie = procs_find(&procs, family.child);
	assert_non_null(zombie);
	assert_true(zombie->below);
	assert_false(zombie->alive);
	assert_int_equal(zombie->state, 'Z');
	assert_int_equal(procs_sum(&procs, family.child).count, 0);
	procs_free(&procs);
	end_family(&family);
}

static void *thread_that_stays(void *arg)
{
	tell(arg, getpid());
	wait_for_ever();
}

static int first_thread_ends(void *arg)
{
	pthread_t thread;

	CHILD_CHECK(pthread_create(&thread, NULL, thread_that_stays, arg) == 0);
	pthread_exit(NULL);
}

static void a_process_lives_as_long_as_any_of_its_threads(void **state)
{
	int64_t limit = clock_ms() + WAIT_MS;
	struct family family;
	struct proc proc;

	(void)state;
	start_family(&family, first_thread_ends);
	hear(&family);
	while (procs_read(family.child, &proc) == 0 && proc.state != 'Z' && clock_ms() < limit)
		pause_briefly();
	assert_int_equal(proc.state, 'Z');
	assert_true(proc.alive);
	end_family(&family);
}

static int odd_name(void *arg)
{
	prctl(PR_SET_NAME, "x) Z 1 (\ny");
	tell(arg, getpid());
	wait_for_ever();
}

static void a_process_cannot_forge_its_line(void **state)
{
	struct family family;
	struct proc proc;

	(void)state;
	start_family(&family, odd_name);
	hear(&family);
	assert_int_equal(procs_read(family.child, &proc), 0);
	assert_int_equal(proc.pid, family.child);
	assert_int_equal(proc.parent, getpid());
	assert_int_equal(proc.group, getpgrp());
	assert_true(proc.alive);
	end_family(&family);
}

static int busy(void *arg)
{
	static volatile char pages[32 * 1024 * 1024];
	volatile unsigned n = 0;

	for (size_t i = 0; i < sizeof(pages); i += 1024)
		pages[i] = 1;
	while (clock() < CLOCKS_PER_SEC / 5)
		n++;
	tell(arg, getpid());
	wait_for_ever();
}

static void what_it_uses_is_told(void **state)
{
	struct family family;
	struct procs procs;
	struct procs_use use;

	(void)state;
	start_family(&family, busy);
	hear(&family);
	scan(&procs);
	use = procs_sum(&procs, family.child);
	assert_int_equal(use.count, 1);
	assert_in_range(use.cpu_ms, 150, 20000);
	assert_true(use.memory >= 32 * 1024 * 1024);
	/* With those above it, it can only be more. */
	assert_true(procs_sum(&procs, getpid()).memory > use.memory);
	procs_free(&procs);
	end_family(&family);
}

static void the_list_is_sorted_and_holds_this_process(void **state)
{
	struct procs procs;

	(void)state;
	scan(&procs);
	assert_true(procs.count > 0);
	for (size_t i = 1; i < procs.count; i++)
		assert_true(procs.list[i - 1].pid < procs.list[i].pid);
	assert_int_equal(procs_find(&procs, getpid())->parent, getppid());
	assert_null(procs_find(&procs, -1));
	assert_int_equal(procs_mark_descendants(&procs, -1), 0);
	procs_free(&procs);
	procs_free(&procs);
	assert_null(procs_find(&procs, getpid()));
	assert_int_equal(procs_mark_descendants(&procs, getpid()), 0);
}

/* Made up: two that are each other's parents, one below them, one below this process. */
static void a_circle_of_parents_does_no_harm(void **state)
{
	struct proc list[] = {
		{.pid = 10, .up = 1},
		{.pid = 11, .up = 0},
		{.pid = 12, .up = 1},
		{.pid = 13, .up = 4},
		{.pid = 14, .up = PROCS_NOWHERE},
	};
	struct procs procs = {list, COUNT_OF(list)};

	(void)state;
	assert_int_equal(procs_mark_descendants(&procs, 14), 1);
	assert_true(list[3].below);
	assert_int_equal(procs_mark_descendants(&procs, 10), 2);
	assert_true(list[1].below && list[2].below);
	assert_false(list[0].below);
}

/* ---- Signals -------------------------------------------------------------------------------- */

static int obedient(void *arg)
{
	tell(arg, getpid());
	wait_for_ever();
}

static void that_very_process_is_signalled(void **state)
{
	struct family family;
	struct proc proc;

	(void)state;
	start_family(&family, obedient);
	hear(&family);
	assert_int_equal(procs_read(family.child, &proc), 0);
	assert_int_equal(procs_signal(&proc, SIGTERM), 0);
	assert_int_equal(support_wait(family.child), 128 + SIGTERM);
	assert_int_equal(procs_signal(&proc, SIGTERM), -1);
	assert_int_equal(errno, ESRCH);
	end_family(&family);
}

static void another_one_with_its_number_is_spared(void **state)
{
	struct family family;
	struct proc proc;

	(void)state;
	start_family(&family, obedient);
	hear(&family);
	assert_int_equal(procs_read(family.child, &proc), 0);
	proc.started--;
	assert_int_equal(procs_signal(&proc, SIGKILL), -1);
	assert_int_equal(errno, ESRCH);
	assert_int_equal(waitpid(family.child, NULL, WNOHANG), 0);
	end_family(&family);
}

static void all_processes_and_init_are_never_signalled(void **state)
{
	static const pid_t never[] = {1, 0, -1, -2};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(never); i++) {
		struct proc proc = {.pid = never[i]};

		assert_int_equal(procs_signal(&proc, 0), -1);
		assert_int_equal(errno, EPERM);
	}
}

static void a_process_that_is_gone_is_not_found(void **state)
{
	struct proc proc;
	pid_t pid = support_fork(end_at_once, NULL);

	(void)state;
	assert_int_equal(support_wait(pid), 0);
	assert_int_equal(procs_read(pid, &proc), -1);
	assert_int_equal(errno, ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_is_read),
		cmocka_unit_test(a_name_may_hold_spaces_and_parentheses),
		cmocka_unit_test(what_is_no_such_line_is_refused),
		cmocka_unit_test(only_a_zombie_without_threads_has_ended),
		cmocka_unit_test(all_descendants_are_marked_and_nobody_else),
		cmocka_unit_test(descent_is_followed_to_any_depth),
		cmocka_unit_test(a_zombie_is_listed_and_not_alive),
		cmocka_unit_test(a_process_lives_as_long_as_any_of_its_threads),
		cmocka_unit_test(a_process_cannot_forge_its_line),
		cmocka_unit_test(what_it_uses_is_told),
		cmocka_unit_test(the_list_is_sorted_and_holds_this_process),
		cmocka_unit_test(a_circle_of_parents_does_no_harm),
		cmocka_unit_test(that_very_process_is_signalled),
		cmocka_unit_test(another_one_with_its_number_is_spared),
		cmocka_unit_test(all_processes_and_init_are_never_signalled),
		cmocka_unit_test(a_process_that_is_gone_is_not_found),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
