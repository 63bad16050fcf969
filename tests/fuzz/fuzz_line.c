/*
 * The framing of lines: with any settings, what goes back never depends on how the bytes were cut
 * into calls, nor on how many requests were allowed at a time; and it is what a naive reading of
 * the manual says.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "serve/proto.h"

const char fuzz_name[] = "line";

#define STREAM_MAX 2048

struct sink {
	struct proto_out out; /* the first */
	uint8_t *bytes;
	size_t len;
	size_t cap;
};

struct scenario {
	const struct proto *proto;
	struct proto_settings settings;
	const uint8_t *stream;
	size_t len;
	bool at_end; /* the client's end of file follows */
};

/* How a conversation is cut: all of it at once, or pieces. */
struct cuts {
	uint32_t seed;
	unsigned most;	  /* bytes a call; 0: all */
	unsigned allowed; /* requests a call, at most; 0: no limit */
};

struct outcome {
	struct sink sink;
	uint64_t requests;
	size_t taken;
	enum proto_next next;
};

static void sink_write(struct proto_out *out, const void *data, size_t len)
{
	struct sink *sink = (struct sink *)out;

	if (sink->len + len > sink->cap) {
		sink->cap = 2 * (sink->len + len);
		sink->bytes = realloc(sink->bytes, sink->cap);
		FUZZ_CHECK(sink->bytes != NULL);
	}
	if (len > 0)
		memcpy(sink->bytes + sink->len, data, len);
	sink->len += len;
}

/* ---- The protocol, as a connection asks it --------------------------------------------------- */

/* What `plain` says of new bytes; PROTO_NO_LIMIT also when a connection would not ask it. */
static uint64_t ask_plain(const struct scenario *s, const struct proto_state *state,
			  const uint8_t *data, size_t len, bool all_new)
{
	if (!all_new || len == 0 || state->in_line || state->allowed != PROTO_NO_LIMIT)
		return PROTO_NO_LIMIT;
	return s->proto->plain(&s->settings, state->requests, data, len);
}

/* One call, on memory that ends where the bytes end. Returns false at the end. */
static bool call(const struct scenario *s, struct proto_state *state, size_t to, size_t seen,
		 bool at_end, struct outcome *outcome)
{
	size_t len = to - outcome->taken, before = outcome->sink.len;
	uint8_t *copy = fuzz_copy(s->stream + outcome->taken, len);
	uint64_t plain = ask_plain(s, state, copy, len, seen == 0 && !at_end);
	struct proto_verdict verdict =
		s->proto->input(&s->settings, state, copy, len, seen, at_end, &outcome->sink.out);

	FUZZ_CHECK(verdict.taken <= len && verdict.reply <= verdict.taken);
	FUZZ_CHECK(verdict.requests <= state->allowed);
	FUZZ_CHECK(verdict.reply == 0 || outcome->sink.len == before);
	if (plain != PROTO_NO_LIMIT)
		FUZZ_CHECK(verdict.next == PROTO_MORE && verdict.requests == plain &&
			   verdict.reply == len && !state->in_line &&
			   memcmp(copy, s->stream + outcome->taken, len) == 0);
	if (verdict.reply > 0)
		sink_write(&outcome->sink.out, copy, verdict.reply);
	free(copy);
	state->requests += verdict.requests;
	outcome->requests += verdict.requests;
	outcome->taken += verdict.taken;
	outcome->next = verdict.next;
	return verdict.next == PROTO_MORE || verdict.next == PROTO_PAUSE;
}

/* The same bytes again, as long as only a limit stopped the protocol. Returns false at the end. */
static bool call_until_read(const struct scenario *s, struct cuts *cuts, struct proto_state *state,
			    size_t to, size_t seen, bool at_end, struct outcome *outcome)
{
	do {
		size_t before = outcome->taken;
		uint64_t allowed = PROTO_NO_LIMIT;

		if (cuts->allowed != 0)
			allowed = 1 + fuzz_random(&cuts->seed, cuts->allowed);
		state->allowed = allowed;
		if (!call(s, state, to, seen, at_end, outcome))
			return false;
		/* It pauses for want of requests only. */
		FUZZ_CHECK(outcome->next != PROTO_PAUSE ||
			   (allowed != PROTO_NO_LIMIT && outcome->taken > before));
		seen = 0;
	} while (outcome->next == PROTO_PAUSE);
	return true;
}

static struct outcome converse(const struct scenario *s, struct cuts cuts)
{
	struct outcome outcome = {.sink.out.write = sink_write, .next = PROTO_MORE};
	struct proto_state state = {0};
	size_t shown = 0, held;

	while (shown < s->len) {
		size_t n = cuts.most == 0 ? s->len : 1 + fuzz_random(&cuts.seed, cuts.most);
		size_t to = n < s->len - shown ? shown + n : s->len;

		held = shown - outcome.taken;
		shown = to;
		if (!call_until_read(s, &cuts, &state, to, held, false, &outcome))
			return outcome;
	}
	if (s->at_end)
		call_until_read(s, &cuts, &state, s->len, s->len - outcome.taken, true, &outcome);
	return outcome;
}

/* ---- The protocol said once more, slowly ----------------------------------------------------- */

/* Whether a delimiter ends with the byte at `i` of a piece that begins at `from`. */
static bool ends_line(const struct scenario *s, size_t from, size_t i)
{
	switch (s->settings.delimiter) {
	case PROTO_LF:
		return s->stream[i] == '\n';
	case PROTO_CRLF:
		return i > from && s->stream[i] == '\n' && s->stream[i - 1] == '\r';
	default:
		return s->stream[i] == '\0';
	}
}

/* A CR before the LF belongs to the delimiter as far as transforms go. */
static size_t text_end(const struct scenario *s, size_t from, size_t to)
{
	bool cr = to - from > 1 && s->settings.delimiter != PROTO_NUL && s->stream[to - 2] == '\r';

	return to - (cr ? 2 : 1);
}

/* The bytes from `from` to `to`, of which those up to `end` are transformed. */
static void say(const struct scenario *s, struct outcome *outcome, size_t from, size_t end,
		size_t to)
{
	for (size_t i = from; i < end; i++) {
		uint8_t byte = s->stream[i];
		char hex[2] = {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};

		if (s->settings.transform == PROTO_REVERSE)
			byte = s->stream[end - 1 - (i - from)];
		else if (s->settings.transform == PROTO_UPPER && byte >= 'a' && byte <= 'z')
			byte = (uint8_t)(byte - 'a' + 'A');
		else if (s->settings.transform == PROTO_LOWER && byte >= 'A' && byte <= 'Z')
			byte = (uint8_t)(byte - 'A' + 'a');
		if (s->settings.transform == PROTO_HEX)
			sink_write(&outcome->sink.out, hex, 2);
		else
			sink_write(&outcome->sink.out, &byte, 1);
	}
	sink_write(&outcome->sink.out, s->stream + end, to - end);
}

/* So much of a line that is too long goes back: a CR waits for its LF. */
static size_t piece_end(const struct scenario *s, size_t to)
{
	return s->settings.delimiter != PROTO_NUL && s->stream[to - 1] == '\r' ? to - 1 : to;
}

static struct outcome reference(const struct scenario *s)
{
	struct outcome outcome = {.sink.out.write = sink_write, .next = PROTO_MORE};
	bool in_line = false;
	size_t from = 0;

	for (size_t i = 0; i < s->len; i++) {
		if (ends_line(s, from, i)) {
			say(s, &outcome, from, text_end(s, from, i + 1), i + 1);
			from = i + 1;
			in_line = false;
			if (++outcome.requests == s->settings.max_requests) {
				outcome.next = PROTO_CLOSE;
				return outcome;
			}
		} else if (i + 1 - from == s->settings.max_line && s->settings.split) {
			size_t to = piece_end(s, i + 1);

			say(s, &outcome, from, to, to);
			from = to;
			in_line = true;
		} else if (i + 1 - from == s->settings.max_line) {
			outcome.next = PROTO_TOO_LONG;
			return outcome;
		}
	}
	if (s->at_end) {
		say(s, &outcome, from, s->len, s->len);
		outcome.requests += from < s->len || in_line;
		outcome.next = PROTO_CLOSE;
	}
	return outcome;
}

/* ---- Both ----------------------------------------------------------------------------------- */

static void check_same(const struct outcome *a, const struct outcome *b)
{
	FUZZ_CHECK(a->sink.len == b->sink.len);
	FUZZ_CHECK(a->sink.len == 0 || memcmp(a->sink.bytes, b->sink.bytes, a->sink.len) == 0);
	FUZZ_CHECK(a->requests == b->requests);
	FUZZ_CHECK(a->next == b->next);
}

static void check(const struct scenario *s, const struct cuts *variants, size_t count)
{
	struct outcome whole = converse(s, variants[0]);

	for (size_t i = 1; i < count; i++) {
		struct outcome cut = converse(s, variants[i]);

		check_same(&whole, &cut);
		free(cut.sink.bytes);
	}
	if (s->proto == &proto_line) {
		struct outcome simple = reference(s);

		check_same(&whole, &simple);
		free(simple.sink.bytes);
	}
	free(whole.sink.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned most_lines[] = {0, 1, 2, 3, 5, 9, 17, 100};
	struct fuzz_input input = {data, size};
	unsigned flags = fuzz_byte(&input), transform = fuzz_byte(&input);
	unsigned lines = fuzz_byte(&input), longest = fuzz_byte(&input);
	unsigned allowed = fuzz_byte(&input), most = fuzz_byte(&input);
	uint32_t seed = (uint32_t)size * 2654435761u + most;
	struct scenario s = {
		.proto = (flags & 7) == 7 ? &proto_echo : &proto_line,
		.settings = {.delimiter = (enum proto_delimiter)((flags >> 3) % 3),
			     .split = (flags & 0x40) != 0,
			     .transform = (enum proto_transform)(transform % 5),
			     .max_requests = most_lines[lines % 8],
			     .max_line = 2 + longest},
		.stream = input.data,
		.len = input.size < STREAM_MAX ? input.size : STREAM_MAX,
		.at_end = (flags & 0x80) != 0,
	};
	struct cuts variants[] = {
		{0, 0, 0},
		{0, 1, 0},
		{seed, 2 + most % 16, 0},
		{seed + 1, 0, 1 + allowed % 8},
		{seed + 2, 1 + most, 1},
		{seed + 3, 2 + most % 7, 1 + allowed},
	};

	if (s.settings.max_requests == 0)
		s.settings.max_requests = PROTO_NO_LIMIT;
	check(&s, variants, sizeof(variants) / sizeof(variants[0]));
	return 0;
}
