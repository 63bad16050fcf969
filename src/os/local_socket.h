/* A Unix socket at a path of the file system (unix(7)). */
#ifndef ECHOD_OS_LOCAL_SOCKET_H
#define ECHOD_OS_LOCAL_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * A stream socket that listens at `path`, non-blocking, close-on-exec; its file has `mode` from the
 * first instant. A socket file at which nobody listens is replaced, with a word to the log; one at
 * which somebody does, and anything that is no socket, a symbolic link too, is an error. Returns
 * the socket or -1.
 */
int local_socket_listen(const char *path, mode_t mode, int backlog, struct error *err);

/* False when the file has been removed, or replaced, since it was bound. */
bool local_socket_is_at(const char *path, dev_t device, ino_t inode);

#endif
