/*
 * Trains: datagrams of one size, the last of which may be shorter, that pass through the kernel as
 * one message (udp(7), UDP_SEGMENT and UDP_GRO; Linux 4.18 and 5.0). The network carries, and the
 * other end receives, each datagram as if it had been sent alone. An empty one is never part of a
 * train.
 */
#ifndef ECHOD_NET_TRAIN_H
#define ECHOD_NET_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#define TRAIN_MAX   64	  /* datagrams; what every kernel takes (UDP_MAX_SEGMENTS) */
#define TRAIN_BYTES 65507 /* what one IPv4 packet can carry, which the kernel cuts */

struct train {
	size_t segment; /* bytes of each datagram, but of the last */
	size_t bytes;	/* of all */
	unsigned count; /* datagrams, at least one */
	unsigned pieces;
	struct iovec data[TRAIN_MAX]; /* those that lie one behind the other are one piece */
};

/* A train of one datagram, of any length; the bytes stay where they are. */
void train_begin(struct train *train, const void *data, size_t len);

/* One more at its end. False, and nothing has changed: it cannot be part of this train. */
bool train_add(struct train *train, const void *data, size_t len);

/* Where to take the datagrams out one by one; zeroes at first. */
struct train_place {
	unsigned piece;
	size_t offset;
};

/* The next one; false behind the last. */
bool train_next(const struct train *train, struct train_place *place, struct iovec *datagram);

/* How long is the first datagram of so many bytes that came? `segment` 0: they are only one. */
static inline size_t train_first(size_t bytes, size_t segment)
{
	return segment > 0 && segment < bytes ? segment : bytes;
}

#endif
