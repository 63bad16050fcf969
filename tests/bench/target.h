/* Where the server is, and sockets to it. */
#ifndef ECHOD_BENCH_TARGET_H
#define ECHOD_BENCH_TARGET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"

struct target {
	struct sockaddr_storage address;
	socklen_t len;
	uint32_t sources;      /* 1: the kernel chooses */
	const char *host_text; /* for messages */
	const char *port_text;
};

/*
 * Numeric address and port, from that many source addresses. Returns 0, or -1 with `err` set; its
 * code is EXIT_USAGE.
 */
int target_parse(struct target *target, const char *address, const char *port, uint32_t sources,
		 struct error *err);

/*
 * A non-blocking socket of `type`, bound to the source address of connection `number`: they take
 * turns. Returns it, or -1 with `err` set.
 */
int target_socket(const struct target *target, int type, uint32_t number, struct error *err);

/*
 * A socket that is connected; for TCP, without the delay of small segments (TCP_NODELAY). Waits at
 * most 10 s. Returns it, or -1 with `err` set.
 */
int target_connect(const struct target *target, int type, uint32_t number, struct error *err);

/* Allow so many descriptors. Returns 0, or -1 with `err` set. */
int target_raise_limit(uint64_t descriptors, struct error *err);

/*
 * Connections that stay silent. Returns a list of `count` descriptors to be given to
 * target_close_idle, or NULL with `err` set; NULL is also the list of none.
 */
int *target_open_idle(const struct target *target, uint32_t count, struct error *err);

/* Is each of them still open, and nothing arrived on it? If not, false with `err` set. */
bool target_idle_is_silent(const int *list, uint32_t count, struct error *err);
void target_close_idle(int *list, uint32_t count);

#endif
