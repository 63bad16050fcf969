/* The path of our own executable, as the user named it. */
#ifndef ECHOD_OS_SELF_H
#define ECHOD_OS_SELF_H

#include "base/error.h"

/*
 * argv[0] made absolute, through PATH when it has no slash; symbolic links stay unresolved, so that
 * a restart follows a link to a newer version. (/proc/self/exe would name the old file for ever.)
 * Returns fresh memory, or NULL.
 */
char *self_path(const char *argv0, struct error *err);

#endif
