/* What `echod status` shows, as JSON (schema 1). */
#ifndef ECHOD_RUN_STATUS_H
#define ECHOD_RUN_STATUS_H

#include <jansson.h>

struct supervisor;

/* A new object, or NULL without memory. */
json_t *status_json(struct supervisor *supervisor);

/*
 * A text for a reply, null for NULL. It may name a file in any bytes, or be cut within a character:
 * what is not UTF-8, as JSON must be, is shown escaped.
 */
json_t *status_text(const char *text);

#endif
