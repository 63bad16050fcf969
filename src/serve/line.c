/*
 * The line protocol. A line ends with the service's delimiter and goes back byte for byte, or with
 * its text transformed; any other byte is part of it, NUL as well. What stands behind the last
 * delimiter at the end of file goes back likewise.
 */
#include <string.h>

#include "base/error.h"
#include "serve/proto.h"

#define HEX_BUFFER 1024 /* bytes of digits that are written at once */

/* What goes back at once: a line, or what fits of a longer one. */
struct piece {
	size_t len;  /* 0 and not `last`: there is none yet */
	size_t text; /* the first so many bytes are transformed; the rest is the delimiter */
	bool last;   /* of its line: with it, a request is answered */
};

/* ---- Transforms ----------------------------------------------------------------------------- */

struct hex {
	struct proto_out *out;
	size_t used;
	unsigned char buffer[HEX_BUFFER];
};

static void hex_flush(struct hex *hex)
{
	if (hex->used > 0)
		hex->out->write(hex->out, hex->buffer, hex->used);
	hex->used = 0;
}

static void hex_add(struct hex *hex, const unsigned char *data, struct piece piece)
{
	static const unsigned char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < piece.len; i++) {
		if (hex->used > sizeof(hex->buffer) - 2)
			hex_flush(hex);
		if (i < piece.text) {
			hex->buffer[hex->used++] = digits[data[i] >> 4];
			hex->buffer[hex->used++] = digits[data[i] & 15];
		} else {
			hex->buffer[hex->used++] = data[i];
		}
	}
}

static void reverse(unsigned char *text, size_t len)
{
	for (size_t i = 0; i < len / 2; i++) {
		unsigned char c = text[i];

		text[i] = text[len - 1 - i];
		text[len - 1 - i] = c;
	}
}

/* Flip the bit that tells upper from lower in the 26 letters from `first` on. */
static void flip_case(unsigned char *text, size_t len, unsigned char first)
{
	for (size_t i = 0; i < len; i++)
		text[i] ^= (unsigned char)(text[i] - first) < 26 ? 'a' ^ 'A' : 0;
}

static void apply(enum proto_transform transform, unsigned char *text, size_t len)
{
	if (transform == PROTO_UPPER)
		flip_case(text, len, 'a');
	else if (transform == PROTO_LOWER)
		flip_case(text, len, 'A');
	else if (transform == PROTO_REVERSE)
		reverse(text, len);
}

/* ---- Lines and pieces of lines -------------------------------------------------------------- */

/* Where the first delimiter ends whose last byte stands at `from` or behind; 0: there is none. */
static size_t delimiter_end(enum proto_delimiter delimiter, const unsigned char *data, size_t from,
			    size_t len)
{
	int last = delimiter == PROTO_NUL ? '\0' : '\n';
	const unsigned char *at;

	while (from < len && (at = memchr(data + from, last, len - from)) != NULL) {
		from = (size_t)(at - data) + 1;
		if (delimiter != PROTO_CRLF || (at > data && at[-1] == '\r'))
			return from;
	}
	return 0;
}

/* How much of a whole line is its text. Over telnet, a line ends with CR LF (RFC 854). */
static size_t text_of(enum proto_delimiter delimiter, const unsigned char *data, size_t len)
{
	bool cr = delimiter != PROTO_NUL && len > 1 && data[len - 2] == '\r';

	return len - (cr ? 2 : 1);
}

/*
 * What can go back next. Only what stands in the first max_line bytes decides, and only when all of
 * them are there, so that it is the same however they came.
 */
static struct piece next_piece(const struct proto_settings *settings, bool in_line,
			       const unsigned char *data, size_t from, size_t len, bool at_end)
{
	size_t max = settings->max_line;
	size_t end = delimiter_end(settings->delimiter, data, from, len < max ? len : max);

	if (end > 0)
		return (struct piece){end, text_of(settings->delimiter, data, end), true};
	if (len < max)
		return at_end ? (struct piece){len, len, len > 0 || in_line}
			      : (struct piece){0, 0, false};
	if (!settings->split)
		return (struct piece){0, 0, false};
	/* Its LF may come: both are the delimiter. As max_line is at least 2, something is left. */
	if (settings->delimiter != PROTO_NUL && data[max - 1] == '\r')
		max--;
	return (struct piece){max, max, false};
}

static uint64_t requests_left(const struct proto_settings *settings,
			      const struct proto_state *state)
{
	uint64_t left = settings->max_requests - state->requests;

	return left < state->allowed ? left : state->allowed;
}

/* When all has been taken that could be, up to `left` requests. */
static enum proto_next next_step(const struct proto_settings *settings,
				 const struct proto_state *state, struct proto_verdict verdict,
				 uint64_t left, size_t len, bool at_end)
{
	size_t rest = len - verdict.taken;

	if (verdict.requests == left) {
		if (state->requests + left == settings->max_requests)
			return PROTO_CLOSE;
		if (rest > 0 || (at_end && state->in_line))
			return PROTO_PAUSE;
	} else if (rest >= settings->max_line) {
		/* With its delimiter, it would be at least one byte longer. */
		return PROTO_TOO_LONG;
	}
	return at_end ? PROTO_CLOSE : PROTO_MORE;
}

/*
 * Whole lines that go back as they are: as many as `left`, up to one that is longer than max_line.
 * Returns up to where there is no further one, which need not be searched again.
 */
static size_t take_lines(const struct proto_settings *settings, uint64_t left,
			 const unsigned char *data, size_t from, size_t len,
			 struct proto_verdict *verdict)
{
	int last = settings->delimiter == PROTO_NUL ? '\0' : '\n';
	uint64_t requests = 0;
	size_t taken = 0;
	const unsigned char *at;

	while (from < len && requests < left) {
		at = memchr(data + from, last, len - from);
		from = at == NULL ? len : (size_t)(at - data) + 1;
		if (at == NULL || from - taken > settings->max_line)
			break;
		taken = from;
		requests++;
	}
	verdict->taken = taken;
	verdict->requests = requests;
	return from;
}

static struct proto_verdict line_input(const struct proto_settings *settings,
				       struct proto_state *state, unsigned char *data, size_t len,
				       size_t seen, bool at_end, struct proto_out *out)
{
	struct proto_verdict verdict = {0, 0, 0, PROTO_MORE};
	uint64_t left = requests_left(settings, state);
	struct hex hex;

	hex.out = out;
	hex.used = 0;
	if (settings->transform == PROTO_UNCHANGED && settings->delimiter != PROTO_CRLF) {
		seen = take_lines(settings, left, data, seen, len, &verdict) - verdict.taken;
		state->in_line = state->in_line && verdict.requests == 0;
	}
	while (verdict.requests < left) {
		unsigned char *at = data + verdict.taken;
		struct piece piece =
			next_piece(settings, state->in_line, at, seen, len - verdict.taken, at_end);

		if (piece.len == 0 && !piece.last)
			break;
		if (settings->transform == PROTO_HEX)
			hex_add(&hex, at, piece);
		else
			apply(settings->transform, at, piece.text);
		seen = 0;
		verdict.taken += piece.len;
		verdict.requests += piece.last;
		state->in_line = !piece.last;
	}
	hex_flush(&hex);
	verdict.reply = settings->transform == PROTO_HEX ? 0 : verdict.taken;
	verdict.next = next_step(settings, state, verdict, left, len, at_end);
	return verdict;
}

static uint64_t line_plain(const struct proto_settings *settings, uint64_t requests,
			   const unsigned char *data, size_t len)
{
	const unsigned char *end = data + len;
	uint64_t left = settings->max_requests - requests;

	if (settings->delimiter != PROTO_LF || settings->transform != PROTO_UNCHANGED ||
	    len > settings->max_line || end[-1] != '\n')
		return PROTO_NO_LIMIT;
	for (requests = 1; requests < left; requests++) {
		data = (const unsigned char *)memchr(data, '\n', (size_t)(end - data)) + 1;
		if (data == end)
			return requests;
	}
	return PROTO_NO_LIMIT;
}

static enum proto_next line_open(const struct proto_settings *settings,
				 const struct proto_facts *facts, struct proto_out *out)
{
	struct error unused; /* the text was checked when the configuration was read */

	if (settings->greeting != NULL)
		greeting_write(settings->greeting, facts, out, &unused);
	return PROTO_MORE;
}

/* ---- Datagrams ------------------------------------------------------------------------------ */

struct room {
	struct proto_out out;
	unsigned char *at;
	size_t left;
};

static void room_write(struct proto_out *out, const void *data, size_t len)
{
	struct room *room = (struct room *)out;

	if (len > room->left)
		len = room->left;
	memcpy(room->at, data, len);
	room->at += len;
	room->left -= len;
}

/*
 * The datagram is the frame: it goes back as a whole, whatever its lines are, and no limit of a
 * connection holds. The reply is never longer than the request: twice as many digits are cut.
 */
static const unsigned char *line_datagram(const struct proto_settings *settings,
					  const struct proto_facts *facts, unsigned char *data,
					  size_t len, unsigned char *room, size_t *reply)
{
	struct proto_settings whole = {
		.max_requests = PROTO_NO_LIMIT,
		.max_line = SIZE_MAX,
		.delimiter = settings->delimiter,
		.transform = settings->transform,
	};
	struct proto_state state = {.allowed = PROTO_NO_LIMIT};
	size_t most = len < PROTO_DATAGRAM_MAX ? len : PROTO_DATAGRAM_MAX;
	struct room to_room = {{room_write}, room, most};

	(void)facts;
	*reply = len;
	if (settings->transform == PROTO_UNCHANGED)
		return data;
	line_input(&whole, &state, data, len, 0, true, &to_room.out);
	if (settings->transform != PROTO_HEX)
		return data;
	*reply = most - to_room.left;
	return room;
}

const struct proto proto_line = {
	.name = "line",
	.open = line_open,
	.input = line_input,
	.plain = line_plain,
	.datagram = line_datagram,
};
