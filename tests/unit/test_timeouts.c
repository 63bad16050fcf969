/* Time-outs of many entries with one timer. */
#include "support.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/timeouts.h"

#define IDLE_MS	 40
#define WRITE_MS 80
#define LIMIT_MS 10000 /* nothing here takes longer on any machine */
#define MANY	 5000

/* `expired` has no argument of the test's own. */
static struct fixture {
	struct event_base *base;
	struct timeouts timeouts;
	struct timeout_entry *expired[MANY];
	int64_t expired_at[MANY];
	size_t count;
	size_t wanted;
	enum timeout_kind move_to; /* TIMEOUT_KINDS: take it out */
} fixture;

static void on_expired(struct timeout_entry *entry)
{
	struct fixture *f = &fixture;

	if (f->count < MANY) {
		f->expired[f->count] = entry;
		f->expired_at[f->count] = clock_coarse_ms();
	}
	f->count++;
	if (f->move_to == TIMEOUT_KINDS)
		timeouts_remove(&f->timeouts, entry);
	else
		timeouts_move(&f->timeouts, entry, f->move_to, clock_coarse_ms());
	if (f->count == f->wanted)
		event_base_loopbreak(f->base);
}

static int setup(void **state)
{
	const int64_t after_ms[TIMEOUT_KINDS] = {
		[TIMEOUT_IDLE] = IDLE_MS, [TIMEOUT_WRITE] = WRITE_MS, [TIMEOUT_LINGER] = 0};

	memset(&fixture, 0, sizeof(fixture));
	fixture.move_to = TIMEOUT_KINDS;
	fixture.base = event_base_new();
	*state = &fixture;
	return timeouts_init(&fixture.timeouts, fixture.base, after_ms, on_expired);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	timeouts_free(&f->timeouts);
	event_base_free(f->base);
	return 0;
}

/* Let time pass until so many have expired in all. */
static void run_until_expired(struct fixture *f, size_t n)
{
	struct timeval limit = {LIMIT_MS / 1000, 0};

	f->wanted = n;
	assert_int_equal(event_base_loopexit(f->base, &limit), 0);
	event_base_dispatch(f->base);
	assert_int_equal(f->count, n);
}

static void on_time(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	event_base_loopbreak(arg);
}

/* Let that time pass, whatever expires. */
static void run_for(struct fixture *f, int ms)
{
	struct timeval tv = {0, ms * 1000};
	struct event *timer = evtimer_new(f->base, on_time, f->base);

	evtimer_add(timer, &tv);
	event_base_dispatch(f->base);
	event_free(timer);
}

static bool is_armed(const struct fixture *f)
{
	struct itimerspec left;

	assert_int_equal(timerfd_gettime(f->timeouts.fd, &left), 0);
	return left.it_value.tv_sec != 0 || left.it_value.tv_nsec != 0;
}

static void entries_expire_in_the_order_of_their_last_activity(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a, b, c;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now - 2);
	timeouts_add(&f->timeouts, &b, TIMEOUT_IDLE, now - 1);
	timeouts_add(&f->timeouts, &c, TIMEOUT_IDLE, now - 1);
	timeouts_move(&f->timeouts, &a, TIMEOUT_IDLE, now);
	run_until_expired(f, 3);
	assert_ptr_equal(f->expired[0], &b);
	assert_ptr_equal(f->expired[1], &c);
	assert_ptr_equal(f->expired[2], &a);
}

static void nothing_expires_before_its_time(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a, b;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	timeouts_add(&f->timeouts, &b, TIMEOUT_WRITE, now);
	run_until_expired(f, 2);
	assert_ptr_equal(f->expired[0], &a);
	assert_true(f->expired_at[0] >= now + IDLE_MS);
	assert_ptr_equal(f->expired[1], &b);
	assert_true(f->expired_at[1] >= now + WRITE_MS);
}

static void activity_postpones(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a, b;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	timeouts_add(&f->timeouts, &b, TIMEOUT_IDLE, now);
	run_for(f, IDLE_MS / 2);
	now = clock_coarse_ms();
	timeouts_move(&f->timeouts, &a, TIMEOUT_IDLE, now);
	run_until_expired(f, 2);
	assert_ptr_equal(f->expired[0], &b);
	assert_ptr_equal(f->expired[1], &a);
	assert_true(f->expired_at[1] >= now + IDLE_MS);
}

static void a_time_of_zero_is_never(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry never, soon;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &never, TIMEOUT_LINGER, now - 1000000);
	assert_false(is_armed(f));
	timeouts_add(&f->timeouts, &soon, TIMEOUT_IDLE, now);
	run_until_expired(f, 1);
	assert_ptr_equal(f->expired[0], &soon);
	run_for(f, 5);
	assert_int_equal(f->count, 1);
	timeouts_remove(&f->timeouts, &never);
}

static void a_removed_entry_does_not_expire(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a, b;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	timeouts_add(&f->timeouts, &b, TIMEOUT_IDLE, now);
	timeouts_remove(&f->timeouts, &a);
	run_until_expired(f, 1);
	assert_ptr_equal(f->expired[0], &b);
}

static void a_moved_entry_expires_by_its_new_kind(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	timeouts_move(&f->timeouts, &a, TIMEOUT_WRITE, now);
	assert_int_equal(timeout_kind(&a), TIMEOUT_WRITE);
	run_until_expired(f, 1);
	assert_true(f->expired_at[0] >= now + WRITE_MS);
}

static void an_entry_may_move_when_it_expires(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t now = clock_coarse_ms();

	f->move_to = TIMEOUT_WRITE;
	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	run_until_expired(f, 1);
	f->move_to = TIMEOUT_IDLE;
	run_until_expired(f, 2);
	f->move_to = TIMEOUT_KINDS;
	run_until_expired(f, 3);
	assert_true(f->expired_at[1] >= f->expired_at[0] + WRITE_MS);
	assert_true(f->expired_at[2] >= f->expired_at[1] + IDLE_MS);
	assert_true(TAILQ_EMPTY(&f->timeouts.lists[TIMEOUT_IDLE]));
}

static void activity_touches_no_timer(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t now = clock_coarse_ms(), armed;

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	armed = f->timeouts.sweep_at;
	assert_int_equal(armed, now + IDLE_MS);
	for (int i = 1; i <= 10; i++)
		timeouts_move(&f->timeouts, &a, TIMEOUT_IDLE, now + i);
	assert_int_equal(f->timeouts.sweep_at, armed);
	assert_int_equal(timeout_since(&a), now + 10);
	timeouts_remove(&f->timeouts, &a);
}

/* ---- Who is heard --------------------------------------------------------------------------- */

/* Of several, as each time may be a slow machine's. */
static void who_is_heard_is_never_ended_early(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t heard;

	for (size_t i = 1; i <= 10; i++) {
		timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, clock_coarse_ms());
		run_for(f, (int)(i * 7 % IDLE_MS));
		if (f->count == i)
			continue; /* it was late, and its time was over before it could be heard */
		heard = clock_coarse_ms();
		timeouts_heard(&f->timeouts, &a);
		run_until_expired(f, i);
		assert_true(f->expired_at[i - 1] >= heard + IDLE_MS);
	}
}

static void who_is_heard_has_at_most_a_tick_more(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t before = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, before);
	timeouts_heard(&f->timeouts, &a);
	assert_true(timeout_since(&a) >= before);
	assert_true(timeout_since(&a) <= clock_coarse_ms() + TIMEOUTS_TICK_MS);
	timeouts_remove(&f->timeouts, &a);
}

static void a_line_changes_nothing_but_the_first_in_a_tick(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a, b;
	int64_t now = clock_coarse_ms();

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, now);
	timeouts_add(&f->timeouts, &b, TIMEOUT_IDLE, now);
	timeouts_heard(&f->timeouts, &a);
	assert_ptr_equal(TAILQ_LAST(&f->timeouts.lists[TIMEOUT_IDLE], timeout_list), &a);
	timeouts_heard(&f->timeouts, &b);
	timeouts_heard(&f->timeouts, &a);
	assert_ptr_equal(TAILQ_LAST(&f->timeouts.lists[TIMEOUT_IDLE], timeout_list), &b);
	assert_int_equal(timeout_since(&a), timeout_since(&b));
	timeouts_remove(&f->timeouts, &a);
	timeouts_remove(&f->timeouts, &b);
}

static void the_first_byte_ends_the_wait_for_it(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;

	timeouts_add(&f->timeouts, &a, TIMEOUT_FIRST, clock_coarse_ms());
	timeouts_heard(&f->timeouts, &a);
	assert_int_equal(timeout_kind(&a), TIMEOUT_IDLE);
	run_until_expired(f, 1);
}

static void what_waits_for_something_else_is_not_heard(void **state)
{
	static const enum timeout_kind others[] = {TIMEOUT_WRITE, TIMEOUT_LINGER, TIMEOUT_HEADER,
						   TIMEOUT_THROTTLE};
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t now = clock_coarse_ms();

	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
		timeouts_add(&f->timeouts, &a, others[i], now);
		timeouts_heard(&f->timeouts, &a);
		assert_int_equal(timeout_kind(&a), others[i]);
		assert_int_equal(timeout_since(&a), now);
		timeouts_remove(&f->timeouts, &a);
	}
}

/* A daemon that nobody talks to is never woken. */
static void nothing_ticks_when_nobody_is_heard(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry never;
	int64_t begun = clock_coarse_ms();

	f->timeouts.after_ms[TIMEOUT_IDLE] = 0;
	timeouts_add(&f->timeouts, &never, TIMEOUT_IDLE, begun);
	assert_false(is_armed(f));
	timeouts_heard(&f->timeouts, &never);
	assert_true(is_armed(f));
	while (is_armed(f) && clock_coarse_ms() < begun + LIMIT_MS)
		event_base_loop(f->base, EVLOOP_ONCE);
	assert_false(is_armed(f));
	assert_true(f->timeouts.sweep_at == INT64_MAX);
	timeouts_heard(&f->timeouts, &never);
	assert_true(is_armed(f));
	timeouts_remove(&f->timeouts, &never);
}

/* Nothing runs meanwhile: another process has the processor, or one event takes so long. */
static void stall(int ms)
{
	int64_t begun = clock_coarse_ms();

	while (clock_coarse_ms() < begun + ms)
		;
}

static void who_is_heard_after_a_stall_is_not_ended_early(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;
	int64_t heard;

	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, clock_coarse_ms());
	timeouts_heard(&f->timeouts, &a);
	stall(TIMEOUTS_TICK_MS + 2 * IDLE_MS);
	heard = clock_coarse_ms();
	timeouts_heard(&f->timeouts, &a);
	run_until_expired(f, 1);
	assert_true(f->expired_at[0] >= heard + IDLE_MS);
}

/* The time-out is short against the stall, or long. */
static void a_late_tick_shortens_nobodys_time(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a, b, c;
	int64_t heard;

	f->timeouts.after_ms[TIMEOUT_IDLE] = 10 * IDLE_MS;
	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, clock_coarse_ms());
	timeouts_add(&f->timeouts, &b, TIMEOUT_IDLE, clock_coarse_ms());
	timeouts_heard(&f->timeouts, &a);
	timeouts_heard(&f->timeouts, &b);
	timeouts_add(&f->timeouts, &c, TIMEOUT_IDLE, clock_coarse_ms());
	stall(TIMEOUTS_TICK_MS + 2 * IDLE_MS);
	heard = clock_coarse_ms();
	timeouts_heard(&f->timeouts, &a);
	run_until_expired(f, 3);
	for (size_t i = 0; i < 3; i++)
		assert_true(f->expired[i] != &a || f->expired_at[i] >= heard + 10 * IDLE_MS);
}

static void without_entries_no_timer_runs(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry a;

	assert_false(is_armed(f));
	timeouts_add(&f->timeouts, &a, TIMEOUT_IDLE, clock_coarse_ms());
	run_until_expired(f, 1);
	/* The break came from inside the sweep; it has ended, and there was nothing to arm for. */
	assert_false(is_armed(f));
	assert_true(f->timeouts.sweep_at == INT64_MAX);
}

static void a_sooner_entry_brings_the_timer_forward(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry late, soon;
	int64_t now = clock_coarse_ms();

	/* A slow machine must not find both due at once. */
	f->timeouts.after_ms[TIMEOUT_WRITE] = LIMIT_MS;
	timeouts_add(&f->timeouts, &late, TIMEOUT_WRITE, now);
	assert_int_equal(f->timeouts.sweep_at, now + LIMIT_MS);
	timeouts_add(&f->timeouts, &soon, TIMEOUT_IDLE, now);
	assert_int_equal(f->timeouts.sweep_at, now + IDLE_MS);
	run_until_expired(f, 1);
	assert_ptr_equal(f->expired[0], &soon);
	timeouts_remove(&f->timeouts, &late);
}

static void many_entries_under_random_activity_all_expire_in_their_time(void **state)
{
	struct fixture *f = *state;
	struct timeout_entry *entries = calloc(MANY, sizeof(*entries));
	struct support_random random;

	assert_non_null(entries);
	support_random_start(&random);
	for (size_t i = 0; i < MANY; i++)
		timeouts_add(&f->timeouts, &entries[i],
			     support_random_below(&random, 2) == 0 ? TIMEOUT_IDLE : TIMEOUT_WRITE,
			     clock_coarse_ms());
	for (size_t i = 0; i < MANY / 2; i++) {
		struct timeout_entry *one = &entries[support_random_below(&random, MANY)];

		if (support_random_below(&random, 2) == 0)
			timeouts_heard(&f->timeouts, one);
		else
			timeouts_move(&f->timeouts, one, TIMEOUT_WRITE, clock_coarse_ms());
	}
	run_until_expired(f, MANY);
	for (size_t i = 0; i < MANY; i++) {
		struct timeout_entry *one = f->expired[i];
		int64_t after = timeout_kind(one) == TIMEOUT_IDLE ? IDLE_MS : WRITE_MS;

		assert_true(f->expired_at[i] >= timeout_since(one) + after);
	}
	free(entries);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(entries_expire_in_the_order_of_their_last_activity),
		TEST(nothing_expires_before_its_time),
		TEST(activity_postpones),
		TEST(a_time_of_zero_is_never),
		TEST(a_removed_entry_does_not_expire),
		TEST(a_moved_entry_expires_by_its_new_kind),
		TEST(an_entry_may_move_when_it_expires),
		TEST(activity_touches_no_timer),
		TEST(who_is_heard_is_never_ended_early),
		TEST(who_is_heard_has_at_most_a_tick_more),
		TEST(a_line_changes_nothing_but_the_first_in_a_tick),
		TEST(the_first_byte_ends_the_wait_for_it),
		TEST(what_waits_for_something_else_is_not_heard),
		TEST(nothing_ticks_when_nobody_is_heard),
		TEST(who_is_heard_after_a_stall_is_not_ended_early),
		TEST(a_late_tick_shortens_nobodys_time),
		TEST(without_entries_no_timer_runs),
		TEST(a_sooner_entry_brings_the_timer_forward),
		TEST(many_entries_under_random_activity_all_expire_in_their_time),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
