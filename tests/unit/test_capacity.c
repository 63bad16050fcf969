/* How many connections workers hold with the descriptors that they may have. */
#include "support.h"

#include "run/capacity.h"

static void one_worker_holds_what_its_own_files_leave(void **state)
{
	(void)state;
	assert_int_equal(capacity_connections(300, 1, 1), 267);
	assert_int_equal(capacity_connections(20000, 2, 1), 19966);
}

static void several_leave_room_for_uneven_shares(void **state)
{
	(void)state;
	assert_int_equal(capacity_connections(300, 2, 2), 500);
	assert_int_equal(capacity_connections(20000, 64, 64), 64 * 18733);
}

static void without_room_none_are_held(void **state)
{
	(void)state;
	assert_int_equal(capacity_connections(33, 1, 1), 0);
	assert_int_equal(capacity_connections(20, 1, 4), 0);
	assert_int_equal(capacity_connections(0, 0, 1), 0);
}

static void the_least_number_of_workers_is_found(void **state)
{
	unsigned workers = capacity_workers(20000, 1, 1000000);

	(void)state;
	assert_int_equal(workers, 54);
	assert_true(capacity_connections(20000, workers, workers) >= 1000000);
	assert_true(capacity_connections(20000, workers - 1, workers - 1) < 1000000);
	assert_int_equal(capacity_workers(300, 1, 267), 1);
	assert_int_equal(capacity_workers(300, 1, 268), 2);
}

/* Each worker more takes descriptors from all others. */
static void some_numbers_no_workers_can_hold(void **state)
{
	(void)state;
	assert_int_equal(capacity_workers(300, 1, 1000000), 0);
	assert_int_equal(capacity_workers(0, 1, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_worker_holds_what_its_own_files_leave),
		cmocka_unit_test(several_leave_room_for_uneven_shares),
		cmocka_unit_test(without_room_none_are_held),
		cmocka_unit_test(the_least_number_of_workers_is_found),
		cmocka_unit_test(some_numbers_no_workers_can_hold),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
