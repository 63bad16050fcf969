/*
 * Serving what inetd(8), xinetd or a socket unit with StandardInput=socket has put on descriptor 0,
 * in this one process, without a daemon around it.
 */
#ifndef ECHOD_RUN_INETD_H
#define ECHOD_RUN_INETD_H

#include "base/error.h"
#include "run/launch.h"

/*
 * Serve as the service of this name, NULL: the only one. One connection ("nowait"): until it ends.
 * A listening or datagram socket ("wait"): until nobody has come for a minute; then whoever
 * started us takes over again. Nothing is written to 0, 1 and 2, which are the client's: what is
 * wrong goes to the log. Returns the exit code.
 */
int inetd_run(const struct launch *launch, const char *name);

/* Log, without a configuration, why nothing could be served. Returns the error's code. */
int inetd_fail(const struct error *err);

#endif
