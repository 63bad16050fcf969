#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fuzz_failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: %s does not hold\n", file, line, condition);
	abort();
}

unsigned fuzz_byte(struct fuzz_input *input)
{
	if (input->size == 0)
		return 0;
	input->size--;
	return *input->data++;
}

char *fuzz_line(struct fuzz_input *input)
{
	const uint8_t *lf;
	size_t len;
	char *line;

	if (input->size == 0)
		return NULL;
	lf = memchr(input->data, '\n', input->size);
	len = lf == NULL ? input->size : (size_t)(lf - input->data);
	line = fuzz_alloc(len + 1);
	memcpy(line, input->data, len);
	input->data += len + (lf != NULL);
	input->size -= len + (lf != NULL);
	return line;
}

void *fuzz_alloc(size_t size)
{
	void *memory = calloc(1, size == 0 ? 1 : size);

	if (memory == NULL)
		fuzz_failed(__FILE__, __LINE__, "there is memory");
	return memory;
}

void *fuzz_copy(const void *data, size_t size)
{
	void *copy = fuzz_alloc(size);

	if (size > 0)
		memcpy(copy, data, size);
	return copy;
}

/* Numerical Recipes' linear congruence: its upper bits are good enough for cuts. */
unsigned fuzz_random(uint32_t *seed, unsigned below)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (*seed >> 8) % below;
}
