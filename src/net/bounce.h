/*
 * Servers that answer each other's answers: is what comes from a peer what we sent to it?
 *
 * One forged datagram, with the address of a second server as its source, starts a conversation
 * without an end between two servers of which each behaves well (CVE-2024-2169, CVE-1999-0103). It
 * cannot be told from a client that sends the same bytes as fast as the answers come, say to
 * measure: both return to us, at once, what we sent. What differs is who that can be:
 *
 * - From a port below 32768 it is probably a server. What comes back 256 times, each time within
 *   100 ms of the last, mutes the peer for 10 s. Two servers on one machine are silent within a
 *   second; what is slower than 100 ms costs nobody anything.
 * - From 32768 up, where kernels take the ports of clients from (Linux 32768 to 60999, others 49152
 *   to 65535: RFC 6335, section 6), it is probably a client. A peer is muted after a million times
 *   and for 1 s only: a loop ends, and a measurement that never changes its bytes loses less than
 *   it would on any network.
 *
 * A second is enough: what circulates comes back within 100 ms and is then not answered. The 10 s
 * are for somebody who forges again and again.
 *
 * One datagram of a peer is watched at a time, as it came and as it was answered; others between do
 * not reset the count, so that many of them in the air hide nothing. It counts once a turn of the
 * server at most: what came before the answer left cannot be its echo.
 *
 * The table has a fixed size. A peer whose place is taken by a busier one is not watched. Addresses
 * and bytes are hashed with a secret of the process.
 */
#ifndef ECHOD_NET_BOUNCE_H
#define ECHOD_NET_BOUNCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define BOUNCE_CLIENT_PORTS 32768 /* the first of them */

struct bounce;

/* NULL without memory. */
struct bounce *bounce_new(void);
void bounce_free(struct bounce *bounce); /* NULL is allowed */

struct bounce_peer {
	uint64_t key;
	uint16_t port; /* host byte order */
};

/* An IPv4 or IPv6 address with its port. */
struct bounce_peer bounce_peer_of(const struct bounce *bounce, const struct sockaddr *address);

/* Of a long datagram, its length and so many bytes at both ends are looked at. */
#define BOUNCE_END 1024
uint64_t bounce_hash(const struct bounce *bounce, const void *data, size_t len);

/* `now` is in milliseconds (clock_ms). */
bool bounce_is_muted(const struct bounce *bounce, struct bounce_peer peer, int64_t now);

/*
 * Does it matter what came from the peer in this turn? Not any more when the turn has counted:
 * then bounce_exchange would return 0, and need not be asked.
 */
bool bounce_matters(const struct bounce *bounce, struct bounce_peer peer, uint64_t turn);

/*
 * What came from the peer and what is to be sent, as hashes, in the turn of this number. Returns 0,
 * or for how many milliseconds the peer is muted from now on: then nothing is sent.
 */
int64_t bounce_exchange(struct bounce *bounce, struct bounce_peer peer, uint64_t came,
			uint64_t sent, uint64_t turn, int64_t now);

#endif
