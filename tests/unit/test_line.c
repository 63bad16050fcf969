/* What the protocols promise, asked of them through their table, as a connection asks. */
#include "support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/proto.h"

#define STREAM_MAX 2000
#define OUT_MAX	   (2 * STREAM_MAX) /* hexadecimal digits */
#define ITERATIONS 60000

struct stream {
	unsigned char bytes[STREAM_MAX];
	size_t len;
	struct proto_settings says;
	bool at_end; /* the client's end of file follows */
};

struct outcome {
	unsigned char reply[OUT_MAX];
	size_t len;
	uint64_t requests;
	enum proto_next next;
};

/* How a connection goes: the same bytes get the same replies whatever it is. */
struct manner {
	size_t bytes;		       /* in each recv; 0: at random */
	uint64_t allowed;	       /* in each call */
	bool early_end;		       /* the end of file is known with the last bytes */
	struct support_random *random; /* all of them at random; NULL: as told */
};

/* ---- The reference -------------------------------------------------------------------------- */

/* The protocol said once more, byte by byte and with everything known. */

static unsigned char transformed(enum proto_transform how, const unsigned char *text, size_t len,
				 size_t i)
{
	static const char lower[] = "abcdefghijklmnopqrstuvwxyz";
	static const char upper[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	unsigned char c = how == PROTO_REVERSE ? text[len - 1 - i] : text[i];

	for (size_t letter = 0; letter < 26; letter++) {
		if (how == PROTO_UPPER && c == lower[letter])
			return (unsigned char)upper[letter];
		if (how == PROTO_LOWER && c == upper[letter])
			return (unsigned char)lower[letter];
	}
	return c;
}

static void say(struct outcome *out, enum proto_transform how, const unsigned char *piece,
		size_t text, size_t len)
{
	char digits[3];

	for (size_t i = 0; i < text; i++) {
		if (how == PROTO_HEX) {
			snprintf(digits, sizeof(digits), "%02x", piece[i]);
			memcpy(out->reply + out->len, digits, 2);
			out->len += 2;
		} else {
			out->reply[out->len++] = transformed(how, piece, text, i);
		}
	}
	memcpy(out->reply + out->len, piece + text, len - text);
	out->len += len - text;
}

/* How many of the last bytes are the delimiter; 0: it is not there. `*text` is what stands before.
 */
static bool ends_line(enum proto_delimiter delimiter, const unsigned char *piece, size_t len,
		      size_t *text)
{
	bool crlf = len >= 2 && memcmp(piece + len - 2, "\r\n", 2) == 0;

	*text = delimiter != PROTO_NUL && crlf ? len - 2 : len - 1;
	switch (delimiter) {
	case PROTO_CRLF:
		return crlf;
	case PROTO_LF:
		return piece[len - 1] == '\n';
	default:
		return piece[len - 1] == '\0';
	}
}

static struct outcome reference(const struct stream *s)
{
	struct outcome out = {.next = PROTO_MORE};
	size_t begin = 0, text;
	bool in_line = false;

	for (size_t i = 0; i < s->len; i++) {
		const unsigned char *piece = s->bytes + begin;
		size_t len = i + 1 - begin;

		if (ends_line(s->says.delimiter, piece, len, &text)) {
			say(&out, s->says.transform, piece, text, len);
			begin = i + 1;
			in_line = false;
			out.next =
				++out.requests == s->says.max_requests ? PROTO_CLOSE : PROTO_MORE;
		} else if (len == s->says.max_line && !s->says.split) {
			out.next = PROTO_TOO_LONG;
		} else if (len == s->says.max_line) {
			len -= s->bytes[i] == '\r' && s->says.delimiter != PROTO_NUL;
			say(&out, s->says.transform, piece, len, len);
			begin += len;
			in_line = true;
		}
		if (out.next != PROTO_MORE)
			return out;
	}
	if (s->at_end) {
		say(&out, s->says.transform, s->bytes + begin, s->len - begin, s->len - begin);
		out.requests += begin < s->len || in_line;
		out.next = PROTO_CLOSE;
	}
	return out;
}

/* ---- A connection --------------------------------------------------------------------------- */

struct sink {
	struct proto_out out;
	struct outcome *outcome;
};

static void sink_write(struct proto_out *out, const void *data, size_t len)
{
	struct outcome *outcome = ((struct sink *)out)->outcome;

	assert_true(len > 0 && len <= OUT_MAX - outcome->len);
	memcpy(outcome->reply + outcome->len, data, len);
	outcome->len += len;
}

/* What `plain` says of new bytes; PROTO_NO_LIMIT also when a connection would not ask it. */
static uint64_t ask_plain(const struct proto *proto, const struct stream *s,
			  const struct proto_state *state, const unsigned char *data, size_t len,
			  bool all_new)
{
	if (proto->plain == NULL || !all_new || len == 0 || state->in_line ||
	    state->allowed != PROTO_NO_LIMIT)
		return PROTO_NO_LIMIT;
	return proto->plain(&s->says, state->requests, data, len);
}

/*
 * One call, on memory that ends where the bytes end: reading behind them is seen by the sanitizer.
 */
static struct proto_verdict ask(const struct proto *proto, const struct stream *s,
				struct proto_state *state, size_t from, size_t shown, size_t to,
				bool at_end, struct outcome *outcome)
{
	struct sink sink = {{sink_write}, outcome};
	unsigned char *copy = malloc(to - from + (to == from));
	size_t before = outcome->len;
	struct proto_verdict verdict;
	uint64_t plain;

	assert_non_null(copy);
	memcpy(copy, s->bytes + from, to - from);
	plain = ask_plain(proto, s, state, copy, to - from, shown == from && !at_end);
	verdict = proto->input(&s->says, state, copy, to - from, shown - from, at_end, &sink.out);
	assert_true(verdict.taken <= to - from);
	assert_true(verdict.reply == 0 || outcome->len == before);
	assert_true(verdict.reply == 0 || verdict.reply == verdict.taken);
	/* What is not taken will be shown again: it has to be as it was. */
	assert_memory_equal(copy + verdict.taken, s->bytes + from + verdict.taken,
			    to - from - verdict.taken);
	if (plain != PROTO_NO_LIMIT) {
		assert_int_equal(verdict.next, PROTO_MORE);
		assert_int_equal(verdict.requests, plain);
		assert_int_equal(verdict.reply, to - from);
		assert_memory_equal(copy, s->bytes + from, to - from);
		assert_false(state->in_line);
	}
	if (verdict.reply > 0)
		sink_write(&sink.out, copy, verdict.reply);
	free(copy);
	return verdict;
}

static void choose(const struct manner *manner, size_t *bytes, uint64_t *allowed, bool *early_end)
{
	struct support_random *random = manner->random;

	*bytes = manner->bytes;
	*allowed = manner->allowed;
	*early_end = manner->early_end;
	if (random == NULL)
		return;
	/* Mostly few bytes, now and then many. */
	*bytes = 1 + support_random_below(random,
					  support_random_below(random, 8) == 0 ? STREAM_MAX : 6);
	if (*allowed != PROTO_NO_LIMIT)
		*allowed = support_random_below(random, 4);
	*early_end = support_random_below(random, 2) == 0;
}

static struct outcome converse(const struct proto *proto, const struct stream *s,
			       const struct manner *manner)
{
	struct outcome out = {.next = PROTO_MORE};
	struct proto_state state = {0};
	size_t from = 0, shown = 0;
	bool at_end = false;

	while (out.next == PROTO_PAUSE ||
	       (out.next == PROTO_MORE && (shown < s->len || (s->at_end && !at_end)))) {
		size_t n, to = shown;
		struct proto_verdict v;
		bool early_end;

		choose(manner, &n, &state.allowed, &early_end);
		if (out.next == PROTO_PAUSE) {
			shown = from;
		} else {
			at_end = s->at_end &&
				 (shown == s->len || (early_end && n >= s->len - shown));
			to = n < s->len - shown ? shown + n : s->len;
		}
		v = ask(proto, s, &state, from, shown, to, at_end, &out);
		assert_true(v.requests <= state.allowed);
		if (v.next == PROTO_PAUSE)
			assert_int_equal(v.requests, state.allowed);
		assert_int_equal(v.next == PROTO_MORE && at_end, 0);
		state.requests += v.requests;
		from += v.taken;
		shown = to;
		out.next = v.next;
	}
	out.requests = state.requests;
	return out;
}

static void make_settings(struct support_random *random, struct proto_settings *says)
{
	*says = (struct proto_settings){
		.max_line = 2 + support_random_below(random, 40),
		.max_requests = support_random_below(random, 12),
		.delimiter = (enum proto_delimiter)support_random_below(random, 3),
		.transform = (enum proto_transform)support_random_below(random, 5),
		.split = support_random_below(random, 2) == 0,
	};
	if (says->max_requests == 0)
		says->max_requests = PROTO_NO_LIMIT;
}

static void make_stream(struct support_random *random, struct stream *s)
{
	static const unsigned char alphabet[] = "aZzA@[`{b\xff\x80";
	static const char *const ends[] = {"\n", "\r\n", "\0", "\r", "\r\r\n", "\n\r"};
	uint64_t rareness = 1 + support_random_below(random, 24);
	size_t most = support_random_below(
		random, support_random_below(random, 8) == 0 ? STREAM_MAX - 3 : 300);

	make_settings(random, &s->says);
	s->at_end = support_random_below(random, 2) == 0;
	s->len = 0;
	while (s->len < most) {
		size_t which = support_random_below(random, COUNT_OF(ends));
		size_t len = which == 2 ? 1 : strlen(ends[which]);

		s->bytes[s->len++] = alphabet[support_random_below(random, sizeof(alphabet) - 1)];
		if (support_random_below(random, rareness) != 0)
			continue;
		memcpy(s->bytes + s->len, ends[which], len);
		s->len += len;
	}
}

static struct stream stream_of(const char *text, size_t len, uint64_t max_lines, size_t max_line)
{
	struct stream s = {.len = len, .says = {.max_requests = max_lines, .max_line = max_line}};

	assert_true(len <= STREAM_MAX);
	memcpy(s.bytes, text, len);
	return s;
}

#define STREAM(text, max_lines, max_line) stream_of(text, sizeof(text) - 1, max_lines, max_line)

/* In one piece, byte by byte, in twos; with all allowed, and one at a time: always the same. */
static void assert_answers(const struct stream *s, const void *reply, size_t len, uint64_t requests,
			   enum proto_next next)
{
	struct manner manner = {.allowed = PROTO_NO_LIMIT};

	for (size_t n = 1; n <= STREAM_MAX; n = n < 4 ? n + 1 : n * 10) {
		for (int i = 0; i < 4; i++) {
			struct outcome out;

			manner.bytes = n;
			manner.allowed = i < 2 ? PROTO_NO_LIMIT : 1;
			manner.early_end = i % 2 != 0;
			out = converse(&proto_line, s, &manner);
			assert_int_equal(out.len, len);
			assert_memory_equal(out.reply, reply, len);
			assert_int_equal(out.requests, requests);
			assert_int_equal(out.next, next);
		}
	}
}

#define ASSERT_ANSWERS(s, text, requests, next)                                                    \
	assert_answers(s, text, sizeof(text) - 1, requests, next)

/* The first bytes go back as they came. */
static void assert_says(const struct stream *s, size_t reply, uint64_t requests,
			enum proto_next next)
{
	assert_answers(s, s->bytes, reply, requests, next);
}

/* ---- The line protocol ---------------------------------------------------------------------- */

static void random_streams_cut_at_random_get_what_the_reference_says(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int i = 0; i < ITERATIONS; i++) {
		struct manner manner = {.allowed = i % 2 == 0 ? PROTO_NO_LIMIT : 0,
					.random = &random};
		struct outcome is, shall;
		struct stream s;

		make_stream(&random, &s);
		shall = reference(&s);
		is = converse(&proto_line, &s, &manner);
		if (is.len != shall.len || memcmp(is.reply, shall.reply, is.len) != 0 ||
		    is.requests != shall.requests || is.next != shall.next)
			fail_msg("iteration %d of ECHOD_TEST_SEED=%" PRIu64
				 " (delimiter %d, transform %d, split %d): %zu bytes, %" PRIu64
				 " lines, next %d in place of %zu, %" PRIu64 ", %d",
				 i, random.seed, (int)s.says.delimiter, (int)s.says.transform,
				 (int)s.says.split, is.len, is.requests, (int)is.next, shall.len,
				 shall.requests, (int)shall.next);
	}
}

static uint64_t plain_of(const char *text, size_t len, uint64_t max_lines, size_t max_line)
{
	struct stream s = stream_of(text, len, max_lines, max_line);

	return proto_line.plain(&s.says, 0, s.bytes, s.len);
}

#define PLAIN(text, max_lines, max_line) plain_of(text, sizeof(text) - 1, max_lines, max_line)

/* That it is right when it says something is part of all the other tests. */
static void whole_lines_are_plain(void **state)
{
	(void)state;
	assert_int_equal(PLAIN("a\n", PROTO_NO_LIMIT, 9), 1);
	assert_int_equal(PLAIN("\n", 2, 9), 1);
	assert_int_equal(PLAIN("a\nb\n\n", 4, 9), 3);
	assert_int_equal(PLAIN("a\nb\n\n", 3, 9), PROTO_NO_LIMIT);
	assert_int_equal(PLAIN("a\nb", PROTO_NO_LIMIT, 9), PROTO_NO_LIMIT);
	assert_int_equal(PLAIN("12345678\n", PROTO_NO_LIMIT, 9), 1);
	assert_int_equal(PLAIN("123456789\n", PROTO_NO_LIMIT, 9), PROTO_NO_LIMIT);
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
	unsigned char data[] = "ab\ncd";
	struct proto_settings settings = {.max_requests = PROTO_NO_LIMIT, .max_line = 64};

	(void)state;
	for (int split = 0; split < 2; split++) {
		struct proto_state none = {.allowed = PROTO_NO_LIMIT};
		struct proto_verdict verdict;

		settings.split = split != 0;
		verdict = proto_line.input(&settings, &none, data, 5, 3, false, NULL);
		/* The caller said that the first three hold no line: none is found from there. */
		assert_int_equal(verdict.reply, 0);
		assert_int_equal(verdict.next, PROTO_MORE);
	}
}

/* ---- Delimiters ----------------------------------------------------------------------------- */

static void only_crlf_ends_a_line_where_that_is_the_delimiter(void **state)
{
	struct stream s = STREAM("a\nb\rc\r\r\n\n\r\n\r\nrest\r", PROTO_NO_LIMIT, 64);

	(void)state;
	s.says.delimiter = PROTO_CRLF;
	assert_says(&s, 13, 3, PROTO_MORE);
	s.at_end = true;
	assert_says(&s, 18, 4, PROTO_CLOSE);
}

static void a_crlf_that_comes_in_two_parts_is_one(void **state)
{
	unsigned char data[] = "ab\r\n";
	struct proto_settings settings = {
		.max_requests = PROTO_NO_LIMIT, .max_line = 64, .delimiter = PROTO_CRLF};
	struct proto_state proto_state = {.allowed = PROTO_NO_LIMIT};
	struct proto_verdict verdict =
		proto_line.input(&settings, &proto_state, data, 4, 3, false, NULL);

	(void)state;
	assert_int_equal(verdict.reply, 4);
	assert_int_equal(verdict.requests, 1);
}

static void only_nul_ends_a_line_where_that_is_the_delimiter(void **state)
{
	struct stream s = STREAM("a\r\nb\0\0c\n", PROTO_NO_LIMIT, 64);

	(void)state;
	s.says.delimiter = PROTO_NUL;
	assert_says(&s, 6, 2, PROTO_MORE);
}

static void max_line_counts_the_whole_delimiter(void **state)
{
	struct stream fits = STREAM("12345\r\n", PROTO_NO_LIMIT, 7);
	struct stream longer = STREAM("123456\r\n", PROTO_NO_LIMIT, 7);

	(void)state;
	fits.says.delimiter = longer.says.delimiter = PROTO_CRLF;
	assert_says(&fits, 7, 1, PROTO_MORE);
	assert_says(&longer, 0, 0, PROTO_TOO_LONG);
}

/* ---- Transforms ----------------------------------------------------------------------------- */

static void letters_change_and_nothing_else(void **state)
{
	struct stream s = STREAM("Az @[`{ \xe4\xc4 1\n", PROTO_NO_LIMIT, 64);

	(void)state;
	s.says.transform = PROTO_UPPER;
	ASSERT_ANSWERS(&s, "AZ @[`{ \xe4\xc4 1\n", 1, PROTO_MORE);
	s.says.transform = PROTO_LOWER;
	ASSERT_ANSWERS(&s, "az @[`{ \xe4\xc4 1\n", 1, PROTO_MORE);
}

static void a_delimiter_is_not_transformed(void **state)
{
	struct stream s = STREAM("abc\r\nde\n\r\n\nrest\r", PROTO_NO_LIMIT, 64);

	(void)state;
	s.says.transform = PROTO_REVERSE;
	ASSERT_ANSWERS(&s, "cba\r\ned\n\r\n\n", 4, PROTO_MORE);
	s.at_end = true;
	ASSERT_ANSWERS(&s, "cba\r\ned\n\r\n\n\rtser", 5, PROTO_CLOSE);
	s.says.delimiter = PROTO_CRLF;
	ASSERT_ANSWERS(&s, "cba\r\n\ned\r\n\rtser\n", 3, PROTO_CLOSE);
	s.says.delimiter = PROTO_NUL;
	ASSERT_ANSWERS(&s, "\rtser\n\n\r\ned\n\rcba", 1, PROTO_CLOSE);
}

static void hex_has_two_digits_a_byte(void **state)
{
	struct stream s = STREAM("\x01k\xff\r\n\nA", PROTO_NO_LIMIT, 64);

	(void)state;
	s.says.transform = PROTO_HEX;
	s.at_end = true;
	ASSERT_ANSWERS(&s, "016bff\r\n\n41", 3, PROTO_CLOSE);
}

/* ---- Long lines in pieces ------------------------------------------------------------------- */

static void a_long_line_goes_back_in_pieces_and_is_one_request(void **state)
{
	struct stream s = STREAM("123456789\n12\n", 2, 4);

	(void)state;
	s.says.split = true;
	assert_says(&s, 13, 2, PROTO_CLOSE);
	s.says.transform = PROTO_REVERSE;
	ASSERT_ANSWERS(&s, "432187659\n21\n", 2, PROTO_CLOSE);
	s.says.max_requests = 1;
	ASSERT_ANSWERS(&s, "432187659\n", 1, PROTO_CLOSE);
}

static void a_piece_goes_back_before_its_line_ends(void **state)
{
	struct stream s = STREAM("123456", PROTO_NO_LIMIT, 4);

	(void)state;
	s.says.split = true;
	assert_says(&s, 4, 0, PROTO_MORE);
	s.at_end = true;
	assert_says(&s, 6, 1, PROTO_CLOSE);
}

static void a_line_that_ends_with_a_piece_is_counted_at_the_end(void **state)
{
	struct stream s = STREAM("12345678", PROTO_NO_LIMIT, 4);

	(void)state;
	s.says.split = true;
	assert_says(&s, 8, 0, PROTO_MORE);
	s.at_end = true;
	assert_says(&s, 8, 1, PROTO_CLOSE);
}

static void a_split_line_that_has_ended_is_not_counted_again(void **state)
{
	struct stream s = STREAM("12345\n", PROTO_NO_LIMIT, 4);

	(void)state;
	s.says.split = s.at_end = true;
	assert_says(&s, 6, 1, PROTO_CLOSE);
}

static void no_piece_ends_between_cr_and_lf(void **state)
{
	struct stream s = STREAM("123\r\n1\r\r\r\n", PROTO_NO_LIMIT, 4);

	(void)state;
	s.says.split = true;
	s.says.transform = PROTO_REVERSE;
	ASSERT_ANSWERS(&s, "321\r\n\r\r1\r\n", 2, PROTO_MORE);
	s.says.delimiter = PROTO_CRLF;
	ASSERT_ANSWERS(&s, "321\r\n\r\r1\r\n", 2, PROTO_MORE);
	s.says.delimiter = PROTO_NUL;
	ASSERT_ANSWERS(&s, "\r321\r\r1\n", 0, PROTO_MORE);
}

static void a_line_of_exactly_max_line_is_no_piece(void **state)
{
	struct stream s = STREAM("123\n12\r\n", PROTO_NO_LIMIT, 4);

	(void)state;
	s.says.split = true;
	s.says.transform = PROTO_HEX;
	ASSERT_ANSWERS(&s, "313233\n3132\r\n", 2, PROTO_MORE);
}

/* ---- What is allowed ------------------------------------------------------------------------ */

static struct proto_verdict allow(uint64_t allowed, const char *text, bool at_end)
{
	struct proto_settings settings = {.max_requests = 3, .max_line = 64};
	struct proto_state proto_state = {.allowed = allowed};
	unsigned char data[64];

	memcpy(data, text, strlen(text));
	return proto_line.input(&settings, &proto_state, data, strlen(text), 0, at_end, NULL);
}

static void assert_verdict(struct proto_verdict verdict, size_t taken, uint64_t requests,
			   enum proto_next next)
{
	assert_int_equal(verdict.taken, taken);
	assert_int_equal(verdict.reply, taken);
	assert_int_equal(verdict.requests, requests);
	assert_int_equal(verdict.next, next);
}

static void what_is_not_allowed_yet_waits(void **state)
{
	(void)state;
	assert_verdict(allow(1, "a\nb\n", false), 2, 1, PROTO_PAUSE);
	assert_verdict(allow(1, "a\nb", false), 2, 1, PROTO_PAUSE);
	assert_verdict(allow(0, "a\n", false), 0, 0, PROTO_PAUSE);
	assert_verdict(allow(2, "a\nb\n", false), 4, 2, PROTO_MORE);
	assert_verdict(allow(2, "a\nb\n", true), 4, 2, PROTO_CLOSE);
	assert_verdict(allow(1, "a\nb", true), 2, 1, PROTO_PAUSE);
	assert_verdict(allow(0, "", true), 0, 0, PROTO_CLOSE);
	assert_verdict(allow(0, "", false), 0, 0, PROTO_MORE);
}

static void the_last_request_ends_it_whatever_is_allowed(void **state)
{
	(void)state;
	assert_verdict(allow(3, "a\nb\nc\nd\n", false), 6, 3, PROTO_CLOSE);
	assert_verdict(allow(9, "a\nb\nc\nd\n", false), 6, 3, PROTO_CLOSE);
}

static void a_long_line_is_too_long_when_its_turn_comes(void **state)
{
	struct stream s = STREAM("a\nb\n12345678\n", PROTO_NO_LIMIT, 8);

	(void)state;
	assert_says(&s, 4, 2, PROTO_TOO_LONG);
}

/* ---- Datagrams ------------------------------------------------------------------------------ */

static size_t answer(const struct proto *proto, struct proto_settings settings, const char *text,
		     size_t len, char *reply, size_t cap)
{
	unsigned char *data = malloc(len + 1), *room = malloc(PROTO_DATAGRAM_MAX);
	const unsigned char *said;
	size_t reply_len = SIZE_MAX;

	assert_true(data != NULL && room != NULL);
	memcpy(data, text, len);
	settings.max_requests = 1;
	settings.max_line = 2;
	said = proto->datagram(&settings, NULL, data, len, room, &reply_len);
	assert_true(said == data || said == room);
	assert_true(reply_len <= cap);
	memcpy(reply, said, reply_len);
	free(data);
	free(room);
	return reply_len;
}

#define ASSERT_DATAGRAM(proto, settings, text, expected)                                           \
	do {                                                                                       \
		char reply_[64];                                                                   \
		size_t len_ =                                                                      \
			answer(proto, settings, text, sizeof(text) - 1, reply_, sizeof(reply_));   \
		assert_int_equal(len_, sizeof(expected) - 1);                                      \
		assert_memory_equal(reply_, expected, len_);                                       \
	} while (0)

static void a_datagram_goes_back_as_a_whole(void **state)
{
	struct proto_settings says = {.delimiter = PROTO_LF};

	(void)state;
	ASSERT_DATAGRAM(&proto_line, says, "one\ntwo\r\nthree", "one\ntwo\r\nthree");
	ASSERT_DATAGRAM(&proto_line, says, "", "");
	says.transform = PROTO_REVERSE;
	ASSERT_DATAGRAM(&proto_line, says, "one\ntwo\r\nthree", "eno\nowt\r\neerht");
	ASSERT_DATAGRAM(&proto_line, says, "", "");
	says.delimiter = PROTO_NUL;
	ASSERT_DATAGRAM(&proto_line, says, "one\0two\0", "eno\0owt\0");
	says.transform = PROTO_UPPER;
	ASSERT_DATAGRAM(&proto_line, says, "one\0Two", "ONE\0TWO");
}

static void a_reply_is_never_longer_than_its_datagram(void **state)
{
	struct proto_settings says = {.delimiter = PROTO_LF, .transform = PROTO_HEX};

	(void)state;
	ASSERT_DATAGRAM(&proto_line, says, "12\n3", "3132");
	ASSERT_DATAGRAM(&proto_line, says, "\n\n", "\n\n");
	ASSERT_DATAGRAM(&proto_line, says, "", "");
}

static void echo_answers_a_datagram_exactly_as_it_came(void **state)
{
	struct proto_settings says = {.transform = PROTO_UPPER};

	(void)state;
	ASSERT_DATAGRAM(&proto_echo, says, "a\n\0b\r", "a\n\0b\r");
	ASSERT_DATAGRAM(&proto_echo, says, "", "");
}

/* ---- RFC 862 -------------------------------------------------------------------------------- */

static void echo_sends_everything_back_as_it_comes(void **state)
{
	struct stream s = STREAM("a\n\0tail without end", 1, 2);

	(void)state;
	for (size_t n = 1; n <= s.len; n++) {
		struct manner manner = {.bytes = n};
		struct outcome out = converse(&proto_echo, &s, &manner);

		assert_int_equal(out.len, s.len);
		assert_memory_equal(out.reply, s.bytes, s.len);
		assert_int_equal(out.requests, 0);
		assert_int_equal(out.next, PROTO_MORE);
	}
}

static void echo_ends_with_the_client(void **state)
{
	struct stream s = STREAM("abc", 1, 2);
	struct manner manner = {.bytes = 2};
	struct outcome out;

	(void)state;
	s.at_end = true;
	out = converse(&proto_echo, &s, &manner);
	assert_int_equal(out.len, 3);
	assert_int_equal(out.next, PROTO_CLOSE);
}

/* ---- The table ------------------------------------------------------------------------------ */

static void protocols_are_found_by_their_names(void **state)
{
	(void)state;
	assert_ptr_equal(proto_find("line"), &proto_line);
	assert_ptr_equal(proto_find("echo"), &proto_echo);
	assert_ptr_equal(proto_find("discard"), &proto_discard);
	assert_ptr_equal(proto_find("chargen"), &proto_chargen);
	assert_ptr_equal(proto_find("daytime"), &proto_daytime);
	assert_ptr_equal(proto_find("time"), &proto_time);
	assert_ptr_equal(proto_find("whoami"), &proto_whoami);
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
		cmocka_unit_test(whole_lines_are_plain),
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
		cmocka_unit_test(only_crlf_ends_a_line_where_that_is_the_delimiter),
		cmocka_unit_test(a_crlf_that_comes_in_two_parts_is_one),
		cmocka_unit_test(only_nul_ends_a_line_where_that_is_the_delimiter),
		cmocka_unit_test(max_line_counts_the_whole_delimiter),
		cmocka_unit_test(letters_change_and_nothing_else),
		cmocka_unit_test(a_delimiter_is_not_transformed),
		cmocka_unit_test(hex_has_two_digits_a_byte),
		cmocka_unit_test(a_long_line_goes_back_in_pieces_and_is_one_request),
		cmocka_unit_test(a_piece_goes_back_before_its_line_ends),
		cmocka_unit_test(a_line_that_ends_with_a_piece_is_counted_at_the_end),
		cmocka_unit_test(a_split_line_that_has_ended_is_not_counted_again),
		cmocka_unit_test(no_piece_ends_between_cr_and_lf),
		cmocka_unit_test(a_line_of_exactly_max_line_is_no_piece),
		cmocka_unit_test(what_is_not_allowed_yet_waits),
		cmocka_unit_test(the_last_request_ends_it_whatever_is_allowed),
		cmocka_unit_test(a_long_line_is_too_long_when_its_turn_comes),
		cmocka_unit_test(a_datagram_goes_back_as_a_whole),
		cmocka_unit_test(a_reply_is_never_longer_than_its_datagram),
		cmocka_unit_test(echo_answers_a_datagram_exactly_as_it_came),
		cmocka_unit_test(echo_sends_everything_back_as_it_comes),
		cmocka_unit_test(echo_ends_with_the_client),
		cmocka_unit_test(protocols_are_found_by_their_names),
		cmocka_unit_test(an_unknown_protocol_is_not_found),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
