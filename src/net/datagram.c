/* Receiving and answering datagrams. */
#include "net/datagram.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/log.h"
#include "net/datagram_private.h"

#define BATCHES_TURN	4     /* then connections have their turn */
#define BUFFER		65536 /* one byte more than UDP can bring */
#define REPLY_MIN	64    /* a reply may be so long, whatever the request's length */
#define SAY_US		UINT64_C(1000000) /* between two messages of a kind */
#define FRUITLESS_MAX	64
#define PEER_TEXT_MAX	128
#define CLIENT_TEXT_MAX (ADDR_TEXT_MAX + PEER_TEXT_MAX + 8)

/* A multiple of 64 KiB would put the beginnings of all buffers into the same lines of the cache. */
#define STRIDE (BUFFER + 192)

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

/* ---- What is said --------------------------------------------------------------------------- */

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

	describe(peer, sizeof(peer), request->peer);
	if (request->has_proxy && !request->proxy.local) {
		address_format(client, sizeof(client),
			       (const struct sockaddr *)&request->proxy.source.storage);
		snprintf(out, cap, "%s (by %s)", client, peer);
	} else {
		snprintf(out, cap, "%s", peer);
	}
}

static void not_answered(struct datagram *datagram, enum fate fate, const struct request *request)
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

static void say_muted(struct datagram *datagram, const struct request *request, int64_t ms)
{
	struct unsaid *unsaid = &datagram->shared->mutings;
	char text[PEER_TEXT_MAX], others[64] = "";

	if (!time_to_say(unsaid, datagram->shared->now_us))
		return;
	describe(text, sizeof(text), request->peer);
	if (unsaid->count > 1)
		snprintf(others, sizeof(others), ", and %" PRIu64 " before it", unsaid->count - 1);
	log_notice("datagrams from %s come back again and again: not answered for %" PRId64 " s%s",
		   text, ms / 1000, others);
	unsaid->count = 0;
}

/* ---- Answers -------------------------------------------------------------------------------- */

/* A socket on one address knows it already. */
static const struct sockaddr *asked(const struct request *request, union any_address *room)
{
	const struct datagram *datagram = request->datagram;

	if (datagram->wildcard && pktinfo_asked(&request->info, datagram->port, room))
		return &room->any;
	return &datagram->local.any;
}

static const unsigned char *say(const struct request *request, unsigned char *room, size_t *len)
{
	const struct datagram *datagram = request->datagram;
	const struct server_settings *settings = &datagram->server->settings;
	union any_address room_for_local;
	struct proto_facts facts = {
		.now = datagram->shared->now,
		.service = settings->service,
		.worker = settings->worker,
		.host = settings->host,
		.transport = datagram->transport,
		.peer = &request->peer->any,
		.local = asked(request, &room_for_local),
		.proxy = request->has_proxy ? &request->proxy : NULL,
		.ttl = request->info.ttl,
		.traffic_class = request->info.traffic_class,
		.has_ids = request->info.has_ids,
		.pid = request->info.ids.pid,
		.uid = request->info.ids.uid,
		.gid = request->info.ids.gid,
	};

	/* It returns a place in the request or in the room. */
	/* cppcheck-suppress returnDanglingLifetime */
	return settings->proto->datagram(&settings->says, &facts, request->data, request->len, room,
					 len);
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

static enum fate check_bounce(struct request *request, uint64_t came, const void *reply, size_t len)
{
	struct datagrams *shared = request->datagram->shared;
	int64_t now = (int64_t)(shared->now_us / 1000), muted;
	uint64_t sent = came;

	if (heeds_bytes(request) && (reply != request->data || len != request->len))
		sent = bounce_hash(shared->bounce, reply, len);

	muted = bounce_exchange(shared->bounce, request->bouncer, came, sent, shared->turn, now);
	if (muted == 0)
		return ANSWERED;
	say_muted(request->datagram, request, muted);
	return LOOPING;
}

static void queue_reply(struct request *request, const unsigned char *reply, size_t len)
{
	struct datagrams *shared = request->datagram->shared;
	struct msghdr *message = &shared->out[shared->replies].msg_hdr;

	shared->out_data[shared->replies++] = (struct iovec){(void *)reply, len};
	message->msg_name = request->peer;
	message->msg_namelen = request->peer_len;
	message->msg_controllen = 0;
	if (request->datagram->wildcard)
		pktinfo_answer(&request->info, message);
}

static enum fate answer(struct request *request, unsigned char *room)
{
	bool is_unix = request->datagram->local.any.sa_family == AF_UNIX;
	uint64_t came = is_unix ? 0 : hash_request(request);
	size_t len = 0, most = request->len > REPLY_MIN ? request->len : REPLY_MIN;
	const unsigned char *reply = say(request, room, &len);
	enum fate fate = ANSWERED;

	if (reply == NULL)
		return NO_ANSWER;
	if (len > most)
		len = most;
	/* Nobody can forge the name of a Unix socket. */
	if (!is_unix)
		fate = check_bounce(request, came, reply, len);
	if (fate == ANSWERED)
		queue_reply(request, reply, len);
	return fate;
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

static void serve_one(struct datagram *datagram, unsigned i)
{
	struct datagrams *shared = datagram->shared;
	struct msghdr *message = &shared->in[i].msg_hdr;
	struct request request;
	enum fate fate;

	request.datagram = datagram;
	request.peer = &shared->peers[i];
	request.peer_len = message->msg_namelen;
	request.data = shared->in_data[i].iov_base;
	request.len = shared->in[i].msg_len;
	request.has_proxy = false;
	request.why = NULL;
	if (datagram->local.any.sa_family == AF_UNIX)
		end_unix_address(&request.peer->un, request.peer_len);
	pktinfo_read(&request.info, message);
	fate = message->msg_flags & MSG_TRUNC ? TOO_LONG : datagram_judge_sender(&request);
	if (fate == ANSWERED)
		fate = datagram_judge_client(&request);
	if (fate == ANSWERED)
		fate = answer(&request, shared->buffers + (size_t)(DATAGRAM_BATCH + i) * STRIDE);
	if (fate != ANSWERED && fate != NO_ANSWER)
		not_answered(datagram, fate, &request);
}

/* One reply that the kernel refused: who else waits must not suffer from it. */
static void unsent(struct datagram *datagram, const struct msghdr *message, int error)
{
	bool is_unix = datagram->local.any.sa_family == AF_UNIX;
	struct request request;

	request.peer = message->msg_name;
	request.has_proxy = false;
	request.why = strerror(error);
	if (error == EACCES && is_unix)
		request.why = "the client does not let the service's user write to its socket";
	/* EACCES: a broadcast address that only the routes know as one (ip(7)). */
	not_answered(datagram, error == EACCES && !is_unix ? NOT_FOR_US : UNSENT, &request);
}

static void send_replies(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;
	uint64_t bytes = 0, sent = 0;

	for (unsigned at = 0; at < shared->replies;) {
		int n = sendmmsg(datagram->fd, shared->out + at, shared->replies - at,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		/* The error is the first one's; of those behind it nothing is known. */
		if (n <= 0)
			unsent(datagram, &shared->out[at++].msg_hdr, errno);
		for (; n > 0; n--, sent++)
			bytes += shared->out[at++].msg_len;
	}
	counter_add(&datagram->server->counters->datagram_replies, sent);
	counter_add(&datagram->server->counters->bytes_out, bytes);
}

/* ---- Turns ---------------------------------------------------------------------------------- */

/* recvmmsg has written into those that were used. */
static void make_ready(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;
	unsigned n = shared->ready_for == datagram ? shared->used : DATAGRAM_BATCH;

	for (unsigned i = 0; i < n; i++) {
		struct msghdr *message = &shared->in[i].msg_hdr;

		message->msg_namelen = sizeof(shared->peers[i]);
		message->msg_controllen = datagram->control_len;
		message->msg_control =
			datagram->control_len > 0 ? shared->in_control[i].bytes : NULL;
	}
	shared->ready_for = datagram;
	shared->used = 0;
}

/* Returns how many datagrams there were, or -1 with errno. */
static int serve_batch(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;
	struct counters *counters = datagram->server->counters;
	uint64_t bytes = 0;
	int n;

	make_ready(datagram);
	n = recvmmsg(datagram->fd, shared->in, DATAGRAM_BATCH, MSG_DONTWAIT, NULL);
	if (n <= 0)
		return -1;
	shared->used = (unsigned)n;
	shared->replies = 0;
	shared->turn++;
	shared->now_us = clock_us();
	clock_gettime(CLOCK_REALTIME, &shared->now);
	for (unsigned i = 0; i < shared->used; i++) {
		bytes += shared->in[i].msg_len;
		serve_one(datagram, i);
	}
	counter_add(&counters->datagrams, shared->used);
	counter_add(&counters->bytes_in, bytes);
	send_replies(datagram);
	return n;
}

/*
 * A socket that somebody broke, by shutdown(2) say, is readable for ever without anything to read:
 * it must not spin.
 */
static void pause_receiving(struct datagram *datagram, int error)
{
	struct timeval tv = {0, SERVER_PAUSE_MS * 1000};

	datagram->fruitless = 0;
	if (evtimer_add(&datagram->resume, &tv) < 0)
		return;
	event_del(&datagram->event);
	log_info("cannot receive datagrams: %s; the next look is in %d ms", strerror(error),
		 SERVER_PAUSE_MS);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct datagram *datagram = arg;
	struct timeval tv = {0, SERVER_PAUSE_MS * 1000};

	(void)fd;
	(void)what;
	if (event_add(&datagram->event, NULL) < 0)
		evtimer_add(&datagram->resume, &tv);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct datagram *datagram = arg;
	int n = DATAGRAM_BATCH;

	(void)fd;
	(void)what;
	for (int i = 0; i < BATCHES_TURN && n == DATAGRAM_BATCH; i++) {
		n = serve_batch(datagram);
		/* A wrong checksum is found out only here: now and then there is nothing. */
		if (n > 0)
			datagram->fruitless = 0;
		else if (i == 0 && ++datagram->fruitless >= FRUITLESS_MAX)
			pause_receiving(datagram, errno);
	}
}

int datagram_receive(struct datagram *datagram, bool on)
{
	if (on == datagram->receives)
		return 0;
	if (on && event_add(&datagram->event, NULL) < 0)
		return -1;
	if (!on) {
		event_del(&datagram->event);
		event_del(&datagram->resume);
	}
	datagram->receives = on;
	return 0;
}

void datagram_empty(struct datagram *datagram)
{
	int n = 0;

	/* As for connections: no queue is longer. */
	for (int i = 0; i < SERVER_QUEUE_MAX && n >= 0; i += n)
		n = serve_batch(datagram);
}

/* ---- The beginning and the end -------------------------------------------------------------- */

static void shared_free(struct datagrams *shared)
{
	if (shared->buffers != NULL)
		munmap(shared->buffers, (size_t)2 * DATAGRAM_BATCH * STRIDE);
	bounce_free(shared->bounce);
	free(shared);
}

static struct datagrams *shared_new(void)
{
	struct datagrams *shared = calloc(1, sizeof(*shared));
	void *buffers;

	if (shared == NULL)
		return NULL;
	shared->bounce = bounce_new();
	buffers = mmap(NULL, (size_t)2 * DATAGRAM_BATCH * STRIDE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shared->bounce == NULL || buffers == MAP_FAILED) {
		shared_free(shared);
		return NULL;
	}
	/* Most datagrams are small, and most of these 8 MiB are never touched. */
	madvise(buffers, (size_t)2 * DATAGRAM_BATCH * STRIDE, MADV_NOHUGEPAGE);
	shared->buffers = buffers;
	for (size_t i = 0; i < DATAGRAM_BATCH; i++) {
		shared->in_data[i] = (struct iovec){shared->buffers + i * STRIDE, BUFFER};
		shared->in[i].msg_hdr = (struct msghdr){
			.msg_name = &shared->peers[i],
			.msg_iov = &shared->in_data[i],
			.msg_iovlen = 1,
		};
		shared->out[i].msg_hdr = (struct msghdr){
			.msg_iov = &shared->out_data[i],
			.msg_iovlen = 1,
			.msg_control = shared->out_control[i].bytes,
		};
	}
	return shared;
}

static bool has_option(int fd, int level, int option)
{
	int on = 0;
	socklen_t len = sizeof(on);

	return getsockopt(fd, level, option, &on, &len) == 0 && on != 0;
}

static bool is_wildcard(const union any_address *local)
{
	if (local->any.sa_family == AF_INET)
		return local->in.sin_addr.s_addr == htonl(INADDR_ANY);
	return local->any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&local->in6.sin6_addr);
}

/* Look at the socket. Returns 0, or -1 with the reason. */
static int know_socket(struct datagram *datagram, struct error *err)
{
	socklen_t len = sizeof(datagram->local);
	bool is_told = true;

	if (getsockname(datagram->fd, &datagram->local.any, &len) < 0)
		return error_errno(err, "cannot use a datagram socket");
	datagram->wildcard = is_wildcard(&datagram->local);
	datagram->port = ntohs(datagram->local.in.sin_port); /* of IPv6, in the same place */
	datagram->control_len = PKTINFO_CONTROL_MAX;
	datagram->transport = "udp";
	switch (datagram->local.any.sa_family) {
	case AF_UNIX:
		datagram->transport = "unixgram";
		/*
		 * Not a byte more than the ids: descriptors that a client sends along find no room,
		 * and the kernel drops them (unix(7), SCM_RIGHTS).
		 */
		datagram->control_len = has_option(datagram->fd, SOL_SOCKET, SO_PASSCRED)
						? CMSG_SPACE(sizeof(struct ucred))
						: 0;
		break;
	case AF_INET:
		is_told = has_option(datagram->fd, IPPROTO_IP, IP_PKTINFO);
		break;
	default:
		is_told = has_option(datagram->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO);
	}
	return is_told ? 0
		       : error_set(err, EXIT_FAILED,
				   "a datagram socket does not tell which address was asked");
}

struct datagram *datagram_new(struct server *server, int fd, struct error *err)
{
	struct datagram *datagram = calloc(1, sizeof(*datagram));

	if (datagram != NULL && server->datagrams == NULL)
		server->datagrams = shared_new();
	if (datagram == NULL || server->datagrams == NULL) {
		free(datagram);
		error_set(err, EXIT_FAILED, "no memory for a datagram socket");
		return NULL;
	}
	datagram->server = server;
	datagram->shared = server->datagrams;
	datagram->shared->users++;
	datagram->fd = fd;
	if (server->settings.proto->datagram == NULL) {
		error_set(err, EXIT_CONFIG, "the protocol '%s' has no datagrams",
			  server->settings.proto->name);
	} else if (know_socket(datagram, err) == 0) {
		event_assign(&datagram->event, server->base, fd, EV_READ | EV_PERSIST, on_readable,
			     datagram);
		evtimer_assign(&datagram->resume, server->base, on_resume, datagram);
		return datagram;
	}
	datagram->fd = -1;
	datagram_free(datagram);
	return NULL;
}

void datagram_free(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;

	/* Before close: epoll keeps a socket that another process still holds. */
	datagram_receive(datagram, false);
	if (datagram->fd >= 0)
		close(datagram->fd);
	if (shared->ready_for == datagram)
		shared->ready_for = NULL;
	if (--shared->users == 0) {
		datagram->server->datagrams = NULL;
		shared_free(shared);
	}
	free(datagram);
}
