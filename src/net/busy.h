/*
 * Busy polling: whether to look on for a while before sleeping.
 *
 * To sleep and be woken takes time, and most of it is the processor's: 20 us on a virtual machine.
 * Who looks on for about as long loses little when nothing comes, and saves it all when the next
 * request comes sooner (Karlin, Li, Manasse, Owicki, "Empirical Studies of Competitive Spinning for
 * a Shared-Memory Multiprocessor", SOSP 1991). Where that does not pay, because clients are slower
 * than that or share our processor, it is tried ever more seldom.
 */
#ifndef ECHOD_NET_BUSY_H
#define ECHOD_NET_BUSY_H

#include <stdbool.h>

/* Tries that failed in a row are followed by so many sleeps without a try, doubled each time. */
#define BUSY_SKIP_MIN 32
#define BUSY_SKIP_MAX 512

/* With fewer sleeps saved in one go, looking on has cost more than that. */
#define BUSY_PAYS 8

/* The same where others wanted our processor meanwhile: a client, or another worker. */
#define BUSY_PAYS_SHARED 64

/* {0} at first. */
struct busy {
	unsigned skip;	/* sleeps before the next try */
	unsigned after; /* what it becomes after a try that fails; 0: BUSY_SKIP_MIN */
};

/* Something has come, and now nothing is left to do: look on, rather than sleep? */
bool busy_tries(struct busy *busy);

/* That saved so many sleeps; `preempted`: others took the processor from us meanwhile. */
void busy_learn(struct busy *busy, unsigned saved, bool preempted);

#endif
