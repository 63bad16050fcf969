/* What the protocols promise, asked of them through their table, as a connection asks. */
#include "support.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "serve/proto.h"

#define STREAM_MAX 400
#define ITERATIONS 40000

struct stream {
	unsigned char bytes[STREAM_MAX];
	size_t len;
	uint64_t max_lines; /* PROTO_NO_LIMIT: none */
	size_t max_line;
	bool at_end; /* the client's end of file follows */
};

struct outcome {
	size_t reply;
	uint64_t requests;
	enum proto_next next;
};

/* The protocol said once more, byte by byte and with everything known. */
static struct outcome reference(const struct stream *s)
{
	struct outcome out = {0, 0, PROTO_MORE};

	for (size_t i = 0, line = 1; i < s->len; i++, line++) {
		if (line >= s->max_line && s->bytes[i] != '\n')
			return (struct outcome){out.reply, out.requests, PROTO_TOO_LONG};
		if (s->bytes[i] != '\n')
			continue;
		out = (struct outcome){i + 1, out.requests + 1, PROTO_MORE};
		line = 0;
		if (out.requests == s->max_lines)
			return (struct outcome){out.reply, out.requests, PROTO_CLOSE};
	}
	if (s->at_end)
		out = (struct outcome){s->len, out.requests + (out.reply < s->len), PROTO_CLOSE};
	return out;
}

/*
 * One call, on memory that ends where the bytes end: reading behind them is seen by the sanitizer.
 */
static struct proto_verdict ask(const struct proto *proto, const struct stream *s, uint64_t done,
				size_t from, size_t shown, size_t to, bool at_end)
{
	struct proto_limits limits = {s->max_lines - done, s->max_line};
	unsigned char *copy = malloc(to - from + (to == from));
	struct proto_verdict verdict;

	assert_non_null(copy);
	memcpy(copy, s->bytes + from, to - from);
	verdict = proto->input(&limits, copy, to - from, shown - from, at_end);
	free(copy);
	return verdict;
}

/* A connection: `cut` says how many bytes each recv brings. */
static struct outcome converse(const struct proto *proto, const struct stream *s,
			       size_t (*cut)(void *arg), void *arg)
{
	struct outcome out = {0, 0, PROTO_MORE};
	size_t shown = 0;

	while (out.next == PROTO_MORE && (shown < s->len || s->at_end)) {
		size_t n = cut(arg), to = n < s->len - shown ? shown + n : s->len;
		bool at_end = shown == s->len;
		struct proto_verdict v = ask(proto, s, out.requests, out.reply, shown, to, at_end);

		assert_true(v.reply <= to - out.reply);
		out = (struct outcome){out.reply + v.reply, out.requests + v.requests, v.next};
		shown = to;
	}
	return out;
}

static size_t cut_by(void *arg)
{
	return *(size_t *)arg;
}

static size_t cut_at_random(void *arg)
{
	struct support_random *random = arg;

	/* Mostly few bytes, now and then many. */
	return 1 + support_random_below(random, support_random_below(random, 8) == 0 ? 200 : 6);
}

static void make_stream(struct support_random *random, struct stream *s)
{
	static const unsigned char alphabet[] = {'a', '\n', '\0', '\r', 0xff, 'b'};
	uint64_t rareness = 1 + support_random_below(random, 12);

	s->len = support_random_below(random, STREAM_MAX + 1);
	s->max_line = 2 + support_random_below(random, 40);
	s->max_lines = support_random_below(random, 12);
	if (s->max_lines == 0)
		s->max_lines = PROTO_NO_LIMIT;
	s->at_end = support_random_below(random, 2) == 0;
	for (size_t i = 0; i < s->len; i++) {
		size_t letter = support_random_below(random, COUNT_OF(alphabet));

		if (alphabet[letter] == '\n' && support_random_below(random, rareness) != 0)
			letter = 0;
		s->bytes[i] = alphabet[letter];
	}
}

static struct stream stream_of(const char *text, size_t len, uint64_t max_lines, size_t max_line)
{
	struct stream s = {.len = len, .max_lines = max_lines, .max_line = max_line};

	assert_true(len <= STREAM_MAX);
	memcpy(s.bytes, text, len);
	return s;
}

#define STREAM(text, max_lines, max_line) stream_of(text, sizeof(text) - 1, max_lines, max_line)

/* In one piece, byte by byte, in twos: always the same. */
static void assert_says(const struct stream *s, size_t reply, uint64_t requests,
			enum proto_next next)
{
	for (size_t n = 1; n <= STREAM_MAX; n = n < 4 ? n + 1 : n * 10) {
		struct outcome out = converse(&proto_line, s, cut_by, &n);

		assert_int_equal(out.reply, reply);
		assert_int_equal(out.requests, requests);
		assert_int_equal(out.next, next);
	}
}

/* ---- The line protocol ---------------------------------------------------------------------- */

static void random_streams_cut_at_random_get_what_the_reference_says(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int i = 0; i < ITERATIONS; i++) {
		struct stream s;
		struct outcome is, shall;

		make_stream(&random, &s);
		shall = reference(&s);
		is = converse(&proto_line, &s, cut_at_random, &random);
		if (is.reply != shall.reply || is.requests != shall.requests ||
		    is.next != shall.next)
			fail_msg("iteration %d of ECHOD_TEST_SEED=%" PRIu64 ": %zu bytes, %" PRIu64
				 " lines, next %d in place of %zu, %" PRIu64 ", %d",
				 i, random.seed, is.reply, is.requests, (int)is.next, shall.reply,
				 shall.requests, (int)shall.next);
	}
}

static void a_whole_line_goes_back_with_its_lf(void **state)
{
	struct stream s = STREAM("hello\n", PROTO_NO_LIMIT, 64);

	(void)state;
	assert_says(&s, 6, 1, PROTO_MORE);
}

static void a_cr_before_the_lf_is_part_of_the_line(void **state)
{
	struct stream s = STREAM("hello\r\n\r\n\r", PROTO_NO_LIMIT, 64);

	(void)state;
	assert_says(&s, 9, 2, PROTO_MORE);
}

static void a_nul_is_a_byte_like_any_other(void **state)
{
	struct stream s = STREAM("a\0b\n\0\n\0", PROTO_NO_LIMIT, 64);

	(void)state;
	assert_says(&s, 6, 2, PROTO_MORE);
}

static void an_empty_line_is_a_line(void **state)
{
	struct stream s = STREAM("\n\n\n", 3, 2);

	(void)state;
	assert_says(&s, 3, 3, PROTO_CLOSE);
}

static void nothing_behind_the_last_allowed_line_goes_back(void **state)
{
	struct stream one = STREAM("one\ntwo\n", 1, 64);
	struct stream two = STREAM("one\ntwo\nthree\nfour", 2, 64);

	(void)state;
	assert_says(&one, 4, 1, PROTO_CLOSE);
	assert_says(&two, 8, 2, PROTO_CLOSE);
}

static void a_line_of_exactly_max_line_goes_back(void **state)
{
	struct stream s = STREAM("1234567\n1234567\n", PROTO_NO_LIMIT, 8);

	(void)state;
	assert_says(&s, 16, 2, PROTO_MORE);
}

static void a_line_one_over_max_line_is_too_long(void **state)
{
	struct stream first = STREAM("12345678\n", PROTO_NO_LIMIT, 8);
	struct stream second = STREAM("1234567\n12345678\n", PROTO_NO_LIMIT, 8);

	(void)state;
	assert_says(&first, 0, 0, PROTO_TOO_LONG);
	assert_says(&second, 8, 1, PROTO_TOO_LONG);
}

static void a_tail_that_cannot_become_a_line_is_too_long_at_once(void **state)
{
	struct stream fits = STREAM("1234567", PROTO_NO_LIMIT, 8);
	struct stream full = STREAM("12345678", PROTO_NO_LIMIT, 8);

	(void)state;
	assert_says(&fits, 0, 0, PROTO_MORE);
	assert_says(&full, 0, 0, PROTO_TOO_LONG);
	full.at_end = true;
	assert_says(&full, 0, 0, PROTO_TOO_LONG);
}

static void an_unterminated_tail_goes_back_at_the_end(void **state)
{
	struct stream s = STREAM("one\ntail", PROTO_NO_LIMIT, 64);

	(void)state;
	assert_says(&s, 4, 1, PROTO_MORE);
	s.at_end = true;
	assert_says(&s, 8, 2, PROTO_CLOSE);
}

static void an_end_without_a_tail_is_no_request(void **state)
{
	struct stream s = STREAM("one\n", PROTO_NO_LIMIT, 64), empty = STREAM("", 1, 64);

	(void)state;
	s.at_end = empty.at_end = true;
	assert_says(&s, 4, 1, PROTO_CLOSE);
	assert_says(&empty, 0, 0, PROTO_CLOSE);
}

static void bytes_that_were_shown_before_are_not_searched_again(void **state)
{
	const unsigned char data[] = "ab\ncd";
	struct proto_limits limits = {PROTO_NO_LIMIT, 64};
	struct proto_verdict verdict = proto_line.input(&limits, data, 5, 3, false);

	(void)state;
	/* The caller said that the first three hold no line: a search from there finds none. */
	assert_int_equal(verdict.reply, 0);
	assert_int_equal(verdict.next, PROTO_MORE);
}

/* ---- RFC 862 -------------------------------------------------------------------------------- */

static void echo_sends_everything_back_as_it_comes(void **state)
{
	struct stream s = STREAM("a\n\0tail without end", 1, 2);

	(void)state;
	for (size_t n = 1; n <= s.len; n++) {
		struct outcome out = converse(&proto_echo, &s, cut_by, &n);

		assert_int_equal(out.reply, s.len);
		assert_int_equal(out.requests, 0);
		assert_int_equal(out.next, PROTO_MORE);
	}
}

static void echo_ends_with_the_client(void **state)
{
	struct stream s = STREAM("abc", 1, 2);
	size_t n = 2;
	struct outcome out;

	(void)state;
	s.at_end = true;
	out = converse(&proto_echo, &s, cut_by, &n);
	assert_int_equal(out.reply, 3);
	assert_int_equal(out.next, PROTO_CLOSE);
}

/* ---- The table ------------------------------------------------------------------------------ */

static void protocols_are_found_by_their_names(void **state)
{
	(void)state;
	assert_ptr_equal(proto_find("line"), &proto_line);
	assert_ptr_equal(proto_find("echo"), &proto_echo);
	assert_string_equal(proto_line.name, "line");
	assert_string_equal(proto_echo.name, "echo");
}

static void an_unknown_protocol_is_not_found(void **state)
{
	(void)state;
	assert_null(proto_find(""));
	assert_null(proto_find("LINE"));
	assert_null(proto_find("lines"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_streams_cut_at_random_get_what_the_reference_says),
		cmocka_unit_test(a_whole_line_goes_back_with_its_lf),
		cmocka_unit_test(a_cr_before_the_lf_is_part_of_the_line),
		cmocka_unit_test(a_nul_is_a_byte_like_any_other),
		cmocka_unit_test(an_empty_line_is_a_line),
		cmocka_unit_test(nothing_behind_the_last_allowed_line_goes_back),
		cmocka_unit_test(a_line_of_exactly_max_line_goes_back),
		cmocka_unit_test(a_line_one_over_max_line_is_too_long),
		cmocka_unit_test(a_tail_that_cannot_become_a_line_is_too_long_at_once),
		cmocka_unit_test(an_unterminated_tail_goes_back_at_the_end),
		cmocka_unit_test(an_end_without_a_tail_is_no_request),
		cmocka_unit_test(bytes_that_were_shown_before_are_not_searched_again),
		cmocka_unit_test(echo_sends_everything_back_as_it_comes),
		cmocka_unit_test(echo_ends_with_the_client),
		cmocka_unit_test(protocols_are_found_by_their_names),
		cmocka_unit_test(an_unknown_protocol_is_not_found),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
