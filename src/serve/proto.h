/*
 * What is said. A protocol is a table of pure functions over bytes: it knows no sockets and no
 * clocks, so it is tested and fuzzed without any. What the server saw of a client comes as facts
 * (serve/facts.h).
 */
#ifndef ECHOD_SERVE_PROTO_H
#define ECHOD_SERVE_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serve/facts.h"

#define PROTO_NO_LIMIT UINT64_MAX

enum proto_delimiter { PROTO_LF, PROTO_CRLF, PROTO_NUL };

enum proto_transform {
	PROTO_UNCHANGED,
	PROTO_UPPER, /* ASCII letters only, in every locale */
	PROTO_LOWER,
	PROTO_REVERSE, /* the bytes of the line, without its delimiter */
	PROTO_HEX,     /* two lower-case digits a byte, the delimiter as it came */
};

/* Of a service: the same for all its connections. */
struct proto_settings {
	uint64_t max_requests; /* a connection; PROTO_NO_LIMIT */
	size_t max_line;       /* bytes, the delimiter included; at least 2 */
	enum proto_delimiter delimiter;
	enum proto_transform transform;
	/*
	 * A line longer than max_line goes back in pieces of that length, or one byte less where a
	 * CR would be the last: its LF may follow. Each piece is transformed for itself, and all of
	 * them are one request, which is answered when the line's end goes back.
	 */
	bool split;
	const char *greeting; /* said first, with its fields filled in; NULL: nothing */
};

/* Of a connection: all zeroes at first, kept between calls. The caller sets `allowed`. */
struct proto_state {
	uint64_t requests; /* answered so far; the caller adds those of each verdict */
	uint64_t allowed;  /* requests that may be answered in the next call; PROTO_NO_LIMIT */
	bool in_line;	   /* kept by the protocol: pieces of a line have gone back already */
};

/* Where replies go that are not simply the client's own bytes. */
struct proto_out {
	void (*write)(struct proto_out *out, const void *data, size_t len);
};

enum proto_next {
	PROTO_MORE,	/* keep what was not taken and read on */
	PROTO_PAUSE,	/* `allowed` is used up, and bytes are left: call again before reading on */
	PROTO_CLOSE,	/* all has been said: end the connection once the reply is out */
	PROTO_TOO_LONG, /* the same, because a line is longer than max_line */
};

struct proto_verdict {
	size_t taken;	   /* this many bytes from the front are dealt with */
	size_t reply;	   /* so many from the front go back as they stand in `data` now */
	uint64_t requests; /* how many requests they are; 0 where bytes have no framing */
	enum proto_next next;
};

struct proto {
	const char *name;
	/* The server says all there is: no byte of the client is waited for, nor looked at. */
	bool speaks_first;
	/*
	 * What is said when a connection begins; PROTO_CLOSE: that was all. NULL: nothing.
	 */
	enum proto_next (*open)(const struct proto_settings *settings,
				const struct proto_facts *facts, struct proto_out *out);
	/*
	 * `data` holds the `len` bytes of the client that are not taken yet, and may be changed in
	 * place where they are taken; the first `seen` of them were shown before and hold no whole
	 * request. `at_end`: the client will send no more. What is written to `out` goes before
	 * `reply`; a protocol uses one of both. Verdict and reply never depend on how the bytes
	 * were cut into calls. NULL: what clients send is thrown away, and their end of file does
	 * not end the connection.
	 */
	struct proto_verdict (*input)(const struct proto_settings *settings,
				      struct proto_state *state, unsigned char *data, size_t len,
				      size_t seen, bool at_end, struct proto_out *out);
	/*
	 * The usual case of `input`, with as few instructions as can be: how many requests the
	 * `len` new bytes, at least one, are when they are whole requests that go back as they came
	 * and after which simply more may come; `requests` were answered before, and nothing is
	 * left of bytes that were seen before. PROTO_NO_LIMIT: ask `input`. NULL: always ask it.
	 */
	uint64_t (*plain)(const struct proto_settings *settings, uint64_t requests,
			  const unsigned char *data, size_t len);
	/*
	 * An endless stream: fill `out` with the `len` bytes that stand at `position` in it. NULL:
	 * no stream.
	 */
	void (*produce)(uint64_t position, unsigned char *out, size_t len);
	/*
	 * Answer one datagram of `len` bytes, which may be changed in place. Returns the reply:
	 * `data` itself or `room` (PROTO_DATAGRAM_MAX bytes), and its length in `*reply`; or NULL:
	 * no answer. An answer of length 0 is one.
	 */
	const unsigned char *(*datagram)(const struct proto_settings *settings,
					 const struct proto_facts *facts, unsigned char *data,
					 size_t len, unsigned char *room, size_t *reply);
	/* It looks at the facts; else they are NULL: to gather them costs time. */
	bool heeds_facts;
};

/* The largest payload of a UDP datagram over IPv4: 65535 less the headers (RFC 768, RFC 791). */
#define PROTO_DATAGRAM_MAX 65507

/* The protocol of that name, or NULL. */
const struct proto *proto_find(const char *name);

extern const struct proto proto_line;	 /* a line goes back as it came, its LF included */
extern const struct proto proto_echo;	 /* RFC 862: all bytes go back as they come */
extern const struct proto proto_discard; /* RFC 863: all is thrown away */
extern const struct proto proto_chargen; /* RFC 864: printable characters without end */
extern const struct proto proto_daytime; /* RFC 867: date and time as a line of text */
extern const struct proto proto_time;	 /* RFC 868: seconds since 1900, 32 bits */
extern const struct proto proto_whoami;	 /* what the server saw of the client, in JSON */

/*
 * Write a greeting with its fields filled in:
 *
 *   %host     the machine's name
 *   %peer     the client: address:port, as the PROXY header says where there was one; for a Unix
 *             socket its path, "@name", or "unnamed"
 *   %local    the address that was asked, likewise
 *   %port     the port of %local, or "-"
 *   %service  the service's name
 *   %worker   the worker's, "line/0"
 *   %time     UTC, "2026-11-22T16:40:46Z"
 *   %pid      the worker's process id
 *   %%        a percent sign
 *
 * A field's name ends before the first byte that is no lower-case letter. The escapes \r \n \t \\
 * are CR, LF, TAB and a backslash. libconfig replaces the same ones, \f, \" and \xHH in every
 * string of the file and leaves a backslash before any other letter where it is: there, "\n" and
 * "\\n" are both LF, and a backslash is written "\\\\". All other bytes are written as they are; no
 * LF is put behind them.
 *
 * Returns 0, or -1 with a sentence for an unknown field or escape; what stands before it is
 * written. `facts` NULL: only check it; `out` may be NULL, too.
 */
struct error;
int greeting_write(const char *greeting, const struct proto_facts *facts, struct proto_out *out,
		   struct error *err);

#endif
