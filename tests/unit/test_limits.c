/* What clients may take together, in one process and in several. */
#include "support.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/limits.h"
#include "os/memory_file.h"

#define PLACES	4
#define SECOND	UINT64_C(1000000)
#define NOW	(3600 * SECOND)
#define SOURCES 500000
#define KILLS	200
#define LIMIT	5 /* connections of a source, in the tests with several processes */
#define CROWD	8 /* sources there */
#define KEEP	16

static const struct limits_rules no_rules;

static int make_file(void)
{
	struct error err = {0};
	int fd = memory_file_shared("test", limits_size(PLACES), &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	return fd;
}

static struct limits *open_place(int fd, unsigned place, const struct limits_rules *rules)
{
	struct error err = {0};
	struct limits *limits = limits_open(fd, PLACES, place, rules, &err);

	if (limits == NULL)
		fail_msg("%s", err.text);
	return limits;
}

static struct limits *open_new(const struct limits_rules *rules)
{
	int fd = make_file();
	struct limits *limits = open_place(fd, 0, rules);

	close(fd);
	return limits;
}

static struct limits_source source_of_text(const char *text)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct limits_source source;

	if (inet_pton(AF_INET, text, &in.sin_addr) == 1) {
		limits_source_of(&source, (struct sockaddr *)&in, 0);
		return source;
	}
	assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
	limits_source_of(&source, (struct sockaddr *)&in6, 0);
	return source;
}

static struct limits_source source_of_number(uint32_t number)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(number)};
	struct limits_source source;

	limits_source_of(&source, (struct sockaddr *)&in, 0);
	return source;
}

static struct limits_source source_of_user(uid_t uid)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct limits_source source;

	limits_source_of(&source, (struct sockaddr *)&un, uid);
	return source;
}

static enum limits_verdict enter(struct limits *limits, struct limits_source source, uint64_t now,
				 struct limits_hold *hold)
{
	bool full = true;
	enum limits_verdict verdict = limits_enter(limits, &source, now, hold, &full);

	assert_false(full);
	return verdict;
}

static enum limits_verdict enter_from(struct limits *limits, const char *text, uint64_t now)
{
	struct limits_hold hold;

	return enter(limits, source_of_text(text), now, &hold);
}

/* ---- Who ------------------------------------------------------------------------------------ */

static void sources_are_addresses_and_users(void **state)
{
	struct limits_source a = source_of_text("192.0.2.77"), b;

	(void)state;
	b = source_of_text("::ffff:192.0.2.77");
	assert_memory_equal(&a, &b, sizeof(a));
	b = source_of_text("192.0.2.1");
	assert_memory_not_equal(a.key, b.key, 16);
	assert_memory_equal(a.prefix, b.prefix, 16);
	b = source_of_text("192.0.3.77");
	assert_memory_not_equal(a.prefix, b.prefix, 16);
	a = source_of_text("2001:db8:0:1::5");
	b = source_of_text("2001:db8:0:1:ffff::");
	assert_memory_not_equal(a.key, b.key, 16);
	assert_memory_equal(a.prefix, b.prefix, 16);
	b = source_of_text("2001:db8:0:2::5");
	assert_memory_not_equal(a.prefix, b.prefix, 16);
	a = source_of_user(1000);
	b = source_of_user(1001);
	assert_memory_not_equal(a.key, b.key, 16);
	assert_memory_not_equal(a.prefix, b.prefix, 16);
	assert_memory_equal(a.key, a.prefix, 16);
}

static void only_rules_that_are_set_need_a_table(void **state)
{
	struct limits_rules rules;

	(void)state;
	assert_false(limits_needed(&no_rules));
	for (size_t i = 0; i < sizeof(rules) / sizeof(uint64_t); i++) {
		uint64_t one = 1;

		rules = no_rules;
		memcpy((char *)&rules + i * sizeof(one), &one, sizeof(one));
		assert_true(limits_needed(&rules));
	}
}

/* ---- Connections ---------------------------------------------------------------------------- */

static void without_rules_everything_is_allowed_and_counted(void **state)
{
	struct limits *limits = open_new(&no_rules);
	struct limits_hold hold[100];
	uint64_t wait = 1;

	(void)state;
	for (int i = 0; i < 100; i++)
		assert_int_equal(enter(limits, source_of_number(1), NOW, &hold[i]), LIMITS_ALLOWED);
	assert_int_equal(limits_connections(limits), 100);
	assert_int_equal(hold[0].source, 0);
	assert_int_equal(limits_bytes_left(limits, &hold[0], NOW, &wait), UINT64_MAX);
	assert_int_equal(wait, 0);
	assert_int_equal(limits_requests_left(limits, &hold[0], NOW, &wait), UINT64_MAX);
	limits_charge_bytes(limits, &hold[0], 1000, NOW);
	limits_charge_requests(limits, &hold[0], 1000, NOW);
	for (int i = 0; i < 100; i++)
		limits_leave(limits, &hold[i]);
	limits_leave(limits, &hold[0]); /* holds nothing any more */
	assert_int_equal(limits_connections(limits), 0);
	for (int i = 0; i < 100; i++)
		assert_true(limits_datagram(limits, &(struct limits_source){{0}, {0}}, NOW));
	limits_close(limits);
	limits_close(NULL);
}

/* Each rule says 10: that many from `same` are let in, then `verdict`, but never for `other`. */
static void check_border(const struct limits_rules *rules, enum limits_verdict verdict,
			 const char *const *same, const char *other)
{
	struct limits *limits = open_new(rules);
	struct limits_hold hold[11], more;

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 10; i++)
			assert_int_equal(enter(limits, source_of_text(same[i % 2]), NOW, &hold[i]),
					 LIMITS_ALLOWED);
		for (int i = 0; i < 10; i++)
			assert_int_equal(enter(limits, source_of_text(same[i % 2]), NOW, &more),
					 verdict);
		assert_int_equal(limits_connections(limits), 10);
		assert_int_equal(more.source + more.prefix + more.counted, 0);
		if (other != NULL) {
			assert_int_equal(enter(limits, source_of_text(other), NOW, &more),
					 LIMITS_ALLOWED);
			limits_leave(limits, &more);
		}
		limits_leave(limits, &hold[3]);
		assert_int_equal(enter(limits, source_of_text(same[1]), NOW, &hold[3]),
				 LIMITS_ALLOWED);
		assert_int_equal(enter(limits, source_of_text(same[1]), NOW, &more), verdict);
		for (int i = 0; i < 10; i++)
			limits_leave(limits, &hold[i]);
		assert_int_equal(limits_connections(limits), 0);
	}
	limits_close(limits);
}

static void connections_are_limited(void **state)
{
	const char *all[] = {"192.0.2.1", "2001:db8::1"};
	const char *one[] = {"192.0.2.1", "::ffff:192.0.2.1"};
	const char *v4[] = {"192.0.2.1", "192.0.2.255"};
	const char *v6[] = {"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"};

	(void)state;
	check_border(&(struct limits_rules){.connections = 10}, LIMITS_CONNECTIONS, all, NULL);
	check_border(&(struct limits_rules){.connections_per_source = 10}, LIMITS_SOURCE, one,
		     "192.0.2.2");
	check_border(&(struct limits_rules){.connections_per_prefix = 10}, LIMITS_PREFIX, v4,
		     "192.0.3.1");
	check_border(&(struct limits_rules){.connections_per_prefix = 10}, LIMITS_PREFIX, v6,
		     "2001:db8:0:1::1");
	/* The narrowest holds. */
	check_border(&(struct limits_rules){.connections = 11,
					    .connections_per_source = 10,
					    .connections_per_prefix = 10},
		     LIMITS_SOURCE, one, "192.0.3.2");
	check_border(&(struct limits_rules){.connections = 11,
					    .connections_per_source = 5,
					    .connections_per_prefix = 10},
		     LIMITS_SOURCE, v4, "192.0.3.2");
}

static void one_is_a_limit_too(void **state)
{
	struct limits_rules rules = {.connections_per_source = 1};
	struct limits *limits = open_new(&rules);

	(void)state;
	assert_int_equal(enter_from(limits, "192.0.2.1", NOW), LIMITS_ALLOWED);
	assert_int_equal(enter_from(limits, "192.0.2.1", NOW), LIMITS_SOURCE);
	assert_int_equal(enter_from(limits, "192.0.2.2", NOW), LIMITS_ALLOWED);
	limits_close(limits);
}

static void places_count_together(void **state)
{
	struct limits_rules rules = {.connections = 9, .connections_per_source = 4};
	int fd = make_file();
	struct limits *limits[PLACES];
	struct error err = {0};

	(void)state;
	for (unsigned i = 0; i < PLACES; i++) {
		limits[i] = open_place(fd, i, &rules);
		assert_int_equal(enter_from(limits[i], "192.0.2.1", NOW), LIMITS_ALLOWED);
	}
	for (unsigned i = 0; i < PLACES; i++) {
		assert_int_equal(limits_connections(limits[i]), PLACES + i);
		assert_int_equal(enter_from(limits[i], "192.0.2.1", NOW), LIMITS_SOURCE);
		assert_int_equal(enter_from(limits[i], "192.0.2.2", NOW), LIMITS_ALLOWED);
	}
	assert_int_equal(enter_from(limits[0], "192.0.2.3", NOW), LIMITS_ALLOWED);
	assert_int_equal(enter_from(limits[1], "192.0.2.4", NOW), LIMITS_CONNECTIONS);
	/* One ends, with all that it held. */
	limits_close(limits[3]);
	assert_int_equal(limits_connections(limits[0]), 7);
	assert_int_equal(enter_from(limits[0], "192.0.2.1", NOW), LIMITS_ALLOWED);
	assert_int_equal(enter_from(limits[0], "192.0.2.1", NOW), LIMITS_SOURCE);
	/* Another did not come to that: its successor does, */
	limits[3] = open_place(fd, 0, &rules);
	assert_int_equal(limits_connections(limits[1]), 4);
	/* or somebody else. */
	assert_int_equal(limits_give_back(fd, PLACES, 1, &err), 0);
	assert_int_equal(limits_connections(limits[1]), 2);
	assert_int_equal(limits_give_back(-1, PLACES, 1, &err), -1);
	for (unsigned i = 0; i < PLACES; i++)
		limits_close(limits[i]);
	close(fd);
}

/* ---- Rates ---------------------------------------------------------------------------------- */

static void connection_rates_have_exact_borders(void **state)
{
	struct limits_rules rules[] = {{.connection_rate = 10}, {.connection_rate_per_source = 10}};
	enum limits_verdict verdicts[] = {LIMITS_RATE, LIMITS_SOURCE_RATE};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct limits *limits = open_new(&rules[i]);

		for (int k = 0; k < 10; k++)
			assert_int_equal(enter_from(limits, "::1", NOW), LIMITS_ALLOWED);
		assert_int_equal(enter_from(limits, "::1", NOW), verdicts[i]);
		assert_int_equal(enter_from(limits, "::1", NOW + SECOND / 10 - 1), verdicts[i]);
		assert_int_equal(enter_from(limits, "::1", NOW + SECOND / 10), LIMITS_ALLOWED);
		assert_int_equal(enter_from(limits, "::1", NOW + SECOND / 10), verdicts[i]);
		/* Refusals cost nothing. */
		for (int k = 1; k < 1000; k++)
			enter_from(limits, "::1", NOW + SECOND / 10);
		assert_int_equal(limits_connections(limits), 11);
		for (int k = 0; k < 10; k++)
			assert_int_equal(enter_from(limits, "::1", NOW + SECOND * 11 / 10),
					 LIMITS_ALLOWED);
		assert_int_equal(enter_from(limits, "::1", NOW + SECOND * 11 / 10), verdicts[i]);
		assert_int_equal(enter_from(limits, "::2", NOW + SECOND * 11 / 10),
				 i == 0 ? LIMITS_RATE : LIMITS_ALLOWED);
		limits_close(limits);
	}
}

static void a_refusal_by_all_costs_the_source_nothing(void **state)
{
	struct limits_rules rules = {
		.connections = 5, .connection_rate = 3, .connection_rate_per_source = 4};
	struct limits *limits = open_new(&rules);
	struct limits_hold hold[6];

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(enter(limits, source_of_number(1), NOW, &hold[i]), LIMITS_ALLOWED);
	for (int i = 0; i < 10; i++)
		assert_int_equal(enter(limits, source_of_number(2), NOW, &hold[3]), LIMITS_RATE);
	for (int i = 0; i < 3; i++)
		limits_leave(limits, &hold[i]);
	assert_int_equal(limits_connections(limits), 0);
	/* The one for all has three again, the source that was refused still four. */
	for (int i = 0; i < 3; i++)
		assert_int_equal(enter(limits, source_of_number(2), NOW + SECOND, &hold[i]),
				 LIMITS_ALLOWED);
	assert_int_equal(enter(limits, source_of_number(2), NOW + SECOND, &hold[3]), LIMITS_RATE);
	limits_leave(limits, &hold[0]);
	/* Others who come too often do not use up the one for all. */
	for (int i = 0; i < 3; i++) {
		limits_leave(limits, &hold[i]);
		assert_int_equal(enter(limits, source_of_number(3), NOW + 2 * SECOND, &hold[i]),
				 LIMITS_ALLOWED);
	}
	limits_close(limits);
}

static void what_a_source_reads_is_shared_by_its_connections(void **state)
{
	struct limits_rules rules = {.byte_rate_per_source = UINT64_C(1250000000),
				     .request_rate_per_source = 10};
	int fd = make_file();
	struct limits *a = open_place(fd, 0, &rules), *b = open_place(fd, 1, &rules);
	struct limits_hold one, two, other;
	uint64_t wait = 1;

	(void)state;
	enter(a, source_of_number(1), NOW, &one);
	enter(b, source_of_number(1), NOW, &two);
	enter(b, source_of_number(2), NOW, &other);
	assert_int_equal(limits_bytes_left(a, &one, NOW, &wait), 1250000000);
	limits_charge_bytes(a, &one, 1250000000 - 7, NOW);
	assert_int_equal(limits_bytes_left(b, &two, NOW, &wait), 7);
	assert_int_equal(wait, 0);
	limits_charge_bytes(b, &two, 1257, NOW); /* others were faster: a debt of 1250 */
	assert_int_equal(limits_bytes_left(a, &one, NOW, &wait), 0);
	assert_int_equal(wait, 2);
	assert_int_equal(limits_bytes_left(a, &one, NOW + 1, &wait), 0);
	assert_int_equal(limits_bytes_left(a, &one, NOW + 2, &wait), 1250);
	assert_int_equal(limits_bytes_left(b, &other, NOW, &wait), 1250000000);
	limits_charge_requests(a, &one, 4, NOW);
	limits_charge_requests(b, &two, 6, NOW);
	assert_int_equal(limits_requests_left(b, &two, NOW, &wait), 0);
	assert_int_equal(wait, SECOND / 10);
	assert_int_equal(limits_requests_left(b, &two, NOW + SECOND / 10, &wait), 1);
	assert_int_equal(limits_requests_left(b, &other, NOW, &wait), 10);
	/* Neither does it forget at the end of a connection. */
	limits_leave(a, &one);
	limits_leave(b, &two);
	enter(a, source_of_number(1), NOW, &one);
	assert_int_equal(limits_requests_left(a, &one, NOW, &wait), 0);
	limits_close(a);
	limits_close(b);
	close(fd);
}

static void datagrams_are_limited_by_prefix(void **state)
{
	struct limits_rules rules = {.datagram_rate = 100, .connections_per_prefix = 1};
	struct limits *limits = open_new(&rules);
	struct limits_source source, other = source_of_text("192.0.3.1");

	(void)state;
	for (uint32_t i = 0; i < 200; i++) {
		source = source_of_number(0x0a000000 + i);
		assert_int_equal(limits_datagram(limits, &source, NOW), i < 100);
	}
	assert_true(limits_datagram(limits, &other, NOW));
	assert_false(limits_datagram(limits, &source, NOW + SECOND / 100 - 1));
	assert_true(limits_datagram(limits, &source, NOW + SECOND / 100));
	assert_false(limits_datagram(limits, &source, NOW + SECOND / 100));
	/* They are no connections. */
	assert_int_equal(limits_connections(limits), 0);
	assert_int_equal(enter_from(limits, "10.0.0.1", NOW), LIMITS_ALLOWED);
	limits_close(limits);
}

/* ---- Very many sources ---------------------------------------------------------------------- */

static void sources_that_have_gone_make_room(void **state)
{
	struct limits_rules rules = {.connections_per_source = 1,
				     .connections_per_prefix = 1,
				     .connection_rate_per_source = 100,
				     .connections = 2};
	struct limits *limits = open_new(&rules);
	uint64_t before = clock_us(), us;

	(void)state;
	/* 10,000 a second: each is forgotten after 10 ms. */
	for (uint32_t i = 0; i < SOURCES; i++) {
		struct limits_hold hold;

		assert_int_equal(enter(limits, source_of_number(i * 257), NOW + i * 100, &hold),
				 LIMITS_ALLOWED);
		limits_leave(limits, &hold);
	}
	us = clock_us() - before;
	print_message("%d new sources: %.0f ns each to enter and leave\n", SOURCES,
		      (double)us * 1000 / SOURCES);
	assert_int_equal(limits_connections(limits), 0);
	limits_close(limits);
}

static void a_known_source_is_quick(void **state)
{
	struct limits_rules rules = {.connections = 100,
				     .connections_per_source = 100,
				     .connections_per_prefix = 100,
				     .connection_rate = UINT64_C(1000000000),
				     .connection_rate_per_source = UINT64_C(1000000000)};
	struct limits *limits = open_new(&rules);
	struct limits_source source = source_of_number(1);
	struct limits_hold hold;
	uint64_t before = clock_us();
	bool full;

	(void)state;
	for (int i = 0; i < SOURCES; i++) {
		limits_enter(limits, &source, NOW, &hold, &full);
		limits_leave(limits, &hold);
	}
	print_message("a known source, all rules: %.0f ns to enter and leave\n",
		      (double)(clock_us() - before) * 1000 / SOURCES);
	limits_close(limits);
}

static off_t memory_used(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_blocks * 512;
}

static void more_sources_than_places_are_let_in_uncounted(void **state)
{
	struct limits_rules rules = {.connections_per_source = 1, .connections = SOURCES};
	int fd = make_file();
	struct limits *limits = open_place(fd, 0, &rules);
	struct limits_hold *holds = calloc(SOURCES, sizeof(*holds)), more;
	struct limits_source source;
	uint32_t counted = 0;
	bool full;

	(void)state;
	assert_non_null(holds);
	/* Empty, it costs next to nothing. */
	assert_true(memory_used(fd) <= 64 * 1024);
	for (uint32_t i = 0; i < SOURCES; i++) {
		source = source_of_number(i);
		assert_int_equal(limits_enter(limits, &source, NOW, &holds[i], &full),
				 LIMITS_ALLOWED);
		assert_int_equal(full, holds[i].source == 0);
		counted += !full;
	}
	print_message("%d sources at a time: %u are counted, %lld KiB\n", SOURCES, counted,
		      (long long)(memory_used(fd) / 1024));
	assert_true(counted > 200000);
	assert_true(memory_used(fd) < 32 * 1024 * 1024);
	assert_int_equal(enter(limits, source_of_number(0), NOW, &more), LIMITS_CONNECTIONS);
	limits_leave(limits, &holds[1]);
	assert_int_equal(enter(limits, source_of_number(0), NOW, &more), LIMITS_SOURCE);
	for (uint32_t i = 0; i < SOURCES; i++)
		limits_leave(limits, &holds[i]);
	assert_int_equal(limits_connections(limits), 0);
	for (uint32_t i = 0; i < 1000; i++) {
		assert_int_equal(enter(limits, source_of_number(i), NOW, &more), LIMITS_ALLOWED);
		limits_leave(limits, &more);
	}
	limits_close(limits);
	free(holds);
	close(fd);
}

/* ---- Several processes ----------------------------------------------------------------------- */

struct crowd {
	_Atomic uint32_t inside[CROWD]; /* of each source */
	_Atomic uint32_t all;
	_Atomic uint64_t kept[PLACES]; /* connections of a process that has been told to halt */
	_Atomic uint64_t allowed;
	_Atomic uint64_t done[PLACES];
	_Atomic bool halt;
	_Atomic bool end;
};

struct member {
	int fd;
	unsigned place;
	uint64_t seed;
	struct crowd *crowd;
	bool check; /* that no limit is exceeded; not when others are killed */
};

static const struct limits_rules crowd_rules = {
	.connections = CROWD * LIMIT - 7,
	.connections_per_source = LIMIT,
	.connections_per_prefix = CROWD * LIMIT,
	.byte_rate_per_source = 1000,
};

static struct crowd *make_crowd(void)
{
	void *memory = mmap(NULL, sizeof(struct crowd), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

static void sleep_us(uint64_t us)
{
	struct timespec pause = {.tv_nsec = (long)(us * 1000)};

	nanosleep(&pause, NULL);
}

struct guest {
	struct limits_hold hold;
	uint32_t source;
	bool inside;
};

static void come_or_go(const struct member *member, struct limits *limits, struct guest *guest,
		       uint32_t source)
{
	struct limits_source from = source_of_number(source);
	struct crowd *crowd = member->crowd;
	bool full = false;

	if (guest->inside) {
		atomic_fetch_sub(&crowd->inside[guest->source], 1);
		atomic_fetch_sub(&crowd->all, 1);
		limits_leave(limits, &guest->hold);
		guest->inside = false;
		return;
	}
	if (limits_enter(limits, &from, NOW, &guest->hold, &full) == LIMITS_ALLOWED) {
		uint32_t here = atomic_fetch_add(&crowd->inside[source], 1);
		uint32_t all = atomic_fetch_add(&crowd->all, 1);

		CHILD_CHECK(!member->check ||
			    (here < LIMIT && all < crowd_rules.connections && !full));
		atomic_fetch_add(&crowd->allowed, 1);
		limits_charge_bytes(limits, &guest->hold, 1, NOW);
		guest->inside = true;
		guest->source = source;
	}
}

static int join(void *arg)
{
	const struct member *member = arg;
	struct limits *limits = open_place(member->fd, member->place, &crowd_rules);
	struct support_random random = {.state = member->seed};
	struct guest guests[KEEP] = {0};
	uint64_t kept = 0;

	for (int i = 0; member->check ? i < 100000 : !atomic_load(&member->crowd->halt); i++) {
		come_or_go(member, limits, &guests[support_random_below(&random, KEEP)],
			   (uint32_t)support_random_below(&random, CROWD));
		atomic_fetch_add(&member->crowd->done[member->place], 1);
	}
	for (int i = 0; i < KEEP; i++)
		kept += guests[i].inside;
	atomic_store(&member->crowd->kept[member->place], kept + 1);
	while (!member->check && !atomic_load(&member->crowd->end))
		sleep_us(1000);
	for (int i = 0; i < KEEP; i++)
		if (guests[i].inside && member->check)
			come_or_go(member, limits, &guests[i], 0);
	limits_close(limits);
	return 0;
}

static pid_t begin(struct member *member, unsigned place, struct support_random *random)
{
	member->place = place;
	member->seed = support_random_next(random);
	return support_fork(join, member);
}

/* Nothing is held any more: each source, and all, may have exactly what the rules say. */
static void check_empty(int fd)
{
	struct limits *limits = open_place(fd, 0, &crowd_rules);
	struct limits_hold hold;
	uint64_t n = 0;

	assert_int_equal(limits_connections(limits), 0);
	for (uint32_t i = 0; i < CROWD - 2; i++) {
		for (int k = 0; k < LIMIT; k++, n++)
			assert_int_equal(enter(limits, source_of_number(i), NOW, &hold),
					 LIMITS_ALLOWED);
		assert_int_equal(enter(limits, source_of_number(i), NOW, &hold), LIMITS_SOURCE);
	}
	for (; n < crowd_rules.connections; n++)
		assert_int_equal(enter(limits, source_of_number(CROWD - 2), NOW, &hold),
				 LIMITS_ALLOWED);
	assert_int_equal(enter(limits, source_of_number(CROWD - 1), NOW, &hold),
			 LIMITS_CONNECTIONS);
	limits_close(limits);
}

static void processes_never_exceed_a_limit_together(void **state)
{
	struct member member = {.fd = make_file(), .crowd = make_crowd(), .check = true};
	struct support_random random;
	pid_t pids[PLACES];

	(void)state;
	support_random_start(&random);
	for (unsigned i = 0; i < PLACES; i++)
		pids[i] = begin(&member, i, &random);
	for (unsigned i = 0; i < PLACES; i++)
		assert_int_equal(support_wait(pids[i]), 0);
	assert_int_equal(atomic_load(&member.crowd->all), 0);
	assert_true(atomic_load(&member.crowd->allowed) > 1000);
	check_empty(member.fd);
	munmap(member.crowd, sizeof(*member.crowd));
	close(member.fd);
}

static void wait_for_kept(struct crowd *crowd, uint64_t *sum)
{
	*sum = 0;
	for (unsigned i = 0; i < PLACES; i++) {
		uint64_t kept;

		while ((kept = atomic_load(&crowd->kept[i])) == 0)
			sleep_us(1000);
		*sum += kept - 1;
	}
}

static void a_killed_worker_is_forgotten_exactly(void **state)
{
	struct member member = {.fd = make_file(), .crowd = make_crowd()};
	struct limits *limits;
	struct error err = {0};
	struct support_random random;
	pid_t pids[PLACES];
	uint64_t kept;

	(void)state;
	support_random_start(&random);
	for (unsigned i = 0; i < PLACES; i++)
		pids[i] = begin(&member, i, &random);
	for (int i = 0; i < KILLS; i++) {
		unsigned place = (unsigned)support_random_below(&random, PLACES);

		sleep_us(support_random_below(&random, 3000));
		kill(pids[place], SIGKILL);
		assert_int_equal(support_wait(pids[place]), 128 + SIGKILL);
		if (i % 2 == 0)
			limits_give_back(member.fd, PLACES, place, &err);
		pids[place] = begin(&member, place, &random);
	}
	atomic_store(&member.crowd->halt, true);
	wait_for_kept(member.crowd, &kept);
	assert_true(kept > 0);
	/* It has to say its own number, but not to hold anything. */
	limits = limits_open(member.fd, PLACES, 0, &crowd_rules, &err);
	assert_non_null(limits);
	kept -= atomic_load(&member.crowd->kept[0]) - 1;
	assert_int_equal(limits_connections(limits), kept);
	for (unsigned i = 0; i < PLACES; i += 2) {
		kill(pids[i], SIGKILL);
		support_wait(pids[i]);
		assert_int_equal(limits_give_back(member.fd, PLACES, i, &err), 0);
	}
	kept -= atomic_load(&member.crowd->kept[2]) - 1;
	assert_int_equal(limits_connections(limits), kept);
	atomic_store(&member.crowd->end, true);
	for (unsigned i = 1; i < PLACES; i += 2)
		assert_int_equal(support_wait(pids[i]), 0);
	limits_close(limits);
	check_empty(member.fd);
	munmap(member.crowd, sizeof(*member.crowd));
	close(member.fd);
}

/* ---- Rates of several processes ---------------------------------------------------------------
 */

#define STEPS 2000 /* of a simulated clock, a millisecond each */

struct race {
	int fd;
	unsigned place;
	_Atomic uint64_t *clock;
	_Atomic uint64_t *taken; /* connections of the one source and of the other, datagrams */
};

static const struct limits_rules race_rules = {
	.connection_rate = 1000, .connection_rate_per_source = 700, .datagram_rate = 1300};

static int run_race(void *arg)
{
	struct race *race = arg;
	struct limits *limits = open_place(race->fd, race->place, &race_rules);
	struct limits_source source = source_of_number(race->place % 2);
	struct limits_hold hold;
	uint64_t now;
	bool full;

	/* Whoever is in the mood moves the clock on. */
	while ((now = atomic_load(race->clock)) < NOW + STEPS * SECOND / 1000) {
		for (int i = 0; i < 5; i++) {
			if (limits_enter(limits, &source, now, &hold, &full) == LIMITS_ALLOWED) {
				atomic_fetch_add(&race->taken[race->place % 2], 1);
				limits_leave(limits, &hold);
			}
			if (limits_datagram(limits, &source, now))
				atomic_fetch_add(&race->taken[2], 1);
		}
		atomic_compare_exchange_strong(race->clock, &now, now + SECOND / 1000);
	}
	limits_close(limits);
	return 0;
}

static void rates_are_exact_over_all_processes(void **state)
{
	_Atomic uint64_t *shared =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct race race = {.fd = make_file(), .clock = shared, .taken = shared + 1};
	pid_t pids[PLACES];

	(void)state;
	assert_ptr_not_equal(shared, MAP_FAILED);
	atomic_store(race.clock, NOW);
	for (unsigned i = 0; i < PLACES; i++) {
		race.place = i;
		pids[i] = support_fork(run_race, &race);
	}
	for (unsigned i = 0; i < PLACES; i++)
		assert_int_equal(support_wait(pids[i]), 0);
	/* A second's worth at once, and 2 s; some may not have been asked for in time. */
	assert_in_range(atomic_load(&race.taken[2]), 3770, 3900);
	assert_true(atomic_load(&race.taken[0]) <= 2100);
	assert_true(atomic_load(&race.taken[1]) <= 2100);
	/* One of the two may have slept most of the time. */
	assert_in_range(atomic_load(&race.taken[0]) + atomic_load(&race.taken[1]), 2000, 3000);
	munmap(shared, 4096);
	close(race.fd);
}

/* ---- Whatever others write ------------------------------------------------------------------- */

static int write_garbage(void *arg)
{
	const struct member *member = arg;
	size_t size = limits_size(PLACES), at;
	uint64_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, member->fd, 0);
	struct support_random random = {.state = 1};

	CHILD_CHECK(memory != MAP_FAILED);
	for (at = 0; !atomic_load(&member->crowd->end); at++) {
		uint64_t word = support_random_next(&random);

		/* Numbers that mean something, too, and again and again where the others are. */
		if (word % 4 == 0)
			word = word % 3 == 0 ? 0 : word % 3 == 1 ? UINT64_MAX : word >> 40;
		memory[at % (size / sizeof(word))] = word;
		memory[support_random_below(&random, 64)] = word;
	}
	return 0;
}

static int live_with_garbage(void *arg)
{
	const struct member *member = arg;
	struct support_random random = {.state = 2};

	for (int round = 0; round < 20; round++) {
		struct limits *limits = open_place(member->fd, member->place, &crowd_rules);
		struct limits_hold holds[KEEP] = {0};

		for (int i = 0; i < 5000; i++) {
			struct limits_source source =
				source_of_number((uint32_t)support_random_below(&random, 100000));
			struct limits_hold *hold = &holds[i % KEEP];
			uint64_t wait;
			bool full;

			limits_leave(limits, hold);
			if (limits_enter(limits, &source, NOW, hold, &full) != LIMITS_ALLOWED)
				continue;
			limits_bytes_left(limits, hold, NOW, &wait);
			limits_charge_bytes(limits, hold, 1000, NOW);
			limits_datagram(limits, &source, NOW);
		}
		limits_close(limits);
	}
	return 0;
}

static void garbage_neither_crashes_nor_hangs(void **state)
{
	struct member member = {.fd = make_file(), .crowd = make_crowd()};
	pid_t vandals[2], victims[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		member.place = i;
		vandals[i] = support_fork(write_garbage, &member);
		victims[i] = support_fork(live_with_garbage, &member);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(support_wait(victims[i]), 0);
	atomic_store(&member.crowd->end, true);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(support_wait(vandals[i]), 0);
	munmap(member.crowd, sizeof(*member.crowd));
	close(member.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sources_are_addresses_and_users),
		cmocka_unit_test(only_rules_that_are_set_need_a_table),
		cmocka_unit_test(without_rules_everything_is_allowed_and_counted),
		cmocka_unit_test(connections_are_limited),
		cmocka_unit_test(one_is_a_limit_too),
		cmocka_unit_test(places_count_together),
		cmocka_unit_test(connection_rates_have_exact_borders),
		cmocka_unit_test(a_refusal_by_all_costs_the_source_nothing),
		cmocka_unit_test(what_a_source_reads_is_shared_by_its_connections),
		cmocka_unit_test(datagrams_are_limited_by_prefix),
		cmocka_unit_test(sources_that_have_gone_make_room),
		cmocka_unit_test(a_known_source_is_quick),
		cmocka_unit_test(more_sources_than_places_are_let_in_uncounted),
		cmocka_unit_test(processes_never_exceed_a_limit_together),
		cmocka_unit_test(a_killed_worker_is_forgotten_exactly),
		cmocka_unit_test(rates_are_exact_over_all_processes),
		cmocka_unit_test(garbage_neither_crashes_nor_hangs),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
