#include "run/ps.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "os/procs.h"
#include "run/status.h"
#include "run/supervisor.h"

static json_t *number_or_null(bool known, json_int_t number)
{
	return known ? json_integer(number) : json_null();
}

static json_t *real_or_null(bool known, double number)
{
	return known ? json_real(number) : json_null();
}

/* Of the process, and for a program of all that it started. */
static bool find_use(const struct child *child, struct procs *procs, struct procs_use *use)
{
	struct proc proc;

	if (child->pid == 0)
		return false;
	if (child->kind == CHILD_PROGRAM) {
		/* The keeper itself is not the program. */
		if (procs->count == 0 || child->program == 0)
			return false;
		*use = procs_sum(procs, child->program);
		return use->count > 0;
	}
	if (procs_read(child->pid, &proc) < 0)
		return false;
	*use = (struct procs_use){1, proc.cpu_ms, proc.memory};
	return true;
}

/* Why there is no process. */
static json_t *note(const struct child *child)
{
	if (child->text[0] != '\0')
		return status_text(child->text);
	if (child->state == CHILD_STOPPED && child->service != NULL && child->service->stopped)
		return json_string("by order");
	return json_null();
}

static json_t *row(const struct child *child, struct procs *procs)
{
	bool serves = child->pid != 0 && child->kind == CHILD_WORKER;
	double seconds = (double)(clock_ms() - child->since) / 1000;
	struct procs_use use = {0};
	bool used = find_use(child, procs, &use);

	return json_pack(
		"{s:s, s:s, s:s, s:o, s:s, s:o, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "name",
		child->name, "service", child->service_name, "kind", child_kind_name(child->kind),
		"pid", number_or_null(child->pid != 0, child_shown_pid(child)), "state",
		child_state_name(child->state), "since", status_time(time(NULL) - (time_t)seconds),
		"seconds", seconds, "restarts", (json_int_t)child->restarts, "generation",
		(json_int_t)child->generation, "connections",
		number_or_null(serves, (json_int_t)child_connections(child)), "requests_per_second",
		real_or_null(serves, watchdog_request_rate(child)), "cpu_seconds",
		real_or_null(used, (double)use.cpu_ms / 1000), "memory",
		number_or_null(used, (json_int_t)use.memory), "text", note(child));
}

/* Reading all of /proc takes a while: only when there is a program. */
static void scan(struct supervisor *supervisor, struct procs *procs)
{
	const struct child *child;
	struct error err = {0};

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->kind == CHILD_PROGRAM && child->pid != 0) {
			if (procs_scan(procs, &err) < 0)
				log_debug("%s", err.text);
			return;
		}
}

static void add_service(json_t *list, struct supervisor *supervisor, const char *service,
			struct procs *procs)
{
	const struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (strcmp(child->service_name, service) == 0)
			json_array_append_new(list, row(child, procs));
}

/* Those that retire from a service which the configuration no longer has. */
static void add_former(json_t *list, struct supervisor *supervisor, struct procs *procs)
{
	const struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (generation_service(supervisor->current, child->service_name) == NULL)
			json_array_append_new(list, row(child, procs));
}

json_t *ps_json(struct supervisor *supervisor)
{
	json_t *list = json_array();
	struct procs procs = {0};
	const struct service *service;

	scan(supervisor, &procs);
	TAILQ_FOREACH (service, &supervisor->current->services, link)
		add_service(list, supervisor, service->conf->name, &procs);
	add_former(list, supervisor, &procs);
	procs_free(&procs);
	return json_pack("{s:b, s:i, s:o}", "ok", 1, "schema", 1, "services", list);
}
