/*
 * Which services are stopped by order, in a file beside the pidfile: it survives a crash of the
 * daemon, so that the next start does not bring back what an operator has stopped. An orderly end
 * removes it. One name a line.
 */
#ifndef ECHOD_RUN_STOPLIST_H
#define ECHOD_RUN_STOPLIST_H

#include "base/error.h"
#include "run/generation.h"

/*
 * Write the names of the stopped services of this generation, or remove the file when there are
 * none. The file is replaced as a whole (rename(2)). Returns 0, or -1: then it
 * is as it was.
 */
int stoplist_save(const char *pidfile, const struct generation *generation, struct error *err);

/*
 * Mark as stopped what the file of a daemon that died names. Services that are no longer configured
 * are passed over. No file is no error; one that is not a regular file of our own is.
 */
int stoplist_load(const char *pidfile, struct generation *generation, struct error *err);

/* At an orderly end. */
void stoplist_remove(const char *pidfile);

#endif
