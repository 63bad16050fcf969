/*
 * A generation: one configuration, and the services that it asks for. A start makes the first; each
 * restart in place makes the next one beside the one that serves, and only when all of its workers
 * are ready does it take over ("commit"); until then it can be given up without a trace.
 */
#ifndef ECHOD_RUN_GENERATION_H
#define ECHOD_RUN_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"
#include "run/service.h"

struct supervisor;

struct generation {
	struct supervisor *supervisor;
	uint64_t number;
	struct conf_source *source; /* owned */
	struct conf *conf;	    /* owned */
	bool committed;
	struct service_list services;
	unsigned places; /* of all services that speak a protocol */
	int limits_fd;	 /* their common table of limits (run/tables.h); -1: none */
};

/* Takes source and conf in any case. Returns NULL with the reason. */
struct generation *generation_new(struct supervisor *supervisor, uint64_t number,
				  struct conf_source *source, struct conf *conf, struct error *err);

/* The service of this name, or NULL. */
struct service *generation_service(const struct generation *generation, const char *name);

/*
 * What the former generation knew beyond its configuration: which services are stopped by order,
 * and what was added at run time (a service of the file with that name takes its place).
 */
int generation_inherit(struct generation *generation, const struct generation *former,
		       struct error *err);

/*
 * Look up the users, find or bind the sockets of services that are not stopped (a port in use is
 * tried again for `retry_ms`), make the tables of limits.
 */
int generation_prepare(struct generation *generation, int64_t retry_ms, struct error *err);

/*
 * Start a process in every place; programs that run for `former` (NULL: none), or whose processes
 * have not ended yet, are left to generation_take_over.
 */
int generation_begin(struct generation *generation, const struct generation *former,
		     struct error *err);

bool generation_is_ready(const struct generation *generation);

/*
 * From now on this generation serves: listen on all of its sockets, then "go" to every worker.
 * Returns -1 when one cannot listen: new ones first, so that those which serve go on as they were.
 */
int generation_commit(struct generation *generation, struct error *err);

/* From now on this generation is the current one: note who accepts where. */
void generation_assign_sockets(struct generation *generation);

/* After the commit: take programs and counts from the former generation, and let that one retire.
 */
void generation_take_over(struct generation *generation, struct generation *former);

/* End its processes at once (it was never committed). */
void generation_abandon(struct generation *generation);

/* Somebody who empties the queues must be there: before a polite stop. */
void generation_fill(struct generation *generation);

/* Close the supervisor's copies of its sockets (a stop). */
void generation_close_sockets(struct generation *generation);

/*
 * Let go of sockets, configuration and memory; its processes end, or have been taken over. NULL is
 * allowed.
 */
void generation_free(struct generation *generation);

/* A child said that it is ready. */
void generation_child_ready(struct child *child);

/* A child has been reaped with this status (waitpid(2)); it may be freed here. */
void generation_child_ended(struct child *child, int status);

#endif
