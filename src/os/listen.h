/*
 * Sockets that clients come to, TCP, UDP and Unix, in steps that a restart can take apart: probe,
 * open (bind), set, start (listen).
 */
#ifndef ECHOD_OS_LISTEN_H
#define ECHOD_OS_LISTEN_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/error.h"
#include "os/local_socket.h"

/* What a socket is bound to. */
struct listen_place {
	enum transport transport;
	struct address address;
	char device[IF_NAMESIZE]; /* only what comes through this interface; "": all */
	bool both_families;	  /* [::]: IPv4 clients, too (IPV6_V6ONLY off) */
	bool mptcp;		  /* TCP: RFC 8684 where the kernel has it */
};

struct listen_options {
	bool nodelay;		 /* TCP_NODELAY */
	int64_t keepalive_ms;	 /* SO_KEEPALIVE, TCP_KEEPIDLE; 0: off */
	int64_t defer_accept_ms; /* TCP_DEFER_ACCEPT; 0: off */
	int64_t user_timeout_ms; /* TCP_USER_TIMEOUT; 0: off */
	int64_t fastopen;	 /* TCP_FASTOPEN, the length of its queue; 0: off */
	int64_t mss;		 /* TCP_MAXSEG, bytes; 0: the kernel's choice */
	int64_t receive_buffer;	 /* SO_RCVBUF, bytes; 0: as it is, of UDP 2 MiB at least */
	int64_t send_buffer;	 /* SO_SNDBUF, bytes; 0: as it is */
	int64_t tos;		 /* IP_TOS, IPV6_TCLASS */
	int64_t ttl;		 /* IP_TTL, IPV6_UNICAST_HOPS; 0: the kernel's choice */
	int backlog;		 /* listen(2); the kernel cuts it to net.core.somaxconn */
	bool passed; /* a service manager made the socket: what is 0, and its backlog, stay */
};

enum listen_failure {
	LISTEN_FAILED,
	LISTEN_IN_USE,	    /* somebody else has the address */
	LISTEN_UNSUPPORTED, /* the kernel has no such address family */
};

/*
 * SO_REUSEPORT would let a second daemon of the same user share the port unseen, so the address is
 * first bound without it and closed again. Of a Unix socket, the file that a dead daemon left is
 * removed. Tries again for `retry_ms` while it is in use: workers of a daemon that died give it
 * back within moments. Returns 0 or -1.
 */
int listen_probe(const struct listen_place *place, int64_t retry_ms, enum listen_failure *failure,
		 struct error *err);

/*
 * A socket bound there, non-blocking, close-on-exec; it does not listen yet. TCP and UDP sockets
 * have SO_REUSEPORT, so that any number can be bound to one address (port 0: to the port that the
 * first one got), and tell where datagrams were sent to (ip(7), IP_PKTINFO). `rights` are those of
 * a Unix socket's file, for others NULL. Returns the socket or -1.
 */
int listen_open(const struct listen_place *place, const struct local_socket_rights *rights,
		enum listen_failure *failure, struct error *err);

/*
 * Set the options, which accepted sockets inherit. May be called again on a socket that listens.
 * MPTCP sockets go without those that the kernel does not know for them. The error says which
 * option, which address and why.
 */
int listen_set(int fd, const struct listen_options *options, struct error *err);

/*
 * Where a datagram was sent to, with which TTL and type of service, comes along with it from now
 * on; and an accepted TCP socket remembers the latter two of the client's SYN (IP_PKTOPTIONS,
 * IPV6_2292PKTOPTIONS). listen_open and listen_set do it, too. Returns 0 or -1.
 */
int listen_want_facts(int fd, struct error *err);

/*
 * Begin to listen, or change the backlog of a socket that listens; in any case it does not block
 * from now on. A datagram socket receives from its bind on, and there is nothing more to do.
 */
int listen_start(int fd, const struct listen_options *options, struct error *err);

/*
 * Whether it listens (a datagram socket: takes datagrams from everybody) and does not block: who
 * shares the socket may have changed that. A Unix socket that was shut down cannot be told from a
 * sound one.
 */
bool listen_is_on(int fd);

/*
 * How many connections wait to be accepted; 0 for a socket that does not listen. Of datagrams 1
 * when the next one holds data: the kernel does not tell more. Of a Unix stream socket it tells
 * nothing: 0.
 */
unsigned listen_waiting(int fd);

/* Which port the kernel has chosen, for instance. Returns 0 or -1. */
int listen_address(int fd, struct address *address, struct error *err);

/*
 * True when `fd` is a socket of this transport bound to this address; `*listening` tells whether
 * clients can come already.
 */
bool listen_verify(int fd, enum transport transport, const struct address *address,
		   bool *listening);

/*
 * What is this descriptor that somebody else has made? Fills transport and address. Returns -1
 * with the reason when it is nothing that clients can come to.
 */
int listen_identify(int fd, struct listen_place *place, struct error *err);

#endif
