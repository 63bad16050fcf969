/* Whole reads and writes on descriptors that block. */
#ifndef ECHOD_BASE_IO_H
#define ECHOD_BASE_IO_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* Write all `len` bytes (write(2), again after EINTR). Returns 0, or -1 with errno. */
int io_write_all(int fd, const void *data, size_t len);

/* Read until `len` bytes or the end of file. Returns the number of bytes, or -1 with errno. */
ssize_t io_read_all(int fd, void *data, size_t len);

/*
 * Read a descriptor to its end into fresh memory, a NUL behind it that `*len` does not count. More
 * than `limit` bytes is an error (EFBIG). Returns the memory, to be freed by the caller, or NULL
 * with errno.
 */
char *io_read_to_end(int fd, size_t limit, size_t *len);

/*
 * `path` made absolute against the current directory, symbolic links unresolved, in fresh memory to
 * be freed by the caller. Returns NULL with `err` set when the current directory is gone.
 */
char *io_absolute(const char *path, struct error *err);

#endif
