#include "base/addr.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

/* Splits off the port behind the last colon; what is left is the host, without brackets. */
static int split(const char *text, struct endpoint *endpoint, const char **port, struct error *err)
{
	const char *host = text, *end;

	if (text[0] == '[') {
		host = text + 1;
		end = strchr(host, ']');
		if (end == NULL)
			return error_set(err, EXIT_CONFIG,
					 "the bracket before the address is not closed");
		if (end[1] != ':')
			return error_set(err, EXIT_CONFIG,
					 "there is no port; write the address as host:port");
		*port = end + 2;
	} else {
		end = strrchr(host, ':');
		if (end == NULL)
			return error_set(err, EXIT_CONFIG,
					 "there is no port; write the address as host:port");
		if (memchr(host, ':', (size_t)(end - host)) != NULL)
			return error_set(err, EXIT_CONFIG,
					 "an IPv6 address needs brackets, as in [::1]:30333");
		*port = end + 1;
	}
	if (end == host)
		return error_set(err, EXIT_CONFIG, "there is no host; write * for all addresses");
	if ((size_t)(end - host) >= sizeof(endpoint->host))
		return error_set(err, EXIT_CONFIG, "the host is longer than %d bytes",
				 ADDR_HOST_MAX - 1);
	memcpy(endpoint->host, host, (size_t)(end - host));
	endpoint->host[end - host] = '\0';
	return 0;
}

/* Takes a known scheme off the front. A host name of that sound would need "tcp:tcp:30333". */
static int skip_scheme(const char **text, struct error *err)
{
	static const char *const later[] = {"udp:", "unix:", "unixgram:"};

	if (strncmp(*text, "tcp:", 4) == 0 && strchr(*text + 4, ':') != NULL)
		*text += 4;
	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
		size_t len = strlen(later[i]);

		if (strncmp(*text, later[i], len) == 0 &&
		    ((*text)[len] == '/' || strchr(*text + len, ':') != NULL))
			return error_set(err, EXIT_CONFIG, "the scheme %.*s is not served; use tcp",
					 (int)len - 1, later[i]);
	}
	return 0;
}

int endpoint_parse(const char *text, struct endpoint *endpoint, struct error *err)
{
	const char *port = "";
	int64_t number;

	if (skip_scheme(&text, err) < 0 || split(text, endpoint, &port, err) < 0)
		return -1;
	if (text_parse_int(port, &number) < 0)
		return error_set(err, EXIT_CONFIG, "the port '%s' is not a number", port);
	if (number < 1 || number > 65535)
		return error_set(err, EXIT_CONFIG, "the port %s is not between 1 and 65535", port);
	endpoint->port = (uint16_t)number;
	return 0;
}

static void address_any(struct address *address, int family, uint16_t port)
{
	memset(address, 0, sizeof(*address));
	if (family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)&address->storage;

		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		address->len = sizeof(*in);
	} else {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;

		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		address->len = sizeof(*in6);
	}
}

int endpoint_resolve(const struct endpoint *endpoint, struct address *addresses, int max,
		     struct error *err)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	char port[8];
	int n = 0, failure;

	if (strcmp(endpoint->host, "*") == 0 && max >= 2) {
		address_any(&addresses[0], AF_INET, endpoint->port);
		address_any(&addresses[1], AF_INET6, endpoint->port);
		return 2;
	}
	snprintf(port, sizeof(port), "%u", endpoint->port);
	hints.ai_flags = AI_NUMERICSERV | AI_PASSIVE;
	failure = getaddrinfo(endpoint->host, port, &hints, &found);
	if (failure != 0)
		return error_set(err, EXIT_FAILED, "cannot look up the address %s: %s",
				 endpoint->host,
				 failure == EAI_SYSTEM ? "system error" : gai_strerror(failure));
	for (struct addrinfo *ai = found; ai != NULL && n < max; ai = ai->ai_next) {
		struct address candidate = {.len = ai->ai_addrlen};
		bool known = false;

		if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
			continue;
		memcpy(&candidate.storage, ai->ai_addr, ai->ai_addrlen);
		/* /etc/hosts may name the same address twice. */
		for (int i = 0; i < n; i++)
			known = known || address_equal(&addresses[i], &candidate);
		if (!known)
			addresses[n++] = candidate;
	}
	freeaddrinfo(found);
	if (n == 0)
		return error_set(err, EXIT_FAILED, "the name %s has no IPv4 or IPv6 address",
				 endpoint->host);
	return n;
}

void address_format(char *out, size_t cap, const struct sockaddr *address)
{
	char host[INET6_ADDRSTRLEN];

	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)address;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(out, cap, "%s:%u", host, ntohs(in->sin_port));
	} else if (address->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
		char zone[IF_NAMESIZE] = "";

		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
			inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof(host));
			snprintf(out, cap, "%s:%u", host, ntohs(in6->sin6_port));
			return;
		}
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		if (in6->sin6_scope_id != 0 && if_indextoname(in6->sin6_scope_id, zone) == NULL)
			snprintf(zone, sizeof(zone), "%u", in6->sin6_scope_id);
		snprintf(out, cap, "[%s%s%s]:%u", host, zone[0] != '\0' ? "%" : "", zone,
			 ntohs(in6->sin6_port));
	} else {
		snprintf(out, cap, "unknown");
	}
}

static const struct sockaddr_in *as_in(const struct address *a)
{
	return (const struct sockaddr_in *)&a->storage;
}

static const struct sockaddr_in6 *as_in6(const struct address *a)
{
	return (const struct sockaddr_in6 *)&a->storage;
}

bool address_equal(const struct address *a, const struct address *b)
{
	if (a->storage.ss_family != b->storage.ss_family)
		return false;
	if (a->storage.ss_family == AF_INET)
		return as_in(a)->sin_port == as_in(b)->sin_port &&
		       as_in(a)->sin_addr.s_addr == as_in(b)->sin_addr.s_addr;
	return as_in6(a)->sin6_port == as_in6(b)->sin6_port &&
	       as_in6(a)->sin6_scope_id == as_in6(b)->sin6_scope_id &&
	       IN6_ARE_ADDR_EQUAL(&as_in6(a)->sin6_addr, &as_in6(b)->sin6_addr);
}

static bool is_any(const struct address *a)
{
	if (a->storage.ss_family == AF_INET)
		return as_in(a)->sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&as_in6(a)->sin6_addr);
}

bool address_overlaps(const struct address *a, const struct address *b)
{
	/* sin_port and sin6_port stand at the same place; IPv6 sockets are V6ONLY, so families
	 * never mix. */
	return a->storage.ss_family == b->storage.ss_family &&
	       as_in(a)->sin_port == as_in(b)->sin_port &&
	       (is_any(a) || is_any(b) || address_equal(a, b));
}
