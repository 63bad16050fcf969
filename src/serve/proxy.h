/*
 * The PROXY protocol, versions 1 and 2
 * (https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt): a header that a proxy puts in
 * front of a connection or datagram to tell who its client is. Pure.
 */
#ifndef ECHOD_SERVE_PROXY_H
#define ECHOD_SERVE_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

#define PROXY_V1_MAX 107	  /* bytes, the CRLF included (section 2.1) */
#define PROXY_V2_MAX (16 + 65535) /* bytes (section 2.2) */

enum proxy_result {
	PROXY_MORE, /* so far it may become a header: more bytes are needed */
	PROXY_NONE, /* this is no PROXY header, and will not become one */
	PROXY_DONE, /* a whole and sound header */
	PROXY_BAD,  /* it begins as a header and is malformed */
};

/* Not copied: it points into the header's own bytes. */
struct proxy_text {
	const unsigned char *data; /* NULL: not there */
	size_t len;
};

struct proxy_header {
	size_t len;	       /* of the header, in bytes: the client's begin behind it */
	int version;	       /* 1 or 2 */
	bool local;	       /* LOCAL, UNKNOWN or UNSPEC: the connection's own addresses hold */
	bool datagram;	       /* v2: SOCK_DGRAM */
	struct address source; /* AF_INET, AF_INET6 or AF_UNIX; AF_UNSPEC when local */
	struct address destination; /* the same */
	/* TLVs of version 2 (section 2.2.x). */
	struct proxy_text alpn;
	struct proxy_text authority;
	struct proxy_text unique_id;
	struct proxy_text netns;
	bool ssl;	     /* a PP2_TYPE_SSL was there: */
	uint8_t ssl_client;  /* PP2_CLIENT_SSL, ..._CERT_CONN, ..._CERT_SESS */
	uint32_t ssl_verify; /* 0: the client's certificate was verified */
	struct proxy_text ssl_version;
	struct proxy_text ssl_cn;
	struct proxy_text ssl_cipher;
	struct proxy_text ssl_sig_alg;
	struct proxy_text ssl_key_alg;
};

/*
 * Look at the first `len` bytes of a client. `*header` is filled only for PROXY_DONE; `*why` is a
 * sentence's end for PROXY_BAD ("the port is not a number"), never with the client's bytes in it.
 * The result never depends on how the bytes were cut into calls. A checksum (PP2_TYPE_CRC32C) must
 * be right where there is one.
 */
enum proxy_result proxy_parse(const unsigned char *data, size_t len, struct proxy_header *header,
			      const char **why);

/* Does it begin with the whole signature of version 2 (section 2.2)? */
bool proxy_has_v2_signature(const unsigned char *data, size_t len);

#endif
