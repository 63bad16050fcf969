/* The Discard Protocol, RFC 863: what comes is thrown away, and nothing is said. */
#include "serve/proto.h"

static struct proto_verdict discard_input(const struct proto_settings *settings,
					  struct proto_state *state, unsigned char *data,
					  size_t len, size_t seen, bool at_end,
					  struct proto_out *out)
{
	(void)settings;
	(void)state;
	(void)data;
	(void)seen;
	(void)out;
	return (struct proto_verdict){len, 0, 0, at_end ? PROTO_CLOSE : PROTO_MORE};
}

static const unsigned char *discard_datagram(const struct proto_settings *settings,
					     const struct proto_facts *facts, unsigned char *data,
					     size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)data;
	(void)len;
	(void)room;
	*reply = 0;
	return NULL;
}

const struct proto proto_discard = {
	.name = "discard",
	.input = discard_input,
	.datagram = discard_datagram,
};
