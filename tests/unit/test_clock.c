/* Time that nobody can set. */
#include "support.h"

#include <time.h>

#include "base/clock.h"

#define READINGS 200000

static void time_never_goes_back(void **state)
{
	int64_t ms = clock_ms(), coarse = clock_coarse_ms();
	uint64_t us = clock_us();

	(void)state;
	for (int i = 0; i < READINGS; i++) {
		int64_t ms_now = clock_ms(), coarse_now = clock_coarse_ms();
		uint64_t us_now = clock_us();

		assert_true(ms_now >= ms && coarse_now >= coarse && us_now >= us);
		ms = ms_now;
		coarse = coarse_now;
		us = us_now;
	}
}

static void all_three_are_one_clock_in_their_units(void **state)
{
	(void)state;
	for (int i = 0; i < 1000; i++) {
		int64_t before = clock_ms(), coarse = clock_coarse_ms(), after;
		uint64_t us = clock_us();

		after = clock_ms();
		assert_in_range(us / 1000, before, after);
		/* The coarse one lags by the kernel's tick, 10 ms at most. */
		assert_in_range(coarse, before - 11, after);
	}
}

static void it_is_the_monotonic_clock_of_the_system(void **state)
{
	struct timespec now;
	int64_t before = clock_ms(), after;

	(void)state;
	assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
	after = clock_ms();
	assert_in_range((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, before, after);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(time_never_goes_back),
		cmocka_unit_test(all_three_are_one_clock_in_their_units),
		cmocka_unit_test(it_is_the_monotonic_clock_of_the_system),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
