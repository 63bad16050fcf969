/*
 * Addresses as people write them: [scheme:]host:port.
 *
 *   *:30333               all addresses of the machine, IPv4 and IPv6
 *   127.0.0.1:30333       one IPv4 address
 *   [::1]:30333           one IPv6 address, in brackets (RFC 3986, section 3.2.2)
 *   [fe80::1%eth0]:30333  with its interface (RFC 4007, section 11)
 *   localhost:30333       all addresses of a name, looked up when the socket is opened
 *   tcp:*:30333           the scheme may be named
 */
#ifndef ECHOD_BASE_ADDR_H
#define ECHOD_BASE_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"

#define ADDR_HOST_MAX 256
#define ADDR_TEXT_MAX 80 /* room for any formatted IPv4 or IPv6 address with its port */

struct endpoint {
	char host[ADDR_HOST_MAX]; /* "*" for all addresses; without brackets */
	uint16_t port;		  /* host byte order; 1 to 65535 */
};

struct address {
	struct sockaddr_storage storage;
	socklen_t len;
};

/* Read an address. Returns 0, or -1 with a sentence that says what is wrong with it. */
int endpoint_parse(const char *text, struct endpoint *endpoint, struct error *err);

/*
 * Look up an endpoint (getaddrinfo(3)). Fills at most `max` addresses and returns their number, or
 * -1.
 * "*" gives 0.0.0.0 and ::, in this order. A name may block on the resolver.
 */
int endpoint_resolve(const struct endpoint *endpoint, struct address *addresses, int max,
		     struct error *err);

/* "127.0.0.1:30333" or "[::1]:30333"; an IPv4-mapped IPv6 address is written as IPv4. */
void address_format(char *out, size_t cap, const struct sockaddr *address);

/* Same family, address, port and interface. */
bool address_equal(const struct address *a, const struct address *b);

/*
 * True when sockets on both would compete for connections: same port, same address or one is all.
 */
bool address_overlaps(const struct address *a, const struct address *b);

#endif
