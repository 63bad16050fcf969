/* Time. Intervals are measured with a clock that nobody can set (clock_gettime(2),
 * CLOCK_MONOTONIC). */
#ifndef ECHOD_BASE_CLOCK_H
#define ECHOD_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds since an arbitrary start, to the nanosecond clock's precision. */
int64_t clock_ms(void);

/* The same clock, at the resolution of the kernel's tick (1 to 10 ms) and at a fraction of the
 * cost. */
int64_t clock_coarse_ms(void);

/* Microseconds of the same clock: sd_notify(3), MONOTONIC_USEC. */
uint64_t clock_us(void);

#endif
