#include "run/service.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "os/listen.h"
#include "run/generation.h"
#include "run/lifecycle.h"
#include "run/spawn.h"
#include "run/supervisor.h"

static unsigned processors(void)
{
	cpu_set_t set;
	int n;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	n = CPU_COUNT(&set);
	return n < 1 ? 1 : (unsigned)n;
}

static unsigned places_of(const struct conf_service *service)
{
	if (conf_is_program(service))
		return 1;
	return service->workers > 0 ? (unsigned)service->workers : processors();
}

bool service_is_program(const struct service *service)
{
	return conf_is_program(service->conf);
}

/* ---- Making and freeing --------------------------------------------------------------------- */

struct service *service_new(struct generation *generation, const struct conf_service *conf,
			    struct conf_service *added, struct error *err)
{
	struct service *service = calloc(1, sizeof(*service));

	if (service != NULL) {
		service->generation = generation;
		service->conf = added != NULL ? added : conf;
		service->added = added;
		service->limits_fd = -1;
		service->slot_count = places_of(service->conf);
		service->slots = calloc(service->slot_count, sizeof(struct child *));
	}
	if (service == NULL || service->slots == NULL) {
		error_errno(err, "cannot plan a service");
		conf_service_free(added);
		free(service);
		return NULL;
	}
	TAILQ_INSERT_TAIL(&generation->services, service, link);
	return service;
}

int service_resolve_user(struct service *service, struct error *err)
{
	const struct conf *all = service->generation->conf;
	const struct conf_service *conf = service->conf;
	const char *user = conf->user != NULL ? conf->user : all->user;
	const char *group = conf->group != NULL || conf->user != NULL ? conf->group : all->group;
	int result = service_is_program(service)
			     ? privileges_resolve_program(&service->privileges, user, group, err)
			     : privileges_resolve(&service->privileges, user, group, err);

	return result < 0 ? error_prefix(err, "service %s: ", conf->name) : 0;
}

void service_close_sockets(struct service *service)
{
	for (size_t i = 0; i < service->socket_count; i++)
		sockets_release(&service->generation->supervisor->sockets,
				service->sockets[i].entry);
	free(service->sockets);
	service->sockets = NULL;
	service->socket_count = 0;
}

/* The child in this place is nobody's from now on; a record without a process goes at once. */
static void let_go(struct service *service, unsigned i, enum child_event event)
{
	struct child *child = service->slots[i];

	service->slots[i] = NULL;
	if (child == NULL)
		return;
	child->service = NULL;
	child->start_again = false;
	if (child->pid == 0)
		child_free(child);
	else
		lifecycle_event(child, event);
}

void service_free(struct service *service)
{
	service_close_sockets(service);
	for (unsigned i = 0; i < service->slot_count; i++)
		let_go(service, i, EVENT_QUIT);
	TAILQ_REMOVE(&service->generation->services, service, link);
	if (service->limits_fd >= 0)
		close(service->limits_fd);
	conf_service_free(service->added);
	free(service->slots);
	free(service);
}

/* ---- Sockets -------------------------------------------------------------------------------- */

int service_add_socket(struct service *service, struct socket_entry *entry, struct error *err)
{
	struct service_socket *larger =
		realloc(service->sockets, (service->socket_count + 1) * sizeof(*larger));

	if (larger == NULL)
		return error_errno(err, "cannot list the listening sockets");
	service->sockets = larger;
	/* Workers look at it before it is listened on; and one that was passed has nothing yet. */
	if (transport_is_datagram(entry->key.place.transport) &&
	    listen_want_facts(entry->fd, err) < 0)
		return -1;
	larger[service->socket_count++] = (struct service_socket){entry, -1};
	entry->users++;
	return 0;
}

bool service_owns(const struct service *service, size_t i, unsigned index)
{
	const struct socket_entry *entry = service->sockets[i].entry;

	return entry->shared || entry->number % service->slot_count == index;
}

void service_heal_sockets(const struct service *service)
{
	struct error err = {0};

	for (size_t i = 0; i < service->socket_count; i++) {
		if (!listen_is_on(service->sockets[i].entry->fd))
			log_warning(
				"a socket of service %s was broken by a process that shares it: "
				"healed",
				service->conf->name);
		if (service_listen_on(service, service->sockets[i].entry, &err) < 0)
			log_error("%s", err.text);
	}
}

/* ---- Lending -------------------------------------------------------------------------------- */

static bool runs(const struct child *child)
{
	return child != NULL && child->state == CHILD_RUNNING;
}

/*
 * Its owner; while that one is missing, the next worker that runs; -1: the queue has to wait, or is
 * everybody's.
 */
static int server_of(const struct service *service, size_t i)
{
	unsigned owner = service->sockets[i].entry->number % service->slot_count;

	if (service->sockets[i].entry->shared)
		return -1;

	for (unsigned k = 0; k < service->slot_count; k++) {
		unsigned index = (owner + k) % service->slot_count;

		if (runs(service->slots[index]))
			return (int)index;
	}
	return -1;
}

/* The owner knows by "go" that a socket is its own. */
static void tell(const struct service *service, int index, enum channel_type order, size_t i)
{
	if (index >= 0 && !service_owns(service, i, (unsigned)index) && runs(service->slots[index]))
		child_order(service->slots[index], order, (int64_t)i);
}

void service_assign_sockets(struct service *service)
{
	const struct supervisor *supervisor = service->generation->supervisor;

	if (service->generation != supervisor->current || supervisor->phase != PHASE_SERVING ||
	    service->stopped)
		return;
	for (size_t i = 0; i < service->socket_count; i++) {
		int former = service->sockets[i].server, server = server_of(service, i);

		if (former == server)
			continue;
		service->sockets[i].server = server;
		tell(service, former, CHANNEL_UNSERVE, i);
		tell(service, server, CHANNEL_SERVE, i);
	}
}

/* ---- Beginning ------------------------------------------------------------------------------ */

static int fill_place(struct service *service, unsigned i, struct error *err)
{
	struct child *child = child_new(service->generation->supervisor, service->conf->name, i,
					service_is_program(service) ? CHILD_PROGRAM : CHILD_WORKER);

	if (child == NULL)
		return error_errno(err, "cannot plan the processes of %s", service->conf->name);
	child->service = service;
	child->generation = service->generation->number;
	service->slots[i] = child;
	return 0;
}

int service_fill_places(struct service *service, struct error *err)
{
	for (unsigned i = 0; i < service->slot_count; i++)
		if (service->slots[i] == NULL && fill_place(service, i, err) < 0)
			return -1;
	return 0;
}

int service_begin(struct service *service, struct error *err)
{
	if (service_fill_places(service, err) < 0)
		return -1;
	for (unsigned i = 0; i < service->slot_count; i++)
		if (lifecycle_begin(service->slots[i], err) < 0)
			return -1;
	return 0;
}

bool service_is_ready(const struct service *service)
{
	for (unsigned i = 0; i < service->slot_count; i++) {
		const struct child *child = service->slots[i];

		if (child != NULL && child->state == CHILD_STARTING && !child->ready)
			return false;
	}
	return true;
}

void service_go(struct service *service)
{
	for (unsigned i = 0; i < service->slot_count; i++)
		if (service->slots[i] != NULL)
			lifecycle_event(service->slots[i], EVENT_GO);
}

int service_set_places(struct service *service, unsigned count, struct error *err)
{
	struct child **slots = calloc(count, sizeof(struct child *));

	if (slots == NULL)
		return error_errno(err, "cannot plan the processes of %s", service->conf->name);
	free(service->slots);
	service->slots = slots;
	service->slot_count = count;
	return 0;
}

void service_complete(struct service *service)
{
	struct error err = {0};

	for (size_t i = 0; i < service->socket_count; i++)
		service->sockets[i].server = server_of(service, i);
	for (unsigned i = 0; i < service->slot_count; i++) {
		if (service->slots[i] != NULL)
			continue;
		if (fill_place(service, i, &err) < 0)
			log_error("%s", err.text);
		else if (!service->stopped)
			lifecycle_event(service->slots[i], EVENT_START);
	}
}

/* ---- The next generation -------------------------------------------------------------------- */

static bool any_runs(const struct service *service)
{
	for (unsigned i = 0; i < service->slot_count; i++)
		if (runs(service->slots[i]))
			return true;
	return false;
}

void service_fill(struct service *service)
{
	if (service_is_program(service) || service->stopped || any_runs(service))
		return;
	for (unsigned i = 0; i < service->slot_count; i++)
		if (service->slots[i] != NULL)
			lifecycle_event(service->slots[i], EVENT_START);
}

/* Sockets that no other generation listens on: somebody must empty their queues. */
static void give_up_sockets(struct service *service)
{
	bool filled = false;

	for (size_t i = 0; i < service->socket_count; i++) {
		if (service->sockets[i].entry->users > 1)
			continue;
		if (!filled)
			service_fill(service);
		filled = true;
		for (unsigned k = 0; k < service->slot_count; k++)
			if (service->slots[k] != NULL)
				child_order(service->slots[k], CHANNEL_GIVE_UP, (int64_t)i);
	}
}

void service_retire(struct service *service)
{
	bool program = service_is_program(service);

	give_up_sockets(service);
	/* Ours first: who closes a socket last must have emptied its queue, and we cannot. */
	service_close_sockets(service);
	for (unsigned i = 0; i < service->slot_count; i++)
		let_go(service, i, program ? EVENT_STOP : EVENT_RETIRE);
}

void service_abandon(struct service *service)
{
	for (unsigned i = 0; i < service->slot_count; i++)
		let_go(service, i, EVENT_QUIT);
}

int64_t service_nice(const struct service *service)
{
	return service->conf->nice != CONF_NICE_GLOBAL ? service->conf->nice
						       : service->generation->conf->nice;
}

static bool same_program(const struct service *a, const struct service *b)
{
	return conf_program_equal(a->conf, b->conf) && service_nice(a) == service_nice(b) &&
	       a->privileges.uid == b->privileges.uid && a->privileges.gid == b->privileges.gid;
}

void service_take_over(struct service *service, struct service *former)
{
	struct child *child = former->slots[0];

	former->slots[0] = NULL;
	service->slots[0] = child;
	if (child == NULL)
		return;
	child->service = service;
	child->generation = service->generation->number;
	if (service->stopped || same_program(service, former))
		return;
	log_notice("the settings of %s have changed: it is started anew", service->conf->name);
	/* Two of the same program must not run at once: the new one waits for the end of the old.
	 */
	if (child->pid != 0) {
		child->start_again = true;
		lifecycle_event(child, EVENT_STOP);
	} else {
		lifecycle_event(child, EVENT_START);
	}
}

struct child *service_leftover(const struct service *service)
{
	struct child *child;

	if (!service_is_program(service))
		return NULL;
	TAILQ_FOREACH (child, &service->generation->supervisor->children, link)
		if (child->pid != 0 && child->service == NULL && child->kind == CHILD_PROGRAM &&
		    strcmp(child->service_name, service->conf->name) == 0)
			return child;
	return NULL;
}

void service_take_leftover(struct service *service)
{
	struct child *child = service_leftover(service);
	struct error err = {0};

	if (!service_is_program(service) || service->slots[0] != NULL)
		return;
	if (child != NULL) {
		child->service = service;
		child->start_again = !service->stopped;
		service->slots[0] = child;
	} else if (fill_place(service, 0, &err) < 0) {
		log_error("%s", err.text);
	} else if (!service->stopped) {
		lifecycle_event(service->slots[0], EVENT_START); /* it has just ended */
	}
}

/* ---- Orders --------------------------------------------------------------------------------- */

static bool is_ending(const struct service *service)
{
	for (unsigned i = 0; i < service->slot_count; i++)
		if (!service->slots[i]->start_again &&
		    (service->slots[i]->state == CHILD_DRAINING ||
		     service->slots[i]->state == CHILD_STOPPING))
			return true;
	return false;
}

int service_start(struct service *service, struct error *err)
{
	if (service_fill_places(service, err) < 0)
		return -1;
	if (is_ending(service))
		return error_set(err, EXIT_FAILED, "%s is still stopping: try again",
				 service->conf->name);
	if (service->stopped && (service_bind(service, SERVICE_REBIND_MS, err) < 0 ||
				 service_listen(service, false, err) < 0)) {
		service_close_sockets(service);
		return -1;
	}
	service->stopped = false;
	for (unsigned i = 0; i < service->slot_count; i++)
		lifecycle_event(service->slots[i], EVENT_START);
	return 0;
}

void service_stop(struct service *service)
{
	struct child_list *children = &service->generation->supervisor->children;
	struct child *child, *next;

	service_fill(service);
	service->stopped = true;
	/* Before the workers close theirs: who closes a socket last must have emptied its queue. */
	service_close_sockets(service);
	/* Those that a former generation left behind serve the same clients: they end, too. */
	for (child = TAILQ_FIRST(children); child != NULL; child = next) {
		next = TAILQ_NEXT(child, link);
		if (strcmp(child->service_name, service->conf->name) != 0)
			continue;
		child->start_again = false;
		lifecycle_event(child, EVENT_STOP);
	}
}

unsigned service_running(const struct service *service)
{
	unsigned n = 0;

	for (unsigned i = 0; i < service->slot_count; i++)
		n += runs(service->slots[i]);
	return n;
}

const char *service_state(const struct service *service)
{
	unsigned in[CHILD_STATES] = {0};

	for (unsigned i = 0; i < service->slot_count; i++)
		if (service->slots[i] != NULL)
			in[service->slots[i]->state]++;
	if (in[CHILD_DRAINING] + in[CHILD_STOPPING] > 0)
		return "stopping";
	if (in[CHILD_RUNNING] == service->slot_count)
		return "running";
	if (in[CHILD_RUNNING] > 0)
		return "degraded";
	if (in[CHILD_BACKING_OFF] > 0)
		return "backing off";
	return in[CHILD_STARTING] > 0 ? "starting" : "stopped";
}
