/* Networks as people write them: "10.0.0.0/8", "2001:db8::/32", or one address. */
#ifndef ECHOD_BASE_NETWORK_H
#define ECHOD_BASE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"

#define NETWORK_TEXT_MAX 64

struct network {
	int family;	     /* AF_INET or AF_INET6; AF_UNIX: all Unix sockets, made by hand */
	uint8_t address[16]; /* network byte order; IPv4 in the first 4 */
	unsigned prefix;     /* bits: 0 to 32, or 0 to 128 */
};

/*
 * Read one. Bits behind the prefix must be 0. An IPv4-mapped one (::ffff:10.0.0.0/104) becomes the
 * IPv4 one that it means. Returns 0, or -1 with EXIT_CONFIG and a sentence; then `*network` is
 * unchanged.
 */
int network_parse(const char *text, struct network *network, struct error *err);

/* Is the address in it? An IPv4-mapped address is the IPv4 one. */
bool network_contains(const struct network *network, const struct sockaddr *address);

#endif
