/*
 * A histogram of times in nanoseconds, after HdrHistogram (Gil Tene): exact below 128 ns; above, 64
 * buckets for each power of two, so that no bucket is wider than 1/64 of its values. It has one
 * size and needs no memory while it is filled.
 */
#ifndef ECHOD_BENCH_HISTOGRAM_H
#define ECHOD_BENCH_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_SUB	  64 /* buckets for each power of two */
#define HISTOGRAM_SHIFT	  6  /* its logarithm */
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_SHIFT + 1) * HISTOGRAM_SUB)

/* All zero except for `min`: histogram_clear. */
struct histogram {
	uint64_t count;
	uint64_t min; /* UINT64_MAX while it is empty */
	uint64_t max;
	double sum;
	uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_clear(struct histogram *histogram);

/* The number of the bucket that a value falls into. */
static inline size_t histogram_bucket(uint64_t ns)
{
	unsigned exponent;

	if (ns < 2 * HISTOGRAM_SUB)
		return (size_t)ns;
	exponent = 63 - (unsigned)__builtin_clzll(ns) - HISTOGRAM_SHIFT;
	return ((size_t)exponent << HISTOGRAM_SHIFT) + (size_t)(ns >> exponent);
}

/* Any value; takes the same time whatever was added before. */
static inline void histogram_add(struct histogram *histogram, uint64_t ns)
{
	histogram->bucket[histogram_bucket(ns)]++;
	histogram->count++;
	histogram->sum += (double)ns;
	if (ns < histogram->min)
		histogram->min = ns;
	if (ns > histogram->max)
		histogram->max = ns;
}

/* The largest value that falls into a bucket below HISTOGRAM_BUCKETS. */
uint64_t histogram_upper(size_t bucket);

/*
 * The value that the share `part`, above 0 up to 1, of all values does not exceed: never less than
 * it is and at most 1/64 more, and never more than the largest value that was added. 0 when empty.
 */
uint64_t histogram_percentile(const struct histogram *histogram, double part);

/* 0 when empty. */
double histogram_mean(const struct histogram *histogram);

#endif
