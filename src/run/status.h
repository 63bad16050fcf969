/* What `echod status` shows, as JSON (schema 1). */
#ifndef ECHOD_RUN_STATUS_H
#define ECHOD_RUN_STATUS_H

#include <jansson.h>
#include <time.h>

struct supervisor;

/* A new object, or NULL without memory. */
json_t *status_json(struct supervisor *supervisor);

/* "2026-11-22T13:00:00Z" */
json_t *status_time(time_t t);

/*
 * A text for a reply, null for NULL. It may name a file in any bytes, or be cut within a character:
 * what is not UTF-8, as JSON must be, is shown escaped.
 */
json_t *status_text(const char *text);

#endif
