/*
 * The watchdog: a worker that does not answer, or does not accept clients who wait, is ended and
 * replaced. Only turns in which the supervisor itself ran on time are counted: after it was
 * stopped, or the machine suspended, nobody is to blame.
 */
#ifndef ECHOD_RUN_WATCHDOG_H
#define ECHOD_RUN_WATCHDOG_H

#include <stdint.h>

struct child;
struct event;
struct supervisor;

struct watchdog {
	struct event *timer;
	struct event *sampler; /* for rates and broken sockets: it runs without a watchdog, too */
	int64_t turned;	       /* clock_ms of the last turn; 0: there was none */
};

/*
 * Begin its turns, by the `watchdog` of the configuration that serves now; again when another one
 * serves. With 0 it only takes the samples for rates.
 */
void watchdog_start(struct supervisor *supervisor);

void watchdog_free(struct supervisor *supervisor);

/* Requests a second of a child's process, over the last five to ten seconds, or since its
 * beginning. */
double watchdog_request_rate(const struct child *child);

#endif
