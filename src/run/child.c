#include "run/child.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "run/control.h"
#include "run/generation.h"
#include "run/lifecycle.h"
#include "run/supervisor.h"

/*
 * A worker may log so many records at once, and so many a second: one that goes mad cannot flood
 * the log. Programs have more to say: what they print is their log.
 */
static const struct log_limit {
	unsigned burst;
	unsigned per_second;
} log_limits[] = {[CHILD_WORKER] = {50, 10}, [CHILD_PROGRAM] = {1000, 100}};

const char *child_state_name(enum child_state state)
{
	static const char *const names[CHILD_STATES] = {"starting", "running",	"backing off",
							"draining", "retiring", "stopping",
							"stopped"};

	return names[state];
}

const char *child_kind_name(enum child_kind kind)
{
	return kind == CHILD_PROGRAM ? "program" : "worker";
}

pid_t child_shown_pid(const struct child *child)
{
	return child->program > 0 ? child->program : child->pid;
}

struct child *child_find(struct child_list *children, pid_t pid)
{
	struct child *child;

	TAILQ_FOREACH (child, children, link)
		if (child->pid == pid)
			return child;
	return NULL;
}

uint64_t child_connections(const struct child *child)
{
	uint64_t accepted, closed;

	if (child->counters == NULL)
		return 0;
	/* Read in this order: a connection that ends in between is not counted below zero. */
	closed = counter_get(&child->counters->closed);
	accepted = counter_get(&child->counters->accepted);
	return accepted > closed ? accepted - closed : 0;
}

void child_sum_counters(struct child_list *children, const char *service,
			struct counters_total *total, uint64_t *connections)
{
	struct child *child;

	TAILQ_FOREACH (child, children, link) {
		if (child->pid == 0 ||
		    (service != NULL && strcmp(child->service_name, service) != 0))
			continue;
		counters_sum(total, child->counters);
		*connections += child_connections(child);
	}
}

void child_take_sample(struct child *child)
{
	child->samples[0] = child->samples[1];
	child->samples[1] =
		(struct child_sample){clock_ms(), counter_get(&child->counters->requests)};
}

/* ---- Log records ---------------------------------------------------------------------------- */

static void refill_tokens(struct child *child)
{
	const struct log_limit *limit = &log_limits[child->kind];
	int64_t now = clock_ms();
	int64_t earned = (now - child->log_refilled_at) * limit->per_second / 1000;

	if (earned <= 0)
		return;
	child->log_refilled_at = now;
	child->log_tokens = earned > (int64_t)limit->burst - (int64_t)child->log_tokens
				    ? limit->burst
				    : child->log_tokens + (unsigned)earned;
}

static void tell_suppressed(struct child *child)
{
	if (child->log_suppressed > 0)
		log_warning("%s[%d]: %" PRIu64 " more messages in too short a time were suppressed",
			    child->name, (int)child_shown_pid(child), child->log_suppressed);
	child->log_suppressed = 0;
}

static void log_record(struct child *child, const struct channel_message *message)
{
	int64_t level = message->value;
	char text[LOG_LINE_MAX];

	if (level < LOG_LEVEL_CRITICAL || level > LOG_LEVEL_DEBUG)
		level = LOG_LEVEL_NOTICE;
	refill_tokens(child);
	if (child->log_tokens == 0) {
		child->log_suppressed++;
		return;
	}
	child->log_tokens--;
	tell_suppressed(child);
	/* Not only where it is written: a NUL would end it here. */
	text_escape(text, sizeof(text), message->text, message->len);
	log_at((enum log_level)level, "%s[%d]: %s", child->name, (int)child_shown_pid(child), text);
}

/* ---- The channel ---------------------------------------------------------------------------- */

static void take_failure(struct child *child, const struct channel_message *message)
{
	child->failure_code = message->value == EXIT_CONFIG || message->value == EXIT_PERMISSION
				      ? (int)message->value
				      : EXIT_FAILED;
	snprintf(child->text, sizeof(child->text), "%.*s", (int)message->len, message->text);
}

/* Only a keeper speaks of programs. Its numbers are shown, and steer no signal. */
static void take_program(struct child *child, const struct channel_message *message)
{
	if (message->type == CHANNEL_PROGRAM && message->value > 0 && message->value <= INT32_MAX) {
		child->program = (pid_t)message->value;
		log_info("%s[%d]: executed", child->name, (int)child->program);
		control_children_changed(child->supervisor->control);
	} else if (message->type == CHANNEL_ENDED) {
		child->ended = true;
		child->status = (int)message->value;
	}
}

void child_condemn(struct child *child)
{
	child->condemned = true;
	child_kill(child, SIGKILL);
}

static void obey(struct child *child, const struct channel_message *message)
{
	switch (message->type) {
	case CHANNEL_READY:
		if (!child->ready) {
			child->ready = true;
			generation_child_ready(child);
		}
		break;
	case CHANNEL_RETIRED:
		child->retired = true;
		supervisor_children_changed(child->supervisor);
		break;
	case CHANNEL_FAILED:
		take_failure(child, message);
		break;
	case CHANNEL_LOG:
		log_record(child, message);
		break;
	case CHANNEL_PROGRAM:
	case CHANNEL_ENDED:
		if (child->kind == CHILD_PROGRAM) {
			take_program(child, message);
			break;
		}
		/* fall through */
	default:
		log_warning("%s[%d]: sent an order: killed", child->name, (int)child->pid);
		child_condemn(child);
	}
}

/* Bounded: a worker that talks without end must not hold up the others. */
#define MESSAGES_A_TURN 64

/* More than the channel can hold. */
#define LAST_WORDS_MAX 8192

/*
 * A process without a channel cannot be led: it has to go. When it was killed by somebody, the end
 * of the channel may be the first that is seen of it.
 */
static void close_channel(struct child *child, bool nonsense)
{
	event_del(child->channel_event);
	if (nonsense) {
		log_warning("%s[%d]: sent nonsense: killed", child->name, (int)child->pid);
		child_condemn(child);
	} else {
		child_kill(child, SIGKILL);
	}
}

static void on_channel(evutil_socket_t fd, short what, void *arg)
{
	struct child *child = arg;
	struct channel_message message;

	(void)what;
	for (int i = 0; i < MESSAGES_A_TURN; i++) {
		int result = channel_receive(fd, &message);

		if (result == 0)
			return;
		if (result < 0) {
			close_channel(child, result == -2);
			return;
		}
		obey(child, &message);
	}
}

void child_read_channel(struct child *child)
{
	struct channel_message message;

	/* Bounded: something that it left behind may still write. */
	for (int i = 0; i < LAST_WORDS_MAX && channel_receive(child->channel, &message) > 0; i++)
		if (message.type == CHANNEL_READY)
			child->ready = true; /* too late to be told to go */
		else if (message.type != CHANNEL_RETIRED)
			obey(child, &message);
	tell_suppressed(child);
}

void child_order(struct child *child, enum channel_type order, int64_t value)
{
	if (child->pid == 0 || channel_send(child->channel, order, value, NULL, 0) == 0)
		return;
	if (errno == EPIPE || errno == ECONNRESET)
		return; /* it is dead: SIGCHLD is on its way */
	log_warning("%s[%d]: takes no orders (%s): killed", child->name, (int)child->pid,
		    strerror(errno));
	child_condemn(child);
}

void child_kill(struct child *child, int sig)
{
	/* Not reaped yet, so the number is still this child's, alive or zombie. */
	if (child->pid > 1)
		kill(child->pid, sig);
}

/* ---- The table ------------------------------------------------------------------------------ */

struct child *child_new(struct supervisor *supervisor, const char *service, unsigned index,
			enum child_kind kind)
{
	struct child *child = calloc(1, sizeof(*child));

	if (child == NULL)
		return NULL;
	child->supervisor = supervisor;
	child->timer = lifecycle_new_timer(child);
	if (child->timer == NULL) {
		free(child);
		return NULL;
	}
	child->kind = kind;
	child->index = index;
	child->state = CHILD_STOPPED;
	child->since = clock_ms();
	child->channel = child->counters_fd = -1;
	snprintf(child->service_name, sizeof(child->service_name), "%s", service);
	if (kind == CHILD_PROGRAM)
		snprintf(child->name, sizeof(child->name), "%s", service);
	else
		snprintf(child->name, sizeof(child->name), "%s/%u", service, index);
	TAILQ_INSERT_TAIL(&supervisor->children, child, link);
	return child;
}

void child_free(struct child *child)
{
	TAILQ_REMOVE(&child->supervisor->children, child, link);
	event_free(child->timer);
	free(child);
}

/* What is true of every process at its beginning. */
static void forget_process(struct child *child)
{
	child->pid = child->program = 0;
	child->ready = child->retired = child->condemned = child->ended = false;
	child->killed = child->status = child->failure_code = 0;
	child->killed_at = 0;
	child->counters = NULL;
	child->channel_event = NULL;
	child->channel = child->counters_fd = -1;
	child->log_refilled_at = clock_ms();
	child->log_tokens = log_limits[child->kind].burst;
	child->log_suppressed = 0;
	child->beats = child->accepted = 0;
	child->missed = child->stuck = 0;
	memset(child->samples, 0, sizeof(child->samples));
}

static void release(struct child *child)
{
	if (child->channel_event != NULL)
		event_free(child->channel_event);
	if (child->counters != NULL)
		munmap((void *)child->counters, COUNTERS_SIZE);
	close(child->channel);
	close(child->counters_fd);
	forget_process(child);
}

static int watch(struct child *child, struct error *err)
{
	void *page = mmap(NULL, COUNTERS_SIZE, PROT_READ, MAP_SHARED, child->counters_fd, 0);

	if (page == MAP_FAILED)
		return error_errno(err, "cannot map the counters of %s", child->name);
	child->counters = page;
	/* Another worker must not have it, which could make it writable and lie for this one. */
	if (madvise(page, COUNTERS_SIZE, MADV_DONTFORK) < 0)
		return error_errno(err, "cannot keep the counters of %s from others", child->name);
	child->channel_event = event_new(child->supervisor->base, child->channel,
					 EV_READ | EV_PERSIST, on_channel, child);
	if (child->channel_event == NULL || event_add(child->channel_event, NULL) < 0)
		return error_set(err, EXIT_FAILED, "no memory to watch %s", child->name);
	return 0;
}

int child_attach(struct child *child, pid_t pid, int channel, int counters_fd, struct error *err)
{
	forget_process(child);
	child->text[0] = '\0';
	child->channel = channel;
	child->counters_fd = counters_fd;
	if (watch(child, err) == 0) {
		child->pid = pid;
		child_take_sample(child);
		return 0;
	}
	/* It never began its work; without a record it will be reaped as a stranger. */
	kill(pid, SIGKILL);
	release(child);
	return -1;
}

void child_detach(struct child *child)
{
	counters_sum(&child->supervisor->ended, child->counters);
	release(child);
}
