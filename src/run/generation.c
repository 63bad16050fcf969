#include "run/generation.h"

#include <errno.h>
#include <event2/event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/signame.h"
#include "os/listen.h"
#include "os/memory_file.h"
#include "run/signals.h"
#include "run/supervisor.h"
#include "run/worker.h"

#define ADDRESSES_MAX  32 /* of one name */
#define HEALTHY_MS     10000
#define BACKOFF_MS     100
#define BACKOFF_MAX_MS 10000

static unsigned processors(void)
{
	cpu_set_t set;
	int n;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	n = CPU_COUNT(&set);
	return n < 1 ? 1 : (unsigned)n;
}

static unsigned workers_of(const struct conf_service *service)
{
	return service->workers > 0 ? (unsigned)service->workers : processors();
}

/* ---- Making and freeing --------------------------------------------------------------------- */

static void on_respawn(evutil_socket_t fd, short what, void *arg);

static int make_slots(struct generation *generation, struct error *err)
{
	const struct conf *conf = generation->conf;
	size_t n = 0;

	for (size_t i = 0; i < conf->service_count; i++)
		n += workers_of(&conf->services[i]);
	generation->slots = calloc(n + 1, sizeof(*generation->slots));
	if (generation->slots == NULL)
		return error_errno(err, "cannot plan the workers");
	for (size_t i = 0; i < conf->service_count; i++)
		for (unsigned k = 0; k < workers_of(&conf->services[i]); k++) {
			struct slot *slot = &generation->slots[generation->slot_count++];

			slot->generation = generation;
			slot->service = i;
			slot->index = k;
			slot->respawn = evtimer_new(generation->supervisor->base, on_respawn, slot);
			if (slot->respawn == NULL)
				return error_set(err, EXIT_FAILED, "no memory to plan the workers");
		}
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
	if (make_slots(generation, err) == 0)
		return generation;
	generation_free(generation);
	return NULL;
}

void generation_close_sockets(struct generation *generation)
{
	for (size_t i = 0; i < generation->socket_count; i++)
		sockets_release(&generation->supervisor->sockets, generation->sockets[i].entry);
	free(generation->sockets);
	generation->sockets = NULL;
	generation->socket_count = 0;
}

void generation_free(struct generation *generation)
{
	if (generation == NULL)
		return;
	generation_close_sockets(generation);
	for (size_t i = 0; i < generation->slot_count; i++)
		if (generation->slots[i].respawn != NULL)
			event_free(generation->slots[i].respawn);
	free(generation->slots);
	conf_source_free(generation->source);
	conf_free(generation->conf);
	free(generation);
}

/* ---- Sockets -------------------------------------------------------------------------------- */

int generation_add_socket(struct generation *generation, struct socket_entry *entry, size_t service,
			  unsigned number, struct error *err)
{
	struct generation_socket *larger =
		realloc(generation->sockets, (generation->socket_count + 1) * sizeof(*larger));

	if (larger == NULL)
		return error_errno(err, "cannot list the listening sockets");
	generation->sockets = larger;
	larger[generation->socket_count++] = (struct generation_socket){entry, service, number};
	entry->users++;
	return 0;
}

static bool needs_already(const struct generation *generation, const struct address *address)
{
	for (size_t i = 0; i < generation->socket_count; i++)
		if (address_equal(&generation->sockets[i].entry->address, address))
			return true;
	return false;
}

/*
 * As many sockets as workers; more where more are there already: closing one would reset its queue.
 */
static int bind_address(struct generation *generation, size_t service,
			const struct address *address, int64_t retry_ms, bool *unsupported,
			struct error *err)
{
	struct socket_table *table = &generation->supervisor->sockets;
	unsigned workers = workers_of(&generation->conf->services[service]);
	unsigned there = sockets_group_size(table, address);
	unsigned wanted = workers > there ? workers : there;

	for (unsigned number = 0; number < wanted; number++) {
		struct socket_entry *entry = sockets_find(table, address, number);

		if (entry == NULL)
			entry = sockets_open(table, address, retry_ms, unsupported, err);
		if (entry == NULL ||
		    generation_add_socket(generation, entry, service, number, err) < 0)
			return -1;
	}
	return 0;
}

static int bind_listen(struct generation *generation, size_t service,
		       const struct conf_listen *listen, int64_t retry_ms, struct error *err)
{
	struct address addresses[ADDRESSES_MAX];
	int n = endpoint_resolve(&listen->endpoint, addresses, ADDRESSES_MAX, err);
	int bound = 0;

	if (n < 0)
		return error_prefix(err, "service %s: ", generation->conf->services[service].name);
	for (int i = 0; i < n; i++) {
		bool unsupported = false;

		if (needs_already(generation, &addresses[i])) {
			char text[ADDR_TEXT_MAX];

			address_format(text, sizeof(text),
				       (struct sockaddr *)&addresses[i].storage);
			return error_set(
				err, EXIT_CONFIG, "service %s: the address %s (%s) is used twice",
				generation->conf->services[service].name, text, listen->text);
		}
		if (bind_address(generation, service, &addresses[i], retry_ms, &unsupported, err) ==
		    0)
			bound++;
		else if (!unsupported)
			return -1;
	}
	/* "*" and names mean all addresses that the machine can serve; none at all is an error. */
	return bound > 0 ? 0 : -1;
}

int generation_bind(struct generation *generation, int64_t retry_ms, struct error *err)
{
	const struct conf *conf = generation->conf;

	for (size_t i = 0; i < conf->service_count; i++)
		for (size_t k = 0; k < conf->services[i].listen_count; k++)
			if (bind_listen(generation, i, &conf->services[i].listen[k], retry_ms,
					err) < 0)
				return -1;
	return 0;
}

static int listen_on(struct generation *generation, const struct generation_socket *socket,
		     struct error *err)
{
	const struct conf_service *service = &generation->conf->services[socket->service];
	struct listen_options options = {
		.nodelay = service->nodelay,
		.keepalive_ms = service->keepalive,
		.defer_accept_ms = service->defer_accept,
		.backlog = (int)service->backlog,
	};

	if (listen_set(socket->entry->fd, &options, err) < 0 ||
	    listen_start(socket->entry->fd, &options, err) < 0)
		return -1;
	socket->entry->listening = true;
	return 0;
}

/* New sockets first: if one fails, those that serve have not been touched. */
static int listen_on_all(struct generation *generation, struct error *err)
{
	for (int listening = 0; listening <= 1; listening++)
		for (size_t i = 0; i < generation->socket_count; i++)
			if (generation->sockets[i].entry->listening == (listening != 0) &&
			    listen_on(generation, &generation->sockets[i], err) < 0)
				return -1;
	return 0;
}

/* ---- Workers -------------------------------------------------------------------------------- */

struct slot *generation_slot(struct generation *generation, const char *service, unsigned index)
{
	for (size_t i = 0; i < generation->slot_count; i++) {
		struct slot *slot = &generation->slots[i];

		if (slot->index == index &&
		    strcmp(generation->conf->services[slot->service].name, service) == 0)
			return slot;
	}
	return NULL;
}

static bool serves(const struct slot *slot, const struct generation_socket *socket)
{
	return socket->service == slot->service &&
	       socket->number % workers_of(&slot->generation->conf->services[slot->service]) ==
		       slot->index;
}

/* The sockets that this slot's worker serves, in fresh memory. */
static int *sockets_of(const struct slot *slot, size_t *count)
{
	const struct generation *generation = slot->generation;
	int *fds = calloc(generation->socket_count + 1, sizeof(*fds));

	*count = 0;
	for (size_t i = 0; i < generation->socket_count && fds != NULL; i++) {
		if (serves(slot, &generation->sockets[i]))
			fds[(*count)++] = generation->sockets[i].entry->fd;
	}
	return fds;
}

/* A worker that was taken over may have shut down the sockets that it shared with us; this heals
 * them. */
static void heal_sockets(const struct slot *slot)
{
	struct generation *generation = slot->generation;
	struct error err = {0};

	for (size_t i = 0; i < generation->socket_count; i++)
		if (serves(slot, &generation->sockets[i]) &&
		    listen_on(generation, &generation->sockets[i], &err) < 0)
			log_error("%s", err.text);
}

/* Fork, with every signal blocked until the child has its own table. */
static pid_t fork_worker(const struct slot *slot, const struct child *child, int channel,
			 int *sockets, size_t socket_count)
{
	const struct generation *generation = slot->generation;
	struct worker_start start = {
		.name = child->name,
		.service = &generation->conf->services[slot->service],
		.privileges = &generation->privileges,
		.set_nice = launch_sets_nice(generation->supervisor->launch, generation->conf),
		.nice = (int)generation->conf->nice,
		.nice_written = generation->conf->nice_set,
		.drain_timeout_ms = generation->conf->drain_timeout,
		.channel = channel,
		.counters = child->counters_fd,
		.null = generation->supervisor->null,
		.sockets = sockets,
		.socket_count = socket_count,
	};
	pid_t pid;

	signals_block();
	pid = fork();
	if (pid == 0)
		worker_main(&start);
	signals_unblock();
	return pid;
}

static int spawn(struct slot *slot, struct error *err)
{
	struct generation *generation = slot->generation;
	const struct conf_service *service = &generation->conf->services[slot->service];
	struct child child = {
		.index = slot->index,
		.generation = generation->number,
		.state = CHILD_STARTING,
		.started_at = clock_ms(),
	};
	int ends[2], *sockets;
	size_t socket_count;

	snprintf(child.service, sizeof(child.service), "%s", service->name);
	snprintf(child.name, sizeof(child.name), "%s/%u", service->name, slot->index);
	child.counters_fd = memory_file_shared("echod-counters", COUNTERS_SIZE, err);
	if (child.counters_fd < 0)
		return -1;
	if (channel_pair(ends, err) < 0) {
		close(child.counters_fd);
		return -1;
	}
	child.channel = ends[0];
	if (generation->committed)
		heal_sockets(slot);
	sockets = sockets_of(slot, &socket_count);
	child.pid =
		sockets == NULL ? -1 : fork_worker(slot, &child, ends[1], sockets, socket_count);
	if (child.pid < 0)
		error_errno(err, "cannot start the worker %s", child.name);
	free(sockets);
	close(ends[1]);
	if (child.pid < 0) {
		close(ends[0]);
		close(child.counters_fd);
		return -1;
	}
	slot->child = child_add(generation->supervisor, &child, err);
	return slot->child == NULL ? -1 : 0;
}

int generation_start(struct generation *generation, struct error *err)
{
	for (size_t i = 0; i < generation->slot_count; i++)
		if (generation->slots[i].child == NULL && spawn(&generation->slots[i], err) < 0)
			return -1;
	return 0;
}

bool generation_all_ready(const struct generation *generation)
{
	for (size_t i = 0; i < generation->slot_count; i++)
		if (generation->slots[i].child == NULL || !generation->slots[i].child->ready)
			return false;
	return true;
}

static void go(struct child *child)
{
	child->state = CHILD_RUNNING;
	child_order(child, CHANNEL_GO, 0);
}

int generation_commit(struct generation *generation, struct error *err)
{
	if (listen_on_all(generation, err) < 0)
		return -1;
	generation->committed = true;
	for (size_t i = 0; i < generation->slot_count; i++)
		go(generation->slots[i].child);
	return 0;
}

/* True when this generation is the last that listens on one of its sockets. */
static bool gives_up_sockets(const struct generation *generation)
{
	for (size_t i = 0; i < generation->socket_count; i++)
		if (generation->sockets[i].entry->users == 1)
			return true;
	return false;
}

void generation_retire(struct generation *generation)
{
	struct supervisor *supervisor = generation->supervisor;
	int64_t timeout = supervisor->current->conf->retire_timeout;
	enum channel_type order =
		gives_up_sockets(generation) ? CHANNEL_RETIRE_LAST : CHANNEL_RETIRE;

	struct error err = {0};

	for (size_t i = 0; i < generation->slot_count; i++) {
		struct child *child = generation->slots[i].child;

		/* Somebody must empty the queue of a socket that is given up. */
		if (child == NULL && order == CHANNEL_RETIRE_LAST &&
		    spawn(&generation->slots[i], &err) == 0)
			child = generation->slots[i].child;
		if (child == NULL)
			continue;
		/* One that has just been started must know its sockets to empty their queues. */
		if (child->state == CHILD_STARTING)
			child_order(child, CHANNEL_GO, 0);
		child->state = CHILD_RETIRING;
		child_order(child, order, timeout);
	}
}

void generation_stop(struct generation *generation)
{
	for (size_t i = 0; i < generation->slot_count; i++) {
		struct child *child = generation->slots[i].child;

		if (child == NULL)
			continue;
		/* It never had a client, and may be stuck: there is nothing to be polite about. */
		child->state = CHILD_STOPPING;
		child_kill(child, SIGKILL);
	}
}

void generation_child_ready(struct child *child)
{
	struct supervisor *supervisor = child->supervisor;
	struct generation *next = supervisor->next;

	if (child->state != CHILD_STARTING)
		return;
	if (next != NULL && child->generation == next->number) {
		if (generation_all_ready(next))
			supervisor_next_done(supervisor, NULL);
	} else {
		go(child);
	}
}

/* ---- Deaths --------------------------------------------------------------------------------- */

static struct slot *slot_of(struct supervisor *supervisor, const struct child *child)
{
	struct generation *generations[] = {supervisor->current, supervisor->next};

	for (size_t g = 0; g < 2; g++)
		for (size_t i = 0; generations[g] != NULL && i < generations[g]->slot_count; i++)
			if (generations[g]->slots[i].child == child)
				return &generations[g]->slots[i];
	return NULL;
}

static void describe_end(const struct child *child, int status, char *out, size_t cap)
{
	if (WIFSIGNALED(status))
		snprintf(out, cap, "%s[%d] was ended by signal %s%s", child->name, (int)child->pid,
			 signame(WTERMSIG(status)), WCOREDUMP(status) ? " (core dumped)" : "");
	else if (child->failure[0] != '\0')
		snprintf(out, cap, "%s[%d] could not start: %.900s", child->name, (int)child->pid,
			 child->failure);
	else
		snprintf(out, cap, "%s[%d] exited with status %d", child->name, (int)child->pid,
			 WEXITSTATUS(status));
}

static void respawn_after(struct slot *slot, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	log_notice("a new %s/%u starts in %.1f s",
		   slot->generation->conf->services[slot->service].name, slot->index,
		   (double)ms / 1000);
	evtimer_add(slot->respawn, &tv);
}

/* 0 for the first failure, then 0.1 s, doubled up to 10 s. */
static int64_t backoff_ms(unsigned failures)
{
	int64_t ms = BACKOFF_MS;

	if (failures <= 1)
		return 0;
	for (unsigned i = 2; i < failures && ms < BACKOFF_MAX_MS; i++)
		ms *= 2;
	return ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : ms;
}

/* The timer of an empty slot starts a worker; that of a full one ends a worker that hangs in its
 * start. */
static void limit_start(struct slot *slot)
{
	int64_t limit = slot->generation->conf->start_timeout;
	struct timeval tv = {limit / 1000, limit % 1000 * 1000};

	evtimer_add(slot->respawn, &tv);
}

static void respawn(struct slot *slot)
{
	struct error err = {0};

	if (slot->generation->supervisor->phase != PHASE_SERVING)
		return;
	if (spawn(slot, &err) == 0) {
		limit_start(slot);
		return;
	}
	log_error("%s", err.text);
	slot->failures++;
	respawn_after(slot, backoff_ms(slot->failures + 1));
}

static void on_respawn(evutil_socket_t fd, short what, void *arg)
{
	struct slot *slot = arg;

	(void)fd;
	(void)what;
	if (slot->child == NULL) {
		respawn(slot);
	} else if (!slot->child->ready) {
		log_warning("%s[%d] does not get ready within start_timeout: killed",
			    slot->child->name, (int)slot->child->pid);
		child_kill(slot->child, SIGKILL); /* generation_child_ended replaces it */
	}
}

void generation_refill(struct generation *generation)
{
	for (size_t i = 0; i < generation->slot_count; i++) {
		struct slot *slot = &generation->slots[i];

		if (slot->child == NULL)
			respawn_after(slot, BACKOFF_MS);
		else if (!slot->child->ready)
			limit_start(slot);
	}
}

void generation_fill(struct generation *generation)
{
	struct error err = {0};

	for (size_t i = 0; i < generation->slot_count; i++)
		if (generation->slots[i].child == NULL && spawn(&generation->slots[i], &err) < 0)
			log_error("%s", err.text);
}

/* The end of a worker that served, or was about to. */
static void replace(struct slot *slot, bool own_fault, bool was_healthy)
{
	int64_t wait = 0;

	if (was_healthy)
		slot->failures = 0;
	if (own_fault)
		wait = backoff_ms(++slot->failures);
	if (wait > 0)
		respawn_after(slot, wait);
	else
		respawn(slot);
}

void generation_child_ended(struct child *child, int status)
{
	struct supervisor *supervisor = child->supervisor;
	struct slot *slot = slot_of(supervisor, child);
	struct error err = {0};
	bool ordered, own_fault, was_healthy;

	child_read_channel(child);
	ordered = child->state == CHILD_STOPPING || child->state == CHILD_RETIRING;
	/* Somebody's kill -9 is no fault of a worker that was ready. */
	own_fault = !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && child->ready);
	was_healthy = child->ready && clock_ms() - child->started_at >= HEALTHY_MS;
	describe_end(child, status, err.text, sizeof(err.text));
	err.code = child->failure_code != 0 ? child->failure_code : EXIT_FAILED;
	if (ordered)
		log_info("%s", err.text);
	else
		log_warning("%s", err.text);
	child_remove(child);
	if (slot == NULL)
		return;
	slot->child = NULL;
	if (supervisor->phase != PHASE_STARTING && supervisor->phase != PHASE_SERVING)
		return;
	if (slot->generation == supervisor->next)
		supervisor_next_done(supervisor, &err);
	else
		replace(slot, own_fault, was_healthy);
}
