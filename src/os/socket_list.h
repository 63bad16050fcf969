/* The kernel's list of Unix sockets (sock_diag(7)). */
#ifndef ECHOD_OS_SOCKET_LIST_H
#define ECHOD_OS_SOCKET_LIST_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Is a socket of this network namespace bound to this very file, listening or not? The path is
 * compared as it was bound, and the inode, because other mount namespaces may have files of that
 * name. False also where the kernel does not tell.
 */
bool socket_list_has(const char *path, ino_t inode);

#endif
