#include "run/worker.h"

#include <event2/event.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "os/daemonize.h"
#include "run/channel.h"
#include "run/child_process.h"
#include "run/loop.h"
#include "run/settings.h"
#include "run/signals.h"
#include "run/tables.h"

#include "config.h"

struct worker {
	struct worker_start *start;
	struct event_base *base;
	struct server *server;
	struct event *channel;
	struct event *deadline;
	struct counters *counters;
	struct limits *limits[SERVER_SCOPES];
	char host[HOST_NAME_MAX + 1];
};

/* ---- Orders --------------------------------------------------------------------------------- */

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct worker *worker = arg;

	(void)fd;
	(void)what;
	server_cut_off(worker->server);
}

static void set_deadline(struct worker *worker, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	evtimer_add(worker->deadline, &tv);
}

/* The server neither accepts nor serves any more. */
static void on_idle(void *arg)
{
	struct worker *worker = arg;

	event_base_loopexit(worker->base, NULL);
}

/* A worker that cannot do what it is there for makes room for one that can. */
static void accept_on(struct worker *worker, size_t number, bool accept)
{
	struct error err = {0};

	if (server_accept_on(worker->server, number, accept, &err) == 0)
		return;
	log_error("%s", err.text);
	exit(EXIT_FAILED);
}

static void go(struct worker *worker)
{
	for (size_t i = 0; i < worker->start->socket_count; i++)
		if (worker->start->sockets[i].own)
			accept_on(worker, i, true);
}

static void retire(struct worker *worker, int64_t ms, bool empty_queues)
{
	if (ms > 0)
		set_deadline(worker, ms);
	server_stop_accepting(worker->server, empty_queues);
}

static void drain(struct worker *worker, int64_t ms)
{
	server_stop_accepting(worker->server, true);
	server_drain(worker->server);
	set_deadline(worker, ms);
}

static void quit(struct worker *worker)
{
	server_stop_accepting(worker->server, false);
	server_cut_off(worker->server);
	on_idle(worker);
}

static void obey(struct worker *worker, const struct channel_message *message)
{
	switch ((enum channel_type)message->type) {
	case CHANNEL_GO:
		go(worker);
		break;
	case CHANNEL_SERVE:
		accept_on(worker, (size_t)message->value, true);
		break;
	case CHANNEL_UNSERVE:
		accept_on(worker, (size_t)message->value, false);
		break;
	case CHANNEL_GIVE_UP:
		server_give_up(worker->server, (size_t)message->value);
		break;
	case CHANNEL_RETIRE:
		retire(worker, message->value, false);
		channel_send(worker->start->channel, CHANNEL_RETIRED, 0, NULL, 0);
		break;
	case CHANNEL_DRAIN:
		drain(worker, message->value);
		break;
	case CHANNEL_QUIT:
		quit(worker);
		break;
	case CHANNEL_PING:
		counter_add(&worker->counters->heartbeat, 1);
		break;
	default:
		break; /* not for workers */
	}
}

static void on_channel(evutil_socket_t fd, short what, void *arg)
{
	struct worker *worker = arg;
	struct channel_message message;
	int result;

	(void)what;
	while ((result = channel_receive(fd, &message)) > 0)
		obey(worker, &message);
	if (result < 0) {
		/*
		 * The supervisor is gone. Whoever starts the next one finds the port free at once.
		 */
		event_del(worker->channel);
		retire(worker,
		       worker->start->drain_timeout_ms > 0 ? worker->start->drain_timeout_ms : 1,
		       true);
	}
}

/* ---- The start ------------------------------------------------------------------------------ */

/* What a worker holds besides 0 to 2: the channel and its sockets. */
static int keep_descriptors(const struct worker_start *start, struct error *err)
{
	int *keep = calloc(start->socket_count + 1, sizeof(*keep));
	int result;

	if (keep == NULL)
		return error_errno(err, "cannot list descriptors");
	keep[0] = start->channel;
	for (size_t i = 0; i < start->socket_count; i++)
		keep[i + 1] = start->sockets[i].fd;
	result = child_process_keep(start->null, keep, start->socket_count + 1, err);
	free(keep);
	return result;
}

static int make_settings(struct worker *worker, struct server_settings *settings, struct error *err)
{
	const struct worker_start *start = worker->start;

	if (settings_of_service(settings, start->conf, start->service, err) < 0)
		return -1;
	if (gethostname(worker->host, sizeof(worker->host) - 1) < 0)
		return error_errno(err, "cannot read the host's name");
	settings->service = start->service->name;
	settings->worker = start->name;
	settings->host = worker->host;
	settings->silent_ports = start->silent_ports;
	for (int i = 0; i < SERVER_SCOPES; i++)
		settings->limits[i] = worker->limits[i];
	return 0;
}

static int make_server(struct worker *worker, struct error *err)
{
	struct server_settings settings;

	if (make_settings(worker, &settings, err) < 0)
		return -1;
	worker->base = loop_new();
	if (worker->base == NULL)
		return error_set(err, EXIT_FAILED, "cannot make an event loop");
	worker->server = server_new(worker->base, &settings, worker->counters, on_idle, worker);
	if (worker->server == NULL)
		return error_errno(err, "cannot serve");
	for (size_t i = 0; i < worker->start->socket_count; i++)
		if (server_add_socket(worker->server, worker->start->sockets[i].fd, err) < 0)
			return -1;
	worker->channel = event_new(worker->base, worker->start->channel, EV_READ | EV_PERSIST,
				    on_channel, worker);
	worker->deadline = evtimer_new(worker->base, on_deadline, worker);
	if (worker->channel == NULL || worker->deadline == NULL ||
	    event_add(worker->channel, NULL) < 0)
		return error_set(err, EXIT_FAILED, "cannot set up the event loop");
	return 0;
}

/* The mappings stay when the descriptors are closed. */
static int open_limits(struct worker *worker, struct error *err)
{
	const struct worker_start *start = worker->start;
	const struct conf_limits *limits[SERVER_SCOPES] = {&start->conf->limits,
							   &start->service->limits};

	for (int i = 0; i < SERVER_SCOPES; i++) {
		const struct worker_table *table = &start->tables[i];
		struct limits_rules rules = limits_rules_of(limits[i]);

		if (table->fd < 0)
			continue;
		worker->limits[i] =
			limits_open(table->fd, table->places, table->place, &rules, err);
		if (worker->limits[i] == NULL)
			return -1;
	}
	return 0;
}

static int set_up(struct worker *worker, struct error *err)
{
	const struct worker_start *start = worker->start;

	/* The loop of the supervisor is left alone: freeing it here would end its epoll
	 * registrations. */
	if (start->set_nice && daemon_set_priority(start->nice, err) < 0 && start->nice_written)
		return -1;
	worker->counters = child_process_map_counters(start->counters, err);
	if (worker->counters == NULL || open_limits(worker, err) < 0 ||
	    keep_descriptors(start, err) < 0 || privileges_drop(start->privileges, err) < 0)
		return -1;
#ifdef ECHOD_SANITIZERS
	/*
	 * The leak check looks at the process through ptrace, which a change of user had forbidden.
	 */
	prctl(PR_SET_DUMPABLE, 1);
#endif
	return make_server(worker, err);
}

static void tear_down(struct worker *worker)
{
	server_free(worker->server);
	event_free(worker->deadline);
	event_free(worker->channel);
	event_base_free(worker->base);
	libevent_global_shutdown();
	child_process_unmap_counters(worker->counters);
	for (int i = 0; i < SERVER_SCOPES; i++)
		limits_close(worker->limits[i]);
}

_Noreturn void worker_main(struct worker_start *start)
{
	struct worker worker = {.start = start};
	struct error err = {0};

	child_process_begin(start->channel, start->name);
	signals_worker(start->name);
	if (set_up(&worker, &err) < 0)
		child_process_fail(&err);
	signals_unblock();
	channel_send(start->channel, CHANNEL_READY, 0, NULL, 0);
	server_run(worker.server);
	tear_down(&worker);
	exit(EXIT_DONE);
}
