/*
 * A table of counts and buckets by key, in a memory file that several processes ("places") map: the
 * ground of net/limits.c.
 *
 * What a place holds stands only in cells that this place alone writes; a count is the sum of the
 * cells of all places. So a process that is killed between any two instructions leaves nothing
 * wrong but its own cells, and clearing those is all that its successor has to do. There are no
 * locks.
 *
 * A process believes nothing that it reads here: whatever another one wrote, it can be refused or
 * let in wrongly, but neither crash nor go on for ever.
 */
#ifndef ECHOD_NET_TALLY_H
#define ECHOD_NET_TALLY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum tally_bucket {
	TALLY_CONNECTIONS,
	TALLY_BYTES,
	TALLY_REQUESTS,
	TALLY_DATAGRAMS,
	TALLY_BUCKETS,
};

/* Keys of different kinds are different keys. */
enum tally_kind { TALLY_SOURCE, TALLY_PREFIX, TALLY_DATAGRAM_PREFIX };

struct tally; /* one place's view of it */

/* The size of the memory file in bytes; zeroes are an empty table. */
size_t tally_size(unsigned places);

/*
 * The memory file, seen from one place, whose cells are as they were. `rates` (0: none) are those
 * of the buckets of an entry: an entry whose buckets are not full is not given away. `fd` may be
 * closed then. NULL with the reason.
 */
struct tally *tally_open(int fd, unsigned places, unsigned place,
			 const uint64_t rates[TALLY_BUCKETS], struct error *err);
void tally_close(struct tally *tally); /* NULL is allowed; the cells are left as they are */

/* This place holds nothing any more. */
void tally_clear(struct tally *tally);

/*
 * Hold the entry of a key once more, which no other key gets while anybody holds it. Returns its
 * number, from 1; 0: there is no room for it. `now` in microseconds.
 */
uint32_t tally_hold(struct tally *tally, enum tally_kind kind, const uint8_t key[16], uint64_t now);
void tally_release(struct tally *tally, uint32_t entry);

/* How often the entry is held, by all places. */
uint64_t tally_count(const struct tally *tally, uint32_t entry);

/* For bucket_charge; only for entries that are held. */
_Atomic uint64_t *tally_arrival(const struct tally *tally, uint32_t entry,
				enum tally_bucket bucket);

/* The same for one entry that there always is, and that nobody must hold for its bucket. */
void tally_hold_all(struct tally *tally);
void tally_release_all(struct tally *tally);
uint64_t tally_count_all(const struct tally *tally);
_Atomic uint64_t *tally_arrival_all(const struct tally *tally);

#endif
