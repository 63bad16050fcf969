/*
 * A generation: one configuration, and the workers that serve it. A start makes the first; each
 * restart in place makes the next one beside the one that serves, and only when all of its workers
 * are ready does it take over ("commit"); until then it can be given up without a trace.
 */
#ifndef ECHOD_RUN_GENERATION_H
#define ECHOD_RUN_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"
#include "os/privileges.h"
#include "run/child.h"
#include "run/sockets.h"

struct supervisor;

/* A socket that the generation needs, and who listens on it: worker `number % workers` of the
 * service. */
struct generation_socket {
	struct socket_entry *entry;
	size_t service;	 /* index in conf->services */
	unsigned number; /* of the socket among those of its address */
};

/* The place of one worker: it outlives the processes that fill it. */
struct slot {
	struct generation *generation;
	size_t service; /* index in conf->services */
	unsigned index;
	struct child *child;   /* NULL while there is none */
	unsigned failures;     /* deaths by its own fault in a row */
	struct event *respawn; /* the timer of the back-off */
};

struct generation {
	struct supervisor *supervisor;
	uint64_t number;
	struct conf_source *source; /* owned */
	struct conf *conf;	    /* owned */
	struct privileges privileges;
	bool committed;
	struct generation_socket *sockets;
	size_t socket_count;
	struct slot *slots;
	size_t slot_count;
};

/* Takes source and conf in any case. Returns NULL with the reason. */
struct generation *generation_new(struct supervisor *supervisor, uint64_t number,
				  struct conf_source *source, struct conf *conf, struct error *err);

/* Find or bind its sockets; a port in use is tried again for `retry_ms`. */
int generation_bind(struct generation *generation, int64_t retry_ms, struct error *err);

/* Take over a socket that the former image served with; then children are put into their slots. */
int generation_add_socket(struct generation *generation, struct socket_entry *entry, size_t service,
			  unsigned number, struct error *err);
struct slot *generation_slot(struct generation *generation, const char *service, unsigned index);

/* Start a worker in every empty slot. */
int generation_start(struct generation *generation, struct error *err);

/* After execve: slots without a worker that is ready, whose timers were lost, get new ones. */
void generation_refill(struct generation *generation);

/* A stop: somebody must empty the queues of empty slots, too. */
void generation_fill(struct generation *generation);

bool generation_all_ready(const struct generation *generation);

/*
 * From now on this generation serves: listen on all of its sockets, then "go" to every worker. When
 * one socket cannot listen, nothing has changed, and -1.
 */
int generation_commit(struct generation *generation, struct error *err);

/* Its workers serve on what they have, accept no more, and end when it is done. */
void generation_retire(struct generation *generation);

/* End its workers at once (it was never committed). */
void generation_stop(struct generation *generation);

/* Close the supervisor's copies of its sockets (a stop). */
void generation_close_sockets(struct generation *generation);

/*
 * Let go of sockets, configuration and memory; its processes are left as they are. NULL is allowed.
 */
void generation_free(struct generation *generation);

/* A child said that it is ready. */
void generation_child_ready(struct child *child);

/* A child has been reaped with this status (waitpid(2)); the child is freed here. */
void generation_child_ended(struct child *child, int status);

#endif
