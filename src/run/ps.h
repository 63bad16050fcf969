/* What `echod ps` shows: every process of every service, as JSON (schema 1). */
#ifndef ECHOD_RUN_PS_H
#define ECHOD_RUN_PS_H

#include <jansson.h>

struct supervisor;

/*
 * A new object, or NULL without memory. Processor time and memory of a program are those of all
 * that it started; they are null where /proc does not tell.
 */
json_t *ps_json(struct supervisor *supervisor);

#endif
