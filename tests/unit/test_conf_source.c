/*
 * Reading the configuration's text: includes, line numbers, numbers that libconfig misreads,
 * hand-over.
 */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/source.h"

struct fixture {
	char *directory;
	char path[SUPPORT_PATH_MAX]; /* of the main file */
	struct conf_errors errors;
	struct conf_source *source;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (f == NULL || support_make_directory((void **)&f->directory) < 0)
		return -1;
	support_join(f->path, f->directory, "echod.conf");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int result = support_remove_directory((void **)&f->directory);

	conf_errors_free(&f->errors);
	conf_source_free(f->source);
	free(f);
	return result;
}

static void write_named(const struct fixture *f, const char *name, const char *text)
{
	char path[SUPPORT_PATH_MAX];

	support_join(path, f->directory, name);
	support_write_file(path, text);
}

/* Forgets what was loaded before. */
static void load(struct fixture *f, const char *text)
{
	support_write_file(f->path, text);
	conf_errors_free(&f->errors);
	conf_source_free(f->source);
	f->source = conf_source_load(f->path, &f->errors);
}

static void assert_text(const struct fixture *f, const char *text)
{
	if (f->source == NULL)
		fail_msg("not loaded: %s",
			 f->errors.count > 0 ? f->errors.lines[0] : "without a word");
	assert_string_equal(conf_source_text(f->source), text);
	assert_int_equal(f->errors.count, 0);
}

/* Line `line` of the text is "name:number", a file of the directory. */
static void assert_where(const struct fixture *f, unsigned line, const char *name)
{
	char where[1024], wanted[1024];

	conf_source_where(f->source, line, where, sizeof(where));
	snprintf(wanted, sizeof(wanted), "%s/%s", f->directory, name);
	assert_string_equal(where, wanted);
}

/* The only error is at "name" or "name:number" and says `text`. */
static void assert_error(const struct fixture *f, const char *where, const char *text)
{
	char front[SUPPORT_PATH_MAX + 64];

	assert_int_equal(f->errors.count, 1);
	snprintf(front, sizeof(front), "%s/%s: ", f->directory, where);
	if (strncmp(f->errors.lines[0], front, strlen(front)) != 0)
		fail_msg("'%s' does not begin with '%s'", f->errors.lines[0], front);
	assert_contains(f->errors.lines[0], text);
}

/* ---- Loading -------------------------------------------------------------------------------- */

static void a_file_is_loaded_as_it_stands(void **state)
{
	struct fixture *f = *state;

	load(f, "a = 1;\n\n# words\nb = 2;\n");
	assert_text(f, "a = 1;\n\n# words\nb = 2;\n");
	assert_string_equal(conf_source_path(f->source), f->path);
	assert_where(f, 1, "echod.conf:1");
	assert_where(f, 4, "echod.conf:4");
	/* What a parser misses at the end belongs to the last line. */
	assert_where(f, 5, "echod.conf:4");
	assert_where(f, 0, "echod.conf:4");
}

static void a_last_line_without_a_newline_is_a_line(void **state)
{
	struct fixture *f = *state;

	load(f, "a = 1;");
	assert_text(f, "a = 1;\n");
	load(f, "");
	assert_text(f, "");
}

static void without_a_file_the_text_is_empty(void **state)
{
	struct fixture *f = *state;
	char where[64];

	f->source = conf_source_load(NULL, &f->errors);
	assert_text(f, "");
	assert_null(conf_source_path(f->source));
	conf_source_where(f->source, 1, where, sizeof(where));
	assert_string_equal(where, "built-in default");
}

static void a_missing_file_is_said(void **state)
{
	struct fixture *f = *state;

	assert_null(conf_source_load(f->path, &f->errors));
	assert_error(f, "echod.conf", "No such file or directory");
	assert_false(f->errors.unreadable);
}

static void a_file_that_we_may_not_read_is_told_apart(void **state)
{
	struct fixture *f = *state;

	if (geteuid() == 0)
		skip(); /* root may */
	support_write_file(f->path, "");
	assert_int_equal(chmod(f->path, 0), 0);
	assert_null(conf_source_load(f->path, &f->errors));
	assert_error(f, "echod.conf", "Permission denied");
	assert_true(f->errors.unreadable);
}

static void what_is_no_regular_file_is_refused_without_waiting(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkfifo(f->path, 0600), 0);
	assert_null(conf_source_load(f->path, &f->errors));
	assert_error(f, "echod.conf", "is not a regular file");
	conf_errors_free(&f->errors);
	assert_null(conf_source_load(f->directory, &f->errors));
	assert_int_equal(f->errors.count, 1);
	assert_contains(f->errors.lines[0], "is not a regular file");
}

static void root_does_not_obey_a_file_that_everybody_can_write(void **state)
{
	struct fixture *f = *state;

	support_write_file(f->path, "a = 1;\n");
	assert_int_equal(chmod(f->path, 0666), 0);
	f->source = conf_source_load(f->path, &f->errors);
	if (geteuid() == 0)
		assert_error(f, "echod.conf", "writable by everybody");
	else
		assert_text(f, "a = 1;\n");
}

static void a_nul_byte_is_refused(void **state)
{
	struct fixture *f = *state;
	int fd = open(f->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	assert_int_equal(write(fd, "a = 1;\n\0b = 2;\n", 15), 15);
	close(fd);
	f->source = conf_source_load(f->path, &f->errors);
	assert_error(f, "echod.conf", "NUL byte");
}

static void a_file_over_one_mebibyte_is_refused(void **state)
{
	struct fixture *f = *state;

	support_write_file(f->path, "");
	assert_int_equal(truncate(f->path, 1024 * 1024 + 1), 0);
	assert_null(conf_source_load(f->path, &f->errors));
	assert_error(f, "echod.conf", "File too large");
}

/* ---- Includes ------------------------------------------------------------------------------- */

static void includes_are_put_in_place_relative_to_their_file(void **state)
{
	struct fixture *f = *state;
	char directory[SUPPORT_PATH_MAX];

	support_join(directory, f->directory, "sub");
	assert_int_equal(mkdir(directory, 0755), 0);
	write_named(f, "sub/one.conf", "b = 2;\n@include \"two.conf\"\nd = 4;\n");
	write_named(f, "sub/two.conf", "\nc = 3;");
	load(f, "a = 1;\n  @include \"sub/one.conf\"\ne = 5;\n");
	assert_text(f, "a = 1;\nb = 2;\n\nc = 3;\nd = 4;\ne = 5;\n");
	assert_where(f, 1, "echod.conf:1");
	assert_where(f, 2, "sub/one.conf:1");
	assert_where(f, 4, "sub/two.conf:2");
	assert_where(f, 5, "sub/one.conf:3");
	assert_where(f, 6, "echod.conf:3");
}

static void an_include_may_be_absolute_and_repeated(void **state)
{
	struct fixture *f = *state;
	char text[2 * SUPPORT_PATH_MAX];

	write_named(f, "one.conf", "# one\n");
	snprintf(text, sizeof(text), "@include \"%s/one.conf\"\n@include \"one.conf\"\n",
		 f->directory);
	load(f, text);
	assert_text(f, "# one\n# one\n");
}

static void an_include_in_a_comment_or_a_string_is_none(void **state)
{
	static const char *const texts[] = {
		"# @include \"missing\"\n",	  "// @include \"missing\"\n",
		"/*\n@include \"missing\"\n*/\n", "a = \"\n@include \\\"missing\\\"\n\";\n",
		"a = 1; # /*\nb = \"/*\";\n",
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(texts); i++) {
		load(f, texts[i]);
		assert_text(f, texts[i]);
	}
}

static void a_missing_include_is_said_where_it_is_named(void **state)
{
	struct fixture *f = *state;

	write_named(f, "one.conf", "\n\n@include \"missing.conf\"\n");
	load(f, "a = 1;\n@include \"one.conf\"\n");
	assert_null(f->source);
	assert_error(f, "one.conf:3", "missing.conf cannot be read: No such file or directory");
}

static void a_file_that_includes_itself_is_one_too_many(void **state)
{
	struct fixture *f = *state;

	load(f, "\n@include \"echod.conf\"\n");
	assert_null(f->source);
	assert_error(f, "echod.conf:2", "one too many");
}

static void a_ring_of_includes_is_one_too_many(void **state)
{
	struct fixture *f = *state;

	write_named(f, "one.conf", "@include \"two.conf\"\n");
	write_named(f, "two.conf", "\n@include \"one.conf\"\n");
	load(f, "@include \"one.conf\"\n");
	assert_null(f->source);
	assert_error(f, "two.conf:2", "one too many");
}

static void ten_deep_is_allowed_and_eleven_is_not(void **state)
{
	struct fixture *f = *state;
	char name[32], text[64];

	for (int i = 1; i <= 10; i++) {
		snprintf(name, sizeof(name), "%d.conf", i);
		snprintf(text, sizeof(text), "@include \"%d.conf\"\n", i + 1);
		write_named(f, name, i < 10 ? text : "# the deepest\n");
	}
	load(f, "@include \"1.conf\"\n");
	assert_text(f, "# the deepest\n");
	write_named(f, "10.conf", "@include \"11.conf\"\n");
	write_named(f, "11.conf", "# one too many\n");
	load(f, "@include \"1.conf\"\n");
	assert_null(f->source);
	assert_error(f, "10.conf:1", "one too many");
}

static void more_than_64_files_are_too_many(void **state)
{
	struct fixture *f = *state;
	char text[65 * 32] = "";

	write_named(f, "one.conf", "");
	for (int i = 0; i < 63; i++)
		strcat(text, "@include \"one.conf\"\n");
	load(f, text);
	assert_text(f, "");
	strcat(text, "@include \"one.conf\"\n");
	load(f, text);
	assert_null(f->source);
	assert_error(f, "echod.conf:64", "one too many");
}

static void what_follows_an_include_on_its_line_is_not_lost(void **state)
{
	struct fixture *f = *state;

	write_named(f, "one.conf", "a = 1;\n");
	load(f, "@include \"one.conf\" nice = 5;\n");
	/* Served or refused, but never dropped without a word. */
	if (f->source == NULL || strstr(conf_source_text(f->source), "nice = 5;") == NULL)
		assert_error(f, "echod.conf:1", "");
	load(f, "@include \"one.conf\" # words\n");
	assert_text(f, "a = 1;\n");
}

/* ---- Numbers that libconfig reads as others ------------------------------------------------- */

static void assert_number_caught(struct fixture *f, const char *number)
{
	char text[256];

	snprintf(text, sizeof(text), "\na = %s;\n", number);
	load(f, text);
	if (f->errors.count == 0)
		fail_msg("%s is not caught", number);
	assert_error(f, "echod.conf:2", number);
	assert_contains(f->errors.lines[0], "does not fit");
}

static void assert_number_taken(struct fixture *f, const char *number)
{
	char text[256];

	snprintf(text, sizeof(text), "a = %s;\n", number);
	load(f, text);
	assert_text(f, text);
}

static void decimal_numbers_over_32_bits_need_an_l(void **state)
{
	struct fixture *f = *state;

	assert_number_caught(f, "5000000000");
	assert_number_caught(f, "2147483648");
	assert_number_caught(f, "-2147483649");
	assert_number_caught(f, "-5000000000");
	assert_number_caught(f, "+5000000000");
	assert_number_caught(f, "99999999999999999999999999999999999999999999");
	assert_number_taken(f, "2147483647");
	assert_number_taken(f, "-2147483648");
	assert_number_taken(f, "5000000000L");
	assert_number_taken(f, "-5000000000L");
	assert_number_taken(f, "5000000000LL");
}

static void numbers_with_an_l_must_fit_into_64_bits(void **state)
{
	struct fixture *f = *state;

	assert_number_caught(f, "9223372036854775808L");
	assert_number_caught(f, "-9223372036854775809L");
	assert_number_caught(f, "0x1FFFFFFFFFFFFFFFFL");
	assert_number_caught(f, "0xFFFFFFFFFFFFFFFFL");
	assert_number_taken(f, "9223372036854775807L");
	assert_number_taken(f, "0x7FFFFFFFFFFFFFFFL");
}

static void hexadecimal_numbers_over_32_bits_need_an_l(void **state)
{
	struct fixture *f = *state;

	assert_number_caught(f, "0x100000000");
	assert_number_caught(f, "0XFFFFFFFFFF");
	assert_number_taken(f, "0x7FFFFFFF");
	assert_number_taken(f, "0x1E5");
	assert_number_taken(f, "0x100000000L");
}

static void hexadecimal_numbers_that_become_negative_are_caught(void **state)
{
	struct fixture *f = *state;

	/* libconfig reads these as -2147483648 and -1. */
	assert_number_caught(f, "0x80000000");
	assert_number_caught(f, "0xFFFFFFFF");
}

static void fractions_are_not_whole_numbers(void **state)
{
	struct fixture *f = *state;

	assert_number_taken(f, "5000000000.0");
	assert_number_taken(f, "5e9");
	assert_number_taken(f, "5000000000e-3");
	assert_number_taken(f, "-5000000000.5E+1");
}

static void a_fraction_may_begin_with_its_point(void **state)
{
	assert_number_taken(*state, ".5000000000");
}

static void large_numbers_are_caught_in_lists_and_behind_other_values(void **state)
{
	struct fixture *f = *state;

	assert_number_caught(f, "5000000000");
	load(f, "a=[1,5000000000,2];b=\"x\";c=6000000000;d={e=7000000000;};\n");
	assert_int_equal(f->errors.count, 3);
	assert_contains(f->errors.lines[0], "5000000000");
	assert_contains(f->errors.lines[1], "6000000000");
	assert_contains(f->errors.lines[2], "7000000000");
}

static void digits_in_comments_strings_and_names_are_no_numbers(void **state)
{
	static const char *const texts[] = {
		"# 5000000000\n",
		"// 5000000000\n",
		"/* 5000000000\n 5000000000 */\n",
		"a = 1; # 5000000000\n",
		"a = 1; /* 5000000000 */ b = 2;\n",
		"a = \"5000000000\";\n",
		"a = \"\\\"5000000000\";\n",
		"a = \"# \\\\\"; # 5000000000\n",
		"a = \"one\n5000000000\n\";\n",
		"a5000000000 = 1;\n",
		"a-5000000000 = 1;\n",
		"*5000000000 = 1;\n",
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(texts); i++) {
		load(f, texts[i]);
		assert_text(f, texts[i]);
	}
}

static void numbers_behind_the_end_of_a_comment_or_string_are_seen(void **state)
{
	static const char *const texts[] = {
		"/* words */ a = 5000000000;\n",   "/* words\n*/a = 5000000000;\n",
		"a = \"x\"; b = 5000000000;\n",	   "a = \"x\ny\"; b = 5000000000;\n",
		"/**/a = 5000000000;\n",	   "/***/ a = 5000000000;\n",
		"a = \"\\\\\"; b = 5000000000;\n",
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < COUNT_OF(texts); i++) {
		load(f, texts[i]);
		if (f->errors.count != 1)
			fail_msg("not caught in: %s", texts[i]);
	}
}

/* ---- Handing it over ------------------------------------------------------------------------ */

static void load_sample(struct fixture *f)
{
	write_named(f, "one.conf", "b = 2;\n\nc = 3;\n");
	load(f, "a = 1;\n@include \"one.conf\"\nd = 4;\n");
	assert_non_null(f->source);
}

static void what_is_packed_is_unpacked_the_same(void **state)
{
	struct fixture *f = *state;
	struct blob_writer writer = {0};
	struct blob_reader reader;

	load_sample(f);
	conf_source_pack(f->source, &writer);
	conf_source_free(f->source);
	reader = (struct blob_reader){.data = writer.data, .len = writer.len};
	f->source = conf_source_unpack(&reader);
	assert_text(f, "a = 1;\nb = 2;\n\nc = 3;\nd = 4;\n");
	assert_true(blob_reader_done(&reader));
	assert_string_equal(conf_source_path(f->source), f->path);
	assert_where(f, 1, "echod.conf:1");
	assert_where(f, 4, "one.conf:3");
	assert_where(f, 5, "echod.conf:3");
	blob_writer_free(&writer);
}

static void the_built_in_default_is_packed_too(void **state)
{
	struct fixture *f = *state;
	struct blob_writer writer = {0};
	struct blob_reader reader;

	f->source = conf_source_load(NULL, &f->errors);
	conf_source_pack(f->source, &writer);
	conf_source_free(f->source);
	reader = (struct blob_reader){.data = writer.data, .len = writer.len};
	f->source = conf_source_unpack(&reader);
	assert_text(f, "");
	assert_null(conf_source_path(f->source));
	blob_writer_free(&writer);
}

static void every_cut_of_a_packed_text_is_refused(void **state)
{
	struct fixture *f = *state;
	struct blob_writer writer = {0};

	load_sample(f);
	conf_source_pack(f->source, &writer);
	for (size_t len = 0; len < writer.len; len++) {
		unsigned char *copy = malloc(len + 1);
		struct blob_reader reader = {.data = copy, .len = len};

		assert_non_null(copy);
		memcpy(copy, writer.data, len);
		assert_null(conf_source_unpack(&reader));
		assert_true(reader.failed);
		free(copy);
	}
	blob_writer_free(&writer);
}

/* Whatever an unpacked source says, asking it leads nowhere outside. */
static void ask_everything(const struct conf_source *source)
{
	char where[1024];

	(void)conf_source_path(source);
	assert_true(strlen(conf_source_text(source)) < 10000);
	for (unsigned line = 0; line < 40; line++)
		conf_source_where(source, line, where, sizeof(where));
	conf_source_where(source, UINT32_MAX, where, sizeof(where));
}

static void a_damaged_packed_text_never_crashes(void **state)
{
	struct fixture *f = *state;
	struct support_random random;
	struct blob_writer writer = {0};

	support_random_start(&random);
	load_sample(f);
	conf_source_pack(f->source, &writer);
	for (int i = 0; i < 20000; i++) {
		unsigned char *copy = malloc(writer.len);
		struct blob_reader reader = {.data = copy, .len = writer.len};
		struct conf_source *source;

		assert_non_null(copy);
		memcpy(copy, writer.data, writer.len);
		for (uint64_t k = 1 + support_random_below(&random, 4); k > 0; k--)
			copy[support_random_below(&random, writer.len)] =
				(unsigned char)support_random_next(&random);
		source = conf_source_unpack(&reader);
		if (source != NULL)
			ask_everything(source);
		conf_source_free(source);
		free(copy);
	}
	blob_writer_free(&writer);
}

static void counts_that_lie_are_refused(void **state)
{
	const uint64_t lies[] = {65, 1 << 20, UINT64_MAX};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lies); i++) {
		struct blob_writer writer = {0};
		struct blob_reader reader;

		blob_put_u64(&writer, 0);
		blob_put_text(&writer, "");
		blob_put_u64(&writer, lies[i]);
		reader = (struct blob_reader){.data = writer.data, .len = writer.len};
		assert_null(conf_source_unpack(&reader));
		reader = (struct blob_reader){.data = writer.data + 16, .len = 8};
		assert_null(conf_source_unpack(&reader));
		blob_writer_free(&writer);
	}
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_file_is_loaded_as_it_stands),
		TEST(a_last_line_without_a_newline_is_a_line),
		TEST(without_a_file_the_text_is_empty),
		TEST(a_missing_file_is_said),
		TEST(a_file_that_we_may_not_read_is_told_apart),
		TEST(what_is_no_regular_file_is_refused_without_waiting),
		TEST(root_does_not_obey_a_file_that_everybody_can_write),
		TEST(a_nul_byte_is_refused),
		TEST(a_file_over_one_mebibyte_is_refused),
		TEST(includes_are_put_in_place_relative_to_their_file),
		TEST(an_include_may_be_absolute_and_repeated),
		TEST(an_include_in_a_comment_or_a_string_is_none),
		TEST(a_missing_include_is_said_where_it_is_named),
		TEST(a_file_that_includes_itself_is_one_too_many),
		TEST(a_ring_of_includes_is_one_too_many),
		TEST(ten_deep_is_allowed_and_eleven_is_not),
		TEST(more_than_64_files_are_too_many),
		TEST(what_follows_an_include_on_its_line_is_not_lost),
		TEST(decimal_numbers_over_32_bits_need_an_l),
		TEST(numbers_with_an_l_must_fit_into_64_bits),
		TEST(hexadecimal_numbers_over_32_bits_need_an_l),
		TEST(hexadecimal_numbers_that_become_negative_are_caught),
		TEST(fractions_are_not_whole_numbers),
		TEST(a_fraction_may_begin_with_its_point),
		TEST(large_numbers_are_caught_in_lists_and_behind_other_values),
		TEST(digits_in_comments_strings_and_names_are_no_numbers),
		TEST(numbers_behind_the_end_of_a_comment_or_string_are_seen),
		TEST(what_is_packed_is_unpacked_the_same),
		TEST(the_built_in_default_is_packed_too),
		TEST(every_cut_of_a_packed_text_is_refused),
		TEST(a_damaged_packed_text_never_crashes),
		TEST(counts_that_lie_are_refused),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
