/* The table below the limits: who has which entry, with several processes and sudden deaths. */
#include "support.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "net/tally.h"
#include "os/memory_file.h"

#define PLACES	  4
#define WAYS	  7 /* of a set */
#define KEYS	  12
#define KEPT_MAX  3 /* by a process: together they want more than there is, at times */
#define SECOND	  UINT64_C(1000000)
#define KILLS	  200
#define HAMMERING 30000 /* times */

static const uint64_t no_rates[TALLY_BUCKETS];

static int make_file(void)
{
	struct error err = {0};
	int fd = memory_file_shared("test", tally_size(PLACES), &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	return fd;
}

static struct tally *open_place(int fd, unsigned place)
{
	struct error err = {0};
	struct tally *tally = tally_open(fd, PLACES, place, no_rates, &err);

	if (tally == NULL)
		fail_msg("%s", err.text);
	return tally;
}

static void key_of(uint8_t key[16], uint64_t number)
{
	memset(key, 0, 16);
	memcpy(key, &number, sizeof(number));
}

static uint32_t hold(struct tally *tally, uint64_t number)
{
	uint8_t key[16];

	key_of(key, number);
	return tally_hold(tally, TALLY_SOURCE, key, SECOND);
}

/* Keys that all belong in one set, which is the first key's. */
static void find_neighbours(struct tally *tally, uint64_t *keys, size_t count)
{
	uint32_t set = UINT32_MAX;
	size_t n = 0;

	for (uint64_t number = 1; n < count; number++) {
		uint32_t entry = hold(tally, number);

		assert_int_not_equal(entry, 0);
		tally_release(tally, entry);
		if (set == UINT32_MAX)
			set = (entry - 1) / WAYS;
		if ((entry - 1) / WAYS == set)
			keys[n++] = number;
	}
}

/* ---- One process ---------------------------------------------------------------------------- */

static void a_file_of_another_size_is_refused(void **state)
{
	int fd = make_file();
	struct error err = {0};

	(void)state;
	assert_null(tally_open(fd, PLACES + 1000, 0, no_rates, &err));
	assert_contains(err.text, "another size");
	assert_null(tally_open(fd, PLACES, PLACES, no_rates, &err));
	assert_contains(err.text, "no. 4");
	assert_null(tally_open(-1, PLACES, 0, no_rates, &err));
	tally_close(NULL);
	close(fd);
}

static void the_size_is_bounded(void **state)
{
	(void)state;
	for (unsigned places = 1; places <= 1024; places++) {
		assert_true(tally_size(places) > 1024 * 1024);
		assert_true(tally_size(places) < 70 * 1024 * 1024);
	}
}

static void a_key_has_one_entry_in_all_places(void **state)
{
	int fd = make_file();
	struct tally *a = open_place(fd, 0), *b = open_place(fd, 1);
	uint32_t entry = hold(a, 1);

	(void)state;
	close(fd);
	assert_int_not_equal(entry, 0);
	assert_int_equal(hold(a, 1), entry);
	assert_int_equal(hold(b, 1), entry);
	assert_int_equal(tally_count(a, entry), 3);
	assert_int_equal(tally_count(b, entry), 3);
	tally_release(b, entry);
	tally_release(b, entry); /* not what others hold */
	assert_int_equal(tally_count(a, entry), 2);
	tally_clear(b);
	assert_int_equal(tally_count(a, entry), 2);
	tally_clear(a);
	assert_int_equal(tally_count(b, entry), 0);
	tally_close(a);
	tally_close(b);
}

static void kinds_of_keys_are_different_keys(void **state)
{
	int fd = make_file();
	struct tally *tally = open_place(fd, 0);
	uint8_t key[16] = {1};
	uint32_t a = tally_hold(tally, TALLY_SOURCE, key, 0);
	uint32_t b = tally_hold(tally, TALLY_PREFIX, key, 0);
	uint32_t c = tally_hold(tally, TALLY_DATAGRAM_PREFIX, key, 0);

	(void)state;
	assert_true(a != b && b != c && a != c);
	tally_close(tally);
	close(fd);
}

static void another_file_hashes_otherwise(void **state)
{
	int fds[2] = {make_file(), make_file()};
	struct tally *a = open_place(fds[0], 0), *b = open_place(fds[1], 0);
	unsigned same = 0;

	(void)state;
	for (uint64_t i = 0; i < 100; i++)
		same += hold(a, i) / WAYS == hold(b, i) / WAYS;
	assert_true(same < 10);
	tally_close(a);
	tally_close(b);
	close(fds[0]);
	close(fds[1]);
}

static void a_full_set_has_room_again_when_one_lets_go(void **state)
{
	int fd = make_file();
	struct tally *a = open_place(fd, 0), *b = open_place(fd, 1);
	uint64_t keys[WAYS + 1];
	uint32_t entries[WAYS];

	(void)state;
	find_neighbours(a, keys, WAYS + 1);
	for (unsigned i = 0; i < WAYS; i++) {
		entries[i] = hold(i % 2 == 0 ? a : b, keys[i]);
		assert_int_not_equal(entries[i], 0);
		for (unsigned k = 0; k < i; k++)
			assert_int_not_equal(entries[k], entries[i]);
	}
	assert_int_equal(hold(a, keys[WAYS]), 0);
	assert_int_equal(hold(a, keys[3]), entries[3]);
	tally_release(b, entries[3]);
	assert_int_equal(hold(a, keys[WAYS]), 0);
	tally_release(a, entries[3]);
	assert_int_equal(hold(a, keys[WAYS]), entries[3]);
	tally_close(a);
	tally_close(b);
	close(fd);
}

static void an_entry_whose_bucket_is_not_full_is_kept(void **state)
{
	const uint64_t rates[TALLY_BUCKETS] = {[TALLY_REQUESTS] = 10};
	int fd = make_file();
	struct error err = {0};
	struct tally *tally = tally_open(fd, PLACES, 0, rates, &err);
	uint64_t keys[WAYS + 1];
	uint8_t key[16];

	(void)state;
	assert_non_null(tally);
	find_neighbours(tally, keys, WAYS + 1);
	for (unsigned i = 0; i < WAYS; i++) {
		uint32_t entry = hold(tally, keys[i]);

		/* A rate that does not hold here says nothing. */
		atomic_store(tally_arrival(tally, entry, TALLY_BYTES), UINT64_C(1) << 40);
		atomic_store(tally_arrival(tally, entry, TALLY_REQUESTS),
			     UINT64_C(10) << 30 | 1); /* just after 1 s */
		tally_release(tally, entry);
	}
	key_of(key, keys[WAYS]);
	assert_int_equal(tally_hold(tally, TALLY_SOURCE, key, SECOND), 0);
	assert_int_not_equal(tally_hold(tally, TALLY_SOURCE, key, SECOND + 1), 0);
	tally_close(tally);
	close(fd);
}

/* ---- Several processes ----------------------------------------------------------------------- */

/* What each process believes to hold, for the others to check. */
struct belief {
	_Atomic uint32_t entry[PLACES][KEYS]; /* of each key; 0: none */
	_Atomic bool stop;
	_Atomic uint64_t done[PLACES];
};

struct hammer {
	int fd;
	unsigned place;
	struct belief *belief;
	uint64_t keys[KEYS];
	uint64_t times; /* 0: until it is told to stop */
	uint64_t seed;
};

static struct belief *make_belief(void)
{
	void *memory = mmap(NULL, sizeof(struct belief), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

/* An entry that I hold is nobody else's for another key, and this key has no other entry. */
static void check_belief(const struct belief *belief, unsigned key, uint32_t entry)
{
	for (unsigned place = 0; place < PLACES; place++)
		for (unsigned other = 0; other < KEYS; other++) {
			uint32_t there = atomic_load(&belief->entry[place][other]);

			CHILD_CHECK(there == 0 || (there == entry) == (other == key));
		}
}

static void hold_or_release(struct hammer *hammer, struct tally *tally, unsigned key,
			    uint32_t *entries, unsigned *kept)
{
	_Atomic uint32_t *mine = &hammer->belief->entry[hammer->place][key];

	if (entries[key] != 0) {
		atomic_store(mine, 0);
		tally_release(tally, entries[key]);
		entries[key] = 0;
		--*kept;
		return;
	}
	if (*kept == KEPT_MAX)
		return;
	entries[key] = hold(tally, hammer->keys[key]);
	if (entries[key] == 0)
		return; /* the set is full */
	atomic_store(mine, entries[key]);
	check_belief(hammer->belief, key, entries[key]);
	CHILD_CHECK(tally_count(tally, entries[key]) >= 1);
	++*kept;
}

static int do_hammer(void *arg)
{
	struct hammer *hammer = arg;
	struct tally *tally = open_place(hammer->fd, hammer->place);
	struct support_random random = {.state = hammer->seed};
	uint32_t entries[KEYS] = {0};
	unsigned kept = 0;

	tally_clear(tally);
	for (uint64_t i = 0;
	     hammer->times == 0 ? !atomic_load(&hammer->belief->stop) : i < hammer->times; i++) {
		unsigned key = (unsigned)support_random_below(&random, KEYS);

		hold_or_release(hammer, tally, key, entries, &kept);
		atomic_fetch_add(&hammer->belief->done[hammer->place], 1);
	}
	for (unsigned key = 0; key < KEYS; key++)
		if (entries[key] != 0)
			hold_or_release(hammer, tally, key, entries, &kept);
	tally_close(tally);
	return 0;
}

static void check_empty(struct tally *tally, const uint64_t *keys)
{
	for (unsigned i = 0; i < KEYS; i++) {
		uint32_t entry = hold(tally, keys[i]);

		assert_int_not_equal(entry, 0);
		assert_int_equal(tally_count(tally, entry), 1);
		tally_release(tally, entry);
	}
}

/* More keys than a set has room for: entries change hands all the time. */
static void processes_never_share_an_entry_for_two_keys(void **state)
{
	struct hammer hammer = {.fd = make_file(), .belief = make_belief(), .times = HAMMERING};
	struct tally *tally = open_place(hammer.fd, 0);
	struct support_random random;
	pid_t pids[PLACES];

	(void)state;
	support_random_start(&random);
	find_neighbours(tally, hammer.keys, KEYS);
	for (unsigned i = 0; i < PLACES; i++) {
		hammer.place = i;
		hammer.seed = support_random_next(&random) | 1;
		pids[i] = support_fork(do_hammer, &hammer);
	}
	for (unsigned i = 0; i < PLACES; i++)
		assert_int_equal(support_wait(pids[i]), 0);
	check_empty(tally, hammer.keys);
	tally_close(tally);
	close(hammer.fd);
	munmap(hammer.belief, sizeof(*hammer.belief));
}

static void sleep_us(uint64_t us)
{
	struct timespec pause = {.tv_nsec = (long)(us * 1000)};

	nanosleep(&pause, NULL);
}

static pid_t begin(struct hammer *hammer, unsigned place, struct support_random *random)
{
	hammer->place = place;
	hammer->seed = support_random_next(random) | 1;
	/* What a dead one believed; its cells are cleared after that. */
	for (unsigned key = 0; key < KEYS; key++)
		atomic_store(&hammer->belief->entry[place][key], 0);
	return support_fork(do_hammer, hammer);
}

static void a_killed_process_leaves_nothing_behind(void **state)
{
	struct hammer hammer = {.fd = make_file(), .belief = make_belief()};
	struct tally *tally = open_place(hammer.fd, 0);
	struct support_random random;
	pid_t pids[PLACES];

	(void)state;
	support_random_start(&random);
	find_neighbours(tally, hammer.keys, KEYS);
	for (unsigned i = 0; i < PLACES; i++)
		pids[i] = begin(&hammer, i, &random);
	for (int i = 0; i < KILLS; i++) {
		unsigned place = (unsigned)support_random_below(&random, PLACES);

		sleep_us(support_random_below(&random, 3000));
		kill(pids[place], SIGKILL);
		assert_int_equal(support_wait(pids[place]), 128 + SIGKILL);
		pids[place] = begin(&hammer, place, &random);
	}
	/* None of them hangs. */
	for (unsigned i = 0; i < PLACES; i++)
		for (uint64_t before = atomic_load(&hammer.belief->done[i]);
		     atomic_load(&hammer.belief->done[i]) < before + 100;)
			sleep_us(1000);
	atomic_store(&hammer.belief->stop, true);
	for (unsigned i = 0; i < PLACES; i++)
		assert_int_equal(support_wait(pids[i]), 0);
	check_empty(tally, hammer.keys);
	tally_close(tally);
	close(hammer.fd);
	munmap(hammer.belief, sizeof(*hammer.belief));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_of_another_size_is_refused),
		cmocka_unit_test(the_size_is_bounded),
		cmocka_unit_test(a_key_has_one_entry_in_all_places),
		cmocka_unit_test(kinds_of_keys_are_different_keys),
		cmocka_unit_test(another_file_hashes_otherwise),
		cmocka_unit_test(a_full_set_has_room_again_when_one_lets_go),
		cmocka_unit_test(an_entry_whose_bucket_is_not_full_is_kept),
		cmocka_unit_test(processes_never_share_an_entry_for_two_keys),
		cmocka_unit_test(a_killed_process_leaves_nothing_behind),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
