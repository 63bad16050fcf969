/*
 * How much clients may take together: one table for all processes of a scope (a service, or all
 * services of the daemon), in a memory file that the supervisor makes and every worker maps.
 *
 * The size is fixed, so hundreds of thousands of sources cost no more than a few: a source without
 * connections and with full buckets gives its place to the next. Rates are kept as one "theoretical
 * arrival time" each (GCRA: ITU-T I.371), changed by compare-and-swap, so they are exact over all
 * workers. What a worker's connections hold is counted in a part of the file that only its place
 * writes, and a count is the sum of these: so whoever comes after a killed worker, in this place,
 * gives back exactly what that one held.
 *
 * A limit is never exceeded. Clients that come at the very same moment for the last place may see
 * one another as one too many; one of them gets it all the same.
 *
 * The keys are hashed with a secret of the file: nobody can aim at a neighbour's place.
 *
 * A table belongs to a generation (run/generation.h): connections that retire after a restart are
 * not counted by the new one.
 */
#ifndef ECHOD_NET_LIMITS_H
#define ECHOD_NET_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/error.h"

/* 0: no limit. */
struct limits_rules {
	uint64_t connections;		     /* at a time */
	uint64_t connections_per_source;     /* one address; a user of a Unix socket */
	uint64_t connections_per_prefix;     /* its /24 or /64 */
	uint64_t connection_rate;	     /* a second; as many at once after a pause */
	uint64_t connection_rate_per_source; /* a second */
	uint64_t byte_rate_per_source;	     /* bytes a second */
	uint64_t request_rate_per_source;    /* a second */
	uint64_t datagram_rate;		     /* a second, for each /24 or /64 */
};

/* True when any of them needs the table. */
bool limits_needed(const struct limits_rules *rules);

/* The size of the memory file, in bytes; zeroes are an empty table. Pages that nobody used cost
 * nothing. */
size_t limits_size(unsigned places);

struct limits; /* one process's view of a table */

/*
 * Map a table of `places` processes as the one at `place`, and give back what a former process of
 * this place held, which must have ended. All places have the same rules. `fd` may be closed then.
 * Before a sandbox: it may need getrandom(2). NULL with the reason.
 */
struct limits *limits_open(int fd, unsigned places, unsigned place,
			   const struct limits_rules *rules, struct error *err);
void limits_close(struct limits *limits); /* NULL is allowed; holds are given back */

/* Give back what a process of this place held, which has ended and may have no successor. */
int limits_give_back(int fd, unsigned places, unsigned place, struct error *err);

/* Is there any rule for connections, or only one for datagrams? */
bool limits_concern_connections(const struct limits *limits);

/* Is there any for the bytes or requests of connections? */
bool limits_concern_rates(const struct limits *limits);

/* Who a client is to the limits. */
struct limits_source {
	uint8_t key[16];    /* the address; IPv4 is mapped; a user id of a Unix socket */
	uint8_t prefix[16]; /* the same, cut to /24 or /64; a user id is not cut */
};
void limits_source_of(struct limits_source *source, const struct sockaddr *address, uid_t uid);

enum limits_verdict {
	LIMITS_ALLOWED,
	LIMITS_CONNECTIONS,
	LIMITS_SOURCE,
	LIMITS_PREFIX,
	LIMITS_RATE,
	LIMITS_SOURCE_RATE,
};

/* What a connection holds in a table; zeroes: nothing. */
struct limits_hold {
	uint32_t source; /* numbers of entries of the table, from 1; 0: none */
	uint32_t prefix;
	bool counted;
};

/*
 * A connection begins: LIMITS_ALLOWED fills `hold`, anything else leaves no trace. `now` is in
 * microseconds (clock_us). A table without a free place for a new source lets it in: its own limits
 * do not hold then, but those of all do, and `*full` is true (else false).
 */
enum limits_verdict limits_enter(struct limits *limits, const struct limits_source *source,
				 uint64_t now, struct limits_hold *hold, bool *full);

/* It ends. */
void limits_leave(struct limits *limits, struct limits_hold *hold);

/*
 * How many bytes (requests) this source may have now: UINT64_MAX without such a limit; 0: none
 * before `*wait` microseconds have passed (else `*wait` is 0). What was really had is charged
 * afterwards; others may have been faster, so a bucket can go into debt.
 */
uint64_t limits_bytes_left(const struct limits *limits, const struct limits_hold *hold,
			   uint64_t now, uint64_t *wait);
void limits_charge_bytes(struct limits *limits, const struct limits_hold *hold, uint64_t n,
			 uint64_t now);
uint64_t limits_requests_left(const struct limits *limits, const struct limits_hold *hold,
			      uint64_t now, uint64_t *wait);
void limits_charge_requests(struct limits *limits, const struct limits_hold *hold, uint64_t n,
			    uint64_t now);

/* May a datagram from this source's prefix be answered now? Then it is charged. */
bool limits_datagram(struct limits *limits, const struct limits_source *source, uint64_t now);

/* Connections now, of all places; they are counted without any rule, too. */
uint64_t limits_connections(const struct limits *limits);

/* ---- A bucket of one's own ------------------------------------------------------------------ */

/*
 * The same algorithm for one connection. `*arrival` begins as 0; `rate` is a second and not 0. At
 * most a second's worth is left after a pause. Exact up to 2^34 a second (17 GB/s); above that a
 * charge is rounded up to about 0.1 ns.
 */
uint64_t bucket_left(uint64_t arrival, uint64_t rate, uint64_t now, uint64_t *wait);
void bucket_charge(uint64_t *arrival, uint64_t rate, uint64_t n, uint64_t now);
void bucket_refund(uint64_t *arrival, uint64_t rate,
		   uint64_t n); /* as if it had not been charged */

#endif
