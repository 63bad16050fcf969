/* Listening TCP sockets, in steps that a restart can take apart: probe, open (bind), set, start. */
#ifndef ECHOD_OS_LISTEN_H
#define ECHOD_OS_LISTEN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/error.h"

struct listen_options {
	bool nodelay;		 /* TCP_NODELAY */
	int64_t keepalive_ms;	 /* SO_KEEPALIVE, TCP_KEEPIDLE; 0: off */
	int64_t defer_accept_ms; /* TCP_DEFER_ACCEPT; 0: off */
	int backlog;		 /* listen(2); the kernel cuts it to net.core.somaxconn */
};

/*
 * SO_REUSEPORT would let a second daemon of the same user share the port unseen, so the address is
 * first bound without it and closed again. Tries again for `retry_ms` while it is in use: workers
 * of a daemon that died give it back within moments. Returns 0 or -1.
 */
int listen_probe(const struct address *address, int64_t retry_ms, struct error *err);

/*
 * A socket bound with SO_REUSEADDR and SO_REUSEPORT (IPv6: V6ONLY), non-blocking, close-on-exec; it
 * does not listen yet. Returns it, or -1. `*unsupported` tells a kernel without this address
 * family.
 */
int listen_open(const struct address *address, bool *unsupported, struct error *err);

/* Set the options that accepted sockets inherit. May be called again on a socket that listens. */
int listen_set(int fd, const struct listen_options *options, struct error *err);

/*
 * Begin to listen, or change the backlog of a socket that listens; in any case it does not block
 * from now on.
 */
int listen_start(int fd, const struct listen_options *options, struct error *err);

/* Whether it listens and does not block: who shares the socket may have changed that. */
bool listen_is_on(int fd);

/* How many connections wait to be accepted; 0 for a socket that does not listen. */
unsigned listen_waiting(int fd);

/* True when `fd` is a TCP socket bound to this address; `*listening` tells whether it listens. */
bool listen_verify(int fd, const struct address *address, bool *listening);

#endif
