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

#include "base/clock.h"
#include "base/log.h"
#include "base/logtarget.h"
#include "base/signame.h"
#include "os/daemonize.h"
#include "os/fds.h"
#include "os/notify.h"
#include "run/control.h"
#include "run/restart.h"
#include "run/signals.h"

#include "config.h"

/* Workers of a supervisor that died give their port back within moments. */
#define PORT_RETRY_MS 2000

/* A quick stop is over within a second: this long for the workers, then they are killed. */
#define QUICK_STOP_MS 500

/* What a worker may take beyond drain_timeout, which it enforces itself. */
#define DRAIN_GRACE_MS 1000

bool launch_sets_nice(const struct launch *launch, const struct conf *conf)
{
	return conf->nice_set || (geteuid() == 0 && !launch->foreground);
}

/* ---- Log and libevent ----------------------------------------------------------------------- */

struct log_settings supervisor_log_settings(const struct conf *conf)
{
	return (struct log_settings){conf->log.target, conf->log.facility, conf->log.socket};
}

int supervisor_check_log(const struct conf *conf, struct error *err)
{
	struct log_settings settings = supervisor_log_settings(conf);

	return logtarget_check(&settings, err);
}

int supervisor_open_log(const struct launch *launch, const struct conf *conf, struct error *err)
{
	struct log_settings settings = supervisor_log_settings(conf);
	int configured = log_level_parse(conf->log.level);
	int level = configured + launch->verbosity;

	/* -v stops at debug; -q never hides errors that the configuration wants to see. */
	if (level > LOG_LEVEL_DEBUG)
		level = LOG_LEVEL_DEBUG;
	else if (level < LOG_LEVEL_ERROR)
		level = configured < LOG_LEVEL_ERROR ? configured : LOG_LEVEL_ERROR;
	log_set_level((enum log_level)level);
	return logtarget_open(&settings, err);
}

/* Rule 11. Until "ready" the launcher's stderr gets what the log gets; in the foreground they may
 * be one. */
static int open_first_log(const struct launch *launch, const struct conf *conf, struct error *err)
{
	log_copy_to_stderr(strcmp(conf->log.target, "stderr") != 0);
	return supervisor_open_log(launch, conf, err);
}

static void on_libevent_log(int severity, const char *text)
{
	if (severity >= EVENT_LOG_WARN)
		log_warning("libevent: %s", text);
}

static void on_libevent_fatal(int error)
{
	log_error("libevent cannot go on (%d)", error);
	abort(); /* a fatal signal: recorded, and the pidfile goes */
}

/* ---- Stopping ------------------------------------------------------------------------------- */

static void end_loop_when_alone(struct supervisor *supervisor)
{
	if (supervisor->phase != PHASE_STARTING && supervisor->phase != PHASE_SERVING &&
	    TAILQ_EMPTY(&supervisor->children))
		event_base_loopbreak(supervisor->base);
}

static void on_stop_late(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *supervisor = arg;
	struct child *child;

	(void)fd;
	(void)what;
	TAILQ_FOREACH (child, &supervisor->children, link) {
		log_warning("%s[%d] does not end: killed", child->name, (int)child->pid);
		child_kill(child, SIGKILL);
	}
}

static void stop_timer(struct supervisor *supervisor, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	if (supervisor->stop_timer == NULL)
		supervisor->stop_timer = evtimer_new(supervisor->base, on_stop_late, supervisor);
	if (supervisor->stop_timer == NULL || evtimer_add(supervisor->stop_timer, &tv) < 0)
		on_stop_late(-1, 0, supervisor); /* without a timer, nobody may linger */
}

static void drop_generation(struct supervisor *supervisor)
{
	evtimer_del(supervisor->start_timer);
	if (supervisor->next == NULL)
		return;
	generation_stop(supervisor->next);
	generation_free(supervisor->next);
	supervisor->next = NULL;
}

/* What was begun and never served goes first: a restart, or the start itself. */
static void drop_next(struct supervisor *supervisor)
{
	drop_generation(supervisor);
	restart_abandon(supervisor);
}

static void stop_children(struct supervisor *supervisor, enum channel_type order, int64_t ms)
{
	struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link) {
		/* Orders wait in the channel until the worker is ready to obey. */
		if (child->state == CHILD_STARTING && order == CHANNEL_DRAIN)
			child_order(child, CHANNEL_GO, 0);
		if (child->state == CHILD_STARTING && order == CHANNEL_QUIT)
			child_kill(child, SIGKILL);
		else
			child_order(child, order, ms);
		child->state = CHILD_STOPPING;
	}
}

static void begin_stop(struct supervisor *supervisor, bool polite, const char *why)
{
	int64_t patience = supervisor->current->conf->drain_timeout;
	bool first = supervisor->phase == PHASE_SERVING;

	drop_next(supervisor);
	log_notice(polite ? "%s: stopping when clients have their answers, within %.1f s"
			  : "%s: stopping at once",
		   why, (double)patience / 1000);
	notify_send("STOPPING=1\nSTATUS=Stopping");
	supervisor->phase = polite ? PHASE_DRAINING : PHASE_QUITTING;
	control_stopping(supervisor->control);
	if (polite) {
		if (first)
			generation_fill(supervisor->current);
		stop_children(supervisor, CHANNEL_DRAIN, patience);
		stop_timer(supervisor, patience + DRAIN_GRACE_MS);
	} else {
		stop_children(supervisor, CHANNEL_QUIT, 0);
		stop_timer(supervisor, QUICK_STOP_MS);
	}
	/*
	 * The workers empty the queues; with our copies gone too, the kernel refuses new clients.
	 */
	generation_close_sockets(supervisor->current);
	end_loop_when_alone(supervisor);
}

/* ---- The first generation ------------------------------------------------------------------- */

static void start_failed(struct supervisor *supervisor, const struct error *failure)
{
	supervisor->exit_code = failure->code;
	if (supervisor->start_timer != NULL)
		evtimer_del(supervisor->start_timer);
	log_write_quietly(LOG_LEVEL_ERROR, "cannot start: %s", failure->text);
	if (supervisor->report_fd >= 0)
		daemon_report(&supervisor->report_fd, failure);
	else if (logtarget_fd() != STDERR_FILENO)
		dprintf(STDERR_FILENO, "echod: %s\n", failure->text);
	if (supervisor->next != NULL)
		generation_stop(supervisor->next);
	supervisor->phase = PHASE_QUITTING;
	if (supervisor->base != NULL)
		end_loop_when_alone(supervisor);
}

static void log_serving(const struct supervisor *supervisor)
{
	const struct generation *current = supervisor->current;
	char text[ADDR_TEXT_MAX];

	for (size_t i = 0; i < current->socket_count; i++) {
		if (current->sockets[i].number != 0)
			continue;
		address_format(text, sizeof(text),
			       (struct sockaddr *)&current->sockets[i].entry->address.storage);
		log_notice("service %s is served on %s",
			   current->conf->services[current->sockets[i].service].name, text);
	}
}

/* A client would be served now: say so to whoever waits, then let go of the terminal. */
static void start_done(struct supervisor *supervisor)
{
	struct error err = {0};

	supervisor->phase = PHASE_SERVING;
	supervisor->served = true;
	log_copy_to_stderr(false);
	log_notice("echod %s is ready", PACKAGE_VERSION);
	log_serving(supervisor);
	notify_send("READY=1\nMAINPID=%d\nSTATUS=Serving", (int)getpid());
	daemon_report(&supervisor->report_fd, &err);
	if (!supervisor->launch->foreground && daemon_detach(&err) < 0)
		log_error("%s", err.text);
	if (supervisor->restart.again)
		restart_request(supervisor);
}

/* Those that this very restart has retired have not even read it yet: they are not ended. */
static bool retires_long(const struct supervisor *supervisor, const struct child *child)
{
	return child->state == CHILD_RETIRING &&
	       child->generation + 1 != supervisor->current->number;
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
		child->state = CHILD_STOPPING;
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
	generation_retire(old);
	generation_free(old);
	end_oldest_retiring(supervisor);
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
		start_failed(supervisor, failure);
	} else {
		drop_generation(supervisor);
		restart_ended(supervisor, failure);
	}
}

static void on_workers_late(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *supervisor = arg;
	struct error err = {0};

	(void)fd;
	(void)what;
	error_set(&err, EXIT_FAILED, "the workers did not get ready within start_timeout (%.1f s)",
		  (double)supervisor->next->conf->start_timeout / 1000);
	supervisor_next_done(supervisor, &err);
}

/* ---- Signals -------------------------------------------------------------------------------- */

void supervisor_reap(struct supervisor *supervisor)
{
	int status;
	pid_t pid;

	/* Rule 22. Signals are not counted: one SIGCHLD may stand for many deaths. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct child *child = child_find(&supervisor->children, pid);

		if (child != NULL)
			generation_child_ended(child, status);
		else if (!restart_child_ended(supervisor, pid, status))
			log_debug("reaped process %d, which is none of ours", (int)pid);
	}
	end_loop_when_alone(supervisor);
}

static void stop_by_signal(struct supervisor *supervisor, int sig)
{
	struct error err = {0};

	switch (supervisor->phase) {
	case PHASE_STARTING:
		error_set(&err, EXIT_FAILED, "ended by %s before it was ready", signame(sig));
		start_failed(supervisor, &err);
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
	event_set_log_callback(on_libevent_log);
	event_set_fatal_callback(on_libevent_fatal);
	supervisor->base = event_base_new();
	if (supervisor->base == NULL)
		return error_set(err, EXIT_FAILED, "cannot make an event loop");
	supervisor->wakeup =
		event_new(supervisor->base, wakeup, EV_READ | EV_PERSIST, on_wakeup, supervisor);
	supervisor->start_timer = evtimer_new(supervisor->base, on_workers_late, supervisor);
	if (supervisor->wakeup == NULL || supervisor->start_timer == NULL ||
	    event_add(supervisor->wakeup, NULL) < 0)
		return error_set(err, EXIT_FAILED, "no memory for the event loop");
	return 0;
}

int supervisor_start_workers(struct supervisor *supervisor, struct error *err)
{
	int64_t limit = supervisor->next->conf->start_timeout;
	struct timeval tv = {limit / 1000, limit % 1000 * 1000};

	if (evtimer_add(supervisor->start_timer, &tv) < 0)
		return error_set(err, EXIT_FAILED, "no memory for a timer");
	return generation_start(supervisor->next, err);
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

	while ((child = TAILQ_FIRST(&supervisor->children)) != NULL) {
		child_kill(child, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
		child_remove(child);
	}
	generation_free(supervisor->next);
	generation_free(supervisor->current);
	sockets_close(&supervisor->sockets);
	control_close(supervisor->control);
	signals_set_pidfile(NULL);
	pidfile_remove(&supervisor->pidfile);
	if (supervisor->wakeup != NULL)
		event_free(supervisor->wakeup);
	if (supervisor->start_timer != NULL)
		event_free(supervisor->start_timer);
	if (supervisor->stop_timer != NULL)
		event_free(supervisor->stop_timer);
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

void supervisor_set_up(struct supervisor *supervisor, const struct launch *launch)
{
	*supervisor = (struct supervisor){
		.launch = launch,
		.pidfile = PIDFILE_NONE,
		.null = -1,
		.report_fd = -1,
		.since = time(NULL),
		.restart = {.trial_output = -1},
	};
	TAILQ_INIT(&supervisor->children);
	TAILQ_INIT(&supervisor->sockets);
}

/* ---- A start -------------------------------------------------------------------------------- */

/* The process: what was inherited is undone before the first handler stands. */
int supervisor_become(const int *keep, size_t keep_count, struct error *err)
{
	struct daemon_reset_options reset = {.keep_fds = keep, .keep_count = keep_count};
	int wakeup;

	if (daemon_reset(&reset, err) < 0)
		return -1;
	wakeup = signals_supervisor(err);
	if (wakeup >= 0)
		daemon_unblock_signals();
	fds_raise_limit();
	return wakeup;
}

static void remember_terminal(struct supervisor *supervisor)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	supervisor->had_terminal = fd >= 0;
	if (fd >= 0)
		close(fd);
}

/* Workers get it as 0 to 2, in the foreground too: they need no terminal, and must not have one. */
int supervisor_open_null(struct supervisor *supervisor, struct error *err)
{
	supervisor->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	return supervisor->null < 0 ? error_errno(err, "cannot open /dev/null") : 0;
}

/* What nobody asked for in writing must not keep the daemon from starting. */
static int set_priority(const struct launch *launch, const struct conf *conf, struct error *err)
{
	if (!launch_sets_nice(launch, conf) || daemon_set_priority((int)conf->nice, err) == 0)
		return 0;
	if (conf->nice_set)
		return -1;
	log_warning("%s", err->text);
	return 0;
}

/* What comes before the first generation: the process, its log, its lock, its loop. */
static int prepare(struct supervisor *supervisor, const struct conf *conf, struct error *err)
{
	int wakeup = supervisor_become(&supervisor->report_fd, 1, err);

	if (wakeup < 0 || open_first_log(supervisor->launch, conf, err) < 0 ||
	    supervisor_open_null(supervisor, err) < 0 ||
	    pidfile_lock(&supervisor->pidfile, conf->pidfile, err) < 0)
		return -1;
	signals_set_pidfile(&supervisor->pidfile);
	if (set_priority(supervisor->launch, conf, err) < 0)
		return -1;
	remember_terminal(supervisor);
	return supervisor_make_loop(supervisor, wakeup, err);
}

static int start(struct supervisor *supervisor, struct conf_source *source, struct conf *conf,
		 struct error *err)
{
	if (prepare(supervisor, conf, err) < 0) {
		conf_source_free(source);
		conf_free(conf);
		return -1;
	}
	supervisor->next = generation_new(supervisor, 1, source, conf, err);
	if (supervisor->next == NULL ||
	    privileges_resolve(&supervisor->next->privileges, conf->user, conf->group, err) < 0 ||
	    generation_bind(supervisor->next, PORT_RETRY_MS, err) < 0)
		return -1;
	supervisor->control = control_open(supervisor, conf->control, err);
	if (supervisor->control == NULL)
		return -1;
	return supervisor_start_workers(supervisor, err);
}

int supervisor_run(const struct launch *launch, struct conf_source *source, struct conf *conf,
		   int report_fd)
{
	struct supervisor supervisor;
	struct error err = {0};

	supervisor_set_up(&supervisor, launch);
	supervisor.report_fd = report_fd;
	if (start(&supervisor, source, conf, &err) < 0)
		start_failed(&supervisor, &err);
	else
		supervisor_loop(&supervisor);
	return supervisor_tear_down(&supervisor);
}
