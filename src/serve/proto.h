/*
 * What is said. A protocol is a table of pure functions over bytes: it knows no sockets, no clocks
 * and no memory, so it is tested and fuzzed without any.
 */
#ifndef ECHOD_SERVE_PROTO_H
#define ECHOD_SERVE_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct proto_limits {
	uint64_t requests_left; /* how many more may be answered on this connection; at least 1 */
	size_t max_line;	/* bytes, the delimiter included */
};

#define PROTO_NO_LIMIT UINT64_MAX

enum proto_next {
	PROTO_MORE,	/* keep what was not answered and read on */
	PROTO_CLOSE,	/* all has been said: end the connection once the reply is out */
	PROTO_TOO_LONG, /* the same, because a line is longer than max_line */
};

struct proto_verdict {
	size_t reply;	   /* this many bytes from the front go back unchanged */
	uint64_t requests; /* how many requests they are; 0 where bytes have no framing */
	enum proto_next next;
};

struct proto {
	const char *name;
	/*
	 * `data` holds the `len` bytes of the client that are not answered yet; the first `seen` of
	 * them were shown before and hold no whole request. `at_end`: the client will send no more.
	 * The verdict never depends on how the bytes were cut into calls.
	 */
	struct proto_verdict (*input)(const struct proto_limits *limits, const unsigned char *data,
				      size_t len, size_t seen, bool at_end);
};

/* The protocol of that name, or NULL. */
const struct proto *proto_find(const char *name);

extern const struct proto proto_line; /* a line goes back as it came, its LF included */
extern const struct proto proto_echo; /* RFC 862: all bytes go back as they come */

#endif
