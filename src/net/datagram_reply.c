/*
 * Replies on their way. What goes to one peer, from the address that it asked, leaves as a train
 * where the sizes allow it: the kernel then walks its whole way once for all of them.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

#include "net/datagram_private.h"

#define ROOM_ALIGN 64

/* What was sent, for the counters. */
struct sent {
	uint64_t count;
	uint64_t bytes;
};

unsigned char *datagram_room(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;

	if (shared->reply_count == DATAGRAM_BATCH ||
	    shared->room_used > DATAGRAM_ROOM - PROTO_DATAGRAM_MAX)
		datagram_send(datagram);
	return shared->room + shared->room_used;
}

/* ---- Joining -------------------------------------------------------------------------------- */

static bool is_same_way(const struct datagram *datagram, const struct arrival *one,
			const struct arrival *other)
{
	if (one == other)
		return true;
	if (one->bouncer.key != other->bouncer.key || one->peer_len != other->peer_len ||
	    memcmp(&one->peer, &other->peer, one->peer_len) != 0)
		return false;
	return !datagram->wildcard || pktinfo_is_same_asked(&one->info, &other->info);
}

/* The last one to this peer, so that order is kept; NULL: none waits. */
static struct reply *last_reply_to(const struct datagram *datagram, const struct arrival *to)
{
	struct datagrams *shared = datagram->shared;

	for (unsigned i = shared->reply_count; i-- > 0;)
		if (is_same_way(datagram, shared->replies[i].to, to))
			return &shared->replies[i];
	return NULL;
}

static struct alone *alone_of(struct datagrams *shared, const struct arrival *to)
{
	return &shared->alone[to->bouncer.key % DATAGRAM_ALONE];
}

static bool may_join(struct datagrams *shared, const struct reply *reply)
{
	const struct alone *alone = alone_of(shared, reply->to);

	return alone->key != reply->to->bouncer.key || reply->train.segment < alone->segment;
}

static bool join(const struct request *request, const unsigned char *data, size_t len)
{
	struct reply *reply;

	if (request->datagram->is_unix)
		return false;
	reply = last_reply_to(request->datagram, request->from);
	return reply != NULL && may_join(request->datagram->shared, reply) &&
	       train_add(&reply->train, data, len);
}

static void begin(const struct request *request, const unsigned char *data, size_t len)
{
	struct datagrams *shared = request->datagram->shared;
	struct msghdr *message = &shared->out[shared->reply_count].msg_hdr;
	struct reply *reply = &shared->replies[shared->reply_count++];

	reply->to = request->from;
	train_begin(&reply->train, data, len);
	message->msg_name = (void *)&request->from->peer;
	message->msg_namelen = request->from->peer_len;
	message->msg_control = reply->control.bytes;
	message->msg_controllen = 0;
	message->msg_iov = reply->train.data;
	if (request->datagram->wildcard)
		pktinfo_answer(&request->from->info, message);
	reply->control_len = message->msg_controllen;
}

void datagram_reply(const struct request *request, const unsigned char *data, size_t len)
{
	struct datagrams *shared = request->datagram->shared;

	if (data == shared->room + shared->room_used)
		shared->room_used += (len + ROOM_ALIGN - 1) / ROOM_ALIGN * ROOM_ALIGN;
	if (!join(request, data, len))
		begin(request, data, len);
}

/* ---- Sending -------------------------------------------------------------------------------- */

/* One reply that the kernel refused: who else waits must not suffer from it. */
static void unsent(struct datagram *datagram, const struct reply *reply, int error)
{
	struct request request;

	request.from = reply->to;
	request.has_proxy = false;
	request.why = strerror(error);
	if (error == EACCES && datagram->is_unix)
		request.why = "the client does not let the service's user write to its socket";
	/* EACCES: a broadcast address that only the routes know as one (ip(7)). */
	datagram_not_answered(datagram, error == EACCES && !datagram->is_unix ? NOT_FOR_US : UNSENT,
			      &request);
}

/*
 * What the route cannot carry as a train today, it cannot carry for its next batch: datagrams that
 * are cut into fragments (EMSGSIZE, of older kernels EINVAL), or a way through IPsec or a device
 * without checksums (EIO), whatever their size.
 */
static void remember_alone(struct datagrams *shared, const struct reply *reply, int error)
{
	struct alone *alone = alone_of(shared, reply->to);

	if (error == EMSGSIZE || error == EINVAL)
		*alone = (struct alone){reply->to->bouncer.key, reply->train.segment};
	else if (error == EIO || error == EOPNOTSUPP)
		*alone = (struct alone){reply->to->bouncer.key, 0};
}

/* Each datagram of a train that the kernel refused. */
static void send_apart(struct datagram *datagram, unsigned at, struct sent *sent)
{
	struct msghdr message = datagram->shared->out[at].msg_hdr;
	const struct reply *reply = &datagram->shared->replies[at];
	struct train_place place = {0, 0};
	struct iovec one;
	ssize_t bytes;

	message.msg_iov = &one;
	message.msg_iovlen = 1;
	message.msg_controllen = reply->control_len;
	while (train_next(&reply->train, &place, &one)) {
		do
			bytes = sendmsg(datagram->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		while (bytes < 0 && errno == EINTR);
		if (bytes < 0) {
			unsent(datagram, reply, errno);
			continue;
		}
		sent->count++;
		sent->bytes += (uint64_t)bytes;
	}
}

static void send_refused(struct datagram *datagram, unsigned at, int error, struct sent *sent)
{
	const struct reply *reply = &datagram->shared->replies[at];

	if (reply->train.count == 1) {
		unsent(datagram, reply, error);
		return;
	}
	remember_alone(datagram->shared, reply, error);
	send_apart(datagram, at, sent);
}

/* The control message in which the kernel finds the size (udp(7), UDP_SEGMENT). */
static void add_segment(struct msghdr *message, struct reply *reply)
{
	uint16_t size = (uint16_t)reply->train.segment;
	struct cmsghdr *cmsg = (struct cmsghdr *)(reply->control.bytes + reply->control_len);

	cmsg->cmsg_level = IPPROTO_UDP;
	cmsg->cmsg_type = UDP_SEGMENT;
	cmsg->cmsg_len = CMSG_LEN(sizeof(size));
	memcpy(CMSG_DATA(cmsg), &size, sizeof(size));
	message->msg_controllen = reply->control_len + CMSG_SPACE(sizeof(size));
}

static void finish(struct datagrams *shared)
{
	for (unsigned i = 0; i < shared->reply_count; i++) {
		shared->out[i].msg_hdr.msg_iovlen = shared->replies[i].train.pieces;
		if (shared->replies[i].train.count > 1)
			add_segment(&shared->out[i].msg_hdr, &shared->replies[i]);
	}
}

void datagram_send(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;
	struct sent sent = {0, 0};

	finish(shared);
	for (unsigned at = 0; at < shared->reply_count;) {
		int n = sendmmsg(datagram->fd, shared->out + at, shared->reply_count - at,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		/* The error is the first one's; of those behind it nothing is known. */
		if (n <= 0)
			send_refused(datagram, at++, errno, &sent);
		for (; n > 0; n--, at++) {
			sent.count += shared->replies[at].train.count;
			sent.bytes += shared->out[at].msg_len;
		}
	}
	shared->reply_count = 0;
	shared->room_used = 0;
	counter_add(&datagram->server->counters->datagram_replies, sent.count);
	counter_add(&datagram->server->counters->bytes_out, sent.bytes);
}
