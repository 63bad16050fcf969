#include "run/lifecycle.h"

#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "run/control.h"
#include "run/service.h"
#include "run/spawn.h"
#include "run/supervisor.h"

#define HEALTHY_MS     10000 /* after that, former failures are forgotten */
#define BACKOFF_MS     100
#define BACKOFF_MAX_MS 10000

/* What a process may take beyond the time that it enforces itself. */
#define DRAIN_GRACE_MS 1000

/* A quick stop is over within a second. A keeper needs a moment to kill what its program left. */
#define QUICK_STOP_MS	      700
#define QUICK_STOP_PROGRAM_MS 300

/* How long after `echod kill` an end is its effect. */
#define KILL_EFFECT_MS 2000

/*
 * So many SIGKILLs from outside are forgiven at once, and one more each 100 ms: an operator may do
 * that, but a process that kills itself, or is killed for want of memory again and again, must not
 * be started without end.
 */
#define FORGIVEN_MAX 20
#define FORGIVEN_MS  100

/* Between the watchdog's SIGABRT and SIGKILL. */
#define ABORT_GRACE_MS 1000

/* ---- Timers --------------------------------------------------------------------------------- */

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct child *child = arg;

	(void)fd;
	(void)what;
	child->due = 0;
	lifecycle_event(child, EVENT_TIMER);
}

struct event *lifecycle_new_timer(struct child *child)
{
	return evtimer_new(child->supervisor->base, on_timer, child);
}

void lifecycle_set_timer(struct child *child, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	child->due = clock_ms() + ms;
	if (evtimer_add(child->timer, &tv) == 0)
		return;
	/* Nobody may wait for what will never come: it is due at once. */
	log_error("no memory for a timer of %s", child->name);
	event_active(child->timer, EV_TIMEOUT, 1);
}

static void clear_timer(struct child *child)
{
	child->due = 0;
	evtimer_del(child->timer);
}

static void enter(struct child *child, enum child_state state)
{
	if (child->state != state)
		child->since = clock_ms();
	child->state = state;
}

void lifecycle_resume(struct child *child, enum child_state state, int64_t since, int64_t due)
{
	int64_t left = due - clock_ms();

	child->state = state;
	child->since = since;
	if (due != 0)
		lifecycle_set_timer(child, left > 0 ? left : 0);
}

/* ---- Starting ------------------------------------------------------------------------------- */

/* 0 for the first failure, then 0.1 s, doubled up to 10 s. */
int64_t lifecycle_backoff(unsigned failures)
{
	int64_t ms = BACKOFF_MS;

	if (failures <= 1)
		return 0;
	for (unsigned i = 2; i < failures && ms < BACKOFF_MAX_MS; i++)
		ms *= 2;
	return ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : ms;
}

static void back_off(struct child *child)
{
	int64_t ms = lifecycle_backoff(++child->failures);

	if (ms > 0)
		log_notice("a new %s starts in %.1f s", child->name, (double)ms / 1000);
	lifecycle_set_timer(child, ms);
}

static void spawn(struct child *child)
{
	struct error err = {0};

	child->start_again = false;
	if (child_spawn(child, &err) == 0) {
		lifecycle_set_timer(child, child->supervisor->current->conf->start_timeout);
		return;
	}
	log_error("%s", err.text);
	snprintf(child->text, sizeof(child->text), "%s", err.text);
	enter(child, CHILD_BACKING_OFF);
	back_off(child);
}

int lifecycle_begin(struct child *child, struct error *err)
{
	if (child_spawn(child, err) < 0)
		return -1;
	enter(child, CHILD_STARTING);
	return 0;
}

static void spawn_successor(struct child *child)
{
	child->restarts++;
	spawn(child);
}

/* An order to start forgets what was before. */
static void spawn_by_order(struct child *child)
{
	child->failures = 0;
	spawn(child);
}

static void go(struct child *child)
{
	child_order(child, CHANNEL_GO, 0);
}

/* ---- Ending --------------------------------------------------------------------------------- */

static bool is_forgiven(struct child *child)
{
	int64_t now = clock_ms(), earned = (now - child->forgiven_at) / FORGIVEN_MS;

	if (earned >= child->forgiven) {
		child->forgiven = 0;
		child->forgiven_at = now;
	} else {
		child->forgiven -= (unsigned)earned;
		child->forgiven_at += earned * FORGIVEN_MS;
	}
	return ++child->forgiven <= FORGIVEN_MAX;
}

static void replace_at_once(struct child *child)
{
	if (is_forgiven(child))
		lifecycle_set_timer(child, 0);
	else
		back_off(child);
}

static void finish(struct child *child)
{
	if (child->service == NULL)
		child_free(child);
	else if (child->start_again)
		lifecycle_event(child, EVENT_START);
}

static void rest(struct child *child)
{
	child->failures = 0;
	finish(child);
}

/* The watchdog's SIGABRT had no effect yet, and its timer is another one's now. */
static void end_if_condemned(struct child *child)
{
	if (child->condemned)
		child_kill(child, SIGKILL);
}

static void drain(struct child *child)
{
	int64_t ms = child->kind == CHILD_PROGRAM ? child->stop_timeout
						  : child->supervisor->current->conf->drain_timeout;

	child_order(child, CHANNEL_DRAIN, ms);
	lifecycle_set_timer(child, ms + DRAIN_GRACE_MS);
	end_if_condemned(child);
}

/* Clients may be waiting for a worker that has just been started: it must know its sockets. */
static void drain_new(struct child *child)
{
	if (child->kind == CHILD_WORKER)
		go(child);
	drain(child);
}

static void quit(struct child *child)
{
	child_order(child, CHANNEL_QUIT, child->kind == CHILD_PROGRAM ? QUICK_STOP_PROGRAM_MS : 0);
	lifecycle_set_timer(child, QUICK_STOP_MS);
	end_if_condemned(child);
}

/* It never had a client, and may be stuck: there is nothing to be polite about. */
static void quit_new(struct child *child)
{
	if (child->kind == CHILD_WORKER)
		child_kill(child, SIGKILL);
	quit(child);
}

static void retire(struct child *child)
{
	int64_t ms = child->supervisor->current->conf->retire_timeout;

	child_order(child, CHANNEL_RETIRE, ms);
	if (ms > 0)
		lifecycle_set_timer(child, ms + DRAIN_GRACE_MS);
	end_if_condemned(child);
}

static void retire_new(struct child *child)
{
	go(child);
	retire(child);
}

/* ---- Ending it for its own fault ------------------------------------------------------------ */

static void kill_unready(struct child *child)
{
	log_warning("%s[%d] does not get ready within start_timeout: killed", child->name,
		    (int)child->pid);
	child_condemn(child);
}

static void kill_late(struct child *child)
{
	log_warning("%s[%d] does not end: killed", child->name, (int)child->pid);
	child_condemn(child);
}

static void abort_hung(struct child *child)
{
	int64_t watchdog = child->supervisor->current->conf->watchdog;

	child->condemned = true;
	child_kill(child, SIGABRT);
	lifecycle_set_timer(child, ABORT_GRACE_MS < watchdog / 8 ? ABORT_GRACE_MS : watchdog / 8);
}

/* ---- The table ------------------------------------------------------------------------------ */

struct transition {
	enum child_state next;
	void (*act)(struct child *); /* in the new state; NULL: the event means nothing here */
};

static const struct transition table[CHILD_STATES][CHILD_EVENTS] =
	{
		[CHILD_STARTING] =
			{
				[EVENT_GO] = {CHILD_RUNNING, go},
				[EVENT_TIMER] = {CHILD_STARTING, kill_unready},
				[EVENT_FAULT] = {CHILD_BACKING_OFF, back_off},
				[EVENT_KILLED] = {CHILD_BACKING_OFF, replace_at_once},
				[EVENT_DONE] = {CHILD_STOPPED, rest},
				[EVENT_STOP] = {CHILD_DRAINING, drain_new},
				[EVENT_QUIT] = {CHILD_STOPPING, quit_new},
				[EVENT_RETIRE] = {CHILD_RETIRING, retire_new},
			},
		[CHILD_RUNNING] =
			{
				[EVENT_TIMER] = {CHILD_RUNNING, kill_late},
				[EVENT_FAULT] = {CHILD_BACKING_OFF, back_off},
				[EVENT_KILLED] = {CHILD_BACKING_OFF, replace_at_once},
				[EVENT_DONE] = {CHILD_STOPPED, rest},
				[EVENT_STOP] = {CHILD_DRAINING, drain},
				[EVENT_QUIT] = {CHILD_STOPPING, quit},
				[EVENT_RETIRE] = {CHILD_RETIRING, retire},
				[EVENT_HUNG] = {CHILD_RUNNING, abort_hung},
			},
		[CHILD_BACKING_OFF] =
			{
				[EVENT_START] = {CHILD_STARTING, spawn_by_order},
				[EVENT_TIMER] = {CHILD_STARTING, spawn_successor},
				[EVENT_STOP] = {CHILD_STOPPED, rest},
				[EVENT_QUIT] = {CHILD_STOPPED, rest},
				[EVENT_RETIRE] = {CHILD_STOPPED, rest},
			},
		[CHILD_DRAINING] =
			{
				[EVENT_TIMER] = {CHILD_DRAINING, kill_late},
				[EVENT_FAULT] = {CHILD_STOPPED, finish},
				[EVENT_KILLED] = {CHILD_STOPPED, finish},
				[EVENT_DONE] = {CHILD_STOPPED, finish},
				[EVENT_QUIT] = {CHILD_STOPPING, quit},
			},
		[CHILD_RETIRING] =
			{
				[EVENT_TIMER] = {CHILD_RETIRING, kill_late},
				[EVENT_FAULT] = {CHILD_STOPPED, finish},
				[EVENT_KILLED] = {CHILD_STOPPED, finish},
				[EVENT_DONE] = {CHILD_STOPPED, finish},
				[EVENT_STOP] = {CHILD_DRAINING, drain},
				[EVENT_QUIT] = {CHILD_STOPPING, quit},
				[EVENT_HUNG] = {CHILD_RETIRING, abort_hung},
			},
		[CHILD_STOPPING] =
			{
				[EVENT_TIMER] = {CHILD_STOPPING, kill_late},
				[EVENT_FAULT] = {CHILD_STOPPED, finish},
				[EVENT_KILLED] = {CHILD_STOPPED, finish},
				[EVENT_DONE] = {CHILD_STOPPED, finish},
			},
		[CHILD_STOPPED] =
			{
				[EVENT_START] = {CHILD_STARTING, spawn_by_order},
				[EVENT_STOP] = {CHILD_STOPPED, rest},
				[EVENT_QUIT] = {CHILD_STOPPED, rest},
				[EVENT_RETIRE] = {CHILD_STOPPED, rest},
			},
};

void lifecycle_event(struct child *child, enum child_event event)
{
	const struct transition *transition = &table[child->state][event];
	struct supervisor *supervisor = child->supervisor;
	struct service *service = child->service;

	if (transition->act == NULL)
		return;
	clear_timer(child);
	enter(child, transition->next);
	transition->act(child); /* may free the child */
	if (service != NULL)
		service_assign_sockets(service);
	supervisor_children_changed(supervisor);
}

/* A program whose policy does not want it again. */
static bool is_done(const struct child *child, int status)
{
	const char *policy;

	if (child->kind != CHILD_PROGRAM || child->service == NULL)
		return false;
	policy = child->service->conf->restart;
	if (strcmp(policy, "never") == 0)
		return true;
	return strcmp(policy, "on-failure") == 0 && child->ended && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

/* One that handles the signal may need a moment, and may exit with any status. */
static bool was_killed_by_order(const struct child *child, int status)
{
	return child->killed != 0 && ((WIFSIGNALED(status) && WTERMSIG(status) == child->killed) ||
				      clock_ms() - child->killed_at < KILL_EFFECT_MS);
}

enum child_event lifecycle_classify(const struct child *child, int status)
{
	if (is_done(child, status))
		return EVENT_DONE;
	if (was_killed_by_order(child, status))
		return EVENT_KILLED;
	/* Somebody's kill -9 is no fault of a process that was ready. */
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && child->ready && !child->condemned)
		return EVENT_KILLED;
	return EVENT_FAULT;
}

void lifecycle_forget_failures(struct child *child)
{
	if (child->state == CHILD_RUNNING && clock_ms() - child->since >= HEALTHY_MS)
		child->failures = 0;
}
