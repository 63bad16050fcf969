/* What the tables of signals say, and what the kernel was told. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "run/signals.h"

/* As the supervisor and then the worker that it forks: the ignored real-time signals are inherited.
 */
static void become_worker(void)
{
	struct error err = {0};

	signals_block();
	CHILD_CHECK(signals_supervisor(&err) >= 0);
	signals_worker("line/0");
	signals_unblock();
}

static bool is_ignored(int sig)
{
	struct sigaction action;

	CHILD_CHECK(sigaction(sig, NULL, &action) == 0);
	return action.sa_handler == SIG_IGN;
}

static int compare_with_the_kernel(void *arg)
{
	(void)arg;
	become_worker();
	for (int sig = 1; sig <= SIGRTMAX; sig++) {
		struct sigaction action;

		/* The C library keeps some for itself. */
		if (sigaction(sig, NULL, &action) < 0)
			CHILD_CHECK(!signals_worker_ignores(sig));
		else if (is_ignored(sig) != signals_worker_ignores(sig))
			return sig;
	}
	return 0;
}

static void what_a_worker_ignores_is_what_the_kernel_ignores_for_it(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(compare_with_the_kernel, NULL), 0);
}

static void what_ends_or_stops_every_process_is_not_ignored(void **state)
{
	static const int signals[] = {SIGKILL, SIGSTOP, SIGCONT, SIGABRT, SIGSEGV, SIGQUIT};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(signals); i++)
		assert_false(signals_worker_ignores(signals[i]));
}

static void orders_to_the_supervisor_are_ignored_by_workers(void **state)
{
	static const int signals[] = {SIGHUP,  SIGTERM, SIGINT,	 SIGUSR1,  SIGUSR2,
				      SIGPIPE, SIGCHLD, SIGTSTP, SIGWINCH, SIGALRM};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(signals); i++)
		assert_true(signals_worker_ignores(signals[i]));
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		assert_true(signals_worker_ignores(sig));
}

static void what_is_no_signal_is_not_ignored(void **state)
{
	(void)state;
	assert_false(signals_worker_ignores(0));
	assert_false(signals_worker_ignores(-1));
}

static int get_what_is_ignored(void *arg)
{
	(void)arg;
	become_worker();
	for (int sig = 1; sig <= SIGRTMAX; sig++)
		/* valgrind keeps the last one for itself. */
		if (signals_worker_ignores(sig))
			CHILD_CHECK(kill(getpid(), sig) == 0 || errno == EINVAL);
	return 0;
}

static void a_worker_lives_through_all_that_it_ignores(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(get_what_is_ignored, NULL), 0);
}

static int handle_and_take(void *arg)
{
	struct error err = {0};
	char byte;
	int fd;

	(void)arg;
	signals_block();
	fd = signals_supervisor(&err);
	CHILD_CHECK(fd >= 0);
	CHILD_CHECK(kill(getpid(), SIGUSR1) == 0);
	/* Blocked, and yet it is known that it came. */
	CHILD_CHECK(signals_waiting(SIGUSR1) && !signals_take(SIGUSR1));
	signals_unblock();
	CHILD_CHECK(signals_waiting(SIGUSR1) && !signals_waiting(SIGHUP));
	signals_clear_wakeup();
	CHILD_CHECK(read(fd, &byte, 1) == -1);
	CHILD_CHECK(signals_take(SIGUSR1));
	CHILD_CHECK(!signals_take(SIGUSR1) && !signals_waiting(SIGUSR1));
	return 0;
}

static void a_handled_signal_is_taken_once(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(handle_and_take, NULL), 0);
}

static int become_keeper(void *arg)
{
	struct error err = {0};
	int fd;

	(void)arg;
	signals_block();
	CHILD_CHECK(signals_supervisor(&err) >= 0);
	/* What came to the supervisor is not the keeper's. */
	CHILD_CHECK(kill(getpid(), SIGCHLD) == 0);
	signals_unblock();
	signals_block();
	CHILD_CHECK(signals_waiting(SIGCHLD));
	fd = signals_keeper("sensor", &err);
	signals_unblock();
	CHILD_CHECK(fd >= 0 && !signals_take(SIGCHLD));
	CHILD_CHECK(kill(getpid(), SIGCHLD) == 0);
	CHILD_CHECK(signals_take(SIGCHLD));
	CHILD_CHECK(kill(getpid(), SIGTERM) == 0);
	CHILD_CHECK(!signals_take(SIGTERM));
	return 0;
}

static void a_keeper_handles_the_end_of_its_children_and_else_ignores_as_a_worker(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(become_keeper, NULL), 0);
}

static int become_default(void *arg)
{
	sigset_t mask;

	(void)arg;
	become_worker();
	signals_block();
	signals_default();
	for (int sig = 1; sig <= SIGRTMAX; sig++) {
		struct sigaction action;

		if (sigaction(sig, NULL, &action) == 0)
			CHILD_CHECK(action.sa_handler == SIG_DFL);
	}
	CHILD_CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
	for (int sig = 1; sig <= SIGRTMAX; sig++)
		CHILD_CHECK(sigismember(&mask, sig) != 1);
	return 0;
}

static void a_command_gets_every_signal_as_the_kernel_made_it(void **state)
{
	(void)state;
	assert_int_equal(support_in_child(become_default, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_worker_ignores_is_what_the_kernel_ignores_for_it),
		cmocka_unit_test(what_ends_or_stops_every_process_is_not_ignored),
		cmocka_unit_test(orders_to_the_supervisor_are_ignored_by_workers),
		cmocka_unit_test(what_is_no_signal_is_not_ignored),
		cmocka_unit_test(a_worker_lives_through_all_that_it_ignores),
		cmocka_unit_test(a_handled_signal_is_taken_once),
		cmocka_unit_test(
			a_keeper_handles_the_end_of_its_children_and_else_ignores_as_a_worker),
		cmocka_unit_test(a_command_gets_every_signal_as_the_kernel_made_it),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
