/*
 * What the fuzz targets share. Each target is one file, linked twice: with libFuzzer
 * (./configure --enable-fuzzing) and with replay.c, which feeds it its corpus in `make check`.
 */
#ifndef ECHOD_TESTS_FUZZ_FUZZ_H
#define ECHOD_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The target's name, and the folder of its corpus. */
extern const char fuzz_name[];

/* Feed the target. Always returns 0; a property that does not hold ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that holds for every input; abort(3) is what libFuzzer knows as a finding. */
#define FUZZ_CHECK(condition) ((condition) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #condition))
_Noreturn void fuzz_failed(const char *file, int line, const char *condition);

/* What is still to be read of an input. */
struct fuzz_input {
	const uint8_t *data;
	size_t size;
};

/* The next byte; 0 at the end. */
unsigned fuzz_byte(struct fuzz_input *input);

/*
 * The next line without its LF, in fresh memory with a NUL behind it, to be freed by the caller.
 * NULL at the end. A NUL in it ends it for C.
 */
char *fuzz_line(struct fuzz_input *input);

/* A copy in memory that ends where the bytes end; never NULL. */
void *fuzz_copy(const void *data, size_t size);

/* Memory for `size` bytes, all zeroes; never NULL. */
void *fuzz_alloc(size_t size);

/* Numbers without end out of a seed: for cuts. */
unsigned fuzz_random(uint32_t *seed, unsigned below);

#endif
