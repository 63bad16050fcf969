#include "base/network.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

/* ::ffff:0:0/96 (RFC 4291, section 2.5.5.2) */
static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static unsigned family_bits(int family)
{
	return family == AF_INET ? 32 : 128;
}

/* The part in front of the slash. */
static int parse_address(const char *text, size_t len, struct network *network)
{
	char host[INET6_ADDRSTRLEN];

	if (len >= sizeof(host))
		return -1;
	memcpy(host, text, len);
	host[len] = '\0';
	network->family = memchr(host, ':', len) != NULL ? AF_INET6 : AF_INET;
	return inet_pton(network->family, host, network->address) == 1 ? 0 : -1;
}

static int parse_prefix(const char *text, const char *slash, struct network *network,
			struct error *err)
{
	unsigned bits = family_bits(network->family);
	int64_t prefix = bits;

	if (slash != NULL &&
	    (text_parse_int(slash + 1, &prefix) < 0 || prefix < 0 || prefix > bits))
		return error_set(err, EXIT_CONFIG,
				 "the prefix '%s' of the network '%s' is not a number of bits "
				 "between 0 and %u; write it as in %s",
				 slash + 1, text, bits,
				 bits == 32 ? "10.0.0.0/8" : "2001:db8::/32");
	network->prefix = (unsigned)prefix;
	return 0;
}

static void unmap(struct network *network)
{
	if (network->family != AF_INET6 || network->prefix < 96 ||
	    memcmp(network->address, mapped, sizeof(mapped)) != 0)
		return;
	network->family = AF_INET;
	network->prefix -= 96;
	memmove(network->address, network->address + 12, 4);
	memset(network->address + 4, 0, 12);
}

/* What of the byte at `i` belongs to the prefix. */
static uint8_t mask_of(unsigned prefix, unsigned i)
{
	if (prefix >= 8 * (i + 1))
		return 0xff;
	return prefix <= 8 * i ? 0 : (uint8_t)(0xff00 >> (prefix - 8 * i));
}

static int check_bits(const char *text, const struct network *network, struct error *err)
{
	uint8_t cut[16] = {0};
	char right[INET6_ADDRSTRLEN];

	for (unsigned i = 0; i < family_bits(network->family) / 8; i++)
		cut[i] = network->address[i] & mask_of(network->prefix, i);
	if (memcmp(cut, network->address, sizeof(cut)) == 0)
		return 0;
	inet_ntop(network->family, cut, right, sizeof(right));
	return error_set(err, EXIT_CONFIG,
			 "the network '%s' has bits behind its prefix; write %s/%u", text, right,
			 network->prefix);
}

int network_parse(const char *text, struct network *network, struct error *err)
{
	const char *slash = strchr(text, '/');
	size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
	struct network parsed = {0};

	if (parse_address(text, len, &parsed) < 0)
		return error_set(err, EXIT_CONFIG,
				 "'%s' is not a network; write it as in 10.0.0.0/8, 2001:db8::/32 "
				 "or 192.0.2.1, without port and brackets",
				 text);
	if (parse_prefix(text, slash, &parsed, err) < 0)
		return -1;
	unmap(&parsed);
	if (check_bits(text, &parsed, err) < 0)
		return -1;
	*network = parsed;
	return 0;
}

/* The bytes of an address, IPv4 for an IPv4-mapped one. NULL: of another family. */
static const uint8_t *bytes_of(const struct sockaddr *address, int *family)
{
	const uint8_t *bytes;

	*family = address->sa_family;
	if (address->sa_family == AF_INET)
		return (const uint8_t *)&((const struct sockaddr_in *)address)->sin_addr;
	if (address->sa_family != AF_INET6)
		return NULL;
	bytes = ((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr;
	if (memcmp(bytes, mapped, sizeof(mapped)) != 0)
		return bytes;
	*family = AF_INET;
	return bytes + sizeof(mapped);
}

bool network_contains(const struct network *network, const struct sockaddr *address)
{
	int family;
	const uint8_t *bytes = bytes_of(address, &family);

	if (network->family == AF_UNIX)
		return address->sa_family == AF_UNIX;
	if (bytes == NULL || family != network->family)
		return false;
	for (unsigned i = 0; 8 * i < network->prefix; i++)
		if ((bytes[i] & mask_of(network->prefix, i)) != network->address[i])
			return false;
	return true;
}
