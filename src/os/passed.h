/* Sockets that a service manager passes to the process that it starts (sd_listen_fds(3)). */
#ifndef ECHOD_OS_PASSED_H
#define ECHOD_OS_PASSED_H

#include <stddef.h>

#include "base/error.h"

#define PASSED_NAME_MAX 256 /* with the NUL, as the service manager's own limit */

struct passed_socket {
	int fd;
	/* FileDescriptorName= of its socket unit; "" for none, or one that nobody has chosen. */
	char name[PASSED_NAME_MAX];
};

struct passed {
	struct passed_socket *sockets; /* owned; the descriptors are not */
	size_t count;
};

/*
 * Take what LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES say; before anything else is opened. These
 * variables are gone afterwards, and the descriptors close on exec. Nothing is passed where
 * LISTEN_PID is another process. Returns 0, or -1 for what nobody can have meant.
 */
int passed_take(struct passed *passed, struct error *err);

void passed_free(struct passed *passed);

#endif
