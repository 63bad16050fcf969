#include "run/tables.h"

#include <unistd.h>

#include "base/log.h"
#include "os/memory_file.h"
#include "run/child.h"
#include "run/generation.h"
#include "run/supervisor.h"

struct limits_rules limits_rules_of(const struct conf_limits *limits)
{
	return (struct limits_rules){
		.connections = (uint64_t)limits->max_connections,
		.connections_per_source = (uint64_t)limits->max_connections_per_source,
		.connections_per_prefix = (uint64_t)limits->max_connections_per_prefix,
		.connection_rate = (uint64_t)limits->max_connection_rate,
		.connection_rate_per_source = (uint64_t)limits->max_connection_rate_per_source,
		.byte_rate_per_source = (uint64_t)limits->max_byte_rate_per_source,
		.request_rate_per_source = (uint64_t)limits->max_request_rate_per_source,
		.datagram_rate = (uint64_t)limits->max_datagram_rate,
	};
}

/* What a service manager has passed takes the place of any service's `listen`. */
static bool are_datagrams_passed(const struct generation *generation)
{
	const struct socket_entry *entry;

	TAILQ_FOREACH (entry, &generation->supervisor->sockets, link)
		if (entry->passed && transport_is_datagram(entry->key.place.transport))
			return true;
	return false;
}

/* False for a program, whose sockets are its own. */
static bool has_datagrams(const struct service *service)
{
	for (size_t i = 0; i < service->conf->listen_count; i++)
		if (transport_is_datagram(service->conf->listen[i].endpoint.transport))
			return true;
	return !service_is_program(service) && are_datagrams_passed(service->generation);
}

/* A limit of datagrams is set by default; without a socket for them it needs no table. */
static bool is_needed(const struct conf_limits *limits, bool datagrams)
{
	struct limits_rules rules = limits_rules_of(limits);

	if (!datagrams)
		rules.datagram_rate = 0;
	return limits_needed(&rules);
}

/* A file of the right size that can never be resized: more than that a worker does not rely on. */
static int open_table(int *fd, bool needed, unsigned places, struct error *err)
{
	if (*fd >= 0 && needed && memory_file_is_shared(*fd, limits_size(places)))
		return 0;
	if (*fd >= 0)
		close(*fd);
	*fd = needed ? memory_file_shared("echod-limits", limits_size(places), err) : -1;
	return needed && *fd < 0 ? -1 : 0;
}

int tables_open(struct generation *generation, struct error *err)
{
	struct service *service;
	unsigned places = 0;
	bool any_datagrams = false;
	int result = 0;

	TAILQ_FOREACH (service, &generation->services, link) {
		bool program = service_is_program(service), datagrams = has_datagrams(service);
		bool needed = !program && is_needed(&service->conf->limits, datagrams);

		service->first_place = places;
		places += program ? 0 : service->slot_count;
		any_datagrams = any_datagrams || datagrams;
		if (open_table(&service->limits_fd, needed, service->slot_count, err) < 0)
			result = -1;
	}
	generation->places = places;
	if (open_table(&generation->limits_fd,
		       places > 0 && is_needed(&generation->conf->limits, any_datagrams), places,
		       err) < 0)
		result = -1;
	return result;
}

static void give_back(int fd, unsigned places, unsigned place)
{
	struct error err = {0};

	if (fd >= 0 && limits_give_back(fd, places, place, &err) < 0)
		log_error("%s", err.text);
}

void tables_give_back(const struct child *child)
{
	const struct service *service = child->service;

	if (service == NULL || service_is_program(service))
		return;
	give_back(service->limits_fd, service->slot_count, child->index);
	give_back(service->generation->limits_fd, service->generation->places,
		  service->first_place + child->index);
}
