/* Whether the workers' descriptors are enough for the connections that the configuration allows. */
#ifndef ECHOD_RUN_CAPACITY_H
#define ECHOD_RUN_CAPACITY_H

#include <stddef.h>
#include <stdint.h>

struct generation;

/*
 * How many connections so many workers can surely hold together, when each may have `files` open
 * files (RLIMIT_NOFILE) and has a copy of all `sockets` of its service.
 */
uint64_t capacity_connections(uint64_t files, size_t sockets, unsigned workers);

/*
 * The least number of workers that hold so many; each brings `own_sockets` with it. 0: no number
 * does.
 */
unsigned capacity_workers(uint64_t files, size_t own_sockets, uint64_t connections);

/* Log a warning for each service that allows more, when its sockets are known. */
void capacity_check(const struct generation *generation);

#endif
