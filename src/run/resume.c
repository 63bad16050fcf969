/* Going on after execve: the image that a restart in place has executed takes over from the former
 * one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <event2/event.h>
#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/logtarget.h"
#include "os/fds.h"
#include "os/memory_file.h"
#include "run/control.h"
#include "run/handover.h"
#include "run/lifecycle.h"
#include "run/settings.h"
#include "run/signals.h"
#include "run/supervisor.h"
#include "run/tables.h"

static int read_handover(struct handover *handover, int fd, struct error *err)
{
	size_t len;
	void *data = memory_file_read(fd, &len, err);
	int result;

	/* Whatever fails, there is something that can be freed. */
	*handover =
		(struct handover){.pidfile = PIDFILE_NONE, .log = -1, .control = -1, .limits = -1};
	result = data == NULL ? -1 : handover_unpack(handover, data, len, err);

	free(data);
	return result;
}

bool supervisor_can_resume(int handover_fd)
{
	struct handover handover;
	struct error err = {0};

	if (read_handover(&handover, handover_fd, &err) < 0)
		return false;
	handover_free(&handover);
	return true;
}

/* The descriptors that stay: all that the hand-over names. In fresh memory. */
static int *handed_over_fds(const struct handover *handover, size_t *count)
{
	int *fds = calloc(4 + handover->service_count + handover->socket_count +
				  2 * handover->child_count + handover->client_count,
			  sizeof(*fds));
	size_t n = 0;

	if (fds == NULL)
		return NULL;
	fds[n++] = handover->pidfile.fd;
	fds[n++] = handover->control;
	fds[n++] = handover->log;
	fds[n++] = handover->limits;
	for (size_t i = 0; i < handover->service_count; i++)
		fds[n++] = handover->services[i].limits;
	for (size_t i = 0; i < handover->socket_count; i++)
		fds[n++] = handover->sockets[i].fd;
	for (size_t i = 0; i < handover->child_count; i++) {
		fds[n++] = handover->children[i].channel;
		fds[n++] = handover->children[i].counters;
	}
	for (size_t i = 0; i < handover->client_count; i++)
		fds[n++] = handover->clients[i].fd;
	for (size_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			fds_set_cloexec(fds[i], true);
	*count = n;
	return fds;
}

static void adopt_service(struct generation *current, const struct handover_service *from)
{
	struct service *service = generation_service(current, from->name);
	struct error err = {0};

	if (service == NULL && from->added) {
		struct conf_service *added = conf_program_new(from->name, from->command, from->user,
							      from->restart, false, &err);

		service = added == NULL ? NULL : service_new(current, NULL, added, &err);
	}
	if (service == NULL || service_set_places(service, from->places, &err) < 0) {
		log_error("the handed-over service %s cannot be taken over: %s", from->name,
			  err.code != 0 ? err.text : "it is not in the configuration");
		if (from->limits >= 0)
			close(from->limits);
		return;
	}
	service->stopped = from->stopped;
	service->privileges = from->privileges;
	service->ended = from->ended;
	service->restarts = from->restarts;
	service->limits_fd = from->limits;
}

static void adopt_socket(struct supervisor *supervisor, const struct handover_socket *from)
{
	struct service *service = generation_service(supervisor->current, from->service);
	const struct socket_entry like = {
		.fd = from->fd,
		.number = from->number,
		.address = from->address,
		.key = from->key,
		.shared = from->shared,
		.passed = from->passed,
		.file = from->file,
	};
	struct error err = {0};
	struct socket_entry *entry = sockets_adopt(&supervisor->sockets, &like, &err);

	if (entry == NULL) {
		log_error("%s", err.text);
	} else if (entry->passed && service == NULL) {
		return; /* it waits for its service */
	} else if (service == NULL || service_add_socket(service, entry, &err) < 0) {
		log_error("the handed-over socket of service %s belongs to no service",
			  from->service);
		/* Nobody would ever accept there. */
		sockets_drop(&supervisor->sockets, entry);
	}
}

/* A process that cannot be led is ended. */
static int adopt_process(struct child *child, const struct handover_child *from, struct error *err)
{
	if (memory_file_is_shared(from->counters, COUNTERS_SIZE)) {
		if (child_attach(child, (pid_t)from->pid, from->channel, from->counters, err) < 0)
			return -1;
	} else {
		kill((pid_t)from->pid, SIGKILL);
		close(from->channel);
		close(from->counters);
		return error_set(err, EXIT_FAILED, "%s[%d] was handed over without its counters",
				 child->name, (int)from->pid);
	}
	child->program = (pid_t)from->program;
	child->ready = from->ready;
	child->killed = from->killed;
	child->killed_at = from->killed_at;
	child->ended = from->ended;
	child->status = from->status;
	child->failure_code = from->failure_code;
	child->condemned = from->condemned;
	child->stop_timeout = from->stop_timeout;
	return 0;
}

static void put_in_place(struct supervisor *supervisor, struct child *child)
{
	struct service *service = generation_service(supervisor->current, child->service_name);

	if (service == NULL || child->index >= service->slot_count ||
	    service->slots[child->index] != NULL)
		return;
	service->slots[child->index] = child;
	child->service = service;
}

static void adopt_child(struct supervisor *supervisor, const struct handover_child *from)
{
	struct child *child =
		child_new(supervisor, from->service, from->index, (enum child_kind)from->kind);
	enum child_state state = (enum child_state)from->state;
	int64_t due = from->due;
	struct error err = {0};

	if (child == NULL) {
		log_error("no memory for the handed-over process %d: killed", (int)from->pid);
		if (from->pid > 1) {
			kill((pid_t)from->pid, SIGKILL);
			close(from->channel);
			close(from->counters);
		}
		return;
	}
	if (from->in_place)
		put_in_place(supervisor, child);
	child->generation = from->generation;
	child->start_again = from->start_again;
	child->failures = from->failures;
	child->restarts = from->restarts;
	if (from->pid > 1 && adopt_process(child, from, &err) < 0) {
		log_error("%s: killed", err.text);
		state = CHILD_BACKING_OFF;
		due = clock_ms();
		if (child->service != NULL && child->service->stopped) {
			state = CHILD_STOPPED;
			due = 0;
		}
	}
	snprintf(child->text, sizeof(child->text), "%s", from->text);
	if (child->pid == 0 && child->service == NULL) {
		child_free(child);
		return;
	}
	lifecycle_resume(child, state, from->since, due);
	if (child->service == NULL && from->in_place)
		lifecycle_event(child, EVENT_STOP); /* nobody would look after it */
}

static void adopt_places(struct supervisor *supervisor, const struct handover *handover)
{
	struct service *service;
	struct error err = {0};

	for (size_t i = 0; i < handover->service_count; i++)
		adopt_service(supervisor->current, &handover->services[i]);
	for (size_t i = 0; i < handover->socket_count; i++)
		adopt_socket(supervisor, &handover->sockets[i]);
	/* Whether there must be one depends on the sockets. */
	supervisor->current->limits_fd = handover->limits;
	if (tables_open(supervisor->current, &err) < 0)
		log_error("%s", err.text);
	for (size_t i = 0; i < handover->child_count; i++)
		adopt_child(supervisor, &handover->children[i]);
	TAILQ_FOREACH (service, &supervisor->current->services, link)
		service_complete(service);
}

/* What served before execve serves on, by the configuration that it was started with. */
static int adopt(struct supervisor *supervisor, struct handover *handover, int wakeup,
		 struct conf *conf, struct error *err)
{
	struct conf_source *source = handover->source;

	handover->source = NULL;
	if (supervisor_make_loop(supervisor, wakeup, err) < 0) {
		conf_source_free(source);
		conf_free(conf);
		return -1;
	}
	supervisor->current = generation_new(supervisor, handover->generation, source, conf, err);
	if (supervisor->current == NULL)
		return -1;
	supervisor->current->committed = true;
	supervisor->nofile = handover->nofile;
	adopt_places(supervisor, handover);
	supervisor->phase = PHASE_SERVING;
	supervisor->served = true;
	supervisor->since = handover->since;
	supervisor->had_terminal = handover->had_terminal;
	supervisor->has_orphans = handover->has_orphans;
	supervisor->ended = handover->ended;
	supervisor->restart.begun = handover->restarts_begun;
	supervisor->restart.ended = handover->restarts_ended;
	supervisor->restart.failed = handover->restarts_failed;
	supervisor->restart.again = handover->again;
	supervisor->restart.step = RESTART_WORKERS;
	watchdog_start(supervisor);
	if (handover->control >= 0)
		supervisor->control =
			control_adopt(supervisor, handover->control_path, handover, err);
	else
		supervisor->control = control_open(supervisor, handover->control_path, err);
	if (supervisor->control == NULL)
		log_error("%s", err->text);
	return 0;
}

/* Read the file anew. It was sound in the trial a moment ago, but may have been changed since. */
static struct conf *read_conf(const struct launch *launch, struct conf_source **source,
			      struct error *err)
{
	struct conf_errors errors = {0};
	struct conf *conf = NULL;

	*source = conf_source_load(launch->config, &errors);
	if (*source != NULL)
		conf = conf_parse(*source, &launch->overrides, &errors);
	if (conf != NULL)
		settings_check(conf, &errors);
	if (errors.count > 0 || conf == NULL) {
		error_set(err, EXIT_CONFIG, "%s",
			  errors.count > 0 ? errors.lines[0] : "no memory for the configuration");
		conf_source_free(*source);
		conf_free(conf);
		conf = NULL;
	}
	conf_errors_free(&errors);
	return conf;
}

static int check_unchanged(const struct supervisor *supervisor, const struct conf *conf,
			   struct error *err)
{
	const struct conf *old = supervisor->current->conf;

	if (strcmp(conf->pidfile, old->pidfile) != 0)
		return error_set(
			err, EXIT_CONFIG,
			"pidfile cannot change at a restart (from %s to %s): stop and start",
			old->pidfile, conf->pidfile);
	if (strcmp(conf->control, old->control) != 0)
		return error_set(
			err, EXIT_CONFIG,
			"control cannot change at a restart (from %s to %s): stop and start",
			old->control, conf->control);
	return 0;
}

static int start_next(struct supervisor *supervisor, struct error *err)
{
	const char *served = conf_source_path(supervisor->current->source);
	struct conf_source *source;
	struct conf *conf;

	/* An editor that saves by renaming leaves no file for a moment: that means no empty one. */
	if (served != NULL && supervisor->launch->config == NULL)
		return error_set(err, EXIT_CONFIG, "the configuration file %s is gone", served);
	conf = read_conf(supervisor->launch, &source, err);
	if (conf == NULL)
		return -1;
	if (check_unchanged(supervisor, conf, err) < 0) {
		conf_source_free(source);
		conf_free(conf);
		return -1;
	}
	if (supervisor_check_log(conf, err) < 0) {
		conf_source_free(source);
		conf_free(conf);
		return -1;
	}
	supervisor->next =
		generation_new(supervisor, supervisor->current->number + 1, source, conf, err);
	if (supervisor->next == NULL ||
	    generation_inherit(supervisor->next, supervisor->current, err) < 0 ||
	    generation_prepare(supervisor->next, SERVICE_REBIND_MS, err) < 0)
		return -1;
	return supervisor_start_workers(supervisor, err);
}

/*
 * The configuration that served until now: with this binary it may have errors, but it must go on.
 */
static struct conf *parse_served(const struct launch *launch, const struct conf_source *source)
{
	struct conf_errors errors = {0};
	struct conf *conf = conf_parse(source, &launch->overrides, &errors);

	conf_errors_free(&errors);
	return conf;
}

/* The log goes on: opened anew, or, if that fails, where the former image wrote. */
static void keep_log(const struct launch *launch, const struct conf *conf,
		     const struct handover *handover)
{
	struct log_settings settings = supervisor_log_settings(conf);
	struct error err = {0};

	if (supervisor_open_log(launch, conf, &err) == 0) {
		if (handover->log >= 0)
			close(handover->log);
		return;
	}
	if (handover->log >= 0)
		logtarget_adopt(handover->log, &settings);
	log_error("%s; the log goes on where it went", err.text);
}

static int resume(struct supervisor *supervisor, struct handover *handover, struct error *err)
{
	const struct launch *launch = supervisor->launch;
	struct conf *conf = parse_served(launch, handover->source);
	size_t count;
	int *keep = handed_over_fds(handover, &count), wakeup;

	if (conf == NULL || keep == NULL) {
		conf_free(conf);
		free(keep);
		error_set(err, EXIT_FAILED, "no memory to go on after the restart");
		return -1;
	}
	wakeup = supervisor_become(keep, count, err);
	free(keep);
	keep_log(launch, conf, handover);
	if (wakeup < 0 || pidfile_adopt(&supervisor->pidfile, &handover->pidfile, err) < 0) {
		conf_free(conf);
		return -1;
	}
	signals_set_pidfile(&supervisor->pidfile);
	/* A restart must not end here: in a daemon 0 is /dev/null since its first "ready", too. */
	if (supervisor_open_null(supervisor, err) < 0)
		supervisor->null = dup(STDIN_FILENO);
	return adopt(supervisor, handover, wakeup, conf, err);
}

int supervisor_resume(const struct launch *launch, int handover_fd)
{
	struct supervisor supervisor;
	struct handover handover;
	struct error err = {0};

	supervisor_set_up(&supervisor, launch);
	if (read_handover(&handover, handover_fd, &err) < 0 ||
	    resume(&supervisor, &handover, &err) < 0) {
		/* Only without memory, or when somebody started us with a made-up hand-over. */
		log_error("cannot go on after the restart: %s", err.text);
		dprintf(STDERR_FILENO, "echod: cannot go on after the restart: %s\n", err.text);
		handover_free(&handover);
		supervisor.exit_code = EXIT_FAILED;
		return supervisor_tear_down(&supervisor);
	}
	handover_free(&handover);
	/* What died during the exec may have left no signal. */
	supervisor_reap(&supervisor);
	if (start_next(&supervisor, &err) < 0)
		supervisor_next_done(&supervisor, &err);
	supervisor_loop(&supervisor);
	return supervisor_tear_down(&supervisor);
}
