/* File descriptors of a process: which are open, which survive. */
#ifndef ECHOD_OS_FDS_H
#define ECHOD_OS_FDS_H

#include <stddef.h>

#include "base/error.h"

/*
 * Make sure that 0, 1 and 2 are open, on /dev/null where they are not: else the next file or socket
 * that is opened becomes stdout, and a stray message lands in it. Returns 0 or -1 with errno.
 */
int fds_secure_standard(void);

/* Put 0, 1 and 2 on the descriptor `null`, which stays open. Returns 0 or -1 with errno. */
int fds_redirect_standard(int null);

/* Close every descriptor above 2 but the `n` in `keep`; -1 entries are passed over; `keep` is
 * sorted. */
void fds_close_except(int *keep, size_t n);

/* Returns 0 or -1 with errno (fcntl(2), FD_CLOEXEC). */
int fds_set_cloexec(int fd, int on);

/* Raise the soft limit of open files to the hard one. Returns the limit now in force. */
unsigned long fds_raise_limit(void);

#endif
