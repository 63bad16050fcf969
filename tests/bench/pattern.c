#include "bench/pattern.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define LETTERS	 8		    /* of a number */
#define HEADER	 (2 * LETTERS)	    /* both numbers */
#define PLACES	 4096		    /* where a filling can begin; they stay in the nearest cache */
#define LETTER_A 0x6161616161616161 /* 'a' */
#define NIBBLES	 0x0f0f0f0f0f0f0f0f

/* splitmix64: the same bytes in each run, so that a finding can be repeated. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

int pattern_open(struct pattern *pattern, size_t size, struct error *err)
{
	size_t len = PLACES + size;
	uint64_t state = 1;

	pattern->size = size;
	pattern->pool = malloc(len);
	if (pattern->pool == NULL)
		return error_errno(err, "no memory for lines of %zu bytes", size);
	for (size_t i = 0; i < len; i++) {
		do
			pattern->pool[i] = (unsigned char)next_random(&state);
		while (pattern->pool[i] == '\n' || pattern->pool[i] == '\r');
	}
	return 0;
}

void pattern_close(struct pattern *pattern)
{
	free(pattern->pool);
	pattern->pool = NULL;
}

/* ---- Parts of a line ------------------------------------------------------------------------ */

/* The eight nibbles of a number as letters, all at once. */
static uint64_t letters_of(uint32_t number)
{
	uint64_t x = number;

	x = (x | x << 16) & 0x0000ffff0000ffff;
	x = (x | x << 8) & 0x00ff00ff00ff00ff;
	x = (x | x << 4) & NIBBLES;
	return htole64(x + LETTER_A);
}

int pattern_number(const unsigned char *data, uint32_t *line)
{
	uint64_t x;

	memcpy(&x, data, sizeof(x));
	x = le64toh(x) - LETTER_A;
	if ((x & ~(uint64_t)NIBBLES) != 0)
		return -1;
	x = (x | x >> 4) & 0x00ff00ff00ff00ff;
	x = (x | x >> 8) & 0x0000ffff0000ffff;
	*line = (uint32_t)(x | x >> 16);
	return 0;
}

static void header_of(unsigned char header[HEADER], uint32_t connection, uint64_t line)
{
	uint64_t words[2] = {letters_of((uint32_t)line), letters_of(connection)};

	memcpy(header, words, HEADER);
}

static const unsigned char *filling_of(const struct pattern *pattern, uint32_t connection,
				       uint64_t line)
{
	uint32_t mixed = ((uint32_t)line ^ connection << 16) * 2654435761U;

	return pattern->pool + (mixed >> 20) % PLACES;
}

/* Header, filling, LF; their lengths add up to the size of a line. */
struct part {
	const unsigned char *data;
	size_t len;
};

static void parts_of(const struct pattern *pattern, uint32_t connection, uint64_t line,
		     unsigned char header[HEADER], struct part part[3])
{
	size_t text = pattern->size - 1;

	header_of(header, connection, line);
	part[0].data = header;
	part[0].len = text < HEADER ? text : HEADER;
	part[1].data = filling_of(pattern, connection, line);
	part[1].len = text - part[0].len;
	part[2].data = (const unsigned char *)"\n";
	part[2].len = 1;
}

/* ---- Whole lines: nearly all ---------------------------------------------------------------- */

static void write_line(const struct pattern *pattern, uint32_t connection, uint64_t line,
		       unsigned char *out)
{
	unsigned char header[HEADER];
	struct part part[3];

	if (pattern->size > HEADER) {
		header_of(out, connection, line);
		memcpy(out + HEADER, filling_of(pattern, connection, line),
		       pattern->size - HEADER - 1);
		out[pattern->size - 1] = '\n';
		return;
	}
	parts_of(pattern, connection, line, header, part);
	memcpy(out, header, part[0].len);
	out[part[0].len] = '\n';
}

bool pattern_is_line(const struct pattern *pattern, uint32_t connection, uint64_t line,
		     const unsigned char *data)
{
	size_t size = pattern->size;
	unsigned char header[HEADER];

	if (size <= HEADER)
		return pattern_differs(pattern, connection, line, 0, data, size) == size;
	header_of(header, connection, line);
	return memcmp(data, header, HEADER) == 0 && data[size - 1] == '\n' &&
	       memcmp(data + HEADER, filling_of(pattern, connection, line), size - HEADER - 1) == 0;
}

/* ---- Pieces of lines ------------------------------------------------------------------------ */

static size_t write_piece(const struct pattern *pattern, uint32_t connection, uint64_t line,
			  size_t offset, unsigned char *out, size_t cap)
{
	unsigned char header[HEADER];
	struct part part[3];
	size_t done = 0;

	parts_of(pattern, connection, line, header, part);
	for (size_t i = 0; i < 3 && done < cap; i++) {
		size_t n;

		if (offset >= part[i].len) {
			offset -= part[i].len;
			continue;
		}
		n = part[i].len - offset < cap - done ? part[i].len - offset : cap - done;
		memcpy(out + done, part[i].data + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t pattern_write(const struct pattern *pattern, uint32_t connection, uint64_t line,
		     size_t offset, uint64_t last, unsigned char *out, size_t cap)
{
	size_t done = 0;

	while (line < last && done < cap) {
		if (offset > 0 || cap - done < pattern->size) {
			done += write_piece(pattern, connection, line, offset, out + done,
					    cap - done);
		} else {
			write_line(pattern, connection, line, out + done);
			done += pattern->size;
		}
		offset = 0;
		line++;
	}
	return done;
}

unsigned char pattern_byte(const struct pattern *pattern, uint32_t connection, uint64_t line,
			   size_t offset)
{
	unsigned char byte = 0;

	write_piece(pattern, connection, line, offset, &byte, 1);
	return byte;
}

static size_t first_difference(const unsigned char *a, const unsigned char *b, size_t len)
{
	size_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

size_t pattern_differs(const struct pattern *pattern, uint32_t connection, uint64_t line,
		       size_t offset, const unsigned char *data, size_t len)
{
	unsigned char header[HEADER];
	struct part part[3];
	size_t done = 0;

	parts_of(pattern, connection, line, header, part);
	for (size_t i = 0; i < 3 && done < len; i++) {
		size_t n;

		if (offset >= part[i].len) {
			offset -= part[i].len;
			continue;
		}
		n = part[i].len - offset < len - done ? part[i].len - offset : len - done;
		if (memcmp(data + done, part[i].data + offset, n) != 0)
			return done + first_difference(data + done, part[i].data + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}
