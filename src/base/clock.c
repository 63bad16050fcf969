#include "base/clock.h"

#include <time.h>

/* clock_gettime cannot fail for these clocks with a valid pointer (clock_gettime(2), ERRORS). */
static uint64_t clock_read_us(clockid_t id)
{
	struct timespec now;

	clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

int64_t clock_ms(void)
{
	return (int64_t)(clock_read_us(CLOCK_MONOTONIC) / 1000);
}

int64_t clock_coarse_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t clock_us(void)
{
	return clock_read_us(CLOCK_MONOTONIC);
}
