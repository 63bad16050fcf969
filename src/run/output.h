/*
 * What a program prints: the end of its pipe, read in portions and passed to the log line by line.
 * A line that is too long for a line of the log becomes several records; empty ones, which say
 * nothing, become none. Control bytes are escaped here: so the log, which does it again where it
 * writes, changes nothing, and nothing is cut.
 */
#ifndef ECHOD_RUN_OUTPUT_H
#define ECHOD_RUN_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"

/* Of a line of the log, "name[pid]: " left out. */
#define OUTPUT_TEXT_MAX (LOG_LINE_MAX - 64)

struct output {
	int fd; /* the reading end, non-blocking; not owned */
	void (*line)(const char *text, size_t len);
	size_t len; /* of what waits for its line feed */
	char text[OUTPUT_TEXT_MAX];
};

/* Read one portion. Returns 1 when there may be more, 0 when there is none now, -1 at the end. */
int output_read(struct output *output);

/* All that is still in the pipe, and the last line without a line feed; for the end. */
void output_finish(struct output *output);

#endif
