#include "run/generation.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/signame.h"
#include "run/capacity.h"
#include "run/lifecycle.h"
#include "run/orphans.h"
#include "run/supervisor.h"
#include "run/tables.h"

/* ---- Making and freeing --------------------------------------------------------------------- */

static int make_services(struct generation *generation, struct error *err)
{
	const struct conf *conf = generation->conf;

	for (size_t i = 0; i < conf->service_count; i++)
		if (service_new(generation, &conf->services[i], NULL, err) == NULL)
			return -1;
	return 0;
}

struct generation *generation_new(struct supervisor *supervisor, uint64_t number,
				  struct conf_source *source, struct conf *conf, struct error *err)
{
	struct generation *generation = calloc(1, sizeof(*generation));

	if (generation == NULL) {
		error_errno(err, "cannot make a generation");
		conf_source_free(source);
		conf_free(conf);
		return NULL;
	}
	generation->supervisor = supervisor;
	generation->number = number;
	generation->source = source;
	generation->conf = conf;
	generation->limits_fd = -1;
	TAILQ_INIT(&generation->services);
	if (make_services(generation, err) == 0)
		return generation;
	generation_free(generation);
	return NULL;
}

void generation_close_sockets(struct generation *generation)
{
	struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		service_close_sockets(service);
}

void generation_free(struct generation *generation)
{
	struct service *service;

	if (generation == NULL)
		return;
	while ((service = TAILQ_FIRST(&generation->services)) != NULL)
		service_free(service); /* NOLINT: it leaves the list first */
	if (generation->limits_fd >= 0)
		close(generation->limits_fd);
	conf_source_free(generation->source);
	conf_free(generation->conf);
	free(generation);
}

struct service *generation_service(const struct generation *generation, const char *name)
{
	struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		if (strcmp(service->conf->name, name) == 0)
			return service;
	return NULL;
}

/* ---- What the former one knew ---------------------------------------------------------------- */

static int inherit_added(struct generation *generation, const struct service *former,
			 struct error *err)
{
	const struct conf_service *conf = former->conf;
	struct conf_service *copy;

	if (generation_service(generation, conf->name) != NULL)
		return 0; /* the configuration's own takes its place */
	copy = conf_program_new(conf->name, conf->command, conf->user, conf->restart, false, err);
	return copy == NULL || service_new(generation, NULL, copy, err) == NULL ? -1 : 0;
}

int generation_inherit(struct generation *generation, const struct generation *former,
		       struct error *err)
{
	struct service *service, *own;

	TAILQ_FOREACH (service, &former->services, link) {
		if (service->added != NULL && inherit_added(generation, service, err) < 0)
			return -1;
		own = generation_service(generation, service->conf->name);
		if (own != NULL)
			own->stopped = service->stopped;
	}
	return 0;
}

/* The service of the former generation whose process this program goes on with, or NULL. */
static struct service *former_program(const struct service *service,
				      const struct generation *former)
{
	struct service *found;

	if (former == NULL || !service_is_program(service))
		return NULL;
	found = generation_service(former, service->conf->name);
	return found != NULL && service_is_program(found) ? found : NULL;
}

/* ---- Beginning ------------------------------------------------------------------------------ */

int generation_prepare(struct generation *generation, int64_t retry_ms, struct error *err)
{
	struct service *service;

	if (service_check_passed(generation, err) < 0)
		return -1;
	TAILQ_FOREACH (service, &generation->services, link)
		if (service_resolve_user(service, err) < 0 ||
		    (!service->stopped && service_bind(service, retry_ms, err) < 0))
			return -1;
	capacity_check(generation);
	return tables_open(generation, err);
}

int generation_begin(struct generation *generation, const struct generation *former,
		     struct error *err)
{
	struct service *service;

	TAILQ_FOREACH (service, &generation->services, link) {
		int result = 0;

		if (former_program(service, former) == NULL && service_leftover(service) == NULL)
			result = service->stopped ? service_fill_places(service, err)
						  : service_begin(service, err);
		if (result < 0)
			return -1;
	}
	return 0;
}

bool generation_is_ready(const struct generation *generation)
{
	const struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		if (!service_is_ready(service))
			return false;
	return true;
}

/* New sockets first: if one fails there, those that serve have not been touched. */
static int listen_on_all(struct generation *generation, struct error *err)
{
	struct service *service;

	for (int listening = 0; listening <= 1; listening++)
		TAILQ_FOREACH (service, &generation->services, link)
			if (service_listen(service, listening != 0, err) < 0)
				return -1;
	return 0;
}

/* Options and files of sockets that serve on: what was set before the failure is set back. */
static void restore(struct generation *former)
{
	struct service *service;
	struct error err = {0};

	TAILQ_FOREACH (service, &former->services, link)
		if (service_listen(service, true, &err) < 0)
			log_error("%s", err.text);
}

int generation_commit(struct generation *generation, struct error *err)
{
	struct generation *former = generation->supervisor->current;
	struct service *service;

	if (listen_on_all(generation, err) < 0) {
		if (former != NULL)
			restore(former);
		return -1;
	}
	generation->committed = true;
	TAILQ_FOREACH (service, &generation->services, link)
		service_go(service);
	return 0;
}

static void inherit_place(struct child *child, const struct child *former)
{
	child->restarts = former->restarts;
	if (child->state == CHILD_STOPPED && former->state == CHILD_STOPPED)
		child->since = former->since;
}

/* Counts go on under the same name. */
static void inherit_counts(struct service *service, const struct service *former)
{
	service->ended = former->ended;
	service->restarts = former->restarts;
	for (unsigned i = 0; i < former->slot_count; i++) {
		const struct child *child = former->slots[i];

		if (child == NULL)
			continue;
		if (i >= service->slot_count)
			service->restarts += child->restarts;
		else if (service->slots[i] != NULL)
			inherit_place(service->slots[i], child);
	}
}

void generation_assign_sockets(struct generation *generation)
{
	struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		service_assign_sockets(service);
}

void generation_take_over(struct generation *generation, struct generation *former)
{
	struct service *service, *before;

	TAILQ_FOREACH (service, &generation->services, link) {
		before = generation_service(former, service->conf->name);
		if (before != NULL)
			inherit_counts(service, before);
		if (before != NULL && before->added != NULL && service->added == NULL)
			log_notice("the service %s, added at run time, is now that of the "
				   "configuration",
				   service->conf->name);
		before = former_program(service, former);
		if (before != NULL)
			service_take_over(service, before);
		else
			service_take_leftover(service);
	}
	TAILQ_FOREACH (service, &former->services, link)
		service_retire(service);
	generation_assign_sockets(generation);
}

void generation_abandon(struct generation *generation)
{
	struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		service_abandon(service);
}

void generation_fill(struct generation *generation)
{
	struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		service_fill(service);
}

/* ---- What children do ----------------------------------------------------------------------- */

void generation_child_ready(struct child *child)
{
	struct supervisor *supervisor = child->supervisor;
	struct generation *next = supervisor->next;

	if (child->state != CHILD_STARTING)
		return;
	if (next == NULL || child->service->generation != next)
		lifecycle_event(child, EVENT_GO);
	else if (generation_is_ready(next))
		supervisor_next_done(supervisor, NULL);
}

/* How it ended, for the log, and as the reason why there is no process. */
static void describe_end(struct child *child, int status)
{
	char how[ERROR_TEXT_MAX];

	if (child->failure_code != 0)
		snprintf(how, sizeof(how), "could not start: %.900s", child->text);
	else if (child->kind == CHILD_PROGRAM && !child->ended && WIFSIGNALED(status))
		snprintf(how, sizeof(how), "lost its keeper (pid %d), which was ended by signal %s",
			 (int)child->pid, signame(WTERMSIG(status)));
	else if (WIFSIGNALED(status))
		snprintf(how, sizeof(how), "was ended by signal %s%s", signame(WTERMSIG(status)),
			 WCOREDUMP(status) ? " (core dumped)" : "");
	else
		snprintf(how, sizeof(how), "exited with status %d", WEXITSTATUS(status));
	snprintf(child->text, sizeof(child->text), "%.*s", (int)sizeof(child->text) - 1, how);
}

static bool was_ordered(const struct child *child)
{
	return child->state == CHILD_DRAINING || child->state == CHILD_STOPPING ||
	       child->state == CHILD_RETIRING;
}

static void log_end(const struct child *child, int status)
{
	bool well = child->kind == CHILD_PROGRAM && WIFEXITED(status) && WEXITSTATUS(status) == 0;

	if (child->supervisor->phase == PHASE_STARTING) {
		/* It is why the start fails, which the launching command prints. */
		log_write_quietly(LOG_LEVEL_WARNING, "%s[%d] %.900s", child->name,
				  (int)child_shown_pid(child), child->text);
		return;
	}
	log_at(was_ordered(child) ? LOG_LEVEL_INFO
	       : well		  ? LOG_LEVEL_NOTICE
				  : LOG_LEVEL_WARNING,
	       "%s[%d] %.900s", child->name, (int)child_shown_pid(child), child->text);
}

/* The numbers of a service go on when its processes are gone. */
static void keep_counts(const struct child *child)
{
	const struct generation *current = child->supervisor->current;
	struct service *service =
		current == NULL ? NULL : generation_service(current, child->service_name);

	if (service != NULL)
		counters_sum(&service->ended, child->counters);
}

void generation_child_ended(struct child *child, int status)
{
	struct supervisor *supervisor = child->supervisor;
	bool orphans = child->kind == CHILD_PROGRAM && WIFSIGNALED(status);
	pid_t program = child->program;
	enum child_event event;
	struct error err = {0};
	int failure;

	child_read_channel(child);
	failure = child->failure_code;
	if (child->ended)
		status = child->status;
	event = lifecycle_classify(child, status);
	lifecycle_forget_failures(child);
	describe_end(child, status);
	log_end(child, status);
	if (was_ordered(child))
		child->text[0] = '\0';
	error_set(&err, child->failure_code != 0 ? child->failure_code : EXIT_FAILED, "%s %.900s",
		  child->name, child->text);
	keep_counts(child);
	tables_give_back(child);
	child_detach(child);
	child->failure_code = failure;
	if (orphans)
		orphans_await(supervisor, program);
	if (child->service != NULL && child->service->generation == supervisor->next)
		supervisor_next_done(supervisor, &err);
	else
		lifecycle_event(child, event);
}
