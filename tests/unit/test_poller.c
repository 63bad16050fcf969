/* The sockets of connections: what is reported of them, when, and in what order. */
#include "support.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/poller.h"

#define MOST 100

/* One end is watched, the other is the client's. */
struct pair {
	struct poller_entry entry;
	int client;
	unsigned reports;
	short what; /* of the last one */
};

/* `ready` has no argument of the test's own. */
static struct fixture {
	struct event_base *base;
	struct poller poller;
	struct pair *pairs[MOST];
	size_t count;
	struct pair *reported[4 * MOST];
	size_t reports;
	void (*act)(struct pair *pair); /* after each report; NULL: nothing */
} fixture;

static void on_ready(struct poller_entry *entry, short what)
{
	struct pair *pair = (struct pair *)entry;

	pair->reports++;
	pair->what = what;
	if (fixture.reports < 4 * MOST)
		fixture.reported[fixture.reports] = pair;
	fixture.reports++;
	if (fixture.act != NULL)
		fixture.act(pair);
}

static int setup(void **state)
{
	memset(&fixture, 0, sizeof(fixture));
	fixture.base = event_base_new();
	*state = &fixture;
	return poller_init(&fixture.poller, fixture.base, on_ready);
}

static void end(struct pair *pair)
{
	poller_forget(&fixture.poller, &pair->entry);
	close(pair->entry.fd);
	if (pair->client >= 0)
		close(pair->client);
	for (size_t i = 0; i < fixture.count; i++)
		if (fixture.pairs[i] == pair)
			fixture.pairs[i] = NULL;
	free(pair);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < f->count; i++)
		if (f->pairs[i] != NULL)
			end(f->pairs[i]);
	poller_free(&f->poller);
	event_base_free(f->base);
	return 0;
}

static struct pair *add_fds(struct fixture *f, int fd, int client, short what)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	pair->entry.fd = fd;
	pair->client = client;
	if (what != 0)
		assert_int_equal(poller_watch(&f->poller, &pair->entry, what), 0);
	f->pairs[f->count++] = pair;
	return pair;
}

static struct pair *add(struct fixture *f, short what)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	return add_fds(f, fds[0], fds[1], what);
}

static void say(const struct pair *pair)
{
	assert_int_equal(write(pair->client, "x", 1), 1);
}

static void hear(struct pair *pair)
{
	char byte;

	assert_int_equal(read(pair->entry.fd, &byte, 1), 1);
}

/* ---- What is reported ----------------------------------------------------------------------- */

static void nothing_is_reported_of_who_says_nothing(void **state)
{
	struct fixture *f = *state;

	add(f, EV_READ);
	assert_int_equal(poller_take(&f->poller), 0);
	assert_int_equal(f->reports, 0);
}

static void what_is_watched_is_reported_and_nothing_else(void **state)
{
	static const short all[] = {EV_READ, EV_WRITE, EV_READ | EV_WRITE, EV_WRITE, EV_READ};
	struct fixture *f = *state;
	struct pair *pair = add(f, 0);

	say(pair);
	assert_int_equal(poller_take(&f->poller), 0);
	for (size_t i = 0; i < COUNT_OF(all); i++) {
		assert_int_equal(poller_watch(&f->poller, &pair->entry, all[i]), 0);
		assert_int_equal(poller_take(&f->poller), 1);
		assert_int_equal(pair->what, all[i]);
	}
	poller_forget(&f->poller, &pair->entry);
	assert_int_equal(poller_take(&f->poller), 0);
	assert_int_equal(f->reports, 5);
}

/* Whoever tries finds out. The kernel says nothing else of a pipe without a writer: EPOLLHUP. */
static void a_hang_up_is_all_that_is_watched(void **state)
{
	static const short all[] = {EV_READ, EV_WRITE, EV_READ | EV_WRITE};
	struct fixture *f = *state;
	struct pair *pair;
	int fds[2];

	assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
	pair = add_fds(f, fds[0], -1, 0);
	close(fds[1]);
	for (size_t i = 0; i < COUNT_OF(all); i++) {
		assert_int_equal(poller_watch(&f->poller, &pair->entry, all[i]), 0);
		assert_int_equal(poller_take(&f->poller), 1);
		assert_int_equal(pair->what, all[i]);
	}
}

/* Of a full pipe without a reader it says only EPOLLERR. */
static void an_error_is_all_that_is_watched(void **state)
{
	struct fixture *f = *state;
	struct pair *pair;
	char page[4096] = {0};
	int fds[2];

	assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
	while (write(fds[1], page, sizeof(page)) > 0)
		;
	assert_int_equal(errno, EAGAIN);
	pair = add_fds(f, fds[1], -1, EV_WRITE);
	assert_int_equal(poller_take(&f->poller), 0);
	close(fds[0]);
	assert_int_equal(poller_take(&f->poller), 1);
	assert_int_equal(pair->what, EV_WRITE);
}

static void it_is_reported_as_long_as_it_holds(void **state)
{
	struct fixture *f = *state;
	struct pair *pair = add(f, EV_READ);

	say(pair);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(poller_take(&f->poller), 1);
		assert_int_equal(pair->reports, i);
	}
	hear(pair);
	assert_int_equal(poller_take(&f->poller), 0);
}

static void what_cannot_be_watched_is_said(void **state)
{
	struct fixture *f = *state;
	struct poller_entry file = {.fd = open("/dev/null", O_RDONLY | O_CLOEXEC)};
	struct pair *pair = add(f, EV_READ);
	int own = pair->entry.fd;

	assert_int_equal(poller_watch(&f->poller, &file, EV_READ), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(file.watched, 0);
	poller_forget(&f->poller, &file);
	close(file.fd);

	/* A change that fails leaves what was. */
	say(pair);
	pair->entry.fd = -1;
	assert_int_equal(poller_watch(&f->poller, &pair->entry, EV_WRITE), -1);
	assert_int_equal(errno, EBADF);
	pair->entry.fd = own;
	assert_int_equal(poller_take(&f->poller), 1);
	assert_int_equal(pair->what, EV_READ);
}

/* ---- In what order -------------------------------------------------------------------------- */

static void they_come_in_batches(void **state)
{
	struct fixture *f = *state;

	f->act = hear;
	for (unsigned i = 0; i < 2 * POLLER_BATCH + 3; i++)
		say(add(f, EV_READ));
	assert_int_equal(poller_take(&f->poller), POLLER_BATCH);
	assert_int_equal(poller_take(&f->poller), POLLER_BATCH);
	assert_int_equal(poller_take(&f->poller), 3);
	assert_int_equal(poller_take(&f->poller), 0);
	for (size_t i = 0; i < f->count; i++)
		assert_ptr_equal(f->reported[i], f->pairs[i]);
}

static void hear_and_say(struct pair *pair)
{
	hear(pair);
	say(pair);
}

/* However fast some are to speak again. */
static void who_waits_is_before_who_speaks_meanwhile(void **state)
{
	struct fixture *f = *state;

	f->act = hear_and_say;
	for (unsigned i = 0; i < 3 * POLLER_BATCH; i++)
		say(add(f, EV_READ));
	for (int i = 0; i < 3; i++)
		assert_int_equal(poller_take(&f->poller), POLLER_BATCH);
	for (size_t i = 0; i < f->count; i++)
		assert_int_equal(f->pairs[i]->reports, 1);
}

/* ---- Who goes meanwhile --------------------------------------------------------------------- */

static void end_all_others(struct pair *pair)
{
	for (size_t i = 0; i < fixture.count; i++)
		if (fixture.pairs[i] != NULL && fixture.pairs[i] != pair)
			end(fixture.pairs[i]);
	fixture.act = hear;
	hear(pair);
}

/* They are in the same batch, and their memory is gone. */
static void of_who_was_forgotten_nothing_is_reported(void **state)
{
	struct fixture *f = *state;

	f->act = end_all_others;
	for (unsigned i = 0; i < POLLER_BATCH; i++)
		say(add(f, EV_READ));
	assert_int_equal(poller_take(&f->poller), POLLER_BATCH);
	assert_int_equal(f->reports, 1);
	assert_int_equal(poller_take(&f->poller), 0);
}

static struct pair *other_than(const struct pair *pair)
{
	return fixture.pairs[pair == fixture.pairs[0] ? 1 : 0];
}

static void begin_the_other_anew(struct pair *pair)
{
	struct pair *other = other_than(pair);

	poller_forget(&fixture.poller, &other->entry);
	hear(other);
	assert_int_equal(poller_watch(&fixture.poller, &other->entry, EV_READ), 0);
}

/* What was taken of it belongs to its former life. */
static void who_begins_anew_has_said_nothing_yet(void **state)
{
	struct fixture *f = *state;

	f->act = begin_the_other_anew;
	for (int i = 0; i < 2; i++)
		say(add(f, EV_READ));
	assert_int_equal(poller_take(&f->poller), 2);
	assert_int_equal(f->reports, 1);
}

static void end_itself(struct pair *pair)
{
	end(pair);
}

static void each_may_end_itself(void **state)
{
	struct fixture *f = *state;

	f->act = end_itself;
	for (unsigned i = 0; i < POLLER_BATCH + 1; i++)
		say(add(f, EV_READ));
	assert_int_equal(poller_take(&f->poller), POLLER_BATCH);
	assert_int_equal(poller_take(&f->poller), 1);
	assert_int_equal(f->reports, POLLER_BATCH + 1);
}

static void watch_the_other_to_write(struct pair *pair)
{
	fixture.act = NULL;
	assert_int_equal(poller_watch(&fixture.poller, &other_than(pair)->entry, EV_WRITE), 0);
}

/* What was taken is no longer watched for, and what is was not asked when it was taken. */
static void what_is_no_longer_watched_is_not_reported(void **state)
{
	struct fixture *f = *state;

	f->act = watch_the_other_to_write;
	for (int i = 0; i < 2; i++)
		say(add(f, EV_READ));
	assert_int_equal(poller_take(&f->poller), 2);
	assert_int_equal(f->reports, 1);
	assert_int_equal(poller_take(&f->poller), 2);
	assert_int_equal(f->reports, 3);
	assert_int_equal(f->pairs[1]->what, EV_WRITE);
}

/* epoll knows a socket until nobody has it. */
static void a_socket_that_somebody_else_has_is_forgotten_too(void **state)
{
	struct fixture *f = *state;
	struct pair *pair = add(f, EV_READ);
	int copy = dup(pair->entry.fd);

	poller_forget(&f->poller, &pair->entry);
	close(pair->entry.fd);
	say(pair);
	assert_int_equal(poller_take(&f->poller), 0);
	pair->entry.fd = copy;
	assert_int_equal(poller_watch(&f->poller, &pair->entry, EV_READ), 0);
	assert_int_equal(poller_take(&f->poller), 1);
}

/* ---- In the loop ---------------------------------------------------------------------------- */

static void one_turn_deals_with_all(void **state)
{
	struct fixture *f = *state;

	f->act = hear;
	for (int i = 0; i < MOST; i++)
		say(add(f, EV_READ));
	assert_int_equal(event_base_loop(f->base, EVLOOP_ONCE), 0);
	assert_int_equal(f->reports, MOST);
	assert_int_equal(event_base_loop(f->base, EVLOOP_NONBLOCK), 0);
	assert_int_equal(f->reports, MOST);
}

static void assert_turn(struct fixture *f, size_t reports)
{
	f->reports = 0;
	assert_int_equal(event_base_loop(f->base, EVLOOP_ONCE), 0);
	assert_int_equal(f->reports, reports);
}

/* However much there is to say: each once, and what else is in the batch in which one is again. */
static void a_turn_ends_when_each_had_its_own(void **state)
{
	static const unsigned counts[] = {1, POLLER_BATCH - 1, POLLER_BATCH, POLLER_BATCH + 4,
					  MOST};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(counts); i++) {
		unsigned full = (counts[i] / POLLER_BATCH + 1) * POLLER_BATCH;

		while (f->count < counts[i])
			say(add(f, EV_READ));
		assert_turn(f, counts[i] < POLLER_BATCH ? counts[i] : full);
	}
}

static void end_this_one(struct pair *pair)
{
	fixture.act = NULL;
	end(pair);
}

/* So the one with which it began does not come again. */
static void a_turn_ends_also_without_the_first(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2 * POLLER_BATCH; i++)
		say(add(f, EV_READ));
	f->act = end_this_one;
	assert_turn(f, 3 * POLLER_BATCH);
}

static void without_descriptors_there_is_no_poller(void **state)
{
	struct fixture *f = *state;
	struct poller poller;
	struct rlimit limit, none;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){0, limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(poller_init(&poller, f->base, on_ready), -1);
	assert_int_equal(errno, EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	poller_free(&poller);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_reported_of_who_says_nothing),
		TEST(what_is_watched_is_reported_and_nothing_else),
		TEST(a_hang_up_is_all_that_is_watched),
		TEST(an_error_is_all_that_is_watched),
		TEST(it_is_reported_as_long_as_it_holds),
		TEST(what_cannot_be_watched_is_said),
		TEST(they_come_in_batches),
		TEST(who_waits_is_before_who_speaks_meanwhile),
		TEST(of_who_was_forgotten_nothing_is_reported),
		TEST(who_begins_anew_has_said_nothing_yet),
		TEST(each_may_end_itself),
		TEST(what_is_no_longer_watched_is_not_reported),
		TEST(a_socket_that_somebody_else_has_is_forgotten_too),
		TEST(one_turn_deals_with_all),
		TEST(a_turn_ends_when_each_had_its_own),
		TEST(a_turn_ends_also_without_the_first),
		TEST(without_descriptors_there_is_no_poller),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
