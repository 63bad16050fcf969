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
#include "run/generation.h"
#include "run/supervisor.h"

/* A worker may log so many records at once, and so many a second: one that goes mad cannot flood
 * the log. */
#define LOG_BURST      50
#define LOG_PER_SECOND 10

const char *child_state_name(enum child_state state)
{
	static const char *const names[CHILD_STATES] = {"starting", "running", "retiring",
							"stopping"};

	return names[state];
}

struct child *child_find(struct child_list *children, pid_t pid)
{
	struct child *child;

	TAILQ_FOREACH (child, children, link)
		if (child->pid == pid)
			return child;
	return NULL;
}

/* ---- Log records ---------------------------------------------------------------------------- */

static void refill_tokens(struct child *child)
{
	int64_t now = clock_ms();
	int64_t earned = (now - child->log_refilled_at) * LOG_PER_SECOND / 1000;

	if (earned <= 0)
		return;
	child->log_refilled_at = now;
	child->log_tokens = earned > LOG_BURST - (int64_t)child->log_tokens
				    ? LOG_BURST
				    : child->log_tokens + (unsigned)earned;
}

static void tell_suppressed(struct child *child)
{
	if (child->log_suppressed > 0)
		log_warning("%s[%d]: %" PRIu64 " more messages in too short a time were suppressed",
			    child->name, (int)child->pid, child->log_suppressed);
	child->log_suppressed = 0;
}

static void log_record(struct child *child, const struct channel_message *message)
{
	int64_t level = message->value;

	if (level < LOG_LEVEL_CRITICAL || level > LOG_LEVEL_DEBUG)
		level = LOG_LEVEL_NOTICE;
	refill_tokens(child);
	if (child->log_tokens == 0) {
		child->log_suppressed++;
		return;
	}
	child->log_tokens--;
	tell_suppressed(child);
	log_at((enum log_level)level, "%s[%d]: %.*s", child->name, (int)child->pid,
	       (int)message->len, message->text);
}

/* ---- The channel ---------------------------------------------------------------------------- */

static void obey(struct child *child, const struct channel_message *message)
{
	switch (message->type) {
	case CHANNEL_READY:
		if (!child->ready) {
			child->ready = true;
			generation_child_ready(child);
		}
		break;
	case CHANNEL_FAILED:
		child->failure_code =
			message->value == EXIT_CONFIG || message->value == EXIT_PERMISSION
				? (int)message->value
				: EXIT_FAILED;
		memcpy(child->failure, message->text, message->len);
		child->failure[message->len < sizeof(child->failure) ? message->len
								     : sizeof(child->failure) - 1] =
			'\0';
		break;
	case CHANNEL_LOG:
		log_record(child, message);
		break;
	default:
		log_warning("%s[%d]: sent an order: killed", child->name, (int)child->pid);
		child_kill(child, SIGKILL);
	}
}

/* Bounded: a worker that talks without end must not hold up the others. */
#define MESSAGES_A_TURN 64

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
			/* Its end, or nonsense. A process without a channel cannot be led: it has
			 * to go. */
			event_del(child->channel_event);
			child_kill(child, SIGKILL);
			return;
		}
		obey(child, &message);
	}
}

void child_read_channel(struct child *child)
{
	struct channel_message message;

	/* Bounded: something that the worker left behind may still write. */
	for (int i = 0; i < 8 * MESSAGES_A_TURN && channel_receive(child->channel, &message) > 0;
	     i++)
		if (message.type == CHANNEL_LOG || message.type == CHANNEL_FAILED)
			obey(child, &message);
	tell_suppressed(child);
}

void child_order(struct child *child, enum channel_type order, int64_t value)
{
	if (channel_send(child->channel, order, value, NULL, 0) == 0)
		return;
	if (errno == EPIPE || errno == ECONNRESET)
		return; /* it is dead: SIGCHLD is on its way */
	log_warning("%s[%d]: does not read its orders (%s): killed", child->name, (int)child->pid,
		    strerror(errno));
	child_kill(child, SIGKILL);
}

void child_kill(struct child *child, int sig)
{
	/* Not reaped yet, so the number is still this child's, alive or zombie. */
	if (child->pid > 1)
		kill(child->pid, sig);
}

/* ---- The table ------------------------------------------------------------------------------ */

static int watch(struct child *child, struct error *err)
{
	void *page = mmap(NULL, COUNTERS_SIZE, PROT_READ, MAP_SHARED, child->counters_fd, 0);

	if (page == MAP_FAILED)
		return error_errno(err, "cannot map the counters of %s", child->name);
	child->counters = page;
	child->channel_event = event_new(child->supervisor->base, child->channel,
					 EV_READ | EV_PERSIST, on_channel, child);
	if (child->channel_event == NULL || event_add(child->channel_event, NULL) < 0)
		return error_set(err, EXIT_FAILED, "no memory to watch %s", child->name);
	return 0;
}

static void release(struct child *child)
{
	if (child->channel_event != NULL)
		event_free(child->channel_event);
	if (child->counters != NULL)
		munmap((void *)child->counters, COUNTERS_SIZE);
	close(child->channel);
	close(child->counters_fd);
	free(child);
}

struct child *child_add(struct supervisor *supervisor, const struct child *prototype,
			struct error *err)
{
	struct child *child = malloc(sizeof(*child));

	if (child == NULL) {
		error_errno(err, "cannot keep %s", prototype->name);
		close(prototype->channel);
		close(prototype->counters_fd);
		kill(prototype->pid, SIGKILL);
		return NULL;
	}
	*child = *prototype;
	child->supervisor = supervisor;
	child->counters = NULL;
	child->channel_event = NULL;
	child->log_refilled_at = clock_ms();
	child->log_tokens = LOG_BURST;
	if (watch(child, err) < 0) {
		child_kill(child, SIGKILL);
		release(child);
		return NULL;
	}
	TAILQ_INSERT_TAIL(&supervisor->children, child, link);
	return child;
}

void child_remove(struct child *child)
{
	counters_sum(&child->supervisor->ended, child->counters);
	TAILQ_REMOVE(&child->supervisor->children, child, link);
	release(child);
}
