/*
 * The listening sockets, all of them the supervisor's. A socket stays open as long as one
 * generation of workers needs it: the queue in it survives workers, and a restart.
 */
#ifndef ECHOD_RUN_SOCKETS_H
#define ECHOD_RUN_SOCKETS_H

#include <stdbool.h>
#include <sys/queue.h>

#include "base/addr.h"
#include "base/error.h"

struct socket_entry {
	TAILQ_ENTRY(socket_entry) link;
	struct address address;
	unsigned number; /* in its SO_REUSEPORT group: each address has one socket a worker */
	int fd;
	bool listening;
	unsigned users; /* services of all generations that need it */
};

TAILQ_HEAD(socket_table, socket_entry);

/* The socket of this address and number, or NULL. */
struct socket_entry *sockets_find(struct socket_table *table, const struct address *address,
				  unsigned number);

/* How many sockets of this address there are. */
unsigned sockets_group_size(struct socket_table *table, const struct address *address);

/*
 * Bind one more socket of this address. The address is probed first where no socket of ours would
 * be in the way; for `retry_ms` an address in use is tried again. Returns NULL with the reason;
 * `*unsupported` tells a kernel without this address family.
 */
struct socket_entry *sockets_open(struct socket_table *table, const struct address *address,
				  int64_t retry_ms, bool *unsupported, struct error *err);

/* Take over a descriptor after execve. Returns NULL when it is not what it should be. */
struct socket_entry *sockets_adopt(struct socket_table *table, const struct address *address,
				   unsigned number, int fd, struct error *err);

/* One service less needs it; the last one closes it. */
void sockets_release(struct socket_table *table, struct socket_entry *entry);

/* Close one that no service needs. */
void sockets_drop(struct socket_table *table, struct socket_entry *entry);

/* Close our copies of all sockets. */
void sockets_close(struct socket_table *table);

#endif
