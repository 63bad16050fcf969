/* A Unix socket at a path of the file system (unix(7)). */
#ifndef ECHOD_OS_LOCAL_SOCKET_H
#define ECHOD_OS_LOCAL_SOCKET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Who may connect: the file's mode and owner. */
struct local_socket_rights {
	mode_t mode;
	uid_t uid; /* (uid_t)-1: as the file is made */
	gid_t gid; /* (gid_t)-1: the same */
};

/* Which file it is: of a path that now leads to another one, nothing is ours. */
struct local_socket_file {
	dev_t device;
	ino_t inode; /* 0: there is none */
};

/*
 * The rights by the names of a user and a group, each of which may be NULL. Returns 0, or -1 when
 * there is nobody of that name.
 */
int local_socket_find_rights(struct local_socket_rights *rights, mode_t mode, const char *user,
			     const char *group, struct error *err);

/*
 * Make room for a socket of `type`, SOCK_STREAM or SOCK_DGRAM, at `path`. A socket file at which
 * nobody is any more is removed, with a word to the log; one at which somebody still is after
 * `retry_ms`, and anything that is no socket, a symbolic link too, is an error. Returns 0 or -1.
 */
int local_socket_clear(const char *path, int type, int64_t retry_ms, struct error *err);

/*
 * A socket of `type` bound to `path`, where nothing is yet, non-blocking, close-on-exec; it does
 * not listen yet. Its file has the mode from the first instant, and its owner before anybody can
 * listen. Returns the socket or -1.
 */
int local_socket_bind(const char *path, int type, const struct local_socket_rights *rights,
		      struct error *err);

/* All of it for a stream socket of our own user, which listens. */
int local_socket_listen(const char *path, mode_t mode, int backlog, struct error *err);

/* Which file is there; inode 0 when there is none, or no socket. */
struct local_socket_file local_socket_look(const char *path);

/* False when the file has been removed, or replaced, since it was bound. */
bool local_socket_is_at(const char *path, dev_t device, ino_t inode);

/* Set mode and owner of this very file, and of no other. Returns 0 or -1. */
int local_socket_set_rights(const char *path, struct local_socket_file file,
			    const struct local_socket_rights *rights, struct error *err);

/* Remove this very file, and no other. */
void local_socket_remove(const char *path, struct local_socket_file file);

#endif
