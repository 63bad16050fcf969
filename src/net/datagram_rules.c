/* Which datagrams are answered. */
#include <stdio.h>

#include "net/datagram_private.h"

enum fate datagram_judge_arrival(const struct datagram *datagram, struct arrival *arrival,
				 const struct msghdr *message)
{
	const struct port_set *silent = datagram->server->settings.silent_ports;

	if (message->msg_flags & MSG_TRUNC)
		return TOO_LONG;
	if (datagram->is_unix)
		return arrival->peer_len > sizeof(sa_family_t) ? ANSWERED : NAMELESS;
	if (!pktinfo_to_us_alone(&arrival->info) || !pktinfo_is_unicast(&arrival->peer.any))
		return NOT_FOR_US;
	arrival->bouncer = bounce_peer_of(datagram->shared->bounce, &arrival->peer.any);
	if (arrival->bouncer.port == 0 ||
	    (silent != NULL && port_set_has(silent, arrival->bouncer.port)))
		return FROM_PORT;
	return ANSWERED;
}

/* A datagram of the same train may have been the one too many. */
static bool is_muted(const struct request *request)
{
	const struct datagrams *shared = request->datagram->shared;

	return !request->datagram->is_unix &&
	       bounce_is_muted(shared->bounce, request->from->bouncer,
			       (int64_t)(shared->now_us / 1000));
}

/* Only version 2 has datagrams (section 2.2). Each carries a whole header, or none. */
static enum fate take_proxy_header(struct request *request)
{
	const struct server_settings *settings = &request->datagram->server->settings;
	const char *why = "";

	if (settings->proxy == SERVER_PROXY_OFF)
		return ANSWERED;
	if (!proxy_has_v2_signature(request->data, request->len) ||
	    !gate_trusts_proxy(settings, &request->from->peer.any))
		return settings->proxy == SERVER_PROXY_REQUIRED ? NO_PROXY : ANSWERED;
	switch (proxy_parse(request->data, request->len, &request->proxy, &why)) {
	case PROXY_DONE:
		break;
	case PROXY_BAD:
		request->why = why;
		return BAD_PROXY;
	default:
		request->why = "it is not whole";
		return BAD_PROXY;
	}
	request->has_proxy = true;
	request->data += request->proxy.len;
	request->len -= request->proxy.len;
	return ANSWERED;
}

/* The real client: that of the PROXY header where there was one. */
static const struct sockaddr *client_of(const struct request *request)
{
	if (request->has_proxy && !request->proxy.local)
		return (const struct sockaddr *)&request->proxy.source.storage;
	return &request->from->peer.any;
}

static enum fate pass_gate(struct request *request)
{
	struct server *server = request->datagram->server;
	struct access_client client = {.address = client_of(request)};

	if (client.address == &request->from->peer.any) {
		client.has_ids = request->from->info.has_ids;
		client.uid = request->from->info.ids.uid;
		client.gid = request->from->info.ids.gid;
	}
	if (gate_admits(&server->gate, &server->settings, server->counters, &client,
			(int64_t)(request->datagram->shared->now_us / 1000), &request->refusal))
		return ANSWERED;
	request->why = request->refusal.why;
	if (request->refusal.counter == &server->counters->refused_access)
		return NO_ACCESS;
	return request->refusal.counter == &server->counters->refused_times ? CLOSED : LOADED;
}

/*
 * Asked last, and of the service first: what is refused anyway uses up nobody's share. Clients that
 * a proxy names by a Unix address count as one user, whom nobody is.
 */
static bool is_within_rate(const struct request *request)
{
	const struct server_settings *settings = &request->datagram->server->settings;
	const struct sockaddr *client = client_of(request);
	bool has_ids = request->from->info.has_ids && client == &request->from->peer.any;
	struct limits_source source;

	if (settings->limits[0] == NULL && settings->limits[1] == NULL)
		return true;
	limits_source_of(&source, client, has_ids ? request->from->info.ids.uid : (uid_t)-1);
	for (int i = SERVER_SCOPES - 1; i >= 0; i--)
		if (settings->limits[i] != NULL &&
		    !limits_datagram(settings->limits[i], &source,
				     request->datagram->shared->now_us))
			return false;
	return true;
}

enum fate datagram_judge_client(struct request *request)
{
	enum fate fate = is_muted(request) ? LOOPING : take_proxy_header(request);

	if (fate == ANSWERED)
		fate = pass_gate(request);
	if (fate == ANSWERED && !is_within_rate(request))
		fate = OVER_RATE;
	return fate;
}
