/*
 * The sockets of a server's connections: an epoll set (epoll(7)) of their own, which the loop
 * watches like any other descriptor.
 *
 * An event of libevent takes 128 bytes, its socket some 50 more, and from what epoll reports to the
 * callback it is four structures. All that is much where a million may be idle, or a thousand speak
 * at once. Here a connection's place in the set is eight bytes of its own, the processor fetches
 * all that have something to say at once, and only few reports are taken at a time: who speaks
 * meanwhile waits behind those who have waited, not behind all.
 *
 * One set within the other has its price: where a worker sleeps after each line, that line costs
 * one more epoll_wait; and the kernel holds a lock of the whole system for a microsecond while a
 * connection is added.
 */
#ifndef ECHOD_NET_POLLER_H
#define ECHOD_NET_POLLER_H

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

/*
 * Reports taken at a time. 8 to 16 give 50 connections a p99 that is a fifth below that of 64, and
 * as much throughput; fewer would cost more calls of epoll_wait.
 */
#define POLLER_BATCH 16

/* Part of a connection, and best at its beginning: the first 128 bytes from here are fetched. */
struct poller_entry {
	int fd;
	/* Of the poller; 0 at first. */
	uint16_t watched; /* 0: not in the set */
	uint16_t turn;	  /* in which it was last reported */
};

struct poller {
	int fd;		    /* epoll_create1(2) */
	unsigned next, end; /* of `batch`: those that are still to be dealt with */
	uint16_t turn;	    /* the number of the loop's turn */
	bool again;	    /* somebody in the last batch was reported in this turn before */
	void (*ready)(struct poller_entry *entry, short what);
	struct event event; /* of `fd`, in the loop */
	struct epoll_event batch[POLLER_BATCH];
};

/*
 * `ready` is told what an entry can do, EV_READ, EV_WRITE or both (event2/event.h), and never what
 * is not watched for; after an error or a hang-up, that is all that is watched for. It may watch
 * and forget any entry, but neither take reports nor run the loop. Returns 0, or -1 with errno:
 * without memory or descriptors.
 */
int poller_init(struct poller *poller, struct event_base *base,
		void (*ready)(struct poller_entry *entry, short what));

/* All entries must have been forgotten. */
void poller_free(struct poller *poller);

/*
 * Report of `entry` what is in `what`, and no more: EV_READ, EV_WRITE or both. A report
 * comes as long as it holds (level-triggered). Returns 0, or -1 with errno, and nothing has
 * changed: ENOMEM, or ENOSPC beyond fs.epoll.max_user_watches (epoll_ctl(2)).
 */
int poller_watch(struct poller *poller, struct poller_entry *entry, short what);

/* Before its descriptor is closed: nothing more is reported, also not of what was taken already. */
void poller_forget(struct poller *poller, struct poller_entry *entry);

/*
 * Take one batch of reports and deal with it, without waiting. The loop does so when there are any;
 * who looks on calls it. Returns how many they were.
 */
unsigned poller_take(struct poller *poller);

#endif
