/* The bucket of a rate, against a model in floating point. */
#include "support.h"

#include <inttypes.h>
#include <math.h>

#include "net/limits.h"

#define SECOND	  UINT64_C(1000000)
#define EXACT_MAX (UINT64_C(1) << 34)

static const uint64_t rates[] = {
	1,
	2,
	3,
	7,
	10,
	999,
	1000,
	44100,
	UINT64_C(1000000),
	UINT64_C(999999937),
	UINT64_C(1250000000), /* 10 Gbit/s in bytes */
	UINT64_C(8589934592), /* 2^33 */
	UINT64_C(17179869183),
	UINT64_C(17179869184), /* 2^34 */
	UINT64_C(12500000000),
	UINT64_C(100000000007),
	UINT64_C(1000000000000),
};

/* A start, an uptime of an hour, of 10 years. */
static const uint64_t starts[] = {0, 3600 * SECOND + 17, UINT64_C(315360000) * SECOND + 999999};

static void a_new_bucket_has_a_second_and_then_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rates); i++)
		for (size_t k = 0; k < COUNT_OF(starts); k++) {
			uint64_t arrival = 0, wait = 7;

			assert_int_equal(bucket_left(arrival, rates[i], starts[k], &wait),
					 rates[i]);
			assert_int_equal(wait, 0);
			bucket_charge(&arrival, rates[i], rates[i], starts[k]);
			assert_int_equal(bucket_left(arrival, rates[i], starts[k], &wait), 0);
			assert_true(wait > 0);
			/* Not more after any pause. */
			assert_int_equal(
				bucket_left(arrival, rates[i], starts[k] + 99 * SECOND, &wait),
				rates[i]);
		}
}

static void the_wait_is_exact_to_the_microsecond(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int i = 0; i < 200000; i++) {
		uint64_t rate = rates[support_random_below(&random, COUNT_OF(rates))];
		uint64_t now = starts[support_random_below(&random, COUNT_OF(starts))];
		uint64_t arrival = 0, wait, rest;

		now += support_random_below(&random, SECOND);
		bucket_charge(&arrival, rate, rate + support_random_below(&random, 2 * rate), now);
		assert_int_equal(bucket_left(arrival, rate, now, &wait), 0);
		if (bucket_left(arrival, rate, now + wait, &rest) == 0 ||
		    (wait > 1 && bucket_left(arrival, rate, now + wait - 2, &rest) > 0))
			fail_msg("rate %" PRIu64 ": %" PRIu64 " us is not when the next one comes "
				 "(seed %" PRIu64 ")",
				 rate, wait, random.seed);
	}
}

struct model {
	long double tokens;
	long double rate;
	uint64_t at;
};

static void model_go_to(struct model *model, uint64_t now)
{
	model->tokens += (long double)(now - model->at) * model->rate / 1e6L;
	if (model->tokens > model->rate)
		model->tokens = model->rate;
	model->at = now;
}

/*
 * One token for rounding down, one unit for the moment when the bucket was full, and, for rates
 * whose units are several tokens, one unit a charge.
 */
static void compare(const struct model *model, uint64_t left, uint64_t charges, uint64_t seed)
{
	long double unit = model->rate / (long double)(EXACT_MAX / 2);
	long double off = model->tokens - (long double)left;
	long double rounded = model->rate < (long double)EXACT_MAX ? 0 : (long double)charges;

	if (model->tokens < 0 && left == 0)
		return;
	if (off < -0.01L - unit || off > 1.01L + unit * (rounded + 1))
		fail_msg("rate %.0Lf: %" PRIu64 " are left, not %.3Lf, after %" PRIu64
			 " charges (seed %" PRIu64 ")",
			 model->rate, left, model->tokens, charges, seed);
}

static void it_does_what_the_model_does(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int round = 0; round < 1000; round++) {
		uint64_t rate = rates[support_random_below(&random, COUNT_OF(rates))];
		uint64_t now = starts[support_random_below(&random, COUNT_OF(starts))];
		struct model model = {(long double)rate, (long double)rate, now};
		uint64_t arrival = 0, wait;

		for (uint64_t charges = 0; charges < 200; charges++) {
			uint64_t left, n;

			now += support_random_below(&random, SECOND / 20);
			model_go_to(&model, now);
			left = bucket_left(arrival, rate, now, &wait);
			compare(&model, left, charges, random.seed);
			n = support_random_below(&random, left + left / 20 + 1);
			bucket_charge(&arrival, rate, n, now);
			model.tokens -= (long double)n;
		}
	}
}

/* Whoever takes all that there is, as soon as there is any. */
static void a_greedy_one_gets_the_rate(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rates); i++) {
		uint64_t arrival = 0, wait, now = starts[1], taken = 0;
		long double most = 11.0L * (long double)rates[i], got;

		while (now < starts[1] + 10 * SECOND) {
			uint64_t n = bucket_left(arrival, rates[i], now, &wait);

			bucket_charge(&arrival, rates[i], n, now);
			taken += n;
			now += n == 0 ? wait : rates[i] > SECOND ? 97 : 1;
		}
		got = (long double)taken;
		/* What came in the last moment may not have been taken yet. */
		if (got > most || got < most * 0.999L - 1)
			fail_msg("rate %" PRIu64 ": %" PRIu64 " in 10 s and a burst", rates[i],
				 taken);
	}
}

static void single_bytes_at_10_gigabits_are_exact(void **state)
{
	const uint64_t rate = UINT64_C(1250000000);
	uint64_t arrival = 0, wait;

	(void)state;
	for (int i = 0; i < 1000000; i++)
		bucket_charge(&arrival, rate, 1, SECOND);
	assert_int_equal(bucket_left(arrival, rate, SECOND, &wait), rate - 1000000);
}

static void a_charge_can_be_taken_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rates); i++) {
		uint64_t arrival = 0, wait, before;

		bucket_charge(&arrival, rates[i], 1, SECOND);
		bucket_refund(&arrival, rates[i], 1);
		assert_int_equal(bucket_left(arrival, rates[i], SECOND, &wait), rates[i]);
		bucket_charge(&arrival, rates[i], rates[i], SECOND);
		before = arrival;
		bucket_charge(&arrival, rates[i], 5, SECOND);
		bucket_refund(&arrival, rates[i], 5);
		assert_int_equal(arrival, before);
		arrival = 0;
		bucket_refund(&arrival, rates[i], UINT64_MAX);
		assert_int_equal(arrival, 0);
	}
}

static void nonsense_is_a_full_bucket_and_a_debt_is_finite(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rates); i++) {
		uint64_t arrival = UINT64_MAX, wait;

		assert_int_equal(bucket_left(arrival, rates[i], starts[1], &wait), rates[i]);
		bucket_charge(&arrival, rates[i], UINT64_MAX, starts[1]);
		assert_int_equal(bucket_left(arrival, rates[i], starts[1], &wait), 0);
		assert_true(wait < 400 * 86400 * SECOND);
		bucket_charge(&arrival, rates[i], UINT64_MAX, starts[1]);
		assert_int_equal(bucket_left(arrival, rates[i], starts[1], &wait), 0);
		assert_true(wait < 400 * 86400 * SECOND);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_bucket_has_a_second_and_then_nothing),
		cmocka_unit_test(the_wait_is_exact_to_the_microsecond),
		cmocka_unit_test(it_does_what_the_model_does),
		cmocka_unit_test(a_greedy_one_gets_the_rate),
		cmocka_unit_test(single_bytes_at_10_gigabits_are_exact),
		cmocka_unit_test(a_charge_can_be_taken_back),
		cmocka_unit_test(nonsense_is_a_full_bucket_and_a_debt_is_finite),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
