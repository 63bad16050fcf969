/* Receiving datagrams: the sockets and their turns. */
#include "net/datagram.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/datagram_private.h"

#define DATAGRAMS_TURN 256
#define BATCH_MIN      4	    /* messages */
#define ALONE_MIN      8	    /* batches of one, until no more is asked for, */
#define ALONE_LOOK     8	    /* but in one of so many */
#define BUFFER	       65536	    /* one byte more than UDP can bring */
#define CACHE_BYTES    (128 * 1024) /* of a batch, so that they are still there when they leave */
#define FRUITLESS_MAX  64

/* A multiple of 64 KiB would put the beginnings of all buffers into the same lines of the cache. */
#define STRIDE	(BUFFER + 192)
#define BUFFERS ((size_t)DATAGRAM_BATCH * STRIDE + DATAGRAM_ROOM)

/* ---- Turns ---------------------------------------------------------------------------------- */

/* recvmmsg has written into those that were used. */
static void make_ready(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;
	unsigned n = shared->ready_for == datagram ? shared->used : DATAGRAM_BATCH;

	for (unsigned i = 0; i < n; i++) {
		struct msghdr *message = &shared->in[i].msg_hdr;

		message->msg_namelen = sizeof(shared->arrivals[i].peer);
		message->msg_controllen = datagram->control_len;
		message->msg_control =
			datagram->control_len > 0 ? shared->arrivals[i].control.bytes : NULL;
	}
	shared->ready_for = datagram;
	shared->used = 0;
}

/*
 * How many messages to ask for. A second one that does not come costs time as well, so where each
 * came alone for a while only one is asked for; the next look finds the others, and one now and
 * then finds out that more come. Of large ones few, for their buffers would push each other out of
 * the cache. As many as came in the turn before, and twice as many as long as all of them come.
 */
static unsigned batch_size(const struct datagram *datagram)
{
	size_t fit;

	if (datagram->alone >= ALONE_MIN && datagram->alone % ALONE_LOOK != 0)
		return 1;
	if (datagram->longest * datagram->expected <= CACHE_BYTES)
		return datagram->expected;
	fit = CACHE_BYTES / datagram->longest;
	return fit > 2 ? (unsigned)fit : 2;
}

static void learn(struct datagram *datagram, unsigned n, unsigned asked)
{
	const struct mmsghdr *in = datagram->shared->in;

	datagram->came += n;
	if (n == asked && asked == datagram->expected && asked < DATAGRAM_BATCH)
		datagram->expected *= 2;
	datagram->alone = n == 1 ? datagram->alone + 1 : 0;
	datagram->longest = 0;
	for (unsigned i = 0; i < n; i++)
		if (in[i].msg_len > datagram->longest)
			datagram->longest = in[i].msg_len;
}

static void end_turn(struct datagram *datagram)
{
	datagram->expected = BATCH_MIN;
	while (datagram->expected < datagram->came && datagram->expected < DATAGRAM_BATCH)
		datagram->expected *= 2;
	datagram->came_before = datagram->came;
	datagram->came = 0;
}

static void begin_batch(struct datagram *datagram)
{
	struct datagrams *shared = datagram->shared;
	const struct server_settings *settings = &datagram->server->settings;

	shared->turn++;
	/* Only a rate needs the exact time, which takes longer. */
	shared->now_us = settings->limits[0] != NULL || settings->limits[1] != NULL
				 ? clock_us()
				 : (uint64_t)clock_coarse_ms() * 1000;
	if (settings->proto->heeds_facts)
		clock_gettime(CLOCK_REALTIME, &shared->now);
}

/* Returns how many messages there were, or -1 with errno. `*more`: others may wait. */
static int serve_batch(struct datagram *datagram, bool *more)
{
	struct datagrams *shared = datagram->shared;
	struct counters *counters = datagram->server->counters;
	unsigned asked = batch_size(datagram), count = 0;
	uint64_t bytes = 0;
	int n;

	make_ready(datagram);
	n = recvmmsg(datagram->fd, shared->in, asked, MSG_DONTWAIT, NULL);
	*more = n == (int)asked && asked > 1;
	if (n <= 0)
		return -1;
	shared->used = (unsigned)n;
	learn(datagram, shared->used, asked);
	/* A window of the same size as before; if more waits, the next look finds it. */
	if (datagram->came == datagram->came_before)
		*more = false;
	begin_batch(datagram);
	for (unsigned i = 0; i < shared->used; i++) {
		bytes += shared->in[i].msg_len;
		count += datagram_serve(datagram, i);
	}
	counter_add(&counters->datagrams, count);
	counter_add(&counters->bytes_in, bytes);
	datagram_send(datagram);
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

/* Back to the loop; without memory, after a pause. */
static void watch_again(struct datagram *datagram)
{
	struct timeval tv = {0, SERVER_PAUSE_MS * 1000};

	if (event_add(&datagram->event, NULL) < 0)
		evtimer_add(&datagram->resume, &tv);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	watch_again(arg);
}

/* With so many datagrams in all, a turn is long enough: then connections have theirs. */
static uint64_t end_of_turn(const struct datagram *datagram)
{
	return counter_get(&datagram->server->counters->datagrams) + DATAGRAMS_TURN;
}

/* Returns whether anything had come; else errno is set. */
static bool take_turn(struct datagram *datagram, uint64_t until)
{
	bool more;

	if (serve_batch(datagram, &more) <= 0)
		return false;
	while (more && counter_get(&datagram->server->counters->datagrams) < until)
		serve_batch(datagram, &more);
	end_turn(datagram);
	datagram->busy = true;
	return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct datagram *datagram = arg;

	(void)fd;
	(void)what;
	/* A wrong checksum is found out only here: now and then there is nothing. */
	if (take_turn(datagram, end_of_turn(datagram)))
		datagram->fruitless = 0;
	else if (++datagram->fruitless >= FRUITLESS_MAX)
		pause_receiving(datagram, errno);
}

static void set_option(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof(value));
}

/*
 * Where a kernel does not know an option, or the socket is of another family, nothing is lost.
 *
 * Trains: only now, when this worker serves the socket. A worker of an older version, which would
 * take a train for one long datagram, may serve it until then, or for good when a restart fails.
 *
 * Each fact costs the kernel and us a few per cent of a datagram.
 */
static void set_what_comes(const struct datagram *datagram)
{
	int tells = datagram->server->settings.proto->heeds_facts;

	if (datagram->is_unix)
		return;
	set_option(datagram->fd, IPPROTO_UDP, UDP_GRO, 1);
	set_option(datagram->fd, IPPROTO_IP, IP_RECVTTL, tells);
	set_option(datagram->fd, IPPROTO_IP, IP_RECVTOS, tells);
	set_option(datagram->fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, tells);
	set_option(datagram->fd, IPPROTO_IPV6, IPV6_RECVTCLASS, tells);
}

int datagram_receive(struct datagram *datagram, bool on)
{
	if (on == datagram->receives)
		return 0;
	if (on && event_add(&datagram->event, NULL) < 0)
		return -1;
	if (on) {
		set_what_comes(datagram);
	} else {
		event_del(&datagram->event);
		event_del(&datagram->resume);
	}
	datagram->receives = on;
	datagram->polled = false;
	return 0;
}

void datagram_poll(struct datagram *datagram, bool on)
{
	if (datagram->polled == on)
		return;
	if (on && !event_pending(&datagram->event, EV_READ, NULL))
		return; /* it does not receive, or not before the end of a pause */
	if (on)
		event_del(&datagram->event);
	else
		watch_again(datagram);
	datagram->polled = on;
}

void datagram_poll_if_busy(struct datagram *datagram)
{
	datagram_poll(datagram, datagram->busy);
	datagram->busy = false;
}

void datagram_look(struct datagram *datagram)
{
	uint64_t until = end_of_turn(datagram);

	if (!datagram->polled)
		return;
	while (counter_get(&datagram->server->counters->datagrams) < until &&
	       take_turn(datagram, until))
		;
}

void datagram_empty(struct datagram *datagram)
{
	bool more;
	int n = 0;

	/* As for connections: no queue is longer. */
	for (int i = 0; i < SERVER_QUEUE_MAX && n >= 0; i += n)
		n = serve_batch(datagram, &more);
}

/* ---- The beginning and the end -------------------------------------------------------------- */

static void shared_free(struct datagrams *shared)
{
	if (shared->buffers != NULL)
		munmap(shared->buffers, BUFFERS);
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
	buffers = mmap(NULL, BUFFERS, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shared->bounce == NULL || buffers == MAP_FAILED) {
		shared_free(shared);
		return NULL;
	}
	/* Most datagrams are small, and most of this is never touched. */
	madvise(buffers, BUFFERS, MADV_NOHUGEPAGE);
	shared->buffers = buffers;
	shared->room = shared->buffers + (size_t)DATAGRAM_BATCH * STRIDE;
	for (size_t i = 0; i < DATAGRAM_BATCH; i++) {
		shared->in_data[i] = (struct iovec){shared->buffers + i * STRIDE, BUFFER};
		shared->in[i].msg_hdr = (struct msghdr){
			.msg_name = &shared->arrivals[i].peer,
			.msg_iov = &shared->in_data[i],
			.msg_iovlen = 1,
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
	datagram->is_unix = datagram->local.any.sa_family == AF_UNIX;
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
	datagram->expected = BATCH_MIN;
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
