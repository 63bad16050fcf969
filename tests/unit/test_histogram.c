/* The benchmarks' histogram: how near its buckets are, and percentiles against a sorted list. */
#include "support.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "bench/histogram.h"

#define VALUES 20000

static struct histogram histogram; /* too large for a stack */

static void assert_near(uint64_t value)
{
	size_t bucket = histogram_bucket(value);
	uint64_t upper;

	assert_true(bucket < HISTOGRAM_BUCKETS);
	upper = histogram_upper(bucket);
	if (upper < value || upper - value > value / 64)
		fail_msg("%" PRIu64 " falls into a bucket that ends with %" PRIu64, value, upper);
	if (bucket > 0 && histogram_upper(bucket - 1) >= value)
		fail_msg("%" PRIu64 " does not fall into the first bucket that ends behind it",
			 value);
}

static void no_value_is_further_from_the_end_of_its_bucket_than_1_of_64(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (unsigned shift = 0; shift < 64; shift++) {
		uint64_t power = UINT64_C(1) << shift;

		assert_near(power - 1);
		assert_near(power);
		assert_near(power + 1);
		for (int i = 0; i < 1000; i++)
			assert_near(power + support_random_below(&random, power));
	}
	assert_near(UINT64_MAX);
}

static void small_values_are_exact(void **state)
{
	(void)state;
	for (uint64_t value = 0; value < 128; value++)
		assert_int_equal(histogram_upper(histogram_bucket(value)), value);
}

static void buckets_lie_side_by_side_up_to_the_largest_number(void **state)
{
	(void)state;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		assert_int_equal(histogram_bucket(histogram_upper(i)), i);
		if (i + 1 < HISTOGRAM_BUCKETS)
			assert_int_equal(histogram_bucket(histogram_upper(i) + 1), i + 1);
	}
	assert_true(histogram_upper(HISTOGRAM_BUCKETS - 1) == UINT64_MAX);
}

static void an_empty_one_has_no_values(void **state)
{
	(void)state;
	histogram_clear(&histogram);
	assert_int_equal(histogram.count, 0);
	assert_int_equal(histogram.max, 0);
	assert_int_equal(histogram_percentile(&histogram, 0.5), 0);
	assert_true(histogram_mean(&histogram) == 0);
}

static void one_value_is_all_of_it(void **state)
{
	static const double parts[] = {1e-9, 0.5, 0.99, 1};

	(void)state;
	histogram_clear(&histogram);
	histogram_add(&histogram, 1234567);
	for (size_t i = 0; i < COUNT_OF(parts); i++)
		assert_int_equal(histogram_percentile(&histogram, parts[i]), 1234567);
	assert_int_equal(histogram.min, 1234567);
	assert_int_equal(histogram.max, 1234567);
	assert_true(histogram_mean(&histogram) == 1234567);
}

/* 1 % of all is slow: p99 must not show it yet, and anything above must. */
static void a_percentile_has_exactly_its_share_below_it(void **state)
{
	(void)state;
	histogram_clear(&histogram);
	for (int i = 0; i < 990; i++)
		histogram_add(&histogram, 100);
	for (int i = 0; i < 10; i++)
		histogram_add(&histogram, 300000000);
	assert_int_equal(histogram_percentile(&histogram, 0.99), 100);
	assert_int_equal(histogram_percentile(&histogram, 0.9901), 300000000);
	assert_int_equal(histogram_percentile(&histogram, 1), 300000000);
}

static int compare(const void *a, const void *b)
{
	const uint64_t *left = a, *right = b;

	return (*left > *right) - (*left < *right);
}

static void assert_percentile(const uint64_t *sorted, double part)
{
	uint64_t value = sorted[(size_t)ceil(part * VALUES) - 1];
	uint64_t found = histogram_percentile(&histogram, part);

	if (found < value || found - value > value / 64)
		fail_msg("percentile %g: %" PRIu64 ", and of the sorted list %" PRIu64, part * 100,
			 found, value);
}

static void percentiles_are_those_of_the_sorted_values(void **state)
{
	static const double parts[] = {0.0001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
	static uint64_t values[VALUES];
	struct support_random random;
	double sum = 0;

	(void)state;
	support_random_start(&random);
	histogram_clear(&histogram);
	for (size_t i = 0; i < VALUES; i++) {
		values[i] =
			support_random_next(&random) >> (24 + support_random_below(&random, 36));
		sum += (double)values[i];
		histogram_add(&histogram, values[i]);
	}
	qsort(values, VALUES, sizeof(values[0]), compare);
	for (size_t i = 0; i < COUNT_OF(parts); i++)
		assert_percentile(values, parts[i]);
	assert_int_equal(histogram.count, VALUES);
	assert_int_equal(histogram.min, values[0]);
	assert_int_equal(histogram_percentile(&histogram, 1), values[VALUES - 1]);
	assert_true(fabs(histogram_mean(&histogram) - sum / VALUES) <= sum / VALUES * 1e-9);
}

static void clearing_forgets_all(void **state)
{
	(void)state;
	histogram_clear(&histogram);
	histogram_add(&histogram, 5000000);
	histogram_clear(&histogram);
	histogram_add(&histogram, 7);
	assert_int_equal(histogram.count, 1);
	assert_int_equal(histogram.min, 7);
	assert_int_equal(histogram_percentile(&histogram, 1), 7);
	assert_true(histogram_mean(&histogram) == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_value_is_further_from_the_end_of_its_bucket_than_1_of_64),
		cmocka_unit_test(small_values_are_exact),
		cmocka_unit_test(buckets_lie_side_by_side_up_to_the_largest_number),
		cmocka_unit_test(an_empty_one_has_no_values),
		cmocka_unit_test(one_value_is_all_of_it),
		cmocka_unit_test(a_percentile_has_exactly_its_share_below_it),
		cmocka_unit_test(percentiles_are_those_of_the_sorted_values),
		cmocka_unit_test(clearing_forgets_all),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
