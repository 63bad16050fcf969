/*
 * What a program prints: the end of its pipe, read in portions and passed to the log line by line.
 * A line over LOG_LINE_MAX bytes becomes several records; empty ones, which say nothing, become
 * none. Bytes stay as they are: the log escapes them where it writes them.
 */
#ifndef ECHOD_RUN_OUTPUT_H
#define ECHOD_RUN_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"

struct output {
	int fd; /* the reading end, non-blocking; not owned */
	void (*line)(const char *text, size_t len);
	size_t len; /* of what waits for its line feed; at most LOG_LINE_MAX */
	char text[LOG_LINE_MAX];
};

/* Read one portion. Returns 1 when there may be more, 0 when there is none now, -1 at the end. */
int output_read(struct output *output);

/* All that is still in the pipe, and the last line without a line feed; for the end. */
void output_finish(struct output *output);

#endif
