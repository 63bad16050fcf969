/* What `echod status` shows, as JSON (schema 1). */
#ifndef ECHOD_RUN_STATUS_H
#define ECHOD_RUN_STATUS_H

#include <jansson.h>
#include <time.h>

struct generation;
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

/*
 * Print where the services of this generation listen to stdout, one address a line: "line
 * tcp:127.0.0.1:30333".
 */
void status_print_ports(const struct generation *generation);

/* The scheme that is to be printed in front of an address as `addresses` of a service shows it. */
const char *status_scheme(const char *address);

#endif
