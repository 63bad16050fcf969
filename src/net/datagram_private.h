/* What datagram.c and datagram_rules.c share; nobody else includes it. */
#ifndef ECHOD_NET_DATAGRAM_PRIVATE_H
#define ECHOD_NET_DATAGRAM_PRIVATE_H

#include "net/bounce.h"
#include "net/datagram.h"
#include "net/pktinfo.h"
#include "net/server_private.h"
#include "serve/proxy.h"

#define DATAGRAM_BATCH 64

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

/* What the datagram sockets of a server share: nothing stays in the buffers between two events. */
struct datagrams {
	unsigned users;
	struct bounce *bounce;
	unsigned char *buffers;		  /* of requests, then of replies */
	const struct datagram *ready_for; /* `in` is made for this socket, except `used` */
	unsigned used;
	unsigned replies;
	uint64_t turn;
	struct timespec now; /* CLOCK_REALTIME, of this turn */
	uint64_t now_us;     /* clock_us */
	struct unsaid unsaid[FATES];
	struct unsaid mutings;
	struct mmsghdr in[DATAGRAM_BATCH];
	struct iovec in_data[DATAGRAM_BATCH];
	union pktinfo_control in_control[DATAGRAM_BATCH];
	union any_address peers[DATAGRAM_BATCH];
	struct mmsghdr out[DATAGRAM_BATCH];
	struct iovec out_data[DATAGRAM_BATCH];
	union pktinfo_control out_control[DATAGRAM_BATCH];
};

struct datagram {
	struct server *server;
	struct datagrams *shared;
	struct event event;
	struct event resume; /* after a pause */
	int fd;
	bool receives;
	bool wildcard; /* of a socket on one address, the kernel takes that for replies */
	size_t control_len;
	const char *transport;
	union any_address local;
	uint16_t port;	    /* host byte order; not of a Unix socket */
	unsigned fruitless; /* turns in a row without any datagram */
};

/* One datagram, as it was received. */
struct request {
	struct datagram *datagram;
	union any_address *peer;
	socklen_t peer_len;
	unsigned char *data;
	size_t len;
	struct pktinfo info;
	struct bounce_peer bouncer; /* not of a Unix socket */
	bool has_proxy;
	struct proxy_header proxy;
	struct refusal refusal;
	const char *why; /* more about its fate; NULL: the fate says all */
};

/* The rules about who really sent it, PROXY header or not; sets `bouncer`. */
enum fate datagram_judge_sender(struct request *request);

/* The rules about the client, which is who a PROXY header names; takes that off the data. */
enum fate datagram_judge_client(struct request *request);

#endif
