/* What is counted and said of datagrams that are not answered. */
#include <inttypes.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/log.h"
#include "net/datagram_private.h"

#define SAY_US		UINT64_C(1000000) /* between two messages of a kind */
#define PEER_TEXT_MAX	128
#define CLIENT_TEXT_MAX (ADDR_TEXT_MAX + PEER_TEXT_MAX + 8)

#define COUNTER(name) offsetof(struct counters, name)

/* Rules of the operator's are notices, as for connections; the rest is the network's noise. */
static const struct {
	size_t counter;
	enum log_level level;
	const char *text;
} fates[FATES] = {
	[NOT_FOR_US] = {COUNTER(datagrams_not_for_us), LOG_LEVEL_INFO,
			"to or from multicast or broadcast not answered"},
	[FROM_PORT] = {COUNTER(datagrams_port), LOG_LEVEL_INFO,
		       "from a port that is never answered"},
	[LOOPING] = {COUNTER(datagrams_looping), LOG_LEVEL_INFO, "that came back not answered"},
	[OVER_RATE] = {COUNTER(datagrams_rate), LOG_LEVEL_NOTICE, "refused by max_datagram_rate"},
	[NAMELESS] = {COUNTER(datagrams_nameless), LOG_LEVEL_INFO,
		      "without an address to answer to"},
	[TOO_LONG] = {COUNTER(datagrams_unsent), LOG_LEVEL_NOTICE, "too long to be answered"},
	[NO_ACCESS] = {COUNTER(refused_access), LOG_LEVEL_NOTICE, "refused"},
	[CLOSED] = {COUNTER(refused_times), LOG_LEVEL_NOTICE, "refused"},
	[LOADED] = {COUNTER(refused_load), LOG_LEVEL_NOTICE, "refused"},
	[NO_PROXY] = {COUNTER(refused_proxy), LOG_LEVEL_NOTICE, "refused without a PROXY header"},
	[BAD_PROXY] = {COUNTER(proxy_errors), LOG_LEVEL_NOTICE,
		       "refused for a malformed PROXY header"},
	[UNSENT] = {COUNTER(datagrams_unsent), LOG_LEVEL_INFO,
		    "whose replies the kernel did not take"},
};

static void describe(char *out, size_t cap, const union any_address *peer)
{
	char name[FACTS_UNIX_MAX];
	size_t len;

	if (peer->any.sa_family != AF_UNIX) {
		address_format(out, cap, &peer->any);
		return;
	}
	len = facts_unix_name(name, &peer->any);
	if (len > 0)
		snprintf(out, cap, "%.*s", (int)len, name);
	else
		snprintf(out, cap, "a Unix socket without a name");
}

/* A flood of datagrams must not become one of messages. True when it is time for the next. */
static bool time_to_say(struct unsaid *unsaid, uint64_t now)
{
	unsaid->count++;
	if (now < unsaid->next)
		return false;
	unsaid->next = now + SAY_US;
	return true;
}

/* As for connections: "192.0.2.1:4711 (by 10.0.0.1:80)" behind a proxy. */
static void describe_client(char *out, size_t cap, const struct request *request)
{
	char client[ADDR_TEXT_MAX], peer[PEER_TEXT_MAX];

	describe(peer, sizeof(peer), &request->from->peer);
	if (request->has_proxy && !request->proxy.local) {
		address_format(client, sizeof(client),
			       (const struct sockaddr *)&request->proxy.source.storage);
		snprintf(out, cap, "%s (by %s)", client, peer);
	} else {
		snprintf(out, cap, "%s", peer);
	}
}

void datagram_not_answered(struct datagram *datagram, enum fate fate, const struct request *request)
{
	struct counters *counters = datagram->server->counters;
	struct unsaid *unsaid = &datagram->shared->unsaid[fate];
	char text[CLIENT_TEXT_MAX];

	counter_add((_Atomic uint64_t *)((char *)counters + fates[fate].counter), 1);
	if (!log_enabled(fates[fate].level) || !time_to_say(unsaid, datagram->shared->now_us))
		return;
	describe_client(text, sizeof(text), request);
	log_write(fates[fate].level, "%" PRIu64 " datagram%s %s%s%s; the last from %s",
		  unsaid->count, unsaid->count == 1 ? "" : "s", fates[fate].text,
		  request->why != NULL ? ": " : "", request->why != NULL ? request->why : "", text);
	unsaid->count = 0;
}

void datagram_say_muted(struct datagram *datagram, const struct request *request, int64_t ms)
{
	struct unsaid *unsaid = &datagram->shared->mutings;
	char text[PEER_TEXT_MAX], others[64] = "";

	if (!time_to_say(unsaid, datagram->shared->now_us))
		return;
	describe(text, sizeof(text), &request->from->peer);
	if (unsaid->count > 1)
		snprintf(others, sizeof(others), ", and %" PRIu64 " before it", unsaid->count - 1);
	log_notice("datagrams from %s come back again and again: not answered for %" PRId64 " s%s",
		   text, ms / 1000, others);
	unsaid->count = 0;
}
