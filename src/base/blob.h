/*
 * A flat sequence of numbers and byte strings, for what one process image tells the next (a restart
 * in place). Little checks everywhere make a damaged one an error, never a crash: a reader that has
 * met one bad field answers zeroes from then on, and blob_reader_done tells.
 */
#ifndef ECHOD_BASE_BLOB_H
#define ECHOD_BASE_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct blob_writer {
	unsigned char *data; /* owned; free with blob_writer_free */
	size_t len;
	size_t cap;
	bool failed; /* memory ran out: what was put since is missing */
};

struct blob_reader {
	const unsigned char *data; /* not owned */
	size_t len;
	size_t at;
	bool failed;
};

void blob_put_u64(struct blob_writer *writer, uint64_t value);
void blob_put_bytes(struct blob_writer *writer, const void *data, size_t len);
void blob_put_text(struct blob_writer *writer, const char *text);
void blob_writer_free(struct blob_writer *writer);

uint64_t blob_get_u64(struct blob_reader *reader);

/* A number that must be at most `max`; a larger one is a damaged blob. */
uint64_t blob_get_count(struct blob_reader *reader, uint64_t max);

/* Points into the reader's data; `*len` is 0 after an error. */
const void *blob_get_bytes(struct blob_reader *reader, size_t *len);

/* Fresh memory with a NUL behind it, to be freed by the caller; NULL after an error. */
char *blob_get_text(struct blob_reader *reader);

/* True when every field was sound and nothing is left. */
bool blob_reader_done(const struct blob_reader *reader);

#endif
