/*
 * The life of a child: what an end means, how long a successor waits, and the table of states and
 * events. Each child here has a real process, which does nothing, and a real channel, whose other
 * end is read to see what was ordered.
 */
#include "support.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/memory_file.h"
#include "run/lifecycle.h"
#include "run/service.h"
#include "run/supervisor.h"

#define DRAIN_TIMEOUT  4000
#define RETIRE_TIMEOUT 5000
#define START_TIMEOUT  6000
#define WATCHDOG       4000
#define STOP_TIMEOUT   7000

struct fixture {
	struct supervisor supervisor;
	struct generation generation;
	struct conf conf;
	struct conf_service program_conf;
	struct conf_service worker_conf;
	struct service *program;
	struct service *workers; /* two of them */
	struct socket_entry sockets[2];
	int orders; /* the process's end of the channel; -1: there is no process */
	pid_t pid;  /* not reaped; 0: none */
	struct rlimit nofile;
};

static int setup(void **state)
{
	static char *command[] = {(char *)"/bin/true", NULL};
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = {0};

	if (f == NULL)
		return -1;
	*state = f;
	support_log_capture();
	f->orders = -1;
	f->conf = (struct conf){
		.drain_timeout = DRAIN_TIMEOUT,
		.retire_timeout = RETIRE_TIMEOUT,
		.start_timeout = START_TIMEOUT,
		.watchdog = WATCHDOG,
	};
	f->program_conf = (struct conf_service){.name = (char *)"sensor",
						.command = command,
						.restart = (char *)"always",
						.stop_timeout = STOP_TIMEOUT};
	f->worker_conf = (struct conf_service){
		.name = (char *)"line", .protocol = (char *)"line", .workers = 2};
	supervisor_set_up(&f->supervisor, NULL);
	f->supervisor.base = event_base_new();
	f->generation = (struct generation){
		.supervisor = &f->supervisor, .number = 7, .conf = &f->conf, .committed = true};
	TAILQ_INIT(&f->generation.services);
	f->supervisor.current = &f->generation;
	f->supervisor.phase = PHASE_SERVING;
	f->program = service_new(&f->generation, &f->program_conf, NULL, &err);
	f->workers = service_new(&f->generation, &f->worker_conf, NULL, &err);
	if (f->program == NULL || f->workers == NULL || getrlimit(RLIMIT_NOFILE, &f->nofile) < 0)
		return -1;
	return f->supervisor.base == NULL || service_fill_places(f->program, &err) < 0 ||
			       service_fill_places(f->workers, &err) < 0
		       ? -1
		       : 0;
}

/* The process is gone: reaped here, and then by the table. */
static void detach(struct fixture *f, struct child *child)
{
	child_kill(child, SIGKILL);
	assert_int_equal(waitpid(f->pid, NULL, 0), f->pid);
	f->pid = 0;
	child_detach(child);
	close(f->orders);
	f->orders = -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct child *child, *next;

	for (child = TAILQ_FIRST(&f->supervisor.children); child != NULL; child = next) {
		next = TAILQ_NEXT(child, link);
		if (child->pid != 0)
			detach(f, child);
		if (child->service == NULL)
			child_free(child);
	}
	service_free(f->program);
	service_free(f->workers);
	if (!TAILQ_EMPTY(&f->supervisor.children))
		return -1;
	event_base_free(f->supervisor.base);
	free(f);
	return 0;
}

/* ---- Children ------------------------------------------------------------------------------- */

static int do_nothing(void *arg)
{
	const struct rlimit none = {0, 0};

	(void)arg;
	setrlimit(RLIMIT_CORE, &none);
	while (pause() < 0)
		;
	return 0;
}

/* A process for the record. It is ready. */
static void attach(struct fixture *f, struct child *child)
{
	struct error err = {0};
	int ends[2], counters = memory_file_shared("test", COUNTERS_SIZE, &err);

	assert_true(counters >= 0);
	assert_int_equal(channel_pair(ends, &err), 0);
	f->pid = support_fork(do_nothing, NULL);
	f->orders = ends[1];
	assert_int_equal(child_attach(child, f->pid, ends[0], counters, &err), 0);
	child->ready = true;
	child->stop_timeout = STOP_TIMEOUT;
}

static bool has_process(enum child_state state)
{
	return state != CHILD_BACKING_OFF && state != CHILD_STOPPED;
}

/* Bring a record without a process into a state, with a timer that no event would set. */
static void put(struct fixture *f, struct child *child, enum child_state state)
{
	if (has_process(state))
		attach(f, child);
	child->state = state;
	child->since = 1;
	lifecycle_set_timer(child, 3600000);
}

static struct child *program(struct fixture *f, enum child_state state)
{
	put(f, f->program->slots[0], state);
	return f->program->slots[0];
}

static struct child *worker(struct fixture *f, enum child_state state)
{
	put(f, f->workers->slots[0], state);
	return f->workers->slots[0];
}

/* It fills no place any more: its record goes with its process. */
static struct child *nobodys(struct fixture *f, enum child_state state, enum child_kind kind)
{
	struct child *child = child_new(&f->supervisor, "former", 0, kind);

	assert_non_null(child);
	put(f, child, state);
	return child;
}

static bool is_in_the_table(struct fixture *f, const struct child *wanted)
{
	struct child *child;

	TAILQ_FOREACH (child, &f->supervisor.children, link)
		if (child == wanted)
			return true;
	return false;
}

static void assert_state(const struct child *child, enum child_state state)
{
	assert_string_equal(child_state_name(child->state), child_state_name(state));
}

static void assert_order(struct fixture *f, enum channel_type type, int64_t value)
{
	struct channel_message message;

	assert_int_equal(channel_receive(f->orders, &message), 1);
	assert_int_equal(message.type, type);
	assert_int_equal(message.value, value);
}

static void assert_no_order(struct fixture *f)
{
	struct channel_message message;

	if (f->orders >= 0)
		assert_int_equal(channel_receive(f->orders, &message), 0);
}

/* The timer runs for about that many ms. */
static void assert_timer(const struct child *child, int64_t ms)
{
	int64_t left = child->due - clock_ms();

	assert_true(evtimer_pending(child->timer, NULL));
	if (left > ms || left < ms - 2000)
		fail_msg("the timer runs for %" PRId64 " ms, not %" PRId64, left, ms);
}

static void assert_no_timer(const struct child *child)
{
	assert_int_equal(child->due, 0);
	assert_false(child->timer != NULL && evtimer_pending(child->timer, NULL));
}

/* The process was sent nothing that would end it. */
static void assert_alive(struct fixture *f, struct child *child)
{
	int status;

	/* Of two signals that end a process, the first is its status. */
	assert_int_equal(kill(f->pid, SIGTERM), 0);
	assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGTERM);
	f->pid = 0;
	child_detach(child);
	close(f->orders);
	f->orders = -1;
}

/* That is how the process ended. */
static void assert_killed(struct fixture *f, struct child *child, int sig)
{
	int status;

	assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), sig);
	f->pid = 0;
	child_detach(child);
	close(f->orders);
	f->orders = -1;
}

/* No process can be made: there is no descriptor for its channel. */
static void forbid_processes(struct fixture *f)
{
	struct rlimit none = {0, f->nofile.rlim_max};

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
}

static void allow_processes(struct fixture *f)
{
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &f->nofile), 0);
}

/* The process has ended; then the event. */
static void end(struct fixture *f, struct child *child, enum child_event event)
{
	detach(f, child);
	lifecycle_event(child, event);
}

/* ---- How long a successor waits ------------------------------------------------------------- */

static void the_first_failure_costs_nothing_and_the_next_ones_double_up_to_ten_seconds(void **state)
{
	static const int64_t ms[] = {0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000};

	(void)state;
	for (unsigned i = 0; i < COUNT_OF(ms); i++)
		assert_int_equal(lifecycle_backoff(i), ms[i]);
	assert_int_equal(lifecycle_backoff(64), 10000);
	assert_int_equal(lifecycle_backoff(1000), 10000);
	assert_int_equal(lifecycle_backoff(UINT32_MAX), 10000);
}

static void ten_seconds_of_work_forgive_what_was_before(void **state)
{
	static const struct {
		enum child_state state;
		int64_t age;
		unsigned left;
	} cases[] = {
		{CHILD_RUNNING, 0, 5},	    {CHILD_RUNNING, 9000, 5},
		{CHILD_RUNNING, 10000, 0},  {CHILD_RUNNING, 1000000, 0},
		{CHILD_STARTING, 20000, 5}, {CHILD_BACKING_OFF, 20000, 5},
		{CHILD_DRAINING, 20000, 5},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct child child = {
			.state = cases[i].state, .since = clock_ms() - cases[i].age, .failures = 5};

		lifecycle_forget_failures(&child);
		assert_int_equal(child.failures, cases[i].left);
	}
}

/* ---- What an end means ---------------------------------------------------------------------- */

#define EXITED(code) ((code) << 8)
#define KILLED(sig)  (sig)
#define CORE_DUMP    0x80

struct end {
	const char *policy; /* NULL: a worker */
	int status;
	bool ready;
	bool killed;
	bool condemned;
	bool ended; /* a program: its own status is known */
	enum child_event event;
};

static void assert_ends(struct fixture *f, const struct end *ends, size_t n)
{
	assert_true(WIFEXITED(EXITED(3)) && WEXITSTATUS(EXITED(3)) == 3);
	assert_true(WIFSIGNALED(KILLED(9)) && WTERMSIG(KILLED(9)) == 9);
	for (size_t i = 0; i < n; i++) {
		const struct end *end = &ends[i];
		struct child child = {
			.kind = end->policy == NULL ? CHILD_WORKER : CHILD_PROGRAM,
			.service = end->policy == NULL ? f->workers : f->program,
			.state = CHILD_RUNNING,
			.ready = end->ready,
			.killed = end->killed ? SIGTERM : 0,
			.killed_at = end->killed ? clock_ms() : 0,
			.condemned = end->condemned,
			.ended = end->ended,
		};
		enum child_event event;

		f->program_conf.restart = (char *)end->policy;
		event = lifecycle_classify(&child, end->status);
		if (event != end->event)
			fail_msg("end %zu (%s, status %#x): event %d, not %d", i,
				 end->policy == NULL ? "worker" : end->policy,
				 (unsigned)end->status, event, end->event);
	}
}

static void a_worker_that_ends_by_itself_is_at_fault(void **state)
{
	static const struct end ends[] = {
		{NULL, EXITED(0), true, false, false, false, EVENT_FAULT},
		{NULL, EXITED(1), true, false, false, false, EVENT_FAULT},
		{NULL, EXITED(0), false, false, false, false, EVENT_FAULT},
		{NULL, KILLED(SIGSEGV), true, false, false, false, EVENT_FAULT},
		{NULL, KILLED(SIGSEGV) | CORE_DUMP, true, false, false, false, EVENT_FAULT},
		{NULL, KILLED(SIGABRT), true, false, true, false, EVENT_FAULT},
	};

	assert_ends(*state, ends, COUNT_OF(ends));
}

static void a_kill_from_outside_is_no_fault_of_a_worker_that_was_ready(void **state)
{
	static const struct end ends[] = {
		{NULL, KILLED(SIGKILL), true, false, false, false, EVENT_KILLED},
		{NULL, KILLED(SIGKILL), false, false, false, false, EVENT_FAULT},
		/* It was we, and it was to blame. */
		{NULL, KILLED(SIGKILL), true, false, true, false, EVENT_FAULT},
		{NULL, KILLED(SIGTERM), true, false, false, false, EVENT_FAULT},
	};

	assert_ends(*state, ends, COUNT_OF(ends));
}

static void a_kill_by_order_is_no_fault_however_it_ends(void **state)
{
	static const struct end ends[] = {
		{NULL, KILLED(SIGKILL), true, true, false, false, EVENT_KILLED},
		{NULL, KILLED(SIGKILL), false, true, false, false, EVENT_KILLED},
		{NULL, KILLED(SIGABRT), true, true, false, false, EVENT_KILLED},
		{NULL, EXITED(1), true, true, false, false, EVENT_KILLED},
		{"always", KILLED(SIGTERM), true, true, false, true, EVENT_KILLED},
		{"always", EXITED(0), true, true, false, true, EVENT_KILLED},
		{"on-failure", KILLED(SIGTERM), true, true, false, true, EVENT_KILLED},
		{"on-failure", EXITED(3), true, true, false, true, EVENT_KILLED},
	};

	assert_ends(*state, ends, COUNT_OF(ends));
}

static void a_program_that_always_runs_is_at_fault_when_it_ends(void **state)
{
	static const struct end ends[] = {
		{"always", EXITED(0), true, false, false, true, EVENT_FAULT},
		{"always", EXITED(1), true, false, false, true, EVENT_FAULT},
		{"always", KILLED(SIGSEGV), true, false, false, true, EVENT_FAULT},
		{"always", KILLED(SIGKILL), true, false, false, true, EVENT_KILLED},
		{"always", KILLED(SIGKILL), true, false, true, true, EVENT_FAULT},
		{"always", EXITED(1), false, false, false, false, EVENT_FAULT},
	};

	assert_ends(*state, ends, COUNT_OF(ends));
}

static void a_program_that_may_succeed_is_done_with_status_0_only(void **state)
{
	static const struct end ends[] = {
		{"on-failure", EXITED(0), true, false, false, true, EVENT_DONE},
		{"on-failure", EXITED(0), true, true, false, true, EVENT_DONE},
		{"on-failure", EXITED(1), true, false, false, true, EVENT_FAULT},
		{"on-failure", EXITED(255), true, false, false, true, EVENT_FAULT},
		{"on-failure", KILLED(SIGTERM), true, false, false, true, EVENT_FAULT},
		{"on-failure", KILLED(SIGKILL), true, false, false, true, EVENT_KILLED},
		{"on-failure", KILLED(SIGKILL), true, false, true, true, EVENT_FAULT},
		/* That was its keeper, and nobody knows of the program. */
		{"on-failure", EXITED(0), true, false, false, false, EVENT_FAULT},
		{"on-failure", KILLED(SIGKILL), true, false, false, false, EVENT_KILLED},
		{"on-failure", EXITED(1), false, false, false, false, EVENT_FAULT},
	};

	assert_ends(*state, ends, COUNT_OF(ends));
}

static void a_program_that_never_runs_again_is_done_however_it_ends(void **state)
{
	static const struct end ends[] = {
		{"never", EXITED(0), true, false, false, true, EVENT_DONE},
		{"never", EXITED(1), true, false, false, true, EVENT_DONE},
		{"never", KILLED(SIGSEGV), true, false, false, true, EVENT_DONE},
		{"never", KILLED(SIGKILL), true, false, false, true, EVENT_DONE},
		{"never", KILLED(SIGKILL), true, true, false, true, EVENT_DONE},
		{"never", KILLED(SIGKILL), true, false, true, false, EVENT_DONE},
		{"never", EXITED(1), false, false, false, false, EVENT_DONE},
	};

	assert_ends(*state, ends, COUNT_OF(ends));
}

static void the_policy_of_a_program_is_no_matter_when_it_fills_no_place(void **state)
{
	struct child child = {.kind = CHILD_PROGRAM, .ready = true, .ended = true};

	(void)state;
	assert_int_equal(lifecycle_classify(&child, EXITED(0)), EVENT_FAULT);
	assert_int_equal(lifecycle_classify(&child, KILLED(SIGKILL)), EVENT_KILLED);
}

/* ---- The table ------------------------------------------------------------------------------ */

#define STAYS CHILD_STATES /* the event means nothing in this state */

/* The drawing of run/lifecycle.h, but for what forks. */
static const enum child_state next_of[CHILD_STATES][CHILD_EVENTS] = {
	[CHILD_STARTING] = {[EVENT_START] = STAYS,
			    [EVENT_GO] = CHILD_RUNNING,
			    [EVENT_TIMER] = CHILD_STARTING,
			    [EVENT_FAULT] = CHILD_BACKING_OFF,
			    [EVENT_KILLED] = CHILD_BACKING_OFF,
			    [EVENT_DONE] = CHILD_STOPPED,
			    [EVENT_STOP] = CHILD_DRAINING,
			    [EVENT_QUIT] = CHILD_STOPPING,
			    [EVENT_RETIRE] = CHILD_RETIRING,
			    [EVENT_HUNG] = STAYS},
	[CHILD_RUNNING] = {[EVENT_START] = STAYS,
			   [EVENT_GO] = STAYS,
			   [EVENT_TIMER] = CHILD_RUNNING,
			   [EVENT_FAULT] = CHILD_BACKING_OFF,
			   [EVENT_KILLED] = CHILD_BACKING_OFF,
			   [EVENT_DONE] = CHILD_STOPPED,
			   [EVENT_STOP] = CHILD_DRAINING,
			   [EVENT_QUIT] = CHILD_STOPPING,
			   [EVENT_RETIRE] = CHILD_RETIRING,
			   [EVENT_HUNG] = CHILD_RUNNING},
	[CHILD_BACKING_OFF] = {[EVENT_START] = CHILD_BACKING_OFF, /* without descriptors */
			       [EVENT_GO] = STAYS,
			       [EVENT_TIMER] = CHILD_BACKING_OFF, /* the same */
			       [EVENT_FAULT] = STAYS,
			       [EVENT_KILLED] = STAYS,
			       [EVENT_DONE] = STAYS,
			       [EVENT_STOP] = CHILD_STOPPED,
			       [EVENT_QUIT] = CHILD_STOPPED,
			       [EVENT_RETIRE] = CHILD_STOPPED,
			       [EVENT_HUNG] = STAYS},
	[CHILD_DRAINING] = {[EVENT_START] = STAYS,
			    [EVENT_GO] = STAYS,
			    [EVENT_TIMER] = CHILD_DRAINING,
			    [EVENT_FAULT] = CHILD_STOPPED,
			    [EVENT_KILLED] = CHILD_STOPPED,
			    [EVENT_DONE] = CHILD_STOPPED,
			    [EVENT_STOP] = STAYS,
			    [EVENT_QUIT] = CHILD_STOPPING,
			    [EVENT_RETIRE] = STAYS,
			    [EVENT_HUNG] = STAYS},
	[CHILD_RETIRING] = {[EVENT_START] = STAYS,
			    [EVENT_GO] = STAYS,
			    [EVENT_TIMER] = CHILD_RETIRING,
			    [EVENT_FAULT] = CHILD_STOPPED,
			    [EVENT_KILLED] = CHILD_STOPPED,
			    [EVENT_DONE] = CHILD_STOPPED,
			    [EVENT_STOP] = CHILD_DRAINING,
			    [EVENT_QUIT] = CHILD_STOPPING,
			    [EVENT_RETIRE] = STAYS,
			    [EVENT_HUNG] = CHILD_RETIRING},
	[CHILD_STOPPING] = {[EVENT_START] = STAYS,
			    [EVENT_GO] = STAYS,
			    [EVENT_TIMER] = CHILD_STOPPING,
			    [EVENT_FAULT] = CHILD_STOPPED,
			    [EVENT_KILLED] = CHILD_STOPPED,
			    [EVENT_DONE] = CHILD_STOPPED,
			    [EVENT_STOP] = STAYS,
			    [EVENT_QUIT] = STAYS,
			    [EVENT_RETIRE] = STAYS,
			    [EVENT_HUNG] = STAYS},
	[CHILD_STOPPED] = {[EVENT_START] = CHILD_BACKING_OFF, /* without descriptors */
			   [EVENT_GO] = STAYS,
			   [EVENT_TIMER] = STAYS,
			   [EVENT_FAULT] = STAYS,
			   [EVENT_KILLED] = STAYS,
			   [EVENT_DONE] = STAYS,
			   [EVENT_STOP] = CHILD_STOPPED,
			   [EVENT_QUIT] = CHILD_STOPPED,
			   [EVENT_RETIRE] = CHILD_STOPPED,
			   [EVENT_HUNG] = STAYS},
};

static bool is_end(enum child_event event)
{
	return event == EVENT_FAULT || event == EVENT_KILLED || event == EVENT_DONE;
}

static void try_event(struct fixture *f, enum child_kind kind, enum child_state from,
		      enum child_event event)
{
	enum child_state next = next_of[from][event];
	struct child *child = kind == CHILD_PROGRAM ? program(f, from) : worker(f, from);
	int64_t due = child->due;

	if (is_end(event) && has_process(from))
		detach(f, child);
	forbid_processes(f);
	lifecycle_event(child, event);
	allow_processes(f);
	if (child->state != (next == STAYS ? from : next))
		fail_msg("%s, event %d: %s, not %s", child_state_name(from), event,
			 child_state_name(child->state),
			 child_state_name(next == STAYS ? from : next));
	if (next == STAYS) {
		/* Nothing at all has happened. */
		assert_int_equal(child->due, due);
		assert_int_equal(child->since, 1);
		assert_no_order(f);
	} else if (next == from && has_process(from)) {
		assert_int_equal(child->since, 1);
	} else if (next != from) {
		assert_in_range(clock_ms() - child->since, 0, 2000);
	}
	if (next == CHILD_BACKING_OFF)
		assert_true(child->due > 0 && evtimer_pending(child->timer, NULL));
	if (next == CHILD_STOPPED)
		assert_no_timer(child);
	assert_int_equal(child->pid != 0, f->pid != 0);
	if (child->pid != 0)
		detach(f, child);
	child->state = CHILD_STOPPED;
	child->failures = 0;
}

static void each_event_in_each_state_leads_where_the_drawing_says(void **state)
{
	struct fixture *f = *state;

	for (int kind = CHILD_WORKER; kind <= CHILD_PROGRAM; kind++)
		for (int from = 0; from < CHILD_STATES; from++)
			for (int event = 0; event < CHILD_EVENTS; event++)
				try_event(f, (enum child_kind)kind, (enum child_state)from,
					  (enum child_event)event);
}

/* The record of a process that fills no place goes with it, and so does one that gives up. */
static void a_record_that_fills_no_place_goes_with_its_process(void **state)
{
	static const struct {
		enum child_state state;
		enum child_event event;
	} cases[] = {
		{CHILD_DRAINING, EVENT_FAULT},	 {CHILD_DRAINING, EVENT_KILLED},
		{CHILD_DRAINING, EVENT_DONE},	 {CHILD_RETIRING, EVENT_FAULT},
		{CHILD_RETIRING, EVENT_KILLED},	 {CHILD_RETIRING, EVENT_DONE},
		{CHILD_STOPPING, EVENT_FAULT},	 {CHILD_STOPPING, EVENT_KILLED},
		{CHILD_STOPPING, EVENT_DONE},	 {CHILD_BACKING_OFF, EVENT_STOP},
		{CHILD_BACKING_OFF, EVENT_QUIT}, {CHILD_BACKING_OFF, EVENT_RETIRE},
		{CHILD_STOPPED, EVENT_STOP},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct child *child =
			nobodys(f, cases[i].state, i % 2 == 0 ? CHILD_WORKER : CHILD_PROGRAM);

		if (has_process(cases[i].state))
			detach(f, child);
		lifecycle_event(child, cases[i].event);
		assert_false(is_in_the_table(f, child));
	}
}

/* ---- What is ordered ------------------------------------------------------------------------ */

static void go_reaches_the_process_and_ends_its_limit(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_STARTING);

	lifecycle_event(child, EVENT_GO);
	assert_state(child, CHILD_RUNNING);
	assert_order(f, CHANNEL_GO, 0);
	assert_no_order(f);
	assert_no_timer(child);
	assert_alive(f, child);
}

static void a_worker_ends_politely_within_the_drain_timeout(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RUNNING);

	lifecycle_event(child, EVENT_STOP);
	assert_order(f, CHANNEL_DRAIN, DRAIN_TIMEOUT);
	assert_no_order(f);
	/* What it enforces itself, and a moment. */
	assert_timer(child, DRAIN_TIMEOUT + 1000);
	assert_alive(f, child);
}

static void a_program_ends_politely_within_its_own_time(void **state)
{
	struct fixture *f = *state;
	struct child *child = program(f, CHILD_RUNNING);

	lifecycle_event(child, EVENT_STOP);
	assert_order(f, CHANNEL_DRAIN, STOP_TIMEOUT);
	assert_no_order(f);
	assert_timer(child, STOP_TIMEOUT + 1000);
	assert_alive(f, child);
}

static void a_worker_that_has_just_been_started_learns_its_sockets_before_it_drains(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_STARTING);

	lifecycle_event(child, EVENT_STOP);
	assert_order(f, CHANNEL_GO, 0);
	assert_order(f, CHANNEL_DRAIN, DRAIN_TIMEOUT);
	assert_no_order(f);
	assert_alive(f, child);
}

static void a_program_that_has_just_been_started_is_never_executed(void **state)
{
	struct fixture *f = *state;
	struct child *child = program(f, CHILD_STARTING);

	lifecycle_event(child, EVENT_STOP);
	assert_order(f, CHANNEL_DRAIN, STOP_TIMEOUT);
	assert_no_order(f);
	assert_alive(f, child);
}

static void a_quick_end_is_over_within_a_second(void **state)
{
	static const enum child_state states[] = {CHILD_RUNNING, CHILD_DRAINING, CHILD_RETIRING};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(states); i++) {
		struct child *child = worker(f, states[i]);

		lifecycle_event(child, EVENT_QUIT);
		assert_state(child, CHILD_STOPPING);
		assert_order(f, CHANNEL_QUIT, 0);
		assert_no_order(f);
		assert_timer(child, 700);
		assert_alive(f, child);
		child->state = CHILD_STOPPED;
		child = program(f, states[i]);
		lifecycle_event(child, EVENT_QUIT);
		/* Its keeper needs a moment of the same time. */
		assert_order(f, CHANNEL_QUIT, 300);
		assert_timer(child, 700);
		assert_alive(f, child);
		child->state = CHILD_STOPPED;
	}
}

static void a_worker_that_is_not_ready_is_killed_by_a_quick_end(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_STARTING);

	lifecycle_event(child, EVENT_QUIT);
	assert_state(child, CHILD_STOPPING);
	/* We did it, and it is not to blame. */
	assert_false(child->condemned);
	assert_killed(f, child, SIGKILL);
}

static void a_keeper_that_is_not_ready_is_asked_all_the_same(void **state)
{
	struct fixture *f = *state;
	struct child *child = program(f, CHILD_STARTING);

	lifecycle_event(child, EVENT_QUIT);
	assert_order(f, CHANNEL_QUIT, 300);
	assert_alive(f, child);
}

static void a_worker_retires_as_long_as_its_clients_stay(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RUNNING);

	lifecycle_event(child, EVENT_RETIRE);
	assert_order(f, CHANNEL_RETIRE, RETIRE_TIMEOUT);
	assert_no_order(f);
	/* It keeps the limit itself; that it can be stuck is for the second one. */
	assert_timer(child, RETIRE_TIMEOUT + 1000);
	assert_alive(f, child);
	child->state = CHILD_STOPPED;
	child = worker(f, CHILD_STARTING);
	lifecycle_event(child, EVENT_RETIRE);
	assert_order(f, CHANNEL_GO, 0);
	assert_order(f, CHANNEL_RETIRE, RETIRE_TIMEOUT);
	assert_alive(f, child);
}

static void one_that_retires_without_a_limit_has_no_timer(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RUNNING);

	f->conf.retire_timeout = 0;
	lifecycle_event(child, EVENT_RETIRE);
	assert_order(f, CHANNEL_RETIRE, 0);
	assert_no_timer(child);
	assert_alive(f, child);
}

static void a_hung_worker_that_retires_is_killed(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RUNNING);

	/* A stopped process has not got its SIGABRT yet. */
	kill(f->pid, SIGSTOP);
	lifecycle_event(child, EVENT_HUNG);
	lifecycle_event(child, EVENT_RETIRE);
	assert_killed(f, child, SIGKILL);
}

static void one_that_retires_can_still_be_asked_to_end(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RETIRING);

	lifecycle_event(child, EVENT_STOP);
	assert_order(f, CHANNEL_DRAIN, DRAIN_TIMEOUT);
	assert_timer(child, DRAIN_TIMEOUT + 1000);
	assert_alive(f, child);
}

/* ---- What is killed ------------------------------------------------------------------------- */

static void one_that_is_late_is_killed_and_to_blame(void **state)
{
	static const enum child_state states[] = {CHILD_STARTING, CHILD_RUNNING, CHILD_DRAINING,
						  CHILD_RETIRING, CHILD_STOPPING};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(states); i++) {
		struct child *child = i % 2 == 0 ? worker(f, states[i]) : program(f, states[i]);

		lifecycle_event(child, EVENT_TIMER);
		assert_state(child, states[i]);
		assert_true(child->condemned);
		assert_int_equal(lifecycle_classify(child, KILLED(SIGKILL)), EVENT_FAULT);
		assert_no_timer(child);
		assert_no_order(f);
		assert_killed(f, child, SIGKILL);
		child->state = CHILD_STOPPED;
	}
	assert_int_equal(support_log_count("does not get ready within start_timeout: killed"), 1);
	assert_int_equal(support_log_count("does not end: killed"), 4);
}

static void a_hung_worker_is_aborted_and_killed_when_that_does_not_help(void **state)
{
	static const enum child_state states[] = {CHILD_RUNNING, CHILD_RETIRING};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(states); i++) {
		struct child *child = worker(f, states[i]);

		lifecycle_event(child, EVENT_HUNG);
		assert_state(child, states[i]);
		assert_true(child->condemned);
		/* An eighth of the watchdog's time, at most a second. */
		assert_timer(child, WATCHDOG / 8);
		assert_killed(f, child, SIGABRT);
		child->state = CHILD_STOPPED;
	}
	f->conf.watchdog = 60000;
	lifecycle_event(worker(f, CHILD_RUNNING), EVENT_HUNG);
	assert_timer(f->workers->slots[0], 1000);
	assert_killed(f, f->workers->slots[0], SIGABRT);
}

/* The timer is what fires, not a call. */
static void the_timer_of_a_state_fires_by_itself(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_DRAINING);

	lifecycle_set_timer(child, 20);
	event_base_loop(f->supervisor.base, EVLOOP_ONCE);
	assert_true(child->condemned);
	assert_int_equal(child->due, 0);
	assert_killed(f, child, SIGKILL);
}

/* ---- After the end -------------------------------------------------------------------------- */

static void faults_in_a_row_put_the_successor_off(void **state)
{
	static const int64_t ms[] = {0, 100, 200, 400};
	struct fixture *f = *state;

	for (unsigned i = 0; i < COUNT_OF(ms); i++) {
		struct child *child = worker(f, i % 2 == 0 ? CHILD_RUNNING : CHILD_STARTING);

		end(f, child, EVENT_FAULT);
		assert_state(child, CHILD_BACKING_OFF);
		assert_int_equal(child->failures, i + 1);
		assert_timer(child, ms[i]);
	}
	assert_int_equal(support_log_count("a new line/0 starts in 0.1 s"), 1);
	assert_int_equal(support_log_count("a new line/0 starts in 0.4 s"), 1);
}

static void one_that_was_killed_is_replaced_at_once_and_nothing_is_counted(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RUNNING);

	child->failures = 6;
	end(f, child, EVENT_KILLED);
	assert_state(child, CHILD_BACKING_OFF);
	assert_timer(child, 0);
	assert_int_equal(child->failures, 6);
}

/* A signal that was survived does not excuse what comes later. */
static void an_order_to_kill_is_forgotten(void **state)
{
	struct fixture *f = *state;
	struct child child = {
		.kind = CHILD_PROGRAM,
		.service = f->program,
		.state = CHILD_RUNNING,
		.ready = true,
		.ended = true,
		.killed = SIGTERM,
		.killed_at = clock_ms() - 5000,
	};

	f->program_conf.restart = (char *)"always";
	assert_int_equal(lifecycle_classify(&child, EXITED(1)), EVENT_FAULT);
	/* But its own effect it is, however late. */
	assert_int_equal(lifecycle_classify(&child, KILLED(SIGTERM)), EVENT_KILLED);
}

/* One that kills itself, or is killed for want of memory: not without end. */
static void a_storm_of_kills_ends_in_a_back_off(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_RUNNING);

	end(f, child, EVENT_KILLED);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(child->failures, 0);
		assert_timer(child, 0);
		child->state = CHILD_RUNNING;
		lifecycle_event(child, EVENT_KILLED);
	}
	assert_state(child, CHILD_BACKING_OFF);
	assert_int_equal(child->failures, 1);
	child->state = CHILD_RUNNING;
	lifecycle_event(child, EVENT_KILLED);
	assert_int_equal(child->failures, 2);
	assert_timer(child, 100);
	/* Two seconds later all is forgiven. */
	child->forgiven_at -= 3000;
	child->state = CHILD_RUNNING;
	lifecycle_event(child, EVENT_KILLED);
	assert_int_equal(child->failures, 2);
	assert_timer(child, 0);
}

static void a_program_that_is_done_rests_and_its_failures_are_forgotten(void **state)
{
	struct fixture *f = *state;
	struct child *child = program(f, CHILD_RUNNING);

	child->failures = 6;
	end(f, child, EVENT_DONE);
	assert_state(child, CHILD_STOPPED);
	assert_int_equal(child->failures, 0);
	assert_no_timer(child);
	assert_true(is_in_the_table(f, child));
	assert_ptr_equal(f->program->slots[0], child);
}

static void an_order_to_stop_ends_the_attempts(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_BACKING_OFF);

	child->failures = 6;
	lifecycle_event(child, EVENT_STOP);
	assert_state(child, CHILD_STOPPED);
	assert_int_equal(child->failures, 0);
	assert_no_timer(child);
	lifecycle_event(child, EVENT_STOP);
	assert_state(child, CHILD_STOPPED);
	assert_true(is_in_the_table(f, child));
}

static void one_with_new_settings_starts_again_when_it_has_ended(void **state)
{
	static const enum child_event events[] = {EVENT_FAULT, EVENT_KILLED, EVENT_DONE};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(events); i++) {
		struct child *child = program(f, CHILD_DRAINING);

		child->start_again = true;
		detach(f, child);
		forbid_processes(f);
		lifecycle_event(child, events[i]);
		allow_processes(f);
		/* It was tried: this is what became of it. */
		assert_state(child, CHILD_BACKING_OFF);
		assert_false(child->start_again);
		assert_contains(child->text, "Too many open files");
		child->state = CHILD_STOPPED;
	}
}

/* ---- When no process can be made ------------------------------------------------------------ */

static void without_a_process_it_is_tried_again_and_the_reason_is_kept(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_BACKING_OFF);

	child->failures = 3;
	forbid_processes(f);
	lifecycle_event(child, EVENT_TIMER);
	allow_processes(f);
	assert_state(child, CHILD_BACKING_OFF);
	assert_int_equal(child->failures, 4);
	assert_int_equal(child->restarts, 1);
	assert_timer(child, 400);
	assert_contains(child->text, "Too many open files");
	assert_contains(support_log_text(), child->text);
}

static void an_order_to_start_forgets_what_was_before(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_STOPPED);

	child->failures = 6;
	forbid_processes(f);
	lifecycle_event(child, EVENT_START);
	allow_processes(f);
	assert_state(child, CHILD_BACKING_OFF);
	assert_int_equal(child->failures, 1);
	assert_int_equal(child->restarts, 0);
	assert_timer(child, 0);
}

static void a_first_process_that_cannot_be_made_leaves_the_record_as_it_was(void **state)
{
	struct fixture *f = *state;
	struct child *child = f->workers->slots[0];
	struct error err = {0};
	int result;

	child->since = 1;
	forbid_processes(f);
	result = lifecycle_begin(child, &err);
	allow_processes(f);
	assert_int_equal(result, -1);
	assert_contains(err.text, "Too many open files");
	assert_state(child, CHILD_STOPPED);
	assert_int_equal(child->pid, 0);
	assert_int_equal(child->since, 1);
	assert_no_timer(child);
}

/* ---- Over a restart ------------------------------------------------------------------------- */

static void state_and_beginning_go_on_and_the_timer_runs_for_what_is_left(void **state)
{
	struct fixture *f = *state;
	struct child *child = f->workers->slots[0];
	int64_t now = clock_ms();

	lifecycle_resume(child, CHILD_BACKING_OFF, now - 5000, now + 8000);
	assert_state(child, CHILD_BACKING_OFF);
	assert_int_equal(child->since, now - 5000);
	assert_timer(child, 8000);
}

static void a_timer_that_is_over_fires_at_once_and_none_stays_none(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_DRAINING);

	lifecycle_resume(f->workers->slots[1], CHILD_STOPPED, 1, 0);
	assert_no_timer(f->workers->slots[1]);
	lifecycle_resume(child, CHILD_DRAINING, 1, clock_ms() - 100000);
	assert_timer(child, 0);
	event_base_loop(f->supervisor.base, EVLOOP_ONCE);
	assert_killed(f, child, SIGKILL);
}

/* ---- Who serves a socket meanwhile ---------------------------------------------------------- */

/* A socket for each worker. */
static void give_sockets(struct fixture *f)
{
	struct error err = {0};

	for (unsigned i = 0; i < COUNT_OF(f->sockets); i++) {
		/* Another generation needs it too: it is never closed. */
		f->sockets[i] = (struct socket_entry){.number = i, .fd = -1, .users = 1};
		assert_int_equal(service_add_socket(f->workers, &f->sockets[i], &err), 0);
		f->workers->sockets[i].server = (int)i;
	}
}

static void a_sibling_serves_the_socket_of_a_worker_that_is_missing(void **state)
{
	struct fixture *f = *state;
	struct child *missing = f->workers->slots[1], *sibling = worker(f, CHILD_RUNNING);

	give_sockets(f);
	missing->state = CHILD_RUNNING;
	lifecycle_event(missing, EVENT_FAULT);
	assert_state(missing, CHILD_BACKING_OFF);
	assert_order(f, CHANNEL_SERVE, 1);
	assert_no_order(f);
	assert_int_equal(f->workers->sockets[1].server, 0);
	/* It is back. */
	missing->state = CHILD_STARTING;
	lifecycle_event(missing, EVENT_GO);
	assert_order(f, CHANNEL_UNSERVE, 1);
	assert_no_order(f);
	assert_int_equal(f->workers->sockets[1].server, 1);
	/* Its own is told by "go". */
	assert_int_equal(f->workers->sockets[0].server, 0);
	assert_alive(f, sibling);
}

static void without_a_sibling_the_queue_waits_for_the_next_worker(void **state)
{
	struct fixture *f = *state;
	struct child *child = worker(f, CHILD_STARTING), *dead = f->workers->slots[1];

	give_sockets(f);
	dead->state = CHILD_RUNNING;
	lifecycle_event(dead, EVENT_FAULT);
	assert_int_equal(f->workers->sockets[0].server, -1);
	assert_int_equal(f->workers->sockets[1].server, -1);
	assert_no_order(f);
	lifecycle_event(child, EVENT_GO);
	/* "go" means the socket of its own. */
	assert_order(f, CHANNEL_GO, 0);
	assert_order(f, CHANNEL_SERVE, 1);
	assert_no_order(f);
	assert_alive(f, child);
}

static void nothing_is_lent_when_the_service_or_the_daemon_stops(void **state)
{
	struct fixture *f = *state;
	struct child *missing = f->workers->slots[1], *sibling = worker(f, CHILD_RUNNING);

	give_sockets(f);
	f->workers->stopped = true;
	missing->state = CHILD_RUNNING;
	lifecycle_event(missing, EVENT_FAULT);
	assert_no_order(f);
	f->workers->stopped = false;
	f->supervisor.phase = PHASE_DRAINING;
	missing->state = CHILD_RUNNING;
	lifecycle_event(missing, EVENT_FAULT);
	assert_no_order(f);
	assert_int_equal(f->workers->sockets[1].server, 1);
	assert_alive(f, sibling);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_first_failure_costs_nothing_and_the_next_ones_double_up_to_ten_seconds),
		TEST(ten_seconds_of_work_forgive_what_was_before),
		TEST(a_worker_that_ends_by_itself_is_at_fault),
		TEST(a_kill_from_outside_is_no_fault_of_a_worker_that_was_ready),
		TEST(a_kill_by_order_is_no_fault_however_it_ends),
		TEST(a_program_that_always_runs_is_at_fault_when_it_ends),
		TEST(a_program_that_may_succeed_is_done_with_status_0_only),
		TEST(a_program_that_never_runs_again_is_done_however_it_ends),
		TEST(the_policy_of_a_program_is_no_matter_when_it_fills_no_place),
		TEST(each_event_in_each_state_leads_where_the_drawing_says),
		TEST(a_record_that_fills_no_place_goes_with_its_process),
		TEST(go_reaches_the_process_and_ends_its_limit),
		TEST(a_worker_ends_politely_within_the_drain_timeout),
		TEST(a_program_ends_politely_within_its_own_time),
		TEST(a_worker_that_has_just_been_started_learns_its_sockets_before_it_drains),
		TEST(a_program_that_has_just_been_started_is_never_executed),
		TEST(a_quick_end_is_over_within_a_second),
		TEST(a_worker_that_is_not_ready_is_killed_by_a_quick_end),
		TEST(a_keeper_that_is_not_ready_is_asked_all_the_same),
		TEST(a_worker_retires_as_long_as_its_clients_stay),
		TEST(one_that_retires_without_a_limit_has_no_timer),
		TEST(a_hung_worker_that_retires_is_killed),
		TEST(one_that_retires_can_still_be_asked_to_end),
		TEST(one_that_is_late_is_killed_and_to_blame),
		TEST(a_hung_worker_is_aborted_and_killed_when_that_does_not_help),
		TEST(the_timer_of_a_state_fires_by_itself),
		TEST(faults_in_a_row_put_the_successor_off),
		TEST(one_that_was_killed_is_replaced_at_once_and_nothing_is_counted),
		TEST(an_order_to_kill_is_forgotten),
		TEST(a_storm_of_kills_ends_in_a_back_off),
		TEST(a_program_that_is_done_rests_and_its_failures_are_forgotten),
		TEST(an_order_to_stop_ends_the_attempts),
		TEST(one_with_new_settings_starts_again_when_it_has_ended),
		TEST(without_a_process_it_is_tried_again_and_the_reason_is_kept),
		TEST(an_order_to_start_forgets_what_was_before),
		TEST(a_first_process_that_cannot_be_made_leaves_the_record_as_it_was),
		TEST(state_and_beginning_go_on_and_the_timer_runs_for_what_is_left),
		TEST(a_timer_that_is_over_fires_at_once_and_none_stays_none),
		TEST(a_sibling_serves_the_socket_of_a_worker_that_is_missing),
		TEST(without_a_sibling_the_queue_waits_for_the_next_worker),
		TEST(nothing_is_lent_when_the_service_or_the_daemon_stops),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
