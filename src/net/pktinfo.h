/*
 * What comes along with a datagram, in its control messages (cmsg(3)): the address that was asked,
 * for replies from there (ip(7), IP_PKTINFO; RFC 3542, section 6.1), TTL, traffic class, whether it
 * is a train, and who sent it through a Unix socket.
 */
#ifndef ECHOD_NET_PKTINFO_H
#define ECHOD_NET_PKTINFO_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PKTINFO_CONTROL_MAX 256 /* bytes: more than the options can bring */

union pktinfo_control {
	size_t align; /* as struct cmsghdr, which may only stand at the end of another */
	unsigned char bytes[PKTINFO_CONTROL_MAX];
};

union any_address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
	struct sockaddr_storage storage;
};

struct pktinfo {
	bool has_in; /* of a dual-stack socket's IPv4 client, both */
	bool has_in6;
	bool has_ids;
	struct in_pktinfo in;
	struct in6_pktinfo in6;
	int ttl; /* -1: not known; of the traffic class, too */
	int traffic_class;
	struct ucred ids; /* zeroes without has_ids */
	size_t segment;	  /* bytes of each datagram of a train (net/train.h); 0: it is none */
};

/* Fill `info` from a message that was received. */
void pktinfo_read(struct pktinfo *info, struct msghdr *message);

/* Sent to one of our addresses, not to a broadcast or multicast one? True when nothing is known. */
bool pktinfo_to_us_alone(const struct pktinfo *info);

/* An IPv4 or IPv6 address that one host may have. A subnet's broadcast address cannot be told. */
bool pktinfo_is_unicast(const struct sockaddr *address);

/* Would pktinfo_answer let both replies leave in the same way? */
bool pktinfo_is_same_asked(const struct pktinfo *one, const struct pktinfo *other);

/* The address that was asked, with the socket's port (host byte order). False: not known. */
bool pktinfo_asked(const struct pktinfo *info, uint16_t port, union any_address *asked);

/*
 * Let a message leave from the address that was asked; its msg_control must have room for a union
 * pktinfo_control. The interface is up to the routes, which may lead back another way, except where
 * the address says nothing without it (RFC 4007, section 6).
 */
void pktinfo_answer(const struct pktinfo *info, struct msghdr *message);

#endif
