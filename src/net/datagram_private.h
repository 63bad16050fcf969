/*
 * What the files of the datagram sockets share; nobody else includes it. The way of a datagram:
 *
 *   datagram.c         receives messages, each of which is a datagram or a train of them
 *   datagram_answer.c  cuts each into its datagrams, and asks the protocol
 *   datagram_rules.c   decides which of them are answered
 *   datagram_reply.c   joins the replies into trains where it can, and sends them
 *   datagram_report.c  counts and tells what was not answered
 */
#ifndef ECHOD_NET_DATAGRAM_PRIVATE_H
#define ECHOD_NET_DATAGRAM_PRIVATE_H

#include "net/bounce.h"
#include "net/datagram.h"
#include "net/pktinfo.h"
#include "net/server_private.h"
#include "net/train.h"
#include "serve/proxy.h"

/* So many buffers stay in the processor's cache, and more would gain nothing. */
#define DATAGRAM_BATCH 16
#define DATAGRAM_ROOM  (4 * 65536) /* bytes of replies that are not the requests' own */
#define DATAGRAM_ALONE 64

/* Why a datagram is not answered. */
enum fate {
	ANSWERED,
	NO_ANSWER, /* the protocol has none */
	NOT_FOR_US,
	FROM_PORT,
	LOOPING,
	OVER_RATE,
	NAMELESS,
	TOO_LONG,
	NO_ACCESS,
	CLOSED,
	LOADED,
	NO_PROXY,
	BAD_PROXY,
	UNSENT,
	FATES
};

/* What was not said yet because the last message of its kind is too fresh. */
struct unsaid {
	uint64_t count;
	uint64_t next; /* us */
};

/* A message that was received: from whom, and what came along. */
struct arrival {
	union any_address peer;
	union pktinfo_control control;
	socklen_t peer_len;
	struct bounce_peer bouncer; /* not of a Unix socket */
	struct pktinfo info;
};

/* Replies that leave as one message. */
struct reply {
	const struct arrival *to; /* the first that it answers */
	size_t control_len;	  /* without the size of the train's datagrams */
	union pktinfo_control control;
	struct train train;
};

/* Datagrams of this size, or larger ones, cannot be joined on their way to this peer. */
struct alone {
	uint64_t key;
	size_t segment;
};

/* What the datagram sockets of a server share: nothing stays in the buffers between two events. */
struct datagrams {
	unsigned users;
	struct bounce *bounce;
	unsigned char *buffers;		  /* of requests */
	unsigned char *room;		  /* of replies that are not the requests' own bytes */
	size_t room_used;		  /* by replies that were not sent yet */
	const struct datagram *ready_for; /* `in` is made for this socket, except `used` */
	unsigned used;
	unsigned reply_count;
	uint64_t turn;
	struct timespec now; /* CLOCK_REALTIME of this batch, for who tells it */
	uint64_t now_us;     /* of this batch, on the monotonic clock */
	struct mmsghdr in[DATAGRAM_BATCH];
	struct iovec in_data[DATAGRAM_BATCH];
	struct arrival arrivals[DATAGRAM_BATCH];
	struct mmsghdr out[DATAGRAM_BATCH];
	struct reply replies[DATAGRAM_BATCH];
	struct alone alone[DATAGRAM_ALONE];
	struct unsaid unsaid[FATES];
	struct unsaid mutings;
};

struct datagram {
	struct server *server;
	struct datagrams *shared;
	struct event event;
	struct event resume; /* after a pause */
	int fd;
	bool receives;
	bool polled; /* datagram_poll */
	bool busy;   /* something came since datagram_poll_if_busy was last asked */
	bool is_unix;
	bool wildcard; /* of a socket on one address, the kernel takes that for replies */
	size_t control_len;
	const char *transport;
	union any_address local;
	uint16_t port;	      /* host byte order; not of a Unix socket */
	unsigned expected;    /* messages of the next batch */
	unsigned came;	      /* messages in this turn */
	unsigned came_before; /* in the one before */
	unsigned alone;	      /* batches of one in a row */
	size_t longest;	      /* bytes, of the last one */
	unsigned fruitless;   /* turns in a row without any datagram */
};

/* One datagram. */
struct request {
	struct datagram *datagram;
	const struct arrival *from;
	unsigned char *data;
	size_t len;
	bool has_proxy;
	struct proxy_header proxy;
	struct refusal refusal;
	const char *why; /* more about its fate; NULL: the fate says all */
};

/* ---- datagram_answer.c ---------------------------------------------------------------------- */

/* Answer what was received as message `i`. Returns how many datagrams it is. */
unsigned datagram_serve(struct datagram *datagram, unsigned i);

/* ---- datagram_rules.c ----------------------------------------------------------------------- */

/* The rules about where a message came from, and its size; sets `bouncer`. */
enum fate datagram_judge_arrival(const struct datagram *datagram, struct arrival *arrival,
				 const struct msghdr *message);

/* The rules about the client, which is who a PROXY header names; takes that off the data. */
enum fate datagram_judge_client(struct request *request);

/* ---- datagram_reply.c ----------------------------------------------------------------------- */

/* Before each reply: PROTO_DATAGRAM_MAX bytes for it. What was queued before may be sent now. */
unsigned char *datagram_room(struct datagram *datagram);

/* The bytes, in that room or in the request, stay as they are until they are sent. */
void datagram_reply(const struct request *request, const unsigned char *data, size_t len);

/* Send all that is queued: to each peer in the order of its requests. */
void datagram_send(struct datagram *datagram);

/* ---- datagram_report.c ---------------------------------------------------------------------- */

void datagram_not_answered(struct datagram *datagram, enum fate fate,
			   const struct request *request);
void datagram_say_muted(struct datagram *datagram, const struct request *request, int64_t ms);

#endif
