/*
 * The Character Generator Protocol, RFC 864: lines of 72 of the 95 printable characters, which are
 * taken as a ring. Each line starts one character further than the one before, so the 96th is the
 * first again.
 */
#include <string.h>

#include "serve/proto.h"

#define FIRST	' '
#define RING	95 /* ' ' to '~' */
#define COLUMNS 72
#define LINE	(COLUMNS + 2) /* with its CR LF */
#define PERIOD	(RING * LINE)

#define ANSWER_MAX 512 /* "a random number (between 0 and 512) of characters" */

/* Made when it is first asked for: most processes never say any of it. */
static const unsigned char *pattern(void)
{
	static unsigned char bytes[PERIOD];

	if (bytes[0] == FIRST)
		return bytes;
	for (size_t line = 0; line < RING; line++) {
		unsigned char *at = bytes + line * LINE;

		for (size_t column = 0; column < COLUMNS; column++)
			at[column] = (unsigned char)(FIRST + (line + column) % RING);
		at[COLUMNS] = '\r';
		at[COLUMNS + 1] = '\n';
	}
	return bytes;
}

static void chargen_produce(uint64_t position, unsigned char *out, size_t len)
{
	const unsigned char *bytes = pattern();
	size_t at = (size_t)(position % PERIOD);

	while (len > 0) {
		size_t n = len < PERIOD - at ? len : PERIOD - at;

		memcpy(out, bytes + at, n);
		out += n;
		len -= n;
		at = 0;
	}
}

/*
 * The RFC asks for a random length. It is the request's instead: a reply that is longer than what
 * asked for it would make this service a weapon against a forged source.
 */
static const unsigned char *chargen_datagram(const struct proto_settings *settings,
					     const struct proto_facts *facts, unsigned char *data,
					     size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)data;
	*reply = len < ANSWER_MAX ? len : ANSWER_MAX;
	chargen_produce(0, room, *reply);
	return room;
}

const struct proto proto_chargen = {
	.name = "chargen",
	.produce = chargen_produce,
	.datagram = chargen_datagram,
};
