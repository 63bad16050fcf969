/*
 * The Echo Protocol, RFC 862. Over a stream there is no framing, until the client's end of file;
 * a datagram goes back exactly as it came, an empty one, too.
 */
#include "serve/proto.h"

static struct proto_verdict echo_input(const struct proto_settings *settings,
				       struct proto_state *state, unsigned char *data, size_t len,
				       size_t seen, bool at_end, struct proto_out *out)
{
	(void)settings;
	(void)state;
	(void)data;
	(void)seen;
	(void)out;
	return (struct proto_verdict){len, len, 0, at_end ? PROTO_CLOSE : PROTO_MORE};
}

static uint64_t echo_plain(const struct proto_settings *settings, uint64_t requests,
			   const unsigned char *data, size_t len)
{
	(void)settings;
	(void)requests;
	(void)data;
	(void)len;
	return 0;
}

static const unsigned char *echo_datagram(const struct proto_settings *settings,
					  const struct proto_facts *facts, unsigned char *data,
					  size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)facts;
	(void)room;
	*reply = len;
	return data;
}

const struct proto proto_echo = {
	.name = "echo",
	.input = echo_input,
	.plain = echo_plain,
	.datagram = echo_datagram,
};
