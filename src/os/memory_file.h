/*
 * Sealed memory files (memfd_create(2)): memory that outlives execve, and that nobody can shrink.
 */
#ifndef ECHOD_OS_MEMORY_FILE_H
#define ECHOD_OS_MEMORY_FILE_H

#include <stddef.h>

#include "base/error.h"

/* A file of exactly `size` zero bytes that can be written but never resized. Returns it, or -1. */
int memory_file_shared(const char *name, size_t size, struct error *err);

/* A file with this content that can never be changed again. Returns it, or -1. */
int memory_file_sealed(const char *name, const void *data, size_t len, struct error *err);

/* True when `fd` is a memory file that can never be resized, of `size` bytes. */
int memory_file_is_shared(int fd, size_t size);

/* The content of a file made by memory_file_sealed, in fresh memory; NULL when it is none. */
void *memory_file_read(int fd, size_t *len, struct error *err);

#endif
