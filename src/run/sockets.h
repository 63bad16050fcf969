/*
 * The listening sockets, all of them the supervisor's. A socket stays open as long as one
 * generation of workers needs it: the queue in it survives workers, and a restart. The file of a
 * Unix socket is removed when its socket is closed, if it is still the same file.
 */
#ifndef ECHOD_RUN_SOCKETS_H
#define ECHOD_RUN_SOCKETS_H

#include <stdbool.h>
#include <sys/queue.h>

#include "base/addr.h"
#include "base/error.h"
#include "net/datagram.h"
#include "os/listen.h"

#define SOCKETS_SERVICE_MAX 40

/* What was asked for: by this a socket is known again after a restart in place. */
struct socket_key {
	struct listen_place place;
	/* Where the place does not tell sockets apart: of any port, whose; of passed ones, too. */
	char service[SOCKETS_SERVICE_MAX];
};

struct socket_entry {
	TAILQ_ENTRY(socket_entry) link;
	struct socket_key key;
	struct address address; /* where it is bound: with the port that the kernel chose */
	unsigned number; /* in its SO_REUSEPORT group: each address has one socket a worker */
	int fd;
	bool shared; /* one socket that all workers of its service accept on */
	/*
	 * By a service manager (sd_listen_fds(3)): it cannot be opened again, so it stays open when
	 * no service needs it.
	 */
	bool passed;
	bool listening;
	struct local_socket_file file; /* that goes with it; inode 0: none */
	unsigned users;		       /* services of all generations that need it */
};

TAILQ_HEAD(socket_table, socket_entry);

bool socket_key_equal(const struct socket_key *a, const struct socket_key *b);

/* "127.0.0.1:7", "udp:[::1%lo]:7", "unix:/run/x"; `out` has ADDR_TEXT_MAX bytes. */
void socket_entry_format(const struct socket_entry *entry, char *out);

/* The socket of this key and number, or NULL. One whose file is gone is not found. */
struct socket_entry *sockets_find(struct socket_table *table, const struct socket_key *key,
				  unsigned number);

/* How many sockets of this key there are. */
unsigned sockets_group_size(struct socket_table *table, const struct socket_key *key);

/* How to open a socket. */
struct socket_wish {
	uint16_t port;	  /* where the key asks for any: this one; 0: the kernel chooses */
	int64_t retry_ms; /* so long an address in use is tried again */
	const struct local_socket_rights *rights; /* of a Unix socket's file */
};

/*
 * Bind one more socket of this key. The address is probed first where no socket of ours would be in
 * the way. Returns NULL with the reason.
 */
struct socket_entry *sockets_open(struct socket_table *table, const struct socket_key *key,
				  const struct socket_wish *wish, enum listen_failure *failure,
				  struct error *err);

/*
 * Take over like->fd: a socket with this address, key, number, flags and file. When it is not what
 * it should be, it is closed, and the result is NULL.
 */
struct socket_entry *sockets_adopt(struct socket_table *table, const struct socket_entry *like,
				   struct error *err);

/*
 * Take a socket that a service manager has made, for the service of this name, or "" for the only
 * one. Returns 0, or -1 with the reason, with which the daemon cannot start.
 */
int sockets_take_passed(struct socket_table *table, int fd, const char *service, struct error *err);

/* One service less needs it; the last one closes it, unless it was passed. */
void sockets_release(struct socket_table *table, struct socket_entry *entry);

/* Close one that no service needs. */
void sockets_drop(struct socket_table *table, struct socket_entry *entry);

/* Close our copies of all sockets. */
void sockets_close(struct socket_table *table);

/* Its port, when it is a UDP socket: no server of ours answers that. */
void socket_entry_add_udp_port(const struct socket_entry *entry, struct port_set *ports);

#endif
