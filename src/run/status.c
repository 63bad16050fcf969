#include "run/status.h"

#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

static json_t *since(time_t t)
{
	char text[32];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static json_t *addresses(const struct generation *generation, size_t service)
{
	json_t *list = json_array();

	for (size_t i = 0; i < generation->socket_count; i++) {
		const struct generation_socket *socket = &generation->sockets[i];
		char text[ADDR_TEXT_MAX];

		if (socket->service != service || socket->number != 0)
			continue;
		address_format(text, sizeof(text),
			       (struct sockaddr *)&socket->entry->address.storage);
		json_array_append_new(list, json_string(text));
	}
	return list;
}

static json_int_t workers(const struct generation *generation, size_t service)
{
	json_int_t n = 0;

	for (size_t i = 0; i < generation->slot_count; i++)
		n += generation->slots[i].service == service;
	return n;
}

static json_t *services(const struct generation *generation)
{
	json_t *list = json_array();

	for (size_t i = 0; generation != NULL && i < generation->conf->service_count; i++) {
		const struct conf_service *service = &generation->conf->services[i];

		json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", service->name,
						      "protocol", service->protocol, "addresses",
						      addresses(generation, i), "workers",
						      workers(generation, i)));
	}
	return list;
}

static json_t *processes(struct supervisor *supervisor)
{
	json_t *list = json_array();
	struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:I, s:s, s:I, s:I}", "name", child->name,
					"service", child->service, "pid", (json_int_t)child->pid,
					"state", child_state_name(child->state), "generation",
					(json_int_t)child->generation, "connections",
					(json_int_t)(counter_get(&child->counters->accepted) -
						     counter_get(&child->counters->closed))));
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

static json_t *counters(const struct counters_total *total)
{
	json_t *object = json_object();

#define COUNTERS_FIELD(name, text)                                                                 \
	json_object_set_new(object, #name, json_integer((json_int_t)total->name));
	COUNTERS(COUNTERS_FIELD)
#undef COUNTERS_FIELD
	return object;
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
	json_int_t closed_by_death, now = 0;
	struct child *child;

	/* Connections of a worker that was killed were never counted as closed. */
	TAILQ_FOREACH (child, &supervisor->children, link) {
		now += (json_int_t)(counter_get(&child->counters->accepted) -
				    counter_get(&child->counters->closed));
		counters_sum(&total, child->counters);
	}
	total.log_dropped += logtarget_dropped();
	closed_by_death = (json_int_t)total.accepted - (json_int_t)total.closed - now;
	total.closed += (uint64_t)(closed_by_death > 0 ? closed_by_death : 0);
	return json_pack(
		"{s:b, s:i, s:I, s:s, s:s, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:{s:I, s:I}, s:o}",
		"ok", 1, "schema", 1, "pid", (json_int_t)getpid(), "version", PACKAGE_VERSION,
		"state", phase_name(supervisor->phase), "since", since(supervisor->since), "config",
		status_text(current == NULL ? NULL : conf_source_path(current->source)), "pidfile",
		status_text(supervisor->pidfile.path), "control",
		status_text(current == NULL ? NULL : current->conf->control), "generation",
		(json_int_t)(current == NULL ? 0 : current->number), "restarts",
		restarts(&supervisor->restart), "services", services(current), "processes",
		processes(supervisor), "connections", "now", now, "total",
		(json_int_t)total.accepted, "counters", counters(&total));
}
