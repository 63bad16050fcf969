/* From a message that was received to the replies. */
#include <string.h>

#include "net/datagram_private.h"

#define REPLY_MIN 64 /* a reply may be so long, whatever the request's length */

/* A socket on one address knows it already. */
static const struct sockaddr *asked(const struct request *request, union any_address *room)
{
	const struct datagram *datagram = request->datagram;

	if (datagram->wildcard && pktinfo_asked(&request->from->info, datagram->port, room))
		return &room->any;
	return &datagram->local.any;
}

static struct proto_facts facts_of(const struct request *request, union any_address *room)
{
	const struct datagram *datagram = request->datagram;
	const struct server_settings *settings = &datagram->server->settings;
	const struct arrival *from = request->from;

	return (struct proto_facts){
		.now = datagram->shared->now,
		.service = settings->service,
		.worker = settings->worker,
		.host = settings->host,
		.transport = datagram->transport,
		.peer = &from->peer.any,
		.local = asked(request, room),
		.proxy = request->has_proxy ? &request->proxy : NULL,
		.ttl = from->info.ttl,
		.traffic_class = from->info.traffic_class,
		.has_ids = from->info.has_ids,
		.pid = from->info.ids.pid,
		.uid = from->info.ids.uid,
		.gid = from->info.ids.gid,
	};
}

/* The reply is a place in the request or in the room. */
static const unsigned char *say(const struct request *request, unsigned char *room, size_t *len)
{
	const struct server_settings *settings = &request->datagram->server->settings;
	const struct proto *proto = settings->proto;
	union any_address local;
	struct proto_facts facts;

	if (!proto->heeds_facts)
		return proto->datagram(&settings->says, NULL, request->data, request->len, room,
				       len);
	facts = facts_of(request, &local);
	/* cppcheck-suppress returnDanglingLifetime */
	return proto->datagram(&settings->says, &facts, request->data, request->len, room, len);
}

/*
 * A protocol that says the same whatever it is asked is asked the same, whatever the bytes are: two
 * that tell the time would never send the same bytes twice.
 */
static bool heeds_bytes(const struct request *request)
{
	const struct proto *proto = request->datagram->server->settings.proto;

	return !proto->speaks_first && proto->produce == NULL;
}

/* Before the protocol changes the bytes. */
static uint64_t hash_request(const struct request *request)
{
	return heeds_bytes(request)
		       ? bounce_hash(request->datagram->shared->bounce, request->data, request->len)
		       : 0;
}

static enum fate check_bounce(const struct request *request, uint64_t came, const void *reply,
			      size_t len)
{
	struct datagrams *shared = request->datagram->shared;
	int64_t now = (int64_t)(shared->now_us / 1000), muted;
	uint64_t sent = came;

	if (heeds_bytes(request) && (reply != request->data || len != request->len))
		sent = bounce_hash(shared->bounce, reply, len);
	muted = bounce_exchange(shared->bounce, request->from->bouncer, came, sent, shared->turn,
				now);
	if (muted == 0)
		return ANSWERED;
	datagram_say_muted(request->datagram, request, muted);
	return LOOPING;
}

/* Nobody can forge the name of a Unix socket. */
static bool may_bounce(const struct request *request)
{
	const struct datagrams *shared = request->datagram->shared;

	return !request->datagram->is_unix &&
	       bounce_matters(shared->bounce, request->from->bouncer, shared->turn);
}

static enum fate answer(const struct request *request)
{
	unsigned char *room = datagram_room(request->datagram);
	bool bounces = may_bounce(request);
	uint64_t came = bounces ? hash_request(request) : 0;
	size_t len = 0, most = request->len > REPLY_MIN ? request->len : REPLY_MIN;
	const unsigned char *reply = say(request, room, &len);
	enum fate fate = ANSWERED;

	if (reply == NULL)
		return NO_ANSWER;
	if (len > most)
		len = most;
	if (bounces)
		fate = check_bounce(request, came, reply, len);
	if (fate == ANSWERED)
		datagram_reply(request, reply, len);
	return fate;
}

/* Each datagram for itself, alone or in a train: `fate` is what was found out about all of it. */
static void serve_one(struct request *request, enum fate fate)
{
	if (fate == ANSWERED)
		fate = datagram_judge_client(request);
	if (fate == ANSWERED)
		fate = answer(request);
	if (fate != ANSWERED && fate != NO_ANSWER)
		datagram_not_answered(request->datagram, fate, request);
}

/* Nothing is written there for one without a name, and nothing ends a path (unix(7)). */
static void end_unix_address(struct sockaddr_un *address, socklen_t len)
{
	address->sun_family = AF_UNIX;
	if (len < sizeof(address->sun_family))
		len = sizeof(address->sun_family);
	if (len < sizeof(*address))
		memset((char *)address + len, 0, sizeof(*address) - len);
}

unsigned datagram_serve(struct datagram *datagram, unsigned i)
{
	struct datagrams *shared = datagram->shared;
	struct msghdr *message = &shared->in[i].msg_hdr;
	struct arrival *arrival = &shared->arrivals[i];
	unsigned char *data = shared->in_data[i].iov_base;
	size_t left = shared->in[i].msg_len;
	struct request request;
	unsigned count = 0;
	enum fate fate;

	arrival->peer_len = message->msg_namelen;
	if (datagram->is_unix)
		end_unix_address(&arrival->peer.un, arrival->peer_len);
	pktinfo_read(&arrival->info, message);
	fate = datagram_judge_arrival(datagram, arrival, message);
	request.datagram = datagram;
	request.from = arrival;
	/* An empty datagram is one, too. */
	do {
		request.data = data;
		request.len = train_first(left, arrival->info.segment);
		request.has_proxy = false;
		request.why = NULL;
		data += request.len;
		left -= request.len;
		serve_one(&request, fate);
		count++;
	} while (left > 0);
	return count;
}
