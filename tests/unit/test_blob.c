/* What one process image tells the next. */
#include "support.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/blob.h"

static struct blob_reader reader_of(const struct blob_writer *writer)
{
	return (struct blob_reader){.data = writer->data, .len = writer->len};
}

static void put_samples(struct blob_writer *writer)
{
	blob_put_u64(writer, 0);
	blob_put_u64(writer, UINT64_MAX);
	blob_put_text(writer, "a text");
	blob_put_text(writer, "");
	blob_put_bytes(writer, "\0\1\0", 3);
	blob_put_bytes(writer, NULL, 0);
}

static void numbers_texts_and_bytes_come_back_in_their_order(void **state)
{
	struct blob_writer writer = {0};
	struct blob_reader reader;
	char *text;
	size_t len;

	(void)state;
	put_samples(&writer);
	reader = reader_of(&writer);
	assert_int_equal(blob_get_u64(&reader), 0);
	assert_true(blob_get_u64(&reader) == UINT64_MAX);
	text = blob_get_text(&reader);
	assert_string_equal(text, "a text");
	free(text);
	text = blob_get_text(&reader);
	assert_string_equal(text, "");
	free(text);
	assert_memory_equal(blob_get_bytes(&reader, &len), "\0\1\0", 3);
	assert_int_equal(len, 3);
	assert_false(blob_reader_done(&reader));
	assert_non_null(blob_get_bytes(&reader, &len));
	assert_int_equal(len, 0);
	assert_true(blob_reader_done(&reader));
	blob_writer_free(&writer);
}

static void an_empty_blob_is_done_and_gives_nothing(void **state)
{
	struct blob_reader reader = {0};
	size_t len = 1;

	(void)state;
	assert_true(blob_reader_done(&reader));
	assert_null(blob_get_bytes(&reader, &len));
	assert_int_equal(len, 0);
	assert_false(blob_reader_done(&reader));
}

static void what_is_left_over_is_not_done(void **state)
{
	struct blob_writer writer = {0};
	struct blob_reader reader;

	(void)state;
	blob_put_u64(&writer, 1);
	blob_put_u64(&writer, 2);
	reader = reader_of(&writer);
	blob_get_u64(&reader);
	assert_false(blob_reader_done(&reader));
	assert_false(reader.failed);
	blob_writer_free(&writer);
}

static void a_count_over_its_limit_is_damage(void **state)
{
	struct blob_writer writer = {0};
	struct blob_reader reader;

	(void)state;
	blob_put_u64(&writer, 64);
	reader = reader_of(&writer);
	assert_int_equal(blob_get_count(&reader, 64), 64);
	assert_true(blob_reader_done(&reader));
	reader = reader_of(&writer);
	assert_int_equal(blob_get_count(&reader, 63), 0);
	assert_true(reader.failed);
	blob_writer_free(&writer);
}

static void after_damage_everything_is_zero(void **state)
{
	struct blob_writer writer = {0};
	struct blob_reader reader;
	size_t len = 1;

	(void)state;
	blob_put_u64(&writer, 1000); /* a length that is not there */
	blob_put_u64(&writer, 7);
	reader = reader_of(&writer);
	assert_null(blob_get_text(&reader));
	assert_int_equal(blob_get_u64(&reader), 0);
	assert_int_equal(blob_get_count(&reader, 100), 0);
	assert_null(blob_get_bytes(&reader, &len));
	assert_int_equal(len, 0);
	assert_false(blob_reader_done(&reader));
	blob_writer_free(&writer);
}

static void a_length_near_the_end_of_numbers_does_not_wrap(void **state)
{
	const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, UINT64_MAX - 8, UINT64_C(1) << 63};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		struct blob_writer writer = {0};
		struct blob_reader reader;

		blob_put_u64(&writer, lengths[i]);
		blob_put_u64(&writer, 7);
		reader = reader_of(&writer);
		assert_null(blob_get_text(&reader));
		assert_true(reader.failed);
		blob_writer_free(&writer);
	}
}

/* Read what may stand there, in a random order of kinds. */
static void read_anything(struct support_random *random, struct blob_reader *reader)
{
	for (int i = 0; i < 8; i++) {
		size_t len;

		switch (support_random_below(random, 4)) {
		case 0:
			blob_get_u64(reader);
			break;
		case 1:
			assert_true(blob_get_count(reader, 10) <= 10);
			break;
		case 2:
			if (blob_get_bytes(reader, &len) != NULL)
				assert_true(len <= reader->len);
			break;
		default:
			free(blob_get_text(reader));
		}
		assert_true(reader->at <= reader->len);
	}
}

static void cut_and_damaged_blobs_never_lead_outside(void **state)
{
	struct blob_writer writer = {0};
	struct support_random random;

	(void)state;
	support_random_start(&random);
	put_samples(&writer);
	for (int i = 0; i < 20000; i++) {
		size_t len = support_random_below(&random, writer.len + 1);
		unsigned char *copy = malloc(len + (len == 0));
		struct blob_reader reader = {.data = copy, .len = len};

		assert_non_null(copy);
		memcpy(copy, writer.data, len);
		for (uint64_t k = support_random_below(&random, 4); k > 0 && len > 0; k--)
			copy[support_random_below(&random, len)] =
				(unsigned char)support_random_next(&random);
		read_anything(&random, &reader);
		free(copy);
	}
	blob_writer_free(&writer);
}

static void a_freed_writer_can_be_used_again(void **state)
{
	struct blob_writer writer = {0};

	(void)state;
	blob_put_text(&writer, "one");
	blob_writer_free(&writer);
	assert_null(writer.data);
	assert_int_equal(writer.len, 0);
	blob_put_u64(&writer, 1);
	assert_int_equal(writer.len, 8);
	assert_false(writer.failed);
	blob_writer_free(&writer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_texts_and_bytes_come_back_in_their_order),
		cmocka_unit_test(an_empty_blob_is_done_and_gives_nothing),
		cmocka_unit_test(what_is_left_over_is_not_done),
		cmocka_unit_test(a_count_over_its_limit_is_damage),
		cmocka_unit_test(after_damage_everything_is_zero),
		cmocka_unit_test(a_length_near_the_end_of_numbers_does_not_wrap),
		cmocka_unit_test(cut_and_damaged_blobs_never_lead_outside),
		cmocka_unit_test(a_freed_writer_can_be_used_again),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
