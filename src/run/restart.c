#include "run/restart.h"

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
#include "os/fds.h"
#include "os/memory_file.h"
#include "os/notify.h"
#include "run/control.h"
#include "run/handover.h"
#include "run/signals.h"
#include "run/supervisor.h"

/* ---- Beginning and ending ------------------------------------------------------------------- */

static int start_trial(struct supervisor *supervisor, struct error *err);

static void begin(struct supervisor *supervisor)
{
	struct restart *restart = &supervisor->restart;
	struct error err = {0};

	restart->again = false;
	restart->begun++;
	restart->step = RESTART_TRIAL;
	log_notice("restart in place: trying %s", supervisor->launch->self);
	notify_send("RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=Restarting in place",
		    clock_us());
	if (start_trial(supervisor, &err) < 0)
		restart_ended(supervisor, &err);
}

void restart_request(struct supervisor *supervisor)
{
	if (supervisor->phase == PHASE_DRAINING || supervisor->phase == PHASE_QUITTING)
		return;
	if (supervisor->phase == PHASE_STARTING || supervisor->restart.step != RESTART_NONE)
		supervisor->restart.again = true;
	else
		begin(supervisor);
}

static void count_outcome(struct restart *restart, const struct error *failure)
{
	restart->step = RESTART_NONE;
	restart->ended++;
	restart->failed += failure != NULL;
	restart->last_code = failure == NULL ? 0 : failure->code;
	if (failure != NULL)
		snprintf(restart->last_text, sizeof(restart->last_text), "%s", failure->text);
}

void restart_ended(struct supervisor *supervisor, const struct error *failure)
{
	struct restart *restart = &supervisor->restart;

	count_outcome(restart, failure);
	if (failure == NULL) {
		snprintf(restart->last_text, sizeof(restart->last_text),
			 "generation %" PRIu64 " serves", supervisor->current->number);
		log_notice("restart in place: done, %s", restart->last_text);
		notify_send("READY=1\nSTATUS=Serving");
	} else {
		log_error("restart in place refused, all goes on as before: %s",
			  restart->last_text);
		notify_send(
			"READY=1\nSTATUS=Serving as before; the last restart was refused: %.800s",
			restart->last_text);
	}
	control_restart_ended(supervisor->control);
	if (restart->again)
		begin(supervisor);
}

uint64_t restart_awaited(const struct supervisor *supervisor)
{
	const struct restart *restart = &supervisor->restart;

	if (restart->again || signals_waiting(SIGHUP))
		return restart->begun + 1;
	return restart->step == RESTART_NONE ? 0 : restart->begun;
}

/* ---- The trial ------------------------------------------------------------------------------ */

/* In the child: become `echod check`. Only what is safe between fork and exec. */
static _Noreturn void exec_trial(const struct launch *launch, char **argv, int null, int output)
{
	char text[ERROR_TEXT_MAX];
	int len;

	dup2(null, STDIN_FILENO);
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	signals_default();
	execv(launch->self, argv);
	len = snprintf(text, sizeof(text), "echod: cannot execute %s: %s\n", launch->self,
		       strerror(errno));
	(void)!write(STDERR_FILENO, text, (size_t)len);
	_exit(127);
}

/* `prefix` in front of the launch's own options, NULL at the end; the strings are not copied. */
static char **make_argv(const struct launch *launch, char *const *prefix, size_t prefix_count)
{
	size_t n = 0;
	char **argv;

	while (launch->args[n] != NULL)
		n++;
	argv = calloc(prefix_count + n + 1, sizeof(*argv));
	if (argv == NULL)
		return NULL;
	memcpy(argv, prefix, prefix_count * sizeof(*argv));
	memcpy(argv + prefix_count, launch->args, n * sizeof(*argv));
	return argv;
}

/* Returns false at the end of file. */
static bool read_trial(struct restart *restart)
{
	char rest[512];

	for (;;) {
		size_t room = sizeof(restart->trial_text) - 1 - restart->trial_len;
		ssize_t n = room > 0 ? read(restart->trial_output,
					    restart->trial_text + restart->trial_len, room)
				     : read(restart->trial_output, rest, sizeof(rest));

		if (n <= 0)
			return n < 0;
		if (room > 0)
			restart->trial_len += (size_t)n;
	}
}

static void on_trial_output(evutil_socket_t fd, short what, void *arg)
{
	struct restart *restart = arg;

	(void)fd;
	(void)what;
	/* At the end of file there is nothing more to wait for but the exit status. */
	if (!read_trial(restart))
		event_del(restart->trial_event);
}

static void on_trial_late(evutil_socket_t fd, short what, void *arg)
{
	struct restart *restart = arg;

	(void)fd;
	(void)what;
	restart->trial_late = true;
	kill(restart->trial, SIGKILL);
}

static int watch_trial(struct supervisor *supervisor, int output, struct error *err)
{
	struct restart *restart = &supervisor->restart;
	int64_t limit = supervisor->current->conf->start_timeout;
	struct timeval tv = {limit / 1000, limit % 1000 * 1000};

	restart->trial_output = output;
	restart->trial_len = 0;
	restart->trial_late = false;
	restart->timer = evtimer_new(supervisor->base, on_trial_late, restart);
	restart->trial_event =
		event_new(supervisor->base, output, EV_READ | EV_PERSIST, on_trial_output, restart);
	if (restart->timer == NULL || restart->trial_event == NULL ||
	    evtimer_add(restart->timer, &tv) < 0 || event_add(restart->trial_event, NULL) < 0)
		return error_set(err, EXIT_FAILED, "no memory to watch the trial");
	return 0;
}

static void unwatch_trial(struct restart *restart)
{
	if (restart->trial_event != NULL)
		event_free(restart->trial_event);
	restart->trial_event = NULL;
	if (restart->timer != NULL)
		event_free(restart->timer);
	restart->timer = NULL;
	if (restart->trial_output >= 0)
		close(restart->trial_output);
	restart->trial_output = -1;
}

static int start_trial(struct supervisor *supervisor, struct error *err)
{
	struct restart *restart = &supervisor->restart;
	const struct launch *launch = supervisor->launch;
	char version[40];
	char *prefix[] = {launch->self, (char *)"check", version};
	char **argv;
	int ends[2];

	snprintf(version, sizeof(version), "--accept-handover=%d", HANDOVER_VERSION);
	argv = make_argv(launch, prefix, sizeof(prefix) / sizeof(prefix[0]));
	if (argv == NULL || pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
		free(argv);
		return error_errno(err, "cannot prepare the trial");
	}
	if (watch_trial(supervisor, ends[0], err) < 0) {
		unwatch_trial(restart);
		close(ends[1]);
		free(argv);
		return -1;
	}
	signals_block();
	restart->trial = fork();
	if (restart->trial == 0)
		exec_trial(launch, argv, supervisor->null, ends[1]);
	signals_unblock();
	free(argv);
	close(ends[1]);
	if (restart->trial < 0) {
		restart->trial = 0;
		unwatch_trial(restart);
		return error_errno(err, "cannot start the trial");
	}
	return 0;
}

/* Many lines become one, each without the "echod: " that a terminal would want. */
static void trial_failure(const struct restart *restart, int status, struct error *err)
{
	const char *line = restart->trial_text;
	char *out = err->text, *end = err->text + sizeof(err->text);

	err->code =
		WIFEXITED(status) && WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : EXIT_FAILED;
	if (err->code != EXIT_CONFIG && err->code != EXIT_PERMISSION)
		err->code = EXIT_FAILED;
	if (restart->trial_late) {
		error_set(err, EXIT_FAILED, "the trial did not end in time");
		return;
	}
	if (WIFSIGNALED(status)) {
		error_set(err, EXIT_FAILED, "the trial was ended by signal %s",
			  signame(WTERMSIG(status)));
		return;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONE) {
		error_set(
			err, EXIT_FAILED,
			"the executable is not echod: run with 'check', it did not answer as echod does");
		return;
	}
	if (restart->trial_len == 0) {
		error_set(err, err->code, "the trial ended with status %d and said nothing",
			  WEXITSTATUS(status));
		return;
	}
	while (*line != '\0' && out + 3 < end) {
		size_t len = strcspn(line, "\n");
		const char *text = strncmp(line, "echod: ", 7) == 0 ? line + 7 : line;
		int n = snprintf(out, (size_t)(end - out), "%s%.*s", out > err->text ? "; " : "",
				 (int)(len - (size_t)(text - line)), text);

		out = n < end - out ? out + n : end;
		line += len + (line[len] == '\n');
	}
}

static int hand_over(struct supervisor *supervisor, struct error *err);

/* A stop has come that was not taken yet: it wins, and a flag would be lost with this image. */
static bool stop_is_waiting(void)
{
	return signals_waiting(SIGTERM) || signals_waiting(SIGINT) || signals_waiting(SIGUSR1);
}

/* A stop wins over a restart: tell who waits for it. */
static void give_up(struct supervisor *supervisor)
{
	struct error err = {0};

	error_set(&err, EXIT_FAILED, "the daemon is stopping");
	count_outcome(&supervisor->restart, &err);
	log_notice("the restart that was under way is given up: %s", err.text);
	control_restart_ended(supervisor->control);
}

bool restart_child_ended(struct supervisor *supervisor, pid_t pid, int status)
{
	struct restart *restart = &supervisor->restart;
	struct error err = {0};

	if (restart->trial == 0 || pid != restart->trial)
		return false;
	restart->trial = 0;
	if (restart->trial_output >= 0)
		read_trial(restart);
	restart->trial_text[restart->trial_len] = '\0';
	unwatch_trial(restart);
	if (restart->step != RESTART_TRIAL)
		return true; /* a stop came in between */
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONE &&
	    strstr(restart->trial_text, HANDOVER_ACCEPTED) != NULL) {
		hand_over(supervisor, &err); /* comes back only when it failed */
	} else {
		trial_failure(restart, status, &err);
	}
	/* A stop that came this very moment is about to be obeyed. */
	if (stop_is_waiting())
		give_up(supervisor);
	else
		restart_ended(supervisor, &err);
	return true;
}

void restart_abandon(struct supervisor *supervisor)
{
	struct restart *restart = &supervisor->restart;

	restart->again = false;
	if (restart->trial > 0)
		kill(restart->trial, SIGKILL);
	unwatch_trial(restart);
	if (restart->step == RESTART_RETIRING)
		restart_ended(supervisor, NULL); /* the new generation serves already */
	else if (restart->step != RESTART_NONE)
		give_up(supervisor);
}

/* ---- The hand-over -------------------------------------------------------------------------- */

/* All lists hold borrowed pointers: everything stays where it is if execve fails. */
static int make_lists(const struct supervisor *supervisor, struct handover *handover,
		      struct error *err)
{
	size_t services = 0, sockets = 0, children = 0;
	const struct service *service;
	const struct socket_entry *entry;
	const struct child *child;

	TAILQ_FOREACH (service, &supervisor->current->services, link) {
		services++;
		sockets += service->socket_count;
	}
	TAILQ_FOREACH (entry, &supervisor->sockets, link)
		sockets += entry->users == 0;
	TAILQ_FOREACH (child, &supervisor->children, link)
		children++;
	handover->services = calloc(services + 1, sizeof(*handover->services));
	handover->sockets = calloc(sockets + 1, sizeof(*handover->sockets));
	handover->children = calloc(children + 1, sizeof(*handover->children));
	if (handover->services == NULL || handover->sockets == NULL || handover->children == NULL)
		return error_errno(err, "cannot prepare the hand-over");
	return 0;
}

static void collect_socket(const struct socket_entry *entry, char *service,
			   struct handover *handover)
{
	handover->sockets[handover->socket_count++] = (struct handover_socket){
		.fd = entry->fd,
		.service = service,
		.number = entry->number,
		.address = entry->address,
		.key = entry->key,
		.shared = entry->shared,
		.passed = entry->passed,
		.file = entry->file,
	};
}

static void collect_service(const struct service *service, struct handover *handover)
{
	struct handover_service *to = &handover->services[handover->service_count++];

	*to = (struct handover_service){
		.name = service->conf->name,
		.places = service->slot_count,
		.stopped = service->stopped,
		.privileges = service->privileges,
		.ended = service->ended,
		.restarts = service->restarts,
		.limits = service->limits_fd,
		.added = service->added != NULL,
	};
	if (to->added) {
		to->command = service->conf->command;
		to->user = service->conf->user;
		to->restart = service->conf->restart;
	}
	for (size_t i = 0; i < service->socket_count; i++)
		collect_socket(service->sockets[i].entry, service->conf->name, handover);
}

static void collect_child(struct child *child, struct handover *handover)
{
	handover->children[handover->child_count++] = (struct handover_child){
		.pid = child->pid,
		.program = child->program,
		.channel = child->channel,
		.counters = child->counters_fd,
		.service = child->service_name,
		.index = child->index,
		.kind = child->kind,
		.generation = child->generation,
		.state = child->state,
		.in_place = child->service != NULL,
		.ready = child->ready,
		.killed = child->killed,
		.killed_at = child->killed_at,
		.condemned = child->condemned,
		.start_again = child->start_again,
		.ended = child->ended,
		.status = child->status,
		.failure_code = child->failure_code,
		.since = child->since,
		.due = child->due,
		.failures = child->failures,
		.restarts = child->restarts,
		.stop_timeout = child->stop_timeout,
		.text = child->text,
	};
}

static int collect(struct supervisor *supervisor, struct handover *handover, struct error *err)
{
	static char nobody[] = "";
	const struct socket_entry *entry;
	const struct service *service;
	struct child *child;

	if (make_lists(supervisor, handover, err) < 0)
		return -1;
	TAILQ_FOREACH (service, &supervisor->current->services, link)
		collect_service(service, handover);
	/* What a service manager has passed is kept while its service is stopped. */
	TAILQ_FOREACH (entry, &supervisor->sockets, link)
		if (entry->users == 0)
			collect_socket(entry, nobody, handover);
	TAILQ_FOREACH (child, &supervisor->children, link)
		collect_child(child, handover);
	return control_collect(supervisor->control, handover, err);
}

static void set_one_inherited(int fd, bool inherited)
{
	if (fd >= 0)
		fds_set_cloexec(fd, !inherited);
}

/* Close-on-exec off for what is handed over, or on again when the execve has failed. */
static void set_inherited(const struct handover *handover, int blob, bool inherited)
{
	set_one_inherited(blob, inherited);
	set_one_inherited(handover->pidfile.fd, inherited);
	set_one_inherited(handover->control, inherited);
	set_one_inherited(handover->log, inherited);
	set_one_inherited(handover->limits, inherited);
	for (size_t i = 0; i < handover->service_count; i++)
		set_one_inherited(handover->services[i].limits, inherited);
	for (size_t i = 0; i < handover->socket_count; i++)
		set_one_inherited(handover->sockets[i].fd, inherited);
	for (size_t i = 0; i < handover->child_count; i++) {
		set_one_inherited(handover->children[i].channel, inherited);
		set_one_inherited(handover->children[i].counters, inherited);
	}
	for (size_t i = 0; i < handover->client_count; i++)
		set_one_inherited(handover->clients[i].fd, inherited);
}

static int write_blob(const struct handover *handover, struct error *err)
{
	struct blob_writer writer = {0};
	int fd = -1;

	handover_pack(handover, &writer);
	if (writer.failed)
		error_set(err, EXIT_FAILED, "no memory for the hand-over");
	else
		fd = memory_file_sealed("echod-handover", writer.data, writer.len, err);
	blob_writer_free(&writer);
	return fd;
}

static void execute(struct supervisor *supervisor, const struct handover *handover, int blob,
		    struct error *err)
{
	const struct launch *launch = supervisor->launch;
	char *prefix[] = {launch->self};
	char **argv = make_argv(launch, prefix, 1);
	char number[16];

	snprintf(number, sizeof(number), "%d", blob);
	if (argv == NULL || setenv(HANDOVER_VARIABLE, number, 1) < 0) {
		error_errno(err, "cannot prepare the restart");
	} else {
		set_inherited(handover, blob, true);
		execv(launch->self, argv);
		error_errno(err, "cannot execute %s", launch->self);
		set_inherited(handover, blob, false);
	}
	unsetenv(HANDOVER_VARIABLE);
	free(argv);
}

static int hand_over(struct supervisor *supervisor, struct error *err)
{
	struct handover handover = {
		.pid = getpid(),
		.since = supervisor->since,
		.pidfile = supervisor->pidfile,
		.control = -1,
		.log = logtarget_fd() > STDERR_FILENO ? logtarget_fd() : -1,
		.control_path = supervisor->current->conf->control,
		.generation = supervisor->current->number,
		.limits = supervisor->current->limits_fd,
		.nofile = supervisor->nofile,
		.restarts_begun = supervisor->restart.begun,
		.restarts_ended = supervisor->restart.ended,
		.restarts_failed = supervisor->restart.failed,
		.again = supervisor->restart.again,
		.had_terminal = supervisor->had_terminal,
		.has_orphans = supervisor->has_orphans,
		.ended = supervisor->ended,
		.source = supervisor->current->source,
	};
	int blob = -1;

	/*
	 * A signal that comes from here on waits in the kernel until the new image has its
	 * handlers. One that came before stands in a flag of this image: a stop ends the restart,
	 * another SIGHUP is handed over.
	 */
	signals_block();
	handover.ended.log_dropped += logtarget_dropped();
	handover.again = signals_take(SIGHUP) || handover.again;
	if (stop_is_waiting())
		error_set(err, EXIT_FAILED, "the daemon is stopping");
	else if (collect(supervisor, &handover, err) == 0)
		blob = write_blob(&handover, err);
	if (blob >= 0) {
		execute(supervisor, &handover, blob, err);
		close(blob);
	}
	supervisor->restart.again = handover.again;
	signals_unblock();
	control_uncollect(&handover);
	free(handover.services);
	free(handover.sockets);
	free(handover.children);
	return -1;
}
