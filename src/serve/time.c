/*
 * The Time Protocol, RFC 868: the seconds since 1900-01-01 00:00:00 UTC, 32 bits, the most
 * significant byte first. They begin again at 0 on 2036-02-07 06:28:16 UTC: a client has to know in
 * which of these eras it lives.
 */
#include "serve/proto.h"

#define ANSWER_LEN 4

/* From 1900 to 1970: 70 years, 17 leap days among them. */
#define SECONDS_TO_1970 (UINT64_C(86400) * (70 * 365 + 17))

static void format(unsigned char *out, const struct proto_facts *facts)
{
	uint64_t seconds = (uint64_t)facts->now.tv_sec + SECONDS_TO_1970;

	for (int i = 0; i < ANSWER_LEN; i++)
		out[i] = (unsigned char)(seconds >> (24 - 8 * i));
}

static enum proto_next time_open(const struct proto_settings *settings,
				 const struct proto_facts *facts, struct proto_out *out)
{
	unsigned char answer[ANSWER_LEN];

	(void)settings;
	format(answer, facts);
	out->write(out, answer, sizeof(answer));
	return PROTO_CLOSE;
}

/* A datagram of any length asks for it, an empty one, too. */
static const unsigned char *time_datagram(const struct proto_settings *settings,
					  const struct proto_facts *facts, unsigned char *data,
					  size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)data;
	(void)len;
	format(room, facts);
	*reply = ANSWER_LEN;
	return room;
}

const struct proto proto_time = {
	.name = "time",
	.speaks_first = true,
	.open = time_open,
	.datagram = time_datagram,
	.heeds_facts = true,
};
