/*
 * Addresses as people write them: [scheme:]host:port, or a Unix socket.
 *
 *   *:30333                 all addresses of the machine, IPv4 and IPv6
 *   127.0.0.1:30333         one IPv4 address
 *   [::1]:30333             one IPv6 address, in brackets (RFC 3986, section 3.2.2)
 *   [fe80::1%eth0]:30333    with its interface (RFC 4007, section 11)
 *   localhost:30333         all addresses of a name, looked up when the socket is opened
 *   *%eth0:30333            only what comes in through this interface (SO_BINDTODEVICE)
 *   *:http                  a port by its name (services(5))
 *   *:0                     any free port
 *   tcp:*:30333, udp:*:7    with the transport; tcp need not be written
 *   unix:/run/echo.sock     a Unix stream socket at an absolute path (unix(7))
 *   unix:@echo              the same with an abstract name, which needs no file
 *   unixgram:/run/echo.sock a Unix datagram socket
 */
#ifndef ECHOD_BASE_ADDR_H
#define ECHOD_BASE_ADDR_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"

#define ADDR_HOST_MAX 256
#define ADDR_PATH_MAX 108 /* sun_path (unix(7)), with the NUL behind it */
#define ADDR_TEXT_MAX 128 /* room for any formatted address with its scheme and interface */

enum transport { TRANSPORT_TCP, TRANSPORT_UDP, TRANSPORT_UNIX, TRANSPORT_UNIXGRAM };
#define TRANSPORTS (TRANSPORT_UNIXGRAM + 1)

struct endpoint {
	enum transport transport;
	char host[ADDR_HOST_MAX]; /* "*" for all addresses; without brackets; Unix: "" */
	uint16_t port;		  /* host byte order; 0: any free one; Unix: 0 */
	char device[IF_NAMESIZE]; /* the interface to bind to; "": all */
	char path[ADDR_PATH_MAX]; /* Unix: absolute, or "@name"; else "" */
};

struct address {
	struct sockaddr_storage storage; /* all zeroes behind the address */
	socklen_t len;
};

/* "tcp", "udp", "unix", "unixgram". */
const char *transport_name(enum transport transport);

/* Of datagrams, not of connections. */
bool transport_is_datagram(enum transport transport);

/* Of the file system or of abstract names, without ports. */
bool transport_is_local(enum transport transport);

/* Read an address. Returns 0, or -1 with a sentence that says what is wrong with it. */
int endpoint_parse(const char *text, struct endpoint *endpoint, struct error *err);

/*
 * An address that both of them mean can be listened to only once: "*:7" and "0.0.0.0:7". Names are
 * not looked up.
 */
bool endpoint_clashes(const struct endpoint *a, const struct endpoint *b);

/*
 * Look up an endpoint (getaddrinfo(3)). Fills at most `max` addresses and returns their number, or
 * -1.
 * "*" gives 0.0.0.0 and ::, in this order. A name may block on the resolver.
 */
int endpoint_resolve(const struct endpoint *endpoint, struct address *addresses, int max,
		     struct error *err);

/*
 * "127.0.0.1:30333", "[::1]:30333", "unix:/run/x", "unix:@name", of a client's nameless socket
 * "unix:"; an IPv4-mapped IPv6 address is written as IPv4. What stands behind a Unix address in its
 * struct must be zero.
 */
void address_format(char *out, size_t cap, const struct sockaddr *address);

/*
 * The same for a listening socket, as endpoint_parse reads it: with its interface, and with its
 * scheme where that is not tcp: "udp:127.0.0.1%lo:7". `device` may be "".
 */
void address_format_listening(char *out, size_t cap, const struct address *address,
			      enum transport transport, const char *device);

/* Same family, address, port and interface; or the same path or abstract name. */
bool address_equal(const struct address *a, const struct address *b);

/*
 * True when sockets of one transport on both would compete for clients: same port, same address or
 * one is all; or the same path or abstract name.
 */
bool address_overlaps(const struct address *a, const struct address *b);

/*
 * The host alone, as address_format writes it but without brackets; "" for a family that has none.
 * Returns the port, in host byte order.
 */
uint16_t address_format_host(char *out, size_t cap, const struct sockaddr *address);

/* In host byte order; 0 for Unix addresses. */
uint16_t address_port(const struct address *address);

/* Nothing happens to Unix addresses. */
void address_set_port(struct address *address, uint16_t port);

#endif
