#include "bench/histogram.h"

#include <math.h>
#include <string.h>

void histogram_clear(struct histogram *histogram)
{
	memset(histogram, 0, sizeof(*histogram));
	histogram->min = UINT64_MAX;
}

uint64_t histogram_upper(size_t bucket)
{
	size_t exponent;

	if (bucket < 2 * HISTOGRAM_SUB)
		return bucket;
	exponent = (bucket >> HISTOGRAM_SHIFT) - 1;
	/* The last one ends with the largest number there is: what is shifted out is meant to be.
	 */
	return ((uint64_t)(bucket - (exponent << HISTOGRAM_SHIFT) + 1) << exponent) - 1;
}

/* The rank of the value that is asked for, from 1 on. */
static uint64_t rank_of(uint64_t count, double part)
{
	uint64_t rank = (uint64_t)ceil(part * (double)count);

	if (rank < 1)
		return 1;
	return rank < count ? rank : count;
}

uint64_t histogram_percentile(const struct histogram *histogram, double part)
{
	uint64_t rank = rank_of(histogram->count, part);
	uint64_t seen = 0;

	if (histogram->count == 0)
		return 0;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += histogram->bucket[i];
		if (seen >= rank && histogram_upper(i) < histogram->max)
			return histogram_upper(i);
		if (seen >= rank)
			break;
	}
	return histogram->max;
}

double histogram_mean(const struct histogram *histogram)
{
	return histogram->count == 0 ? 0 : histogram->sum / (double)histogram->count;
}
