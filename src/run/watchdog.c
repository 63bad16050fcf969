#include "run/watchdog.h"

#include <event2/event.h>

#include "base/clock.h"
#include "base/log.h"
#include "os/listen.h"
#include "run/lifecycle.h"
#include "run/service.h"
#include "run/supervisor.h"

/*
 * A turn every eighth of the time. The fifth turn in a row without a sign of life comes after six
 * eighths at most; SIGABRT, SIGKILL a second (or an eighth) later, and the successor, are within
 * the time that the operator has set.
 */
#define TURNS	   8
#define TURNS_LOST 5

#define SAMPLE_MS 5000

static int64_t turn_ms(const struct supervisor *supervisor)
{
	return supervisor->current->conf->watchdog / TURNS;
}

/* ---- Rates and sockets ---------------------------------------------------------------------- */

/* What a worker that was taken over did to sockets that others share, too. */
static void heal_sockets(const struct supervisor *supervisor)
{
	const struct service *service;

	TAILQ_FOREACH (service, &supervisor->current->services, link)
		for (size_t i = 0; i < service->socket_count; i++) {
			if (!listen_is_on(service->sockets[i].entry->fd))
				service_heal_sockets(service);
		}
}

static void on_sample(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *supervisor = arg;
	struct child *child;

	(void)fd;
	(void)what;
	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->pid != 0)
			child_take_sample(child);
	if (supervisor->phase == PHASE_SERVING)
		heal_sockets(supervisor);
}

double watchdog_request_rate(const struct child *child)
{
	const struct child_sample *from =
		child->samples[0].at != 0 ? &child->samples[0] : &child->samples[1];
	int64_t ms = clock_ms() - from->at;

	if (child->counters == NULL || from->at == 0 || ms <= 0)
		return 0;
	return (double)(counter_get(&child->counters->requests) - from->requests) * 1000 /
	       (double)ms;
}

/* ---- Signs of life -------------------------------------------------------------------------- */

/*
 * True while clients wait on a socket that this worker should accept on. Of one that all workers
 * share, nobody is to blame: it belongs to no worker.
 */
static bool has_waiting_clients(const struct child *child)
{
	const struct service *service = child->service;

	for (size_t i = 0; service != NULL && i < service->socket_count; i++)
		if (service->sockets[i].server == (int)child->index &&
		    listen_waiting(service->sockets[i].entry->fd) > 0)
			return true;
	return false;
}

/* Counts the turns without a heartbeat, and those in which waiting clients were left alone. */
static void look_at(struct child *child, bool on_time)
{
	uint64_t beats = counter_get(&child->counters->heartbeat);
	uint64_t accepted =
		counter_get(&child->counters->accepted) + counter_get(&child->counters->datagrams);
	bool paused = counter_get(&child->counters->paused) != 0;

	if (beats != child->beats)
		child->missed = 0;
	else if (on_time)
		child->missed++;
	if (accepted != child->accepted || paused || !has_waiting_clients(child))
		child->stuck = 0;
	else if (on_time)
		child->stuck++;
	child->beats = beats;
	child->accepted = accepted;
}

static void end_hung(struct child *child)
{
	double seconds = (double)child->supervisor->current->conf->watchdog / 1000;

	if (child->missed >= TURNS_LOST)
		log_warning("%s[%d] gives no sign of life (watchdog of %.3g s): SIGABRT",
			    child->name, (int)child->pid, seconds);
	else
		log_warning("%s[%d] does not accept clients who wait (watchdog of %.3g s): SIGABRT",
			    child->name, (int)child->pid, seconds);
	lifecycle_event(child, EVENT_HUNG);
}

/* Those that start or stop have limits of their own; what a program does is its own affair. */
static bool is_watched(const struct child *child)
{
	return child->kind == CHILD_WORKER && !child->condemned &&
	       (child->state == CHILD_RUNNING || child->state == CHILD_RETIRING);
}

static void watch(struct child *child, bool on_time)
{
	look_at(child, on_time);
	if (child->missed >= TURNS_LOST || child->stuck >= TURNS_LOST)
		end_hung(child);
	else
		child_order(child, CHANNEL_PING, 0);
}

static void turn(struct supervisor *supervisor, bool on_time)
{
	struct child *child, *next;

	for (child = TAILQ_FIRST(&supervisor->children); child != NULL; child = next) {
		next = TAILQ_NEXT(child, link);
		if (child->pid != 0 && is_watched(child))
			watch(child, on_time);
	}
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *supervisor = arg;
	struct watchdog *watchdog = &supervisor->watchdog;
	int64_t now = clock_ms(), ms = turn_ms(supervisor);
	bool on_time = watchdog->turned != 0 && now - watchdog->turned < ms + ms / 2;

	(void)fd;
	(void)what;
	watchdog->turned = now;
	if (supervisor->phase == PHASE_SERVING || supervisor->phase == PHASE_DRAINING)
		turn(supervisor, on_time);
}

static int run_timer(struct supervisor *supervisor, struct event **timer, event_callback_fn act,
		     int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	if (*timer == NULL)
		*timer = event_new(supervisor->base, -1, EV_PERSIST, act, supervisor);
	return *timer == NULL ? -1 : evtimer_add(*timer, &tv);
}

void watchdog_start(struct supervisor *supervisor)
{
	struct watchdog *watchdog = &supervisor->watchdog;
	int64_t ms = turn_ms(supervisor);

	if (run_timer(supervisor, &watchdog->sampler, on_sample, SAMPLE_MS) < 0)
		log_error("no memory for a timer: there will be no rates");
	watchdog->turned = clock_ms();
	if (ms == 0 && watchdog->timer != NULL)
		evtimer_del(watchdog->timer);
	else if (ms > 0 && run_timer(supervisor, &watchdog->timer, on_turn, ms) < 0)
		log_error("no memory for the watchdog: it is off");
}

void watchdog_free(struct supervisor *supervisor)
{
	if (supervisor->watchdog.timer != NULL)
		event_free(supervisor->watchdog.timer);
	if (supervisor->watchdog.sampler != NULL)
		event_free(supervisor->watchdog.sampler);
}
