/* The verbs' side of the control socket (run/control.h says what it speaks). */
#ifndef ECHOD_CLI_CLIENT_H
#define ECHOD_CLI_CLIENT_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * Connect to the control socket of the daemon `pid`, which must be the one that listens there,
 * within `ms` milliseconds. Returns the socket, or -1.
 */
int client_connect(const char *path, pid_t pid, int64_t ms, struct error *err);

/*
 * Ask {"verb":verb} and wait for the reply, at most `ms` milliseconds. Returns the reply's object
 * when it says "ok", to be freed with json_decref; else NULL with its error and code. Closes the
 * socket.
 */
json_t *client_ask(int fd, const char *verb, int64_t ms, struct error *err);

#endif
