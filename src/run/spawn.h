/* Forking the process of a child: a worker, or the keeper of a program. */
#ifndef ECHOD_RUN_SPAWN_H
#define ECHOD_RUN_SPAWN_H

#include "base/error.h"
#include "run/child.h"

/*
 * Start the process of a record that has a place and no process: a worker with all sockets of its
 * service, or a keeper. It does nothing before CHANNEL_GO. Returns 0 or -1.
 */
int child_spawn(struct child *child, struct error *err);

#endif
