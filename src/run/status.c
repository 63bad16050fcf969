#include "run/status.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/logtarget.h"
#include "base/text.h"
#include "run/supervisor.h"

#include "config.h"

json_t *status_text(const char *text)
{
	char escaped[4 * PATH_MAX];
	json_t *value;

	if (text == NULL)
		return json_null();
	value = json_string(text);
	if (value != NULL)
		return value;
	text_escape_ascii(escaped, sizeof(escaped), text, strlen(text));
	return json_string(escaped);
}

json_t *status_time(time_t t)
{
	char text[32];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static json_t *addresses(const struct service *service)
{
	json_t *list = json_array();

	for (size_t i = 0; i < service->socket_count; i++) {
		const struct socket_entry *entry = service->sockets[i].entry;
		char text[ADDR_TEXT_MAX];

		if (entry->number != 0)
			continue;
		socket_entry_format(entry, text);
		json_array_append_new(list, status_text(text));
	}
	return list;
}

const char *status_scheme(const char *address)
{
	/* The other transports are named; the host of a bound socket is always a number. */
	return isalpha((unsigned char)address[0]) ? "" : "tcp:";
}

static void print_ports(const struct service *service)
{
	char text[ADDR_TEXT_MAX];

	for (size_t i = 0; i < service->socket_count; i++) {
		if (service->sockets[i].entry->number != 0)
			continue;
		socket_entry_format(service->sockets[i].entry, text);
		printf("%s %s%s\n", service->conf->name, status_scheme(text), text);
	}
}

void status_print_ports(const struct generation *generation)
{
	const struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		print_ports(service);
	if (fflush(stdout) != 0)
		log_warning("cannot print the ports: %s", strerror(errno));
}

static json_t *command(const struct service *service)
{
	json_t *list;

	if (!service_is_program(service))
		return json_null();
	list = json_array();
	for (char **word = service->conf->command; *word != NULL; word++)
		json_array_append_new(list, status_text(*word));
	return list;
}

static json_int_t restarts_of(const struct service *service)
{
	json_int_t n = (json_int_t)service->restarts;

	for (unsigned i = 0; i < service->slot_count; i++)
		n += service->slots[i] == NULL ? 0 : (json_int_t)service->slots[i]->restarts;
	return n;
}

static json_t *counters(const struct counters_total *total)
{
	json_t *object = json_object();

#define COUNTERS_FIELD(name, text)                                                                 \
	json_object_set_new(object, #name, json_integer((json_int_t)total->name));
	COUNTERS(COUNTERS_FIELD)
#undef COUNTERS_FIELD
	return object;
}

static json_t *service_json(const struct service *service)
{
	struct counters_total total = service->ended;
	bool program = service_is_program(service);
	uint64_t now = 0;

	child_sum_counters(&service->generation->supervisor->children, service->conf->name, &total,
			   &now);
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:I, s:I, s:s, s:I, s:I, s:I, s:o}", "name",
			 service->conf->name, "kind", program ? "program" : "protocol", "protocol",
			 program ? json_null() : json_string(service->conf->protocol), "command",
			 command(service), "addresses", addresses(service), "processes",
			 (json_int_t)service->slot_count, "running",
			 (json_int_t)service_running(service), "state", service_state(service),
			 "restarts", restarts_of(service), "connections", (json_int_t)now,
			 "requests", (json_int_t)total.requests, "counters", counters(&total));
}

static json_t *services(const struct generation *generation)
{
	json_t *list = json_array();
	const struct service *service;

	if (generation != NULL)
		TAILQ_FOREACH (service, &generation->services, link)
			json_array_append_new(list, service_json(service));
	return list;
}

static json_t *processes(struct supervisor *supervisor)
{
	json_t *list = json_array();
	struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link) {
		if (child->pid == 0)
			continue;
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:I, s:s, s:I, s:I}", "name",
						child->name, "service", child->service_name, "pid",
						(json_int_t)child_shown_pid(child), "state",
						child_state_name(child->state), "generation",
						(json_int_t)child->generation, "connections",
						(json_int_t)child_connections(child)));
	}
	return list;
}

static json_t *restarts(const struct restart *restart)
{
	json_t *last = json_null();

	if (restart->last_text[0] != '\0')
		last = json_pack("{s:b, s:o}", "ok", restart->last_code == 0, "text",
				 status_text(restart->last_text));
	return json_pack("{s:I, s:I, s:I, s:o}", "begun", (json_int_t)restart->begun, "ended",
			 (json_int_t)restart->ended, "failed", (json_int_t)restart->failed, "last",
			 last);
}

static const char *phase_name(enum phase phase)
{
	switch (phase) {
	case PHASE_STARTING:
		return "starting";
	case PHASE_SERVING:
		return "serving";
	default:
		return "stopping";
	}
}

json_t *status_json(struct supervisor *supervisor)
{
	const struct generation *current = supervisor->current;
	struct counters_total total = supervisor->ended;
	json_int_t now;
	uint64_t connections = 0;

	child_sum_counters(&supervisor->children, NULL, &total, &connections);
	now = (json_int_t)connections;
	/* Connections of a worker that was killed were never counted as closed. */
	total.log_dropped += logtarget_dropped();
	if (total.accepted > total.closed && total.accepted - total.closed > connections)
		total.closed = total.accepted - connections;
	return json_pack(
		"{s:b, s:i, s:I, s:s, s:s, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:{s:I, s:I}, s:o}",
		"ok", 1, "schema", 1, "pid", (json_int_t)getpid(), "version", PACKAGE_VERSION,
		"state", phase_name(supervisor->phase), "since", status_time(supervisor->since),
		"config", status_text(current == NULL ? NULL : conf_source_path(current->source)),
		"pidfile", status_text(supervisor->pidfile.path), "control",
		status_text(current == NULL ? NULL : current->conf->control), "generation",
		(json_int_t)(current == NULL ? 0 : current->number), "restarts",
		restarts(&supervisor->restart), "services", services(current), "processes",
		processes(supervisor), "connections", "now", now, "total",
		(json_int_t)total.accepted, "counters", counters(&total));
}
