/* The kernel's list of Unix sockets (sock_diag(7)). */
#ifndef ECHOD_OS_SOCKET_LIST_H
#define ECHOD_OS_SOCKET_LIST_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Is a socket of this network namespace bound to this very file, listening or not? The inode must
 * be the same, because other mount namespaces may have files of that name; and the device, or the
 * path as it was bound: some file systems tell the device of another one below them. False also
 * where the kernel does not tell.
 */
bool socket_list_has(const char *path, dev_t device, ino_t inode);

#endif
