#include "run/spawn.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/memory_file.h"
#include "run/program.h"
#include "run/service.h"
#include "run/settings.h"
#include "run/signals.h"
#include "run/supervisor.h"
#include "run/worker.h"

struct nice {
	bool set;
	int value;
	bool written;
};

static struct nice nice_of(const struct service *service)
{
	const struct generation *generation = service->generation;
	bool own = service->conf->nice != CONF_NICE_GLOBAL;

	return (struct nice){
		.set = own || launch_sets_nice(generation->supervisor->launch, generation->conf),
		.value = (int)service_nice(service),
		.written = own || generation->conf->nice_set,
	};
}

static _Noreturn void become_program(const struct child *child, int channel, int counters)
{
	const struct service *service = child->service;
	struct nice nice = nice_of(service);
	struct program_start start = {
		.name = child->name,
		.service = service->conf,
		.privileges = &service->privileges,
		.set_nice = nice.set,
		.nice = nice.value,
		.nice_written = nice.written,
		.nofile = child->supervisor->nofile,
		.channel = channel,
		.counters = counters,
		.null = child->supervisor->null,
	};

	program_main(&start);
}

/* Those that a service will have once it is started by order, too. */
static void add_listen_ports(const struct service *service, struct port_set *ports)
{
	const struct conf_service *conf = service->conf;

	for (size_t i = 0; i < conf->listen_count; i++)
		if (conf->listen[i].endpoint.transport == TRANSPORT_UDP)
			port_set_add(ports, conf->listen[i].endpoint.port);
	for (size_t i = 0; i < service->socket_count; i++)
		socket_entry_add_udp_port(service->sockets[i].entry, ports);
}

/*
 * Datagrams from these ports are not answered: our own servers would talk to each other for ever,
 * and others may be known to do so. What a former generation has only still to let go of is
 * nobody's by then.
 */
static void add_silent_ports(const struct child *child, struct port_set *ports)
{
	const struct service *service;

	settings_silent_ports(child->service->conf, ports);
	TAILQ_FOREACH (service, &child->service->generation->services, link)
		add_listen_ports(service, ports);
}

static _Noreturn void become_worker(const struct child *child, int channel, int counters,
				    struct worker_socket *sockets)
{
	const struct service *service = child->service;
	const struct generation *generation = service->generation;
	struct nice nice = nice_of(service);
	struct port_set silent = {0};
	struct worker_start start = {
		.name = child->name,
		.conf = generation->conf,
		.service = service->conf,
		.privileges = &service->privileges,
		.set_nice = nice.set,
		.nice = nice.value,
		.nice_written = nice.written,
		.drain_timeout_ms = generation->conf->drain_timeout,
		.channel = channel,
		.counters = counters,
		.null = child->supervisor->null,
		.sockets = sockets,
		.socket_count = service->socket_count,
		.silent_ports = &silent,
		.tables =
			{
				{generation->limits_fd, generation->places,
				 service->first_place + child->index},
				{service->limits_fd, service->slot_count, child->index},
			},
	};

	add_silent_ports(child, &silent);
	worker_main(&start);
}

/* All sockets of the service, in fresh memory: its own, and those that it may be lent. */
static struct worker_socket *sockets_for(const struct child *child)
{
	const struct service *service = child->service;
	struct worker_socket *sockets = NULL;

	if (child->kind == CHILD_WORKER)
		sockets = calloc(service->socket_count + 1, sizeof(*sockets));
	for (size_t i = 0; i < service->socket_count && sockets != NULL; i++)
		sockets[i] = (struct worker_socket){
			.fd = service->sockets[i].entry->fd,
			.transport = service->sockets[i].entry->key.place.transport,
			.own = service_owns(service, i, child->index),
		};
	return sockets;
}

/*
 * Every signal is blocked from before the fork until the pid is stored, and in the child until it
 * has its own table.
 */
static int fork_child(struct child *child, const int channel[2], int counters,
		      struct worker_socket *sockets, struct error *err)
{
	int result;
	pid_t pid;

	signals_block();
	pid = fork();
	if (pid == 0 && child->kind == CHILD_PROGRAM)
		become_program(child, channel[1], counters);
	if (pid == 0)
		become_worker(child, channel[1], counters, sockets);
	if (pid > 0) {
		result = child_attach(child, pid, channel[0], counters, err);
	} else {
		error_errno(err, "cannot start a process for %s", child->name);
		close(channel[0]);
		close(counters);
		result = -1;
	}
	signals_unblock();
	return result;
}

int child_spawn(struct child *child, struct error *err)
{
	struct worker_socket *sockets;
	int ends[2], counters, result = -1;

	counters = memory_file_shared("echod-counters", COUNTERS_SIZE, err);
	if (counters < 0)
		return -1;
	if (channel_pair(ends, err) < 0) {
		close(counters);
		return -1;
	}
	if (child->service->generation->committed)
		service_heal_sockets(child->service);
	child->generation = child->service->generation->number;
	child->stop_timeout = child->service->conf->stop_timeout;
	sockets = sockets_for(child);
	if (sockets != NULL || child->kind == CHILD_PROGRAM) {
		result = fork_child(child, ends, counters, sockets, err);
	} else {
		error_errno(err, "cannot start a process for %s", child->name);
		close(ends[0]);
		close(counters);
	}
	free(sockets);
	close(ends[1]);
	return result;
}
