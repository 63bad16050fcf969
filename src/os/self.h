/* Paths of executables as the user names them: our own, and commands that we are to run. */
#ifndef ECHOD_OS_SELF_H
#define ECHOD_OS_SELF_H

#include "base/error.h"

/*
 * argv[0] made absolute, through PATH when it has no slash; symbolic links stay unresolved, so that
 * a restart follows a link to a newer version. (/proc/self/exe would name the old file for ever.)
 * Returns fresh memory, or NULL.
 */
char *self_path(const char *argv0, struct error *err);

/*
 * A command that the user has typed, made absolute in the same way; it must be there and be
 * executable. Returns fresh memory, or NULL with the reason.
 */
char *self_find_command(const char *name, struct error *err);

#endif
