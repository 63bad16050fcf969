/* Numbers with units, safe printing, likely misspellings. */
#include "support.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

struct parsed {
	const char *text;
	int64_t value;
};

#define UNTOUCHED INT64_C(-4711)

static void assert_parses(int (*parse)(const char *, int64_t *), const struct parsed *list,
			  size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int64_t value = UNTOUCHED;

		if (parse(list[i].text, &value) != 0 || value != list[i].value)
			fail_msg("'%s' is read as %" PRId64 ", not %" PRId64, list[i].text, value,
				 list[i].value);
	}
}

static void assert_refuses(int (*parse)(const char *, int64_t *), const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int64_t value = UNTOUCHED;

		if (parse(list[i], &value) != -1)
			fail_msg("'%s' is taken, as %" PRId64, list[i], value);
		assert_int_equal(value, UNTOUCHED);
	}
}

/* ---- Numbers -------------------------------------------------------------------------------- */

static void whole_numbers_are_read(void **state)
{
	static const struct parsed list[] = {
		{"0", 0},
		{"-1", -1},
		{"007", 7},
		{"5000000000", 5000000000},
		{"9223372036854775807", INT64_MAX},
		{"-9223372036854775808", INT64_MIN},
	};

	(void)state;
	assert_parses(text_parse_int, list, COUNT_OF(list));
}

static void what_is_no_whole_number_is_refused(void **state)
{
	static const char *const list[] = {
		"",
		" 1",
		"1 ",
		"+1",
		"-",
		"--1",
		"1.0",
		"1k",
		"0x1",
		"a",
		"1\n",
		"9223372036854775808",
		"-9223372036854775809",
	};

	(void)state;
	assert_refuses(text_parse_int, list, COUNT_OF(list));
}

static void times_are_read_in_milliseconds(void **state)
{
	static const struct parsed list[] = {
		{"0", 0},	  {"30", 30000},     {"0.5", 500},   {"1.234", 1234},
		{"500ms", 500},	  {"30s", 30000},    {"2m", 120000}, {"1h", 3600000},
		{"1d", 86400000}, {"1.5h", 5400000}, {"0.001s", 1},  {"0.05", 50},
	};

	(void)state;
	assert_parses(text_parse_time, list, COUNT_OF(list));
}

static void what_is_no_time_is_refused(void **state)
{
	static const char *const list[] = {
		"",
		"-1",
		"-0.5",
		" 1",
		"1 s",
		"1S",
		"1min",
		"s",
		".5",
		"1.2345",
		"1..5",
		"1,5",
		"1s2",
		"1e3",
		"0x10",
		"99999999999999999999",
		"9223372036854775807",
	};

	(void)state;
	assert_refuses(text_parse_time, list, COUNT_OF(list));
}

static void a_time_that_is_not_nothing_never_becomes_nothing(void **state)
{
	/*
	 * 0 means "never" in every time-out: a time shorter than a millisecond must not turn into
	 * it.
	 */
	static const char *const list[] = {"0.5ms", "0.001ms"};

	(void)state;
	assert_refuses(text_parse_time, list, COUNT_OF(list));
}

static void sizes_are_read_in_bytes(void **state)
{
	static const struct parsed list[] = {
		{"0", 0},
		{"4096", 4096},
		{"1k", 1024},
		{"64k", 65536},
		{"1M", 1048576},
		{"2G", INT64_C(2147483648)},
		{"8G", INT64_C(8589934592)},
	};

	(void)state;
	assert_parses(text_parse_size, list, COUNT_OF(list));
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const list[] = {
		"",
		"-1",
		"1.5k",
		"1kk",
		"1kb",
		"k",
		" 1",
		"1 k",
		"1T",
		"99999999999999999999",
		"9223372036854775807k",
	};

	(void)state;
	assert_refuses(text_parse_size, list, COUNT_OF(list));
}

static void times_are_written_in_the_largest_exact_unit(void **state)
{
	static const struct parsed list[] = {
		{"0", 0},
		{"1ms", 1},
		{"1500ms", 1500},
		{"30", 30000},
		{"299", 299000},
		{"5m", 300000},
		{"301s", 301000},
		{"1h", 3600000},
		{"90m", 5400000},
		{"1d", 86400000},
		{"365d", INT64_C(31536000000)},
	};
	char out[32];

	(void)state;
	for (size_t i = 0; i < COUNT_OF(list); i++) {
		text_format_time(out, sizeof(out), list[i].value);
		assert_string_equal(out, list[i].text);
	}
}

static void sizes_are_written_in_the_largest_exact_unit(void **state)
{
	static const struct parsed list[] = {
		{"0", 0},	{"1", 1},	 {"1000", 1000},     {"1k", 1024},
		{"64k", 65536}, {"1M", 1048576}, {"1025k", 1049600}, {"1G", 1073741824},
	};
	char out[32];

	(void)state;
	for (size_t i = 0; i < COUNT_OF(list); i++) {
		text_format_size(out, sizeof(out), list[i].value);
		assert_string_equal(out, list[i].text);
	}
}

static void what_is_written_is_read_back_the_same(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int i = 0; i < 20000; i++) {
		/* Numbers of all lengths, and multiples of the units among them. */
		int64_t value = (int64_t)(support_random_next(&random) >>
					  (12 + support_random_below(&random, 52)));
		int64_t back = UNTOUCHED;
		char out[32];

		if (support_random_below(&random, 2) == 0)
			value = value / 86400000 * 3600000;
		text_format_time(out, sizeof(out), value);
		if (text_parse_time(out, &back) != 0 || back != value)
			fail_msg("%" PRId64 " ms is written as %s", value, out);
		text_format_size(out, sizeof(out), value);
		if (text_parse_size(out, &back) != 0 || back != value)
			fail_msg("%" PRId64 " bytes is written as %s", value, out);
	}
}

/* ---- Safe printing -------------------------------------------------------------------------- */

static void control_bytes_are_escaped_and_nothing_else(void **state)
{
	char out[64];
	const char text[] = "a\nb\0c\x1b\x7f\\ \xc3\xa4";

	size_t len = text_escape(out, sizeof(out), text, sizeof(text) - 1);

	(void)state;
	assert_int_equal(len, strlen(out));
	assert_string_equal(out, "a\\x0ab\\x00c\\x1b\\x7f\\ \xc3\xa4");
}

static void control_characters_of_two_bytes_are_escaped(void **state)
{
	/* U+009B begins a sequence as ESC [ does; U+00A0 and U+011B are no controls. */
	const char text[] = "\xc2\x9b"
			    "31m \xc2\x85\xc2\xa0\xc4\x9b\xc2";
	char out[64];

	(void)state;
	text_escape(out, sizeof(out), text, sizeof(text) - 1);
	assert_string_equal(out, "\\xc2\\x9b"
				 "31m \\xc2\\x85\xc2\xa0\xc4\x9b\xc2");
}

static void an_escape_is_never_cut_in_its_middle(void **state)
{
	char out[8];

	(void)state;
	/* Room for 7: "abc" and one escape. */
	assert_int_equal(text_escape(out, sizeof(out), "abc\n\n", 5), 7);
	assert_string_equal(out, "abc\\x0a");
	/* One more letter, and the escape has no room. */
	assert_int_equal(text_escape(out, sizeof(out), "abcd\n", 5), 4);
	assert_string_equal(out, "abcd");
}

static void no_byte_is_written_behind_the_given_room(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int i = 0; i < 2000; i++) {
		size_t cap = 1 + support_random_below(&random, 40);
		char *out = malloc(cap), text[64];
		size_t len = support_random_below(&random, sizeof(text)), used;

		assert_non_null(out);
		for (size_t k = 0; k < len; k++)
			text[k] = (char)support_random_next(&random);
		used = text_escape(out, cap, text, len);
		assert_true(used < cap);
		assert_int_equal(strlen(out), used);
		free(out);
	}
	assert_int_equal(text_escape(NULL, 0, "abc", 3), 0);
}

/* ---- Misspellings --------------------------------------------------------------------------- */

static void distance_counts_insertions_deletions_and_changes(void **state)
{
	(void)state;
	assert_int_equal(text_distance("", ""), 0);
	assert_int_equal(text_distance("listen", "listen"), 0);
	assert_int_equal(text_distance("", "abc"), 3);
	assert_int_equal(text_distance("abc", ""), 3);
	assert_int_equal(text_distance("kitten", "sitting"), 3);
	assert_int_equal(text_distance("maxlines", "max_lines"), 1);
	assert_int_equal(text_distance("max_lines", "max_line"), 1);
}

static void distance_counts_two_swapped_neighbours_once(void **state)
{
	(void)state;
	assert_int_equal(text_distance("lgo", "log"), 1);
	assert_int_equal(text_distance("levle", "level"), 1);
	assert_int_equal(text_distance("abcd", "badc"), 2);
	/* Never both swapped and changed (optimal string alignment). */
	assert_int_equal(text_distance("ca", "abc"), 3);
}

static void words_too_long_to_compare_are_far_apart(void **state)
{
	char longest[64], longer[65];

	(void)state;
	memset(longest, 'a', 63);
	longest[63] = '\0';
	memset(longer, 'a', 64);
	longer[64] = '\0';
	assert_int_equal(text_distance(longest, longest), 0);
	assert_int_equal(text_distance(longest, longer), TEXT_FAR);
	assert_int_equal(text_distance(longer, "a"), TEXT_FAR);
}

static void a_near_word_is_meant_and_a_far_one_is_not(void **state)
{
	unsigned best = TEXT_FAR;

	(void)state;
	assert_true(text_is_nearer("maxlines", "max_line", &best));
	assert_int_equal(best, 2);
	assert_true(text_is_nearer("maxlines", "max_lines", &best));
	assert_int_equal(best, 1);
	/* Not nearer than what is known already. */
	assert_false(text_is_nearer("maxlines", "max_line", &best));
	assert_int_equal(best, 1);
	best = TEXT_FAR;
	assert_false(text_is_nearer("user", "port", &best));
	assert_false(text_is_nearer("x", "nice", &best));
	assert_int_equal(best, TEXT_FAR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_numbers_are_read),
		cmocka_unit_test(what_is_no_whole_number_is_refused),
		cmocka_unit_test(times_are_read_in_milliseconds),
		cmocka_unit_test(what_is_no_time_is_refused),
		cmocka_unit_test(a_time_that_is_not_nothing_never_becomes_nothing),
		cmocka_unit_test(sizes_are_read_in_bytes),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(times_are_written_in_the_largest_exact_unit),
		cmocka_unit_test(sizes_are_written_in_the_largest_exact_unit),
		cmocka_unit_test(what_is_written_is_read_back_the_same),
		cmocka_unit_test(control_bytes_are_escaped_and_nothing_else),
		cmocka_unit_test(control_characters_of_two_bytes_are_escaped),
		cmocka_unit_test(an_escape_is_never_cut_in_its_middle),
		cmocka_unit_test(no_byte_is_written_behind_the_given_room),
		cmocka_unit_test(distance_counts_insertions_deletions_and_changes),
		cmocka_unit_test(distance_counts_two_swapped_neighbours_once),
		cmocka_unit_test(words_too_long_to_compare_are_far_apart),
		cmocka_unit_test(a_near_word_is_meant_and_a_far_one_is_not),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
