/* Reading and writing small texts: numbers with units, safe printing, likely misspellings. */
#ifndef ECHOD_BASE_TEXT_H
#define ECHOD_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A whole decimal number, nothing around it. Returns 0, or -1 when it is none or does not fit. */
int text_parse_int(const char *text, int64_t *value);

/*
 * A time: seconds ("30", "0.5") or with a unit ("500ms", "30s", "2m", "1h", "1d"), into
 * milliseconds. Returns 0, or -1 for anything else, negative times included.
 */
int text_parse_time(const char *text, int64_t *ms);

/*
 * A size: bytes ("4096") or with a unit of 1024 ("64k", "1M", "2G"), into bytes. Returns 0 or -1.
 */
int text_parse_size(const char *text, int64_t *bytes);

/* Write a time or a size as its parser would read it back, in the largest unit that is exact. */
void text_format_time(char *out, size_t cap, int64_t ms);
void text_format_size(char *out, size_t cap, int64_t bytes);

/*
 * Copy `len` bytes into `out` with every control byte, and those of UTF-8's control characters
 * U+0080 to U+009F, written as \xHH, so that nothing that a client or a program sent can forge or
 * corrupt a line of the log. Cuts what does not fit into `cap`, never in the middle of an escape.
 * Returns the length without the NUL.
 */
size_t text_escape(char *out, size_t cap, const char *text, size_t len);

/* The same, with every byte that is not printable ASCII written as \xHH. */
size_t text_escape_ascii(char *out, size_t cap, const char *text, size_t len);

/*
 * How many letters have to be changed, added, left out or swapped with their neighbour (Damerau and
 * Levenshtein, optimal string alignment); words over 63 bytes count as far apart.
 */
unsigned text_distance(const char *a, const char *b);

/* True when `candidate` is near enough to `word` to be what the user meant; lower `*best` on
 * success. */
bool text_is_nearer(const char *word, const char *candidate, unsigned *best);

/* Start value for `*best` above. */
#define TEXT_FAR 1000u

#endif
