/* When to look on, and when to sleep. */
#include "support.h"

#include "net/busy.h"

/* How often a worker sleeps before it tries again. */
static unsigned sleeps(struct busy *busy)
{
	unsigned n = 0;

	while (!busy_tries(busy))
		n++;
	return n;
}

static void it_is_tried_at_first(void **state)
{
	struct busy busy = {0};

	(void)state;
	assert_int_equal(sleeps(&busy), 0);
}

static void what_pays_is_done_every_time(void **state)
{
	struct busy busy = {0};

	(void)state;
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(sleeps(&busy), 0);
		busy_learn(&busy, BUSY_PAYS, false);
	}
}

static void what_does_not_pay_is_done_ever_more_seldom(void **state)
{
	struct busy busy = {0};

	(void)state;
	for (unsigned expected = BUSY_SKIP_MIN; expected <= BUSY_SKIP_MAX; expected *= 2) {
		assert_true(busy_tries(&busy));
		busy_learn(&busy, BUSY_PAYS - 1, false);
		assert_int_equal(sleeps(&busy), expected);
	}
	for (int i = 0; i < 3; i++) {
		busy_learn(&busy, 0, false);
		assert_int_equal(sleeps(&busy), BUSY_SKIP_MAX);
	}
}

static void what_pays_again_is_done_again(void **state)
{
	struct busy busy = {0};

	(void)state;
	for (int i = 0; i < 20; i++)
		busy_learn(&busy, 0, false);
	assert_int_equal(sleeps(&busy), BUSY_SKIP_MAX);
	busy_learn(&busy, BUSY_PAYS, false);
	assert_int_equal(sleeps(&busy), 0);
	busy_learn(&busy, 0, false);
	assert_int_equal(sleeps(&busy), BUSY_SKIP_MIN);
}

/* A client on our own processor is answered sooner when we sleep. */
static void where_others_wait_it_must_save_more(void **state)
{
	struct busy busy = {0};

	(void)state;
	busy_learn(&busy, BUSY_PAYS_SHARED, true);
	assert_int_equal(sleeps(&busy), 0);
	busy_learn(&busy, BUSY_PAYS_SHARED - 1, true);
	assert_int_equal(sleeps(&busy), BUSY_SKIP_MIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_tried_at_first),
		cmocka_unit_test(what_pays_is_done_every_time),
		cmocka_unit_test(what_does_not_pay_is_done_ever_more_seldom),
		cmocka_unit_test(what_pays_again_is_done_again),
		cmocka_unit_test(where_others_wait_it_must_save_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
