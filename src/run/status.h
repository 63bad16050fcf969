/* What `echod status` shows, as JSON (schema 1). */
#ifndef ECHOD_RUN_STATUS_H
#define ECHOD_RUN_STATUS_H

#include <jansson.h>

struct supervisor;

/* A new object, or NULL without memory. */
json_t *status_json(struct supervisor *supervisor);

#endif
