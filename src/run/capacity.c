#include "run/capacity.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "os/fds.h"
#include "run/generation.h"

/* What a worker has besides sockets and connections: 0 to 2, its channel, its loop; with room. */
#define OWN_FILES 32

/*
 * The kernel deals connections out by a hash, which is no more even than dice: beyond some hundred
 * a worker, one part in 17 is four standard deviations and more. Sockets that all share are dealt
 * out less evenly still, but there a worker that is full leaves the rest to the others.
 */
#define SPREAD 17

#define WORKERS_MAX 1024 /* the setting's range */

uint64_t capacity_connections(uint64_t files, size_t sockets, unsigned workers)
{
	uint64_t taken = OWN_FILES + sockets;
	uint64_t room = files > taken ? files - taken : 0;

	if (workers > 1)
		room = room * (SPREAD - 1) / SPREAD;
	return room * workers;
}

unsigned capacity_workers(uint64_t files, size_t own_sockets, uint64_t connections)
{
	for (unsigned workers = 1; workers <= WORKERS_MAX; workers++)
		if (capacity_connections(files, own_sockets * workers, workers) >= connections)
			return workers;
	return 0;
}

/* 0: no limit. */
static uint64_t allowed(const struct service *service)
{
	int64_t own = service->conf->limits.max_connections;
	int64_t all = service->generation->conf->limits.max_connections;

	return (uint64_t)(own == 0 || (all != 0 && all < own) ? all : own);
}

static bool has_connections(const struct service *service)
{
	for (size_t i = 0; i < service->socket_count; i++)
		if (!transport_is_datagram(service->sockets[i].entry->key.place.transport))
			return true;
	return false;
}

static void check(const struct service *service, uint64_t files)
{
	unsigned workers = service->slot_count, enough;
	uint64_t most = allowed(service), held;
	char advice[64] = "";

	held = capacity_connections(files, service->socket_count, workers);
	if (most <= held)
		return;
	enough = capacity_workers(files, (service->socket_count + workers - 1) / workers, most);
	if (enough > 0)
		snprintf(advice, sizeof(advice), ", or set workers = %u", enough);
	log_warning("service %s: max_connections is %" PRIu64 ", and %u worker%s with %" PRIu64
		    " open files%s about %" PRIu64 ": raise the limit of open files%s",
		    service->conf->name, most, workers, workers == 1 ? "" : "s", files,
		    workers == 1 ? " holds" : " each hold", held, advice);
}

void capacity_check(const struct generation *generation)
{
	const struct service *service;
	uint64_t files = fds_raise_limit();

	TAILQ_FOREACH (service, &generation->services, link)
		if (files > 0 && !service_is_program(service) && has_connections(service))
			check(service, files);
}
