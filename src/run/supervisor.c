#include "run/supervisor.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/logtarget.h"
#include "base/signame.h"
#include "os/daemonize.h"
#include "os/notify.h"
#include "run/control.h"
#include "run/lifecycle.h"
#include "run/loop.h"
#include "run/orphans.h"
#include "run/restart.h"
#include "run/signals.h"
#include "run/status.h"
#include "run/stoplist.h"
#include "run/watchdog.h"

#include "config.h"

/* A worker of the former generation that is stuck does not hold up the end of a restart for longer.
 */
#define RETIRED_MS 1000

/* ---- Stopping ------------------------------------------------------------------------------- */

static bool is_alone(const struct supervisor *supervisor)
{
	const struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->pid != 0)
			return false;
	return true;
}

static void end_loop_when_alone(struct supervisor *supervisor)
{
	if (supervisor->phase != PHASE_STARTING && supervisor->phase != PHASE_SERVING &&
	    is_alone(supervisor))
		event_base_loopbreak(supervisor->base);
}

/* A worker that this very restart has retired, and that may not have read it yet. */
static bool former_accepts(const struct supervisor *supervisor)
{
	const struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->state == CHILD_RETIRING && !child->retired &&
		    child->generation + 1 == supervisor->current->number)
			return true;
	return false;
}

/*
 * Who connects after the success of a restart must not meet the former generation: its workers
 * accept on the same sockets until they have read that they retire.
 */
static void await_retirement(struct supervisor *supervisor, int64_t limit_ms)
{
	struct timeval tv = {limit_ms / 1000, limit_ms % 1000 * 1000};

	supervisor->restart.step = RESTART_RETIRING;
	if (evtimer_add(supervisor->start_timer, &tv) < 0)
		restart_ended(supervisor, NULL);
}

void supervisor_children_changed(struct supervisor *supervisor)
{
	control_children_changed(supervisor->control);
	/* From the loop: who calls is in the middle of something. */
	if (supervisor->restart.step == RESTART_RETIRING && !former_accepts(supervisor))
		await_retirement(supervisor, 0);
	end_loop_when_alone(supervisor);
}

static void drop_generation(struct supervisor *supervisor)
{
	evtimer_del(supervisor->start_timer);
	if (supervisor->next == NULL)
		return;
	generation_abandon(supervisor->next);
	generation_free(supervisor->next);
	supervisor->next = NULL;
}

/* What was begun and never served goes first: a restart, or the start itself. */
static void drop_next(struct supervisor *supervisor)
{
	drop_generation(supervisor);
	restart_abandon(supervisor);
}

static void stop_children(struct supervisor *supervisor, enum child_event event)
{
	struct child *child, *next;

	for (child = TAILQ_FIRST(&supervisor->children); child != NULL; child = next) {
		next = TAILQ_NEXT(child, link);
		child->start_again = false;
		lifecycle_event(child, event);
	}
}

/* Clients have drain_timeout, and each program its own stop_timeout. */
static int64_t polite_stop_ms(const struct supervisor *supervisor)
{
	int64_t longest = supervisor->current->conf->drain_timeout;
	const struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->kind == CHILD_PROGRAM && child->pid != 0 &&
		    child->stop_timeout > longest)
			longest = child->stop_timeout;
	return longest;
}

static void begin_stop(struct supervisor *supervisor, bool polite, const char *why)
{
	bool first = supervisor->phase == PHASE_SERVING;

	/* Before anything: an order that waited for a restart must not be obeyed any more. */
	supervisor->phase = polite ? PHASE_DRAINING : PHASE_QUITTING;
	drop_next(supervisor);
	log_notice(polite ? "%s: stopping when clients have their answers, within %.1f s"
			  : "%s: stopping at once",
		   why, (double)polite_stop_ms(supervisor) / 1000);
	notify_send("STOPPING=1\nSTATUS=Stopping");
	control_stopping(supervisor->control);
	if (polite && first)
		generation_fill(supervisor->current);
	/*
	 * Ours first: the workers empty the queues and close, and with the last copy gone the
	 * kernel refuses new clients.
	 */
	generation_close_sockets(supervisor->current);
	sockets_close(&supervisor->sockets); /* what was passed and waits for its service */
	stop_children(supervisor, polite ? EVENT_STOP : EVENT_QUIT);
	end_loop_when_alone(supervisor);
}

void supervisor_remember_stopped(struct supervisor *supervisor)
{
	struct error err = {0};

	if (stoplist_save(supervisor->pidfile.path, supervisor->current, &err) < 0)
		log_error(
			"%s: after a crash of the daemon, services would be stopped or started as they were "
			"before",
			err.text);
}

/* ---- The first generation ------------------------------------------------------------------- */

void supervisor_start_failed(struct supervisor *supervisor, const struct error *failure)
{
	supervisor->exit_code = failure->code;
	if (supervisor->start_timer != NULL)
		evtimer_del(supervisor->start_timer);
	log_write_quietly(LOG_LEVEL_ERROR, "cannot start: %s", failure->text);
	if (supervisor->report_fd >= 0)
		daemon_report(&supervisor->report_fd, failure);
	else if (logtarget_fd() != STDERR_FILENO)
		dprintf(STDERR_FILENO, "echod: %s\n", failure->text);
	supervisor->phase = PHASE_QUITTING;
	if (supervisor->next != NULL)
		generation_abandon(supervisor->next);
	if (supervisor->base != NULL)
		end_loop_when_alone(supervisor);
}

static void log_service(const struct service *service)
{
	char text[ADDR_TEXT_MAX];

	/* At a start, stoplist_load has said why. */
	if (service->stopped && service->generation->number > 1)
		log_notice("service %s stays stopped", service->conf->name);
	for (size_t i = 0; i < service->socket_count; i++) {
		const struct socket_entry *entry = service->sockets[i].entry;

		if (entry->number != 0)
			continue;
		socket_entry_format(entry, text);
		log_notice("service %s is served on %s", service->conf->name, text);
	}
}

static void log_serving(const struct supervisor *supervisor)
{
	const struct service *service;

	TAILQ_FOREACH (service, &supervisor->current->services, link)
		log_service(service);
}

/* A client would be served now: say so to whoever waits, then let go of the terminal. */
static void start_done(struct supervisor *supervisor)
{
	struct error err = {0};

	supervisor->phase = PHASE_SERVING;
	supervisor->served = true;
	generation_assign_sockets(supervisor->current);
	watchdog_start(supervisor);
	log_copy_to_stderr(false);
	log_notice("echod %s is ready", PACKAGE_VERSION);
	log_serving(supervisor);
	notify_send("READY=1\nMAINPID=%d\nSTATUS=Serving", (int)getpid());
	daemon_report(&supervisor->report_fd, &err);
	control_restart_ended(supervisor->control); /* orders could not be obeyed until now */
	/* As a daemon we have nobody at our stdout: the launching command asks, and prints them. */
	if (supervisor->launch->foreground && supervisor->launch->print_ports)
		status_print_ports(supervisor->current);
	if (!supervisor->launch->foreground && daemon_detach(&err) < 0)
		log_error("%s", err.text);
	if (supervisor->restart.again)
		restart_request(supervisor);
}

/* Those that this very restart has retired have not even read it yet: they are not ended. */
static bool retires_long(const struct supervisor *supervisor, const struct child *child)
{
	return child->state == CHILD_RETIRING &&
	       (child->retired || child->generation + 1 != supervisor->current->number);
}

static void end_oldest_retiring(struct supervisor *supervisor)
{
	int64_t allowed = supervisor->current->conf->max_retiring, retiring = 0;
	struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		retiring += child->state == CHILD_RETIRING;
	TAILQ_FOREACH (child, &supervisor->children, link) {
		if (retiring <= allowed)
			break;
		if (!retires_long(supervisor, child))
			continue;
		log_notice("%s[%d] is ended: more than %" PRId64 " processes retire (max_retiring)",
			   child->name, (int)child->pid, allowed);
		/* Its clients are cut off either way, and it may be stuck. */
		lifecycle_event(child, EVENT_QUIT);
		child_kill(child, SIGKILL);
		retiring--;
	}
}

static void take_over(struct supervisor *supervisor)
{
	struct generation *old = supervisor->current;
	struct error err = {0};

	supervisor->current = supervisor->next;
	supervisor->next = NULL;
	evtimer_del(supervisor->start_timer);
	if (old == NULL) {
		start_done(supervisor);
		return;
	}
	if (supervisor_open_log(supervisor->launch, supervisor->current->conf, &err) < 0)
		log_error("%s; the log goes on where it went", err.text);
	if (launch_sets_nice(supervisor->launch, supervisor->current->conf) &&
	    daemon_set_priority((int)supervisor->current->conf->nice, &err) < 0)
		log_error("%s", err.text);
	log_serving(supervisor);
	generation_take_over(supervisor->current, old);
	watchdog_start(supervisor); /* its time may be another one now */
	generation_free(old);
	/* A service that is gone takes its mark along: under this name a new one may come. */
	supervisor_remember_stopped(supervisor);
	/* Who waits for a service may find it gone, or run by other processes. */
	supervisor_children_changed(supervisor);
	end_oldest_retiring(supervisor);
	if (former_accepts(supervisor))
		await_retirement(supervisor, RETIRED_MS);
	else
		restart_ended(supervisor, NULL);
}

void supervisor_next_done(struct supervisor *supervisor, const struct error *failure)
{
	struct error err = {0};

	if (failure == NULL && generation_commit(supervisor->next, &err) < 0)
		failure = &err;
	if (failure == NULL) {
		take_over(supervisor);
	} else if (supervisor->phase == PHASE_STARTING) {
		supervisor_start_failed(supervisor, failure);
	} else {
		drop_generation(supervisor);
		restart_ended(supervisor, failure);
	}
}

static void on_start_timer(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *supervisor = arg;
	struct error err = {0};

	(void)fd;
	(void)what;
	if (supervisor->restart.step == RESTART_RETIRING) {
		end_oldest_retiring(supervisor);
		evtimer_del(supervisor->start_timer); /* those ends may have asked for it again */
		restart_ended(supervisor, NULL);
		return;
	}
	if (supervisor->next == NULL)
		return; /* it was given up meanwhile */
	if (generation_is_ready(supervisor->next)) {
		supervisor_next_done(supervisor, NULL); /* it had nothing to start */
		return;
	}
	error_set(&err, EXIT_FAILED, "the workers did not get ready within start_timeout (%.1f s)",
		  (double)supervisor->next->conf->start_timeout / 1000);
	supervisor_next_done(supervisor, &err);
}

/* ---- Signals -------------------------------------------------------------------------------- */

void supervisor_reap(struct supervisor *supervisor)
{
	bool strangers = false;
	int status;
	pid_t pid;

	/* Rule 22. Signals are not counted: one SIGCHLD may stand for many deaths. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct child *child = child_find(&supervisor->children, pid);

		if (child != NULL)
			generation_child_ended(child, status);
		else if (!restart_child_ended(supervisor, pid, status))
			strangers = true;
	}
	/* What it has started in turn is ours now. */
	if (strangers && supervisor->has_orphans)
		orphans_kill(supervisor, 0);
	end_loop_when_alone(supervisor);
}

static void stop_by_signal(struct supervisor *supervisor, int sig)
{
	struct error err = {0};

	switch (supervisor->phase) {
	case PHASE_STARTING:
		error_set(&err, EXIT_FAILED, "ended by %s before it was ready", signame(sig));
		supervisor_start_failed(supervisor, &err);
		break;
	case PHASE_SERVING:
		begin_stop(supervisor, sig == SIGUSR1, signame(sig));
		break;
	case PHASE_DRAINING:
		begin_stop(supervisor, false, "a second signal");
		break;
	case PHASE_QUITTING:
		break; /* as quick as it gets */
	}
}

/* In the foreground SIGHUP may also mean what it meant first: the terminal is gone. */
static bool terminal_is_gone(const struct supervisor *supervisor)
{
	int fd;

	if (!supervisor->launch->foreground || !supervisor->had_terminal)
		return false;
	fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		close(fd);
	return fd < 0;
}

static void on_wakeup(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *supervisor = arg;

	(void)fd;
	(void)what;
	signals_clear_wakeup();
	/* A stop wins over a restart, whose next step the end of a child may be. */
	if (signals_take(SIGTERM))
		stop_by_signal(supervisor, SIGTERM);
	if (signals_take(SIGINT))
		stop_by_signal(supervisor, SIGINT);
	if (signals_take(SIGUSR1))
		stop_by_signal(supervisor, SIGUSR1);
	if (signals_take(SIGCHLD))
		supervisor_reap(supervisor);
	if (signals_take(SIGHUP)) {
		if (terminal_is_gone(supervisor))
			stop_by_signal(supervisor, SIGTERM);
		else
			restart_request(supervisor);
	}
}

int supervisor_make_loop(struct supervisor *supervisor, int wakeup, struct error *err)
{
	supervisor->base = loop_new();
	if (supervisor->base == NULL)
		return error_set(err, EXIT_FAILED, "cannot make an event loop");
	supervisor->wakeup =
		event_new(supervisor->base, wakeup, EV_READ | EV_PERSIST, on_wakeup, supervisor);
	supervisor->start_timer = evtimer_new(supervisor->base, on_start_timer, supervisor);
	if (supervisor->wakeup == NULL || supervisor->start_timer == NULL ||
	    event_add(supervisor->wakeup, NULL) < 0)
		return error_set(err, EXIT_FAILED, "no memory for the event loop");
	return 0;
}

int supervisor_start_workers(struct supervisor *supervisor, struct error *err)
{
	int64_t limit = supervisor->next->conf->start_timeout;
	struct timeval tv = {limit / 1000, limit % 1000 * 1000}, now = {0};
	int result;

	if (evtimer_add(supervisor->start_timer, &tv) < 0)
		return error_set(err, EXIT_FAILED, "no memory for a timer");
	result = generation_begin(supervisor->next, supervisor->current, err);
	/* Stopped services and programs that run on start no process that could say "ready". */
	if (result == 0 && generation_is_ready(supervisor->next))
		evtimer_add(supervisor->start_timer, &now);
	return result;
}

void supervisor_loop(struct supervisor *supervisor)
{
	if (event_base_dispatch(supervisor->base) == 0)
		return;
	log_error("the event loop failed: %s", strerror(errno));
	supervisor->exit_code = EXIT_FAILED;
}

/* ---- The end -------------------------------------------------------------------------------- */

/* Rule 24. Everything is let go by name: it shows that we know what we held. */
int supervisor_tear_down(struct supervisor *supervisor)
{
	struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link) {
		if (child->pid == 0)
			continue;
		child_kill(child, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
		supervisor->has_orphans = supervisor->has_orphans || child->kind == CHILD_PROGRAM;
		child_detach(child);
	}
	if (supervisor->has_orphans)
		orphans_end(supervisor);
	generation_free(supervisor->next);
	generation_free(supervisor->current);
	while ((child = TAILQ_FIRST(&supervisor->children)) != NULL)
		child_free(child); /* NOLINT: it leaves the list first */
	sockets_close(&supervisor->sockets);
	control_close(supervisor->control);
	signals_set_pidfile(NULL);
	if (supervisor->served)
		stoplist_remove(supervisor->pidfile.path);
	pidfile_remove(&supervisor->pidfile);
	if (supervisor->wakeup != NULL)
		event_free(supervisor->wakeup);
	if (supervisor->start_timer != NULL)
		event_free(supervisor->start_timer);
	watchdog_free(supervisor);
	if (supervisor->base != NULL)
		event_base_free(supervisor->base);
	libevent_global_shutdown();
	if (supervisor->null >= 0)
		close(supervisor->null);
	if (supervisor->served)
		log_notice("stopped");
	logtarget_close();
	return supervisor->exit_code;
}
