/* The Echo Protocol, RFC 862, over a stream: no framing, until the client's end of file. */
#include "serve/proto.h"

static struct proto_verdict echo_input(const struct proto_limits *limits, const unsigned char *data,
				       size_t len, size_t seen, bool at_end)
{
	(void)limits;
	(void)data;
	(void)seen;
	return (struct proto_verdict){len, 0, at_end ? PROTO_CLOSE : PROTO_MORE};
}

const struct proto proto_echo = {"echo", echo_input};
