/* Joining datagrams into trains, and taking them out again: without any socket. */
#include "support.h"

#include <string.h>

#include "net/train.h"

#define BYTES (2 * TRAIN_BYTES)

static unsigned char bytes[BYTES];

/* Each lies apart from the one before it, so that it is a piece of its own. */
static size_t apart(size_t number, size_t len)
{
	return number * (len + 1);
}

static void begin_at(struct train *train, size_t at, size_t len)
{
	train_begin(train, bytes + at, len);
}

static bool add_at(struct train *train, size_t at, size_t len)
{
	return train_add(train, bytes + at, len);
}

static void assert_next(const struct train *train, struct train_place *place, size_t at, size_t len)
{
	struct iovec datagram = {NULL, 0};

	assert_true(train_next(train, place, &datagram));
	assert_ptr_equal(datagram.iov_base, bytes + at);
	assert_int_equal(datagram.iov_len, len);
}

static void assert_end(const struct train *train, struct train_place place)
{
	struct iovec datagram;

	assert_false(train_next(train, &place, &datagram));
	assert_false(train_next(train, &place, &datagram));
}

static void one_datagram_is_a_train(void **state)
{
	const size_t lengths[] = {0, 1, 1472, TRAIN_BYTES, 65527};
	struct train train;

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		struct train_place place = {0, 0};

		begin_at(&train, 3, lengths[i]);
		assert_int_equal(train.count, 1);
		assert_int_equal(train.bytes, lengths[i]);
		assert_next(&train, &place, 3, lengths[i]);
		assert_end(&train, place);
	}
}

static void datagrams_of_one_size_are_joined(void **state)
{
	struct train_place place = {0, 0};
	struct train train;

	(void)state;
	begin_at(&train, apart(0, 10), 10);
	for (size_t i = 1; i < 5; i++)
		assert_true(add_at(&train, apart(i, 10), 10));
	assert_int_equal(train.segment, 10);
	assert_int_equal(train.bytes, 50);
	assert_int_equal(train.count, 5);
	assert_int_equal(train.pieces, 5);
	for (size_t i = 0; i < 5; i++)
		assert_next(&train, &place, apart(i, 10), 10);
	assert_end(&train, place);
}

static void neighbours_are_one_piece(void **state)
{
	struct train_place place = {0, 0};
	struct train train;

	(void)state;
	begin_at(&train, 0, 10);
	assert_true(add_at(&train, 10, 10));
	assert_true(add_at(&train, 100, 10)); /* not one */
	assert_true(add_at(&train, 110, 10));
	assert_true(add_at(&train, 120, 3));
	assert_int_equal(train.count, 5);
	assert_int_equal(train.pieces, 2);
	assert_next(&train, &place, 0, 10);
	assert_next(&train, &place, 10, 10);
	assert_next(&train, &place, 100, 10);
	assert_next(&train, &place, 110, 10);
	assert_next(&train, &place, 120, 3);
	assert_end(&train, place);
}

static void only_the_last_may_be_shorter(void **state)
{
	struct train train;

	(void)state;
	begin_at(&train, 0, 10);
	assert_true(add_at(&train, 20, 9));
	assert_int_equal(train.bytes, 19);
	assert_false(add_at(&train, 40, 1));
	assert_false(add_at(&train, 40, 9));
	assert_false(add_at(&train, 40, 10));
	assert_int_equal(train.bytes, 19);
	assert_int_equal(train.count, 2);
	assert_int_equal(train.pieces, 2);
}

static void none_may_be_longer_than_the_first(void **state)
{
	struct train train;

	(void)state;
	begin_at(&train, 0, 10);
	assert_false(add_at(&train, 20, 11));
	assert_false(add_at(&train, 10, 11));
	assert_int_equal(train.data[0].iov_len, 10);
	assert_true(add_at(&train, 20, 10));
}

static void empty_datagrams_are_alone(void **state)
{
	struct train train;

	(void)state;
	begin_at(&train, 0, 10);
	assert_false(add_at(&train, 20, 0));
	assert_true(add_at(&train, 20, 10));
	begin_at(&train, 0, 0);
	assert_false(add_at(&train, 0, 0));
	assert_false(add_at(&train, 0, 1));
	assert_int_equal(train.count, 1);
}

static void a_train_has_64_datagrams_at_most(void **state)
{
	struct train train;

	(void)state;
	begin_at(&train, apart(0, 1), 1);
	for (size_t i = 1; i < 64; i++)
		assert_true(add_at(&train, apart(i, 1), 1));
	assert_int_equal(train.count, 64);
	assert_int_equal(train.pieces, 64);
	assert_false(add_at(&train, apart(64, 1), 1));
	/* Neighbours, too. */
	begin_at(&train, 0, 1);
	for (size_t i = 1; i < 64; i++)
		assert_true(add_at(&train, i, 1));
	assert_false(add_at(&train, 64, 1));
}

static void a_train_fits_into_a_packet(void **state)
{
	struct train train;

	(void)state;
	begin_at(&train, 0, 32753);
	assert_true(add_at(&train, 40000, 32753));
	assert_int_equal(train.bytes, 65506);
	begin_at(&train, 0, 32754);
	assert_false(add_at(&train, 40000, 32754));
	assert_true(add_at(&train, 40000, 32753));
	assert_int_equal(train.bytes, 65507);
	begin_at(&train, 0, 65507);
	assert_false(add_at(&train, 70000, 1));
}

static void what_came_is_cut(void **state)
{
	(void)state;
	assert_int_equal(train_first(0, 0), 0); /* an empty datagram, */
	assert_int_equal(train_first(100, 0), 100);
	assert_int_equal(train_first(100, 100), 100); /* and no train of several */
	assert_int_equal(train_first(100, 101), 100);
	assert_int_equal(train_first(100, 30), 30);
	assert_int_equal(train_first(10, 30), 10);
	assert_int_equal(train_first(0, 30), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_datagram_is_a_train),
		cmocka_unit_test(datagrams_of_one_size_are_joined),
		cmocka_unit_test(neighbours_are_one_piece),
		cmocka_unit_test(only_the_last_may_be_shorter),
		cmocka_unit_test(none_may_be_longer_than_the_first),
		cmocka_unit_test(empty_datagrams_are_alone),
		cmocka_unit_test(a_train_has_64_datagrams_at_most),
		cmocka_unit_test(a_train_fits_into_a_packet),
		cmocka_unit_test(what_came_is_cut),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
