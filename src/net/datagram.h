/*
 * Serving datagrams, UDP (RFC 768) and unixgram, in one worker process: received and answered in
 * batches (recvmmsg(2), sendmmsg(2)), each reply from the address that was asked.
 *
 * Two servers that answer each other's answers would go on for ever, and a forged source address
 * would point a server at a victim. So nothing is answered that
 * - came from a multicast, broadcast or unspecified address, or was not sent to us alone (RFC 1122,
 *   sections 3.2.1.3 and 4.1.3.6);
 * - has source port 0, the port of one of the daemon's own datagram sockets, or one of
 *   `deny_source_ports`;
 * - comes back: what we sent returns from the same peer again and again (net/bounce.h);
 * - is over the limits of its source's prefix, or not allowed by the access rules.
 * Each reason has a counter and, once a second at most, a line in the log.
 *
 * No reply is longer than its request, or than 64 bytes where the request is shorter: whatever a
 * protocol would say, nobody's traffic is multiplied.
 */
#ifndef ECHOD_NET_DATAGRAM_H
#define ECHOD_NET_DATAGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct event_base;
struct server;

/* A set of ports, one bit each. */
struct port_set {
	uint64_t bits[65536 / 64];
};

static inline void port_set_add(struct port_set *set, uint16_t port)
{
	set->bits[port / 64] |= UINT64_C(1) << (port % 64);
}

static inline bool port_set_has(const struct port_set *set, uint16_t port)
{
	return (set->bits[port / 64] >> (port % 64) & 1) != 0;
}

struct datagram; /* one datagram socket of a server */

/*
 * Take a bound datagram socket, which is closed by datagram_free; nothing is received yet. The
 * settings are those of the server, whose protocol must answer datagrams. NULL with the reason;
 * then the socket is not taken.
 *
 * Its options are up to who bound it, before anything could arrive. AF_INET: IP_PKTINFO (needed),
 * IP_RECVTTL, IP_RECVTOS; AF_INET6: IPV6_RECVPKTINFO (needed), IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS,
 * and those of AF_INET too unless it is IPV6_V6ONLY; AF_UNIX: SO_PASSCRED where the sender's ids
 * matter. Never SO_BROADCAST: its absence keeps the kernel from answering to a broadcast address.
 */
struct datagram *datagram_new(struct server *server, int fd, struct error *err);

/* Receive, or no longer. Returns -1 without memory. */
int datagram_receive(struct datagram *datagram, bool on);

/*
 * Leave it to datagram_look() alone to find out what came, or to the loop again. Nothing happens
 * while the socket does not receive.
 */
void datagram_poll(struct datagram *datagram, bool on);

/* The first if anything has come since the last call, else the second. */
void datagram_poll_if_busy(struct datagram *datagram);

/* Of a socket that is polled: answer what has come, up to the length of a turn. */
void datagram_look(struct datagram *datagram);

/* Answer what waits in the socket's queue now: a flood cannot make this last for ever. */
void datagram_empty(struct datagram *datagram);

void datagram_free(struct datagram *datagram);

#endif
