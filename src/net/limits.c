#include "net/limits.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "net/tally.h"

/* Another process that is after the same number does not stop us for long. */
#define TRIES 64

struct limits {
	struct limits_rules rules;
	struct tally *tally;
};

static bool is_for_connections(const struct limits_rules *rules)
{
	return rules->connections > 0 || rules->connections_per_source > 0 ||
	       rules->connections_per_prefix > 0 || rules->connection_rate > 0 ||
	       rules->connection_rate_per_source > 0 || rules->byte_rate_per_source > 0 ||
	       rules->request_rate_per_source > 0;
}

bool limits_needed(const struct limits_rules *rules)
{
	return is_for_connections(rules) || rules->datagram_rate > 0;
}

bool limits_concern_connections(const struct limits *limits)
{
	return is_for_connections(&limits->rules);
}

bool limits_concern_rates(const struct limits *limits)
{
	return limits->rules.byte_rate_per_source > 0 || limits->rules.request_rate_per_source > 0;
}

size_t limits_size(unsigned places)
{
	return tally_size(places);
}

struct limits *limits_open(int fd, unsigned places, unsigned place,
			   const struct limits_rules *rules, struct error *err)
{
	const uint64_t rates[TALLY_BUCKETS] = {
		[TALLY_CONNECTIONS] = rules->connection_rate_per_source,
		[TALLY_BYTES] = rules->byte_rate_per_source,
		[TALLY_REQUESTS] = rules->request_rate_per_source,
		[TALLY_DATAGRAMS] = rules->datagram_rate,
	};
	struct limits *limits = malloc(sizeof(*limits));

	if (limits == NULL) {
		error_errno(err, "cannot open the memory file of limits");
		return NULL;
	}
	limits->rules = *rules;
	limits->tally = tally_open(fd, places, place, rates, err);
	if (limits->tally == NULL) {
		free(limits);
		return NULL;
	}
	tally_clear(limits->tally);
	return limits;
}

void limits_close(struct limits *limits)
{
	if (limits == NULL)
		return;
	tally_clear(limits->tally);
	tally_close(limits->tally);
	free(limits);
}

int limits_give_back(int fd, unsigned places, unsigned place, struct error *err)
{
	static const struct limits_rules none;
	struct limits *limits = limits_open(fd, places, place, &none, err);

	limits_close(limits);
	return limits == NULL ? -1 : 0;
}

/* ---- Who ------------------------------------------------------------------------------------ */

#define PREFIX_V4 3 /* bytes */
#define PREFIX_V6 8

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

/* No connection comes from a multicast address (RFC 4291, section 2.7). */
static const uint8_t local_user[12] = {0xff, 'u', 's', 'e', 'r'};

static void set_key(struct limits_source *source, const uint8_t start[12], const void *rest,
		    size_t prefix)
{
	memcpy(source->key, start, 12);
	memcpy(source->key + 12, rest, 4);
	memset(source->prefix, 0, sizeof(source->prefix));
	memcpy(source->prefix, source->key, prefix);
}

void limits_source_of(struct limits_source *source, const struct sockaddr *address, uid_t uid)
{
	const struct sockaddr_in *in = (const void *)address;
	const struct sockaddr_in6 *in6 = (const void *)address;
	uint32_t number = (uint32_t)uid;

	if (address->sa_family == AF_INET)
		set_key(source, v4_mapped, &in->sin_addr, 12 + PREFIX_V4);
	else if (address->sa_family != AF_INET6)
		set_key(source, local_user, &number, 16);
	else
		set_key(source, in6->sin6_addr.s6_addr, in6->sin6_addr.s6_addr + 12,
			IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) ? 12 + PREFIX_V4 : PREFIX_V6);
}

/* ---- Buckets that all share ----------------------------------------------------------------- */

/*
 * A bucket is one word on its own, so its order against others does not matter; and letting go of
 * an entry, which is ordered, comes after.
 */
static uint64_t look(const _Atomic uint64_t *arrival)
{
	return atomic_load_explicit(arrival, memory_order_relaxed);
}

static bool change(_Atomic uint64_t *arrival, uint64_t *from, uint64_t to)
{
	return atomic_compare_exchange_weak_explicit(arrival, from, to, memory_order_relaxed,
						     memory_order_relaxed);
}

static bool take(_Atomic uint64_t *arrival, uint64_t rate, uint64_t now)
{
	uint64_t from = look(arrival), to, wait;

	for (int i = 0; i < TRIES; i++) {
		if (bucket_left(from, rate, now, &wait) == 0)
			return false;
		to = from;
		bucket_charge(&to, rate, 1, now);
		if (change(arrival, &from, to))
			return true;
	}
	return false;
}

static void charge(_Atomic uint64_t *arrival, uint64_t rate, uint64_t n, uint64_t now)
{
	uint64_t from = look(arrival), to;

	for (int i = 0; i < TRIES; i++) {
		to = from;
		bucket_charge(&to, rate, n, now);
		if (change(arrival, &from, to))
			return;
	}
}

static void refund(_Atomic uint64_t *arrival, uint64_t rate)
{
	uint64_t from = look(arrival), to;

	for (int i = 0; i < TRIES; i++) {
		to = from;
		bucket_refund(&to, rate, 1);
		if (change(arrival, &from, to))
			return;
	}
}

/* ---- Connections ---------------------------------------------------------------------------- */

/*
 * To be counted comes first, and the look at the sum of all after that. So of two that come at the
 * same moment at least one sees the other, and no more are let in than the limit says. Both step
 * back when that was one too many; who then finds room tries again, and the last one to step back
 * always does.
 */
static bool hold_all(struct limits *limits)
{
	uint64_t most = limits->rules.connections;

	for (int i = 0; i < TRIES; i++) {
		tally_hold_all(limits->tally);
		if (most == 0 || tally_count_all(limits->tally) <= most)
			return true;
		tally_release_all(limits->tally);
		if (tally_count_all(limits->tally) >= most)
			break;
	}
	return false;
}

/* The same for an entry, which is put into `*entry`; 0: there is no room, and it counts nowhere. */
static bool hold_one(struct limits *limits, enum tally_kind kind, const uint8_t key[16],
		     uint64_t most, uint64_t now, uint32_t *entry)
{
	for (int i = 0; i < TRIES; i++) {
		*entry = tally_hold(limits->tally, kind, key, now);
		if (*entry == 0 || most == 0 || tally_count(limits->tally, *entry) <= most)
			return true;
		tally_release(limits->tally, *entry);
		if (tally_count(limits->tally, *entry) >= most)
			break;
	}
	*entry = 0;
	return false;
}

/* The narrow ones first: who is over his own limit is not in the way of others for a moment. */
static enum limits_verdict hold_each(struct limits *limits, const struct limits_source *source,
				     uint64_t now, struct limits_hold *hold, bool *full)
{
	const struct limits_rules *rules = &limits->rules;

	if (rules->connections_per_source > 0 || rules->connection_rate_per_source > 0 ||
	    rules->byte_rate_per_source > 0 || rules->request_rate_per_source > 0) {
		if (!hold_one(limits, TALLY_SOURCE, source->key, rules->connections_per_source, now,
			      &hold->source))
			return LIMITS_SOURCE;
		*full = hold->source == 0;
	}
	if (rules->connections_per_prefix > 0) {
		if (!hold_one(limits, TALLY_PREFIX, source->prefix, rules->connections_per_prefix,
			      now, &hold->prefix))
			return LIMITS_PREFIX;
		*full |= hold->prefix == 0;
	}
	hold->counted = hold_all(limits);
	return hold->counted ? LIMITS_ALLOWED : LIMITS_CONNECTIONS;
}

/* A source that comes too often does not use up what is there for all. */
static enum limits_verdict take_rates(struct limits *limits, const struct limits_hold *hold,
				      uint64_t now)
{
	uint64_t all = limits->rules.connection_rate;
	uint64_t own = hold->source > 0 ? limits->rules.connection_rate_per_source : 0;
	_Atomic uint64_t *arrival = NULL;

	if (own > 0) {
		arrival = tally_arrival(limits->tally, hold->source, TALLY_CONNECTIONS);
		if (!take(arrival, own, now))
			return LIMITS_SOURCE_RATE;
	}
	if (all == 0 || take(tally_arrival_all(limits->tally), all, now))
		return LIMITS_ALLOWED;
	if (own > 0)
		refund(arrival, own);
	return LIMITS_RATE;
}

enum limits_verdict limits_enter(struct limits *limits, const struct limits_source *source,
				 uint64_t now, struct limits_hold *hold, bool *full)
{
	enum limits_verdict verdict;
	uint64_t most = limits->rules.connections;

	*hold = (struct limits_hold){0};
	*full = false;
	/* At the limit new sources do not even get an entry. */
	if (most > 0 && tally_count_all(limits->tally) >= most)
		return LIMITS_CONNECTIONS;
	verdict = hold_each(limits, source, now, hold, full);
	if (verdict == LIMITS_ALLOWED)
		verdict = take_rates(limits, hold, now);
	if (verdict != LIMITS_ALLOWED)
		limits_leave(limits, hold);
	return verdict;
}

void limits_leave(struct limits *limits, struct limits_hold *hold)
{
	if (hold->source > 0)
		tally_release(limits->tally, hold->source);
	if (hold->prefix > 0)
		tally_release(limits->tally, hold->prefix);
	if (hold->counted)
		tally_release_all(limits->tally);
	*hold = (struct limits_hold){0};
}

uint64_t limits_connections(const struct limits *limits)
{
	return tally_count_all(limits->tally);
}

/* ---- What they do --------------------------------------------------------------------------- */

static uint64_t left(const struct limits *limits, const struct limits_hold *hold,
		     enum tally_bucket bucket, uint64_t rate, uint64_t now, uint64_t *wait)
{
	*wait = 0;
	if (rate == 0 || hold->source == 0)
		return UINT64_MAX;
	return bucket_left(look(tally_arrival(limits->tally, hold->source, bucket)), rate, now,
			   wait);
}

static void charge_source(struct limits *limits, const struct limits_hold *hold,
			  enum tally_bucket bucket, uint64_t rate, uint64_t n, uint64_t now)
{
	if (rate > 0 && hold->source > 0 && n > 0)
		charge(tally_arrival(limits->tally, hold->source, bucket), rate, n, now);
}

uint64_t limits_bytes_left(const struct limits *limits, const struct limits_hold *hold,
			   uint64_t now, uint64_t *wait)
{
	return left(limits, hold, TALLY_BYTES, limits->rules.byte_rate_per_source, now, wait);
}

void limits_charge_bytes(struct limits *limits, const struct limits_hold *hold, uint64_t n,
			 uint64_t now)
{
	charge_source(limits, hold, TALLY_BYTES, limits->rules.byte_rate_per_source, n, now);
}

uint64_t limits_requests_left(const struct limits *limits, const struct limits_hold *hold,
			      uint64_t now, uint64_t *wait)
{
	return left(limits, hold, TALLY_REQUESTS, limits->rules.request_rate_per_source, now, wait);
}

void limits_charge_requests(struct limits *limits, const struct limits_hold *hold, uint64_t n,
			    uint64_t now)
{
	charge_source(limits, hold, TALLY_REQUESTS, limits->rules.request_rate_per_source, n, now);
}

bool limits_datagram(struct limits *limits, const struct limits_source *source, uint64_t now)
{
	uint64_t rate = limits->rules.datagram_rate;
	uint32_t entry;
	bool allowed;

	if (rate == 0)
		return true;
	entry = tally_hold(limits->tally, TALLY_DATAGRAM_PREFIX, source->prefix, now);
	if (entry == 0)
		return true;
	allowed = take(tally_arrival(limits->tally, entry, TALLY_DATAGRAMS), rate, now);
	tally_release(limits->tally, entry);
	return allowed;
}
