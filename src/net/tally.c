#include "net/tally.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "net/limits.h"

/*
 * The file: a header with one cell for each place, a part for each place, and the sets. A set has
 * room for WAYS keys; the hash of a key says which set is its own. A restart in place hands the
 * file over: another layout of the same size needs another HANDOVER_VERSION (run/launch.h).
 *
 * Every access is sequentially consistent, unless a comment says otherwise: hold() and settle()
 * each write one thing and then read the other's, and one of the two must see it.
 */
#define WAYS	  7 /* and the word `change`: one cache line */
#define SETS_MAX  32768
#define SETS_MIN  1024
#define SIZE_WISH (64u * 1024 * 1024) /* many places get fewer sets */
#define CELL_LINE 64
#define PAGE	  4096
#define TRIES	  64

/*
 * Who has a way of a set, and what is to be changed in a set, are words of the same layout: the
 * upper bits of the key's hash (its lower bits chose the set), the number of a way, and a version.
 */
#define ID_BITS	      (~UINT64_C(0x7ffff))
#define ID_ONE	      UINT64_C(0x80000)
#define WAY_SHIFT     16
#define WAY_OF(word)  ((unsigned)((word) >> WAY_SHIFT) & 7)
#define VERSION(word) ((uint16_t)(word))

struct set {
	/*
	 * A change that somebody has announced: this key shall have this way. Without an id there
	 * is none, and the version is that of the last one.
	 */
	_Atomic uint64_t change;
	/* Who has each way (no id: nobody), and the version of the change that decided about it. */
	_Atomic uint64_t owner[WAYS];
	_Atomic uint64_t arrival[WAYS][TALLY_BUCKETS];
	_Atomic uint32_t held[]; /* WAYS rows of a cell for each place */
};

struct header {
	_Atomic uint64_t secret[2]; /* 0: not chosen yet */
	_Alignas(CELL_LINE) _Atomic uint64_t arrival;
	_Alignas(CELL_LINE) _Atomic uint32_t held[]; /* a cell for each place */
};

/* Everything but the memory itself is private: what others write there cannot lead us astray. */
struct tally {
	unsigned char *memory;
	size_t size;
	unsigned places;
	unsigned place;
	size_t sets;	    /* a power of two */
	size_t sets_offset; /* where the first one begins */
	size_t set_size;
	/* One bit a set: there may be something in this place's cells. Only this place writes it.
	 */
	_Atomic uint64_t *touched;
	struct header *header;
	uint64_t secret[2];
	uint64_t rates[TALLY_BUCKETS];
};

/* ---- The layout ----------------------------------------------------------------------------- */

static size_t round_up(size_t n, size_t unit)
{
	return (n + unit - 1) / unit * unit;
}

static size_t touched_size(size_t sets)
{
	return round_up(sets / 8, CELL_LINE);
}

static void plan(struct tally *tally, unsigned places)
{
	size_t cells = sizeof(uint32_t) * places;

	tally->places = places;
	tally->set_size = round_up(sizeof(struct set) + WAYS * cells, CELL_LINE);
	tally->sets = SETS_MAX;
	while (tally->sets > SETS_MIN && tally->sets * tally->set_size > SIZE_WISH)
		tally->sets /= 2;
	tally->sets_offset = round_up(sizeof(struct header) + cells, PAGE) +
			     round_up(touched_size(tally->sets) * places, PAGE);
	tally->size = tally->sets_offset + tally->sets * tally->set_size;
}

size_t tally_size(unsigned places)
{
	struct tally tally = {0};

	plan(&tally, places);
	return tally.size;
}

static struct set *set_at(const struct tally *tally, size_t number)
{
	unsigned char *at = tally->memory + tally->sets_offset + number * tally->set_size;

	return (struct set *)(void *)at;
}

static _Atomic uint32_t *row(const struct tally *tally, struct set *set, unsigned way)
{
	return &set->held[(size_t)way * tally->places];
}

/* ---- The hash ------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

struct sip {
	uint64_t a, b, c, d;
};

static inline struct sip sip_round(struct sip v)
{
	v.a += v.b;
	v.c += v.d;
	v.b = rotate(v.b, 13) ^ v.a;
	v.d = rotate(v.d, 16) ^ v.c;
	v.a = rotate(v.a, 32);
	v.c += v.b;
	v.a += v.d;
	v.b = rotate(v.b, 17) ^ v.c;
	v.d = rotate(v.d, 21) ^ v.a;
	v.c = rotate(v.c, 32);
	return v;
}

static inline struct sip sip_word(struct sip v, uint64_t word)
{
	v.d ^= word;
	v = sip_round(sip_round(v));
	v.a ^= word;
	return v;
}

/*
 * SipHash-2-4 (Aumasson, Bernstein) of the key and a byte for its kind. Words are taken in the
 * machine's own order: no other one sees the table.
 */
static uint64_t hash(const uint64_t secret[2], const uint8_t key[16], enum tally_kind kind)
{
	struct sip v = {
		secret[0] ^ UINT64_C(0x736f6d6570736575),
		secret[1] ^ UINT64_C(0x646f72616e646f6d),
		secret[0] ^ UINT64_C(0x6c7967656e657261),
		secret[1] ^ UINT64_C(0x7465646279746573),
	};
	uint64_t words[2];

	memcpy(words, key, sizeof(words));
	v = sip_word(sip_word(v, words[0]), words[1]);
	v = sip_word(v, UINT64_C(17) << 56 | (uint64_t)kind);
	v.c ^= 0xff;
	v = sip_round(sip_round(sip_round(sip_round(v))));
	return v.a ^ v.b ^ v.c ^ v.d;
}

/* The first process chooses; whoever comes second at the same moment takes the other's choice. */
static int agree_on_secret(struct tally *tally, struct error *err)
{
	for (int i = 0; i < 2; i++) {
		uint64_t mine, there = 0;

		if (getrandom(&mine, sizeof(mine), 0) != (ssize_t)sizeof(mine))
			return error_errno(err, "cannot get random bytes");
		mine += mine == 0;
		atomic_compare_exchange_strong(&tally->header->secret[i], &there, mine);
		tally->secret[i] = there != 0 ? there : mine;
	}
	return 0;
}

/* ---- Opening -------------------------------------------------------------------------------- */

static int map(struct tally *tally, int fd, struct error *err)
{
	struct stat st;
	void *memory;

	/* Behind the end of a file that is too small, SIGBUS would wait. */
	if (fstat(fd, &st) < 0 || st.st_size != (off_t)tally->size)
		return error_set(err, EXIT_FAILED, "the memory file of limits has another size");
	memory = mmap(NULL, tally->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return error_errno(err, "cannot map the memory file of limits");
	tally->memory = memory;
	return 0;
}

struct tally *tally_open(int fd, unsigned places, unsigned place,
			 const uint64_t rates[TALLY_BUCKETS], struct error *err)
{
	struct tally *tally = calloc(1, sizeof(*tally));

	if (tally == NULL) {
		error_errno(err, "cannot open the memory file of limits");
		return NULL;
	}
	plan(tally, places);
	tally->place = place;
	memcpy(tally->rates, rates, sizeof(tally->rates));
	if (place >= places) {
		error_set(err, EXIT_FAILED, "there are limits for %u processes, and this is no. %u",
			  places, place);
		free(tally);
		return NULL;
	}
	if (map(tally, fd, err) < 0) {
		free(tally);
		return NULL;
	}
	tally->header = (struct header *)(void *)tally->memory;
	tally->touched = (_Atomic uint64_t *)(void *)(tally->memory + tally->sets_offset -
						      touched_size(tally->sets) * (places - place));
	if (agree_on_secret(tally, err) == 0)
		return tally;
	tally_close(tally);
	return NULL;
}

void tally_close(struct tally *tally)
{
	if (tally == NULL)
		return;
	munmap(tally->memory, tally->size);
	free(tally);
}

static void clear_set(struct tally *tally, struct set *set)
{
	for (unsigned way = 0; way < WAYS; way++)
		atomic_store(&row(tally, set, way)[tally->place], 0);
}

void tally_clear(struct tally *tally)
{
	for (size_t i = 0; i < tally->sets / 64; i++) {
		uint64_t bits = atomic_load(&tally->touched[i]);

		for (; bits != 0; bits &= bits - 1)
			clear_set(tally, set_at(tally, i * 64 + (size_t)__builtin_ctzll(bits)));
		/* Only now: if we are killed before, the next one clears them once more. */
		atomic_store(&tally->touched[i], 0);
	}
	atomic_store(&tally->header->held[tally->place], 0);
}

/* ---- Cells ---------------------------------------------------------------------------------- */

/* No lock is needed for a place's own cell, but the order against what is read next (see above). */
static void add_one(_Atomic uint32_t *cell)
{
	atomic_fetch_add(cell, 1);
}

static void take_one(_Atomic uint32_t *cell)
{
	/* What we did not add ourselves is not below 0 either. */
	if (atomic_load(cell) > 0)
		atomic_fetch_sub(cell, 1);
}

static uint64_t sum(const struct tally *tally, const _Atomic uint32_t *cells)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < tally->places; i++)
		n += atomic_load(&cells[i]);
	return n;
}

/* ---- Who has which way ---------------------------------------------------------------------- */

/*
 * Nobody holds it, and its buckets tell nothing: so the next key begins with full ones. In this
 * order: who has charged a bucket has held the entry before, and has let go of it after.
 */
static bool is_free(const struct tally *tally, struct set *set, unsigned way, uint64_t now)
{
	uint64_t wait;

	if (sum(tally, row(tally, set, way)) > 0)
		return false;
	for (unsigned i = 0; i < TALLY_BUCKETS; i++)
		if (tally->rates[i] > 0 &&
		    bucket_left(atomic_load(&set->arrival[way][i]), tally->rates[i], now, &wait) <
			    tally->rates[i])
			return false;
	return true;
}

/*
 * Carry out a change that was announced, by us or by somebody who may be dead by now: whoever comes
 * first decides about it by one compare-and-swap of the way's owner, which is the new one, or the
 * same as before when somebody holds the way; the version there says that it is decided.
 *
 * Why no key loses a way that it holds: a holder has written its cell before it found no change
 * announced for the way. Who read that cell as 0 did so earlier, under an announcement that was
 * over when the holder looked. But it is over only when it is decided, so the owner's word is not
 * any more the one that was read then, and the compare-and-swap fails; or it was the decision, and
 * the holder, who looks at the owner last, finds another key there.
 */
static void settle(const struct tally *tally, struct set *set, uint64_t change, uint64_t now)
{
	unsigned way = WAY_OF(change);
	uint64_t version = VERSION(change);

	if (way < WAYS) {
		uint64_t owner = atomic_load(&set->owner[way]);

		/* Else what we have read may belong to a later change. */
		if (atomic_load(&set->change) != change)
			return;
		if (VERSION(owner) != version) {
			uint64_t id = is_free(tally, set, way, now) ? change : owner;

			atomic_compare_exchange_strong(&set->owner[way], &owner,
						       (id & ID_BITS) | version);
		}
	}
	atomic_compare_exchange_strong(&set->change, &change, version);
}

/* False: it was given to another key in between, or is about to be. */
static bool hold(struct tally *tally, struct set *set, unsigned way, uint64_t id)
{
	_Atomic uint32_t *cell = &row(tally, set, way)[tally->place];
	uint64_t change, owner;

	add_one(cell);
	change = atomic_load(&set->change);
	owner = atomic_load(&set->owner[way]);
	if ((owner & ID_BITS) == id && ((change & ID_BITS) == 0 || WAY_OF(change) != way))
		return true;
	take_one(cell);
	return false;
}

static unsigned find(struct set *set, uint64_t id)
{
	unsigned way = 0;

	while (way < WAYS && (atomic_load(&set->owner[way]) & ID_BITS) != id)
		way++;
	return way;
}

/* Not always the same one first: who was here last may come again. */
static unsigned find_free(const struct tally *tally, struct set *set, unsigned start, uint64_t now)
{
	for (unsigned i = 0; i < WAYS; i++)
		if (is_free(tally, set, (start + i) % WAYS, now))
			return (start + i) % WAYS;
	return WAYS;
}

/* Before the first cell of the set is written: tally_clear must find it. */
static void touch(struct tally *tally, size_t set)
{
	uint64_t bit = UINT64_C(1) << set % 64;
	uint64_t bits = atomic_load_explicit(&tally->touched[set / 64], memory_order_relaxed);

	if ((bits & bit) == 0)
		atomic_store(&tally->touched[set / 64], bits | bit);
}

/*
 * One key never has two ways: its absence is found between two reads of the same version of the
 * set, and only one change can follow on that. A try fails only when another process got on.
 */
uint32_t tally_hold(struct tally *tally, enum tally_kind kind, const uint8_t key[16], uint64_t now)
{
	uint64_t hashed = hash(tally->secret, key, kind);
	uint64_t id = (hashed & ID_BITS) != 0 ? hashed & ID_BITS : ID_ONE;
	size_t number = hashed & (tally->sets - 1);
	struct set *set = set_at(tally, number);

	touch(tally, number);
	for (int i = 0; i < TRIES; i++) {
		uint64_t change = atomic_load(&set->change), next;
		unsigned way;

		if ((change & ID_BITS) != 0) {
			settle(tally, set, change, now);
			continue;
		}
		way = find(set, id);
		if (way < WAYS) {
			if (hold(tally, set, way, id))
				return (uint32_t)(number * WAYS + way) + 1;
			continue;
		}
		way = find_free(tally, set, VERSION(change) % WAYS, now);
		if (way == WAYS)
			return 0;
		next = id | (uint64_t)way << WAY_SHIFT | (uint16_t)(VERSION(change) + 1);
		if (atomic_compare_exchange_strong(&set->change, &change, next))
			settle(tally, set, next, now);
	}
	return 0;
}

static _Atomic uint32_t *row_of(const struct tally *tally, uint32_t entry)
{
	return row(tally, set_at(tally, (entry - 1) / WAYS), (entry - 1) % WAYS);
}

void tally_release(struct tally *tally, uint32_t entry)
{
	take_one(&row_of(tally, entry)[tally->place]);
}

uint64_t tally_count(const struct tally *tally, uint32_t entry)
{
	return sum(tally, row_of(tally, entry));
}

_Atomic uint64_t *tally_arrival(const struct tally *tally, uint32_t entry, enum tally_bucket bucket)
{
	return &set_at(tally, (entry - 1) / WAYS)->arrival[(entry - 1) % WAYS][bucket];
}

/* ---- All ------------------------------------------------------------------------------------ */

void tally_hold_all(struct tally *tally)
{
	add_one(&tally->header->held[tally->place]);
}

void tally_release_all(struct tally *tally)
{
	take_one(&tally->header->held[tally->place]);
}

uint64_t tally_count_all(const struct tally *tally)
{
	return sum(tally, tally->header->held);
}

_Atomic uint64_t *tally_arrival_all(const struct tally *tally)
{
	return &tally->header->arrival;
}
