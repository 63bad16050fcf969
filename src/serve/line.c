/*
 * The line protocol. A line ends with LF and goes back byte for byte: a CR before the LF included,
 * and any other byte too, NUL as well. What stands behind the last LF at the end of file goes back
 * likewise.
 */
#include <string.h>

#include "serve/proto.h"

static struct proto_verdict line_input(const struct proto_limits *limits, const unsigned char *data,
				       size_t len, size_t seen, bool at_end)
{
	struct proto_verdict verdict = {0, 0, PROTO_MORE};
	size_t scan = seen;
	const unsigned char *lf;

	while (scan < len && (lf = memchr(data + scan, '\n', len - scan)) != NULL) {
		scan = (size_t)(lf - data) + 1;
		if (scan - verdict.reply > limits->max_line) {
			verdict.next = PROTO_TOO_LONG;
			return verdict;
		}
		verdict.reply = scan;
		if (++verdict.requests == limits->requests_left) {
			verdict.next = PROTO_CLOSE;
			return verdict;
		}
	}
	/* With its LF, the tail would be at least one byte longer. */
	if (len - verdict.reply >= limits->max_line) {
		verdict.next = PROTO_TOO_LONG;
	} else if (at_end) {
		verdict.requests += len > verdict.reply;
		verdict.reply = len;
		verdict.next = PROTO_CLOSE;
	}
	return verdict;
}

const struct proto proto_line = {"line", line_input};
