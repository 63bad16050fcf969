/*
 * A service of a generation: what it is configured to be, its listening sockets, and the places
 * that its processes fill.
 */
#ifndef ECHOD_RUN_SERVICE_H
#define ECHOD_RUN_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include "conf/conf.h"
#include "os/privileges.h"
#include "run/child.h"
#include "run/sockets.h"

struct generation;

/*
 * A process that was just forked holds copies of all sockets until it has let go of them: so long
 * an address that was given up may still be in use, in ms.
 */
#define SERVICE_REBIND_MS 250

struct service_socket {
	struct socket_entry *entry;
	int server; /* the index of the worker that accepts there; -1: none, or all (shared) */
};

struct service {
	TAILQ_ENTRY(service) link;
	struct generation *generation;
	const struct conf_service *conf;
	struct conf_service *added; /* the same, owned: it came by `echod add`; else NULL */
	struct privileges privileges;
	bool stopped;		     /* by order, until it is started by order */
	struct counters_total ended; /* of its processes that are gone */
	uint64_t restarts;	     /* in places that it had and has no more */
	struct service_socket *sockets;
	size_t socket_count;
	struct child **slots; /* a place may be empty (NULL) until the generation is committed */
	unsigned slot_count;
	unsigned first_place; /* the number of its first one among those of all services */
	int limits_fd;	      /* its table of limits (run/tables.h); -1: none */
};

TAILQ_HEAD(service_list, service);

/*
 * Put a service at the end of its generation. Takes `added` (NULL: conf is the generation's).
 * Returns NULL without memory.
 */
struct service *service_new(struct generation *generation, const struct conf_service *conf,
			    struct conf_service *added, struct error *err);

/* After execve: as many places as the former image had, before any is filled. */
int service_set_places(struct service *service, unsigned count, struct error *err);

/* After execve: who accepts where is as it was; a place that was lost is filled anew. */
void service_complete(struct service *service);

/* Whom its processes run as, by its own settings and those of all. */
int service_resolve_user(struct service *service, struct error *err);

/* Let go of its sockets and its memory; its processes go on as nobody's. */
void service_free(struct service *service);

bool service_is_program(const struct service *service);

/* The nice value of its processes: its own goes over that of all. */
int64_t service_nice(const struct service *service);

/*
 * Find or bind its sockets; an address in use is tried again for `retry_ms`. What a service manager
 * has passed for this service takes the place of its `listen`.
 */
int service_bind(struct service *service, int64_t retry_ms, struct error *err);

/*
 * Each socket that a service manager has passed must be meant for a service of this generation.
 * Returns 0, or -1 with what to do about it.
 */
int service_check_passed(const struct generation *generation, struct error *err);

/* Take what was passed for this service. Returns how many, or -1. */
int service_take_passed(struct service *service, struct error *err);

/*
 * One more socket that it listens on: bound, passed, or handed over by the former image. Returns 0,
 * or -1 with the reason.
 */
int service_add_socket(struct service *service, struct socket_entry *entry, struct error *err);

/* Whether all sockets listen already (true), or none of them (false): listen on those. */
int service_listen(struct service *service, bool listening, struct error *err);

/* Set the options of one of its sockets, and listen. Returns 0 or -1. */
int service_listen_on(const struct service *service, struct socket_entry *entry, struct error *err);

/*
 * A worker that was taken over may have shut down, or made blocking, the sockets that it shares
 * with us and its siblings: listening again heals them.
 */
void service_heal_sockets(const struct service *service);

/* Close the supervisor's copies. */
void service_close_sockets(struct service *service);

/* Whether socket i belongs to this worker; a shared one belongs to all. */
bool service_owns(const struct service *service, size_t i, unsigned index);

/*
 * Say who accepts on which socket: its owner, or, while that one is missing, the next worker that
 * runs. Called after every change of a child's state.
 */
void service_assign_sockets(struct service *service);

/* Give every empty place a record, and each record a process; an uncommitted generation's. */
int service_begin(struct service *service, struct error *err);

/* A record, without a process, for each place that has none. */
int service_fill_places(struct service *service, struct error *err);

/* Every worker can serve. */
bool service_is_ready(const struct service *service);

/* "go" to every process: the generation serves. */
void service_go(struct service *service);

/* Its processes serve on what they have, accept no more, and end when that is done. */
void service_retire(struct service *service);

/* End its processes at once: it was never committed. */
void service_abandon(struct service *service);

/*
 * Take the process of a program, or its record, from the former generation. One whose settings have
 * changed is ended, and started anew after that.
 */
void service_take_over(struct service *service, struct service *former);

/*
 * A process of a program with this name that fills no place any more and has not ended yet; NULL:
 * none. The program must not run twice: service_take_leftover lets its next one wait for that end.
 */
struct child *service_leftover(const struct service *service);
void service_take_leftover(struct service *service);

/* By order, of a committed generation. service_start returns -1 when it cannot bind. */
int service_start(struct service *service, struct error *err);
void service_stop(struct service *service);

/* A word for the state of the whole: "running", "stopped", "starting", "backing off", ... */
const char *service_state(const struct service *service);

/* How many of its places run. */
unsigned service_running(const struct service *service);

/* When its queues would be closed: somebody who serves them must be there. */
void service_fill(struct service *service);

#endif
