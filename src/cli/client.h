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
 * The request {"verb":verb}, with "args":[words] when there are words. Returns NULL with the
 * reason: JSON holds only UTF-8, so a word that is none cannot be asked for.
 */
json_t *client_request(const char *verb, char *const *words, size_t count, struct error *err);

/* Add "key":text, unless `text` is NULL. Returns 0, or -1 as above. */
int client_request_add(json_t *request, const char *key, const char *text, struct error *err);

/*
 * Ask, and wait for the reply, at most `ms` milliseconds. Returns the reply's object when it says
 * "ok", to be freed with json_decref; else NULL with its error and code. Takes the request, and
 * closes the socket. A request that is longer than the daemon takes is not sent.
 */
json_t *client_ask(int fd, json_t *request, int64_t ms, struct error *err);

#endif
