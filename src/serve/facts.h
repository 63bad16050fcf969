/* What the server saw of a client: for the protocols that tell it. */
#ifndef ECHOD_SERVE_FACTS_H
#define ECHOD_SERVE_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

struct proxy_header;

/* TCP_INFO, tcp(7). */
struct tcp_facts {
	uint32_t mss;		/* bytes that we may send in a segment */
	uint8_t send_scale;	/* the client's window scale (RFC 7323) */
	uint8_t receive_scale;	/* ours */
	uint32_t rtt;		/* smoothed round trip, us */
	uint32_t rtt_variation; /* us */
	uint32_t retransmits;	/* of the whole connection */
	bool mptcp;
};

/*
 * No pointer is NULL unless that is said. The address of a Unix socket is a whole struct
 * sockaddr_un with zeroes behind its name: its length is not told.
 */
struct proto_facts {
	struct timespec now;		  /* CLOCK_REALTIME when the connection or datagram came */
	const char *service;		  /* its name */
	const char *worker;		  /* "line/0" */
	const char *host;		  /* gethostname(2) */
	const char *transport;		  /* "tcp", "udp", "unix", "unixgram" */
	const struct sockaddr *peer;	  /* as the socket tells it; AF_UNIX for Unix sockets */
	const struct sockaddr *local;	  /* the address that was asked; the same */
	const struct proxy_header *proxy; /* what stood in a PROXY header; NULL: there was none */
	int ttl;			  /* TTL or hop limit that came; -1: not known */
	int traffic_class; /* TOS or traffic class that came: DSCP * 4 + ECN; -1: not known */
	const struct tcp_facts *tcp; /* NULL: not TCP */
	bool has_ids;		     /* SO_PEERCRED, unix(7) */
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

#define FACTS_UNIX_MAX 109 /* all of sun_path, "@" for its first NUL; nothing ends it */

/*
 * The name of a Unix socket, unix(7): its path, "@name" for an abstract one, without the zeroes at
 * its end; any byte may be in it. Returns its length; 0: it has none.
 */
size_t facts_unix_name(char out[FACTS_UNIX_MAX], const struct sockaddr *address);

#define FACTS_TIME_MAX 40

/* UTC as in RFC 3339, with or without microseconds: "2026-11-22T16:40:46.123456Z". */
void facts_format_time(char out[FACTS_TIME_MAX], const struct timespec *time, bool microseconds);

#endif
