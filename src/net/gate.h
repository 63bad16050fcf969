/*
 * Whether a service is open to a client: access rules, times of the week, load of the machine.
 * Asked for each connection and each datagram, so what cannot change within a second is looked at
 * once a second.
 */
#ifndef ECHOD_NET_GATE_H
#define ECHOD_NET_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/access.h"

struct counters;
struct server_settings;

#define GATE_WHY_MAX 256

/* Why somebody is refused. */
struct refusal {
	_Atomic uint64_t *counter;
	const char *said;	/* to the client, where it is told */
	char why[GATE_WHY_MAX]; /* for the log: the setting, and the rule and its line */
};

struct gate {
	int64_t looked_at; /* clock_coarse_ms; when the times and the load were looked at */
	bool closed;	   /* by access_times */
	bool loaded;	   /* more than max_load */
};

/* Never looked at. */
void gate_init(struct gate *gate);

/* True: the client may come in; false with the refusal. `now` is clock_coarse_ms. */
bool gate_admits(struct gate *gate, const struct server_settings *settings,
		 struct counters *counters, const struct access_client *client, int64_t now,
		 struct refusal *refusal);

/* Is this address, as the socket tells it, one that may send a PROXY header? */
bool gate_trusts_proxy(const struct server_settings *settings, const struct sockaddr *peer);

#endif
