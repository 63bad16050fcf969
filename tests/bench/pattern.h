/*
 * What is sent, and must come back: lines of one size that carry their number and that of their
 * connection, so that a reply to another line, or for another client, is seen. Any byte of them can
 * be told without having kept them.
 *
 *     8 letters   the number of the line on its connection, lowest nibble first, 'a' to 'p'
 *     8 letters   the number of the connection, likewise
 *     the rest    random bytes, none of them LF or CR, from a place that depends on both numbers
 *     1 byte      LF
 *
 * A short line has only the beginning of it. Numbers of lines wrap at 2^32.
 */
#ifndef ECHOD_BENCH_PATTERN_H
#define ECHOD_BENCH_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define PATTERN_MIN	 2	   /* a line: one letter and LF */
#define PATTERN_NUMBERED 9	   /* a line from which its number can be read */
#define PATTERN_MAX	 (1 << 20) /* bytes a line */

struct pattern {
	size_t size;	     /* bytes a line, its LF included */
	unsigned char *pool; /* owned; the random bytes */
};

/* Returns 0, or -1 with `err` set. */
int pattern_open(struct pattern *pattern, size_t size, struct error *err);
void pattern_close(struct pattern *pattern);

/*
 * Write a stream of whole lines from byte `offset` of line `line` on: up to the end of line `last`
 * - 1, `cap` bytes at most. Returns how many there are.
 */
size_t pattern_write(const struct pattern *pattern, uint32_t connection, uint64_t line,
		     size_t offset, uint64_t last, unsigned char *out, size_t cap);

/* Are these `size` bytes line `line`? */
bool pattern_is_line(const struct pattern *pattern, uint32_t connection, uint64_t line,
		     const unsigned char *data);

/*
 * Compare with `len` bytes of one line, from `offset` on, none of them behind its end. Returns
 * where the first one differs, or `len`.
 */
size_t pattern_differs(const struct pattern *pattern, uint32_t connection, uint64_t line,
		       size_t offset, const unsigned char *data, size_t len);

/* The byte at `offset` of a line. */
unsigned char pattern_byte(const struct pattern *pattern, uint32_t connection, uint64_t line,
			   size_t offset);

/* Read the number in the first 8 bytes. Returns 0, or -1 when there is none. */
int pattern_number(const unsigned char *data, uint32_t *line);

#endif
