#include "base/addr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/text.h"

_Static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == ADDR_PATH_MAX,
	       "a path of an endpoint fits into an address of the kernel");

/* ---- Transports ----------------------------------------------------------------------------- */

static const char *const transport_names[] = {
	[TRANSPORT_TCP] = "tcp",
	[TRANSPORT_UDP] = "udp",
	[TRANSPORT_UNIX] = "unix",
	[TRANSPORT_UNIXGRAM] = "unixgram",
};

const char *transport_name(enum transport transport)
{
	return transport_names[transport];
}

bool transport_is_datagram(enum transport transport)
{
	return transport == TRANSPORT_UDP || transport == TRANSPORT_UNIXGRAM;
}

bool transport_is_local(enum transport transport)
{
	return transport == TRANSPORT_UNIX || transport == TRANSPORT_UNIXGRAM;
}

/* ---- Reading -------------------------------------------------------------------------------- */

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

/*
 * Behind a link-local address the interface is its zone, a part of the address (RFC 4007); behind
 * all others it is the one to bind to.
 */
static bool has_zone(const char *host, const char *percent)
{
	char text[INET6_ADDRSTRLEN];
	struct in6_addr in6;

	if ((size_t)(percent - host) >= sizeof(text))
		return false;
	snprintf(text, sizeof(text), "%.*s", (int)(percent - host), host);
	return inet_pton(AF_INET6, text, &in6) == 1 &&
	       (IN6_IS_ADDR_LINKLOCAL(&in6) || IN6_IS_ADDR_MC_LINKLOCAL(&in6));
}

static int split_device(struct endpoint *endpoint, struct error *err)
{
	char *percent = strchr(endpoint->host, '%');
	size_t len;

	if (percent == NULL || has_zone(endpoint->host, percent))
		return 0;
	len = strlen(percent + 1);
	if (len == 0 || len >= sizeof(endpoint->device))
		return error_set(err, EXIT_CONFIG,
				 "the interface behind %% is not 1 to %d bytes long",
				 IF_NAMESIZE - 1);
	memcpy(endpoint->device, percent + 1, len + 1);
	*percent = '\0';
	if (endpoint->host[0] == '\0')
		return error_set(err, EXIT_CONFIG, "there is no host; write * for all addresses");
	return 0;
}

/* Bound as IPv6, it could only be reached where a socket serves both families. */
static int check_host(const struct endpoint *endpoint, struct error *err)
{
	char text[INET_ADDRSTRLEN];
	struct in6_addr in6;

	if (inet_pton(AF_INET6, endpoint->host, &in6) != 1 || !IN6_IS_ADDR_V4MAPPED(&in6))
		return 0;
	inet_ntop(AF_INET, &in6.s6_addr[12], text, sizeof(text));
	return error_set(err, EXIT_CONFIG, "[%s] is an IPv4 address: write it as %s",
			 endpoint->host, text);
}

/* A name of services(5); what begins with anything else than a letter was meant as a number. */
static int port_by_name(const char *name, enum transport transport, struct error *err)
{
	const struct servent *known = isalpha((unsigned char)name[0])
					      ? getservbyname(name, transport_name(transport))
					      : NULL;

	if (known != NULL)
		return ntohs((uint16_t)known->s_port);
	if (isalpha((unsigned char)name[0]))
		return error_set(err, EXIT_CONFIG,
				 "the port '%s' is not a number, and no service of %s has that "
				 "name in /etc/services",
				 name, transport_name(transport));
	if (name[0] == '\0')
		return error_set(err, EXIT_CONFIG,
				 "there is no port; write the address as host:port");
	return error_set(err, EXIT_CONFIG, "the port '%s' is not a number", name);
}

static int parse_port(const char *text, struct endpoint *endpoint, struct error *err)
{
	int64_t number;

	if (text_parse_int(text, &number) < 0)
		number = port_by_name(text, endpoint->transport, err);
	else if (number < 0 || number > 65535)
		number =
			error_set(err, EXIT_CONFIG, "the port %s is not between 0 and 65535", text);
	if (number < 0)
		return -1;
	endpoint->port = (uint16_t)number;
	return 0;
}

static int parse_path(const char *text, struct endpoint *endpoint, struct error *err)
{
	if (text[0] != '/' && text[0] != '@')
		return error_set(err, EXIT_CONFIG,
				 "a Unix socket is an absolute path, or an abstract name that "
				 "begins with @, not '%s'",
				 text);
	if (text[1] == '\0')
		return error_set(err, EXIT_CONFIG, "the name of the Unix socket is empty");
	if (strlen(text) >= sizeof(endpoint->path))
		return error_set(err, EXIT_CONFIG,
				 "the path of a Unix socket is longer than %d "
				 "bytes",
				 ADDR_PATH_MAX - 1);
	memcpy(endpoint->path, text, strlen(text) + 1);
	return 0;
}

/* The text behind "scheme:", or NULL. A host named tcp or udp needs its scheme, as in "tcp:udp:7".
 */
static const char *behind_scheme(const char *text, enum transport transport)
{
	size_t len = strlen(transport_name(transport));

	if (strncmp(text, transport_name(transport), len) != 0 || text[len] != ':')
		return NULL;
	return text + len + 1;
}

/* What has more colons than a host with its port, and begins with a word that is not hexadecimal.
 */
static int check_scheme(const char *text, struct error *err)
{
	size_t len = strcspn(text, ":");

	if (text[len] == '\0' || strchr(text + len + 1, ':') == NULL ||
	    strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != len ||
	    strspn(text, "abcdefABCDEF") >= len)
		return 0;
	return error_set(err, EXIT_CONFIG,
			 "there is no transport '%.*s'; write tcp, udp, unix or unixgram",
			 len < 64 ? (int)len : 64, text);
}

int endpoint_parse(const char *text, struct endpoint *endpoint, struct error *err)
{
	const char *port = "", *rest = NULL;

	memset(endpoint, 0, sizeof(*endpoint));
	for (int i = 0; i < TRANSPORTS && rest == NULL; i++) {
		rest = behind_scheme(text, (enum transport)i);
		endpoint->transport = rest != NULL ? (enum transport)i : TRANSPORT_TCP;
	}
	if (rest == NULL)
		rest = text;
	if (transport_is_local(endpoint->transport))
		return parse_path(rest, endpoint, err);
	if (rest == text && check_scheme(text, err) < 0)
		return -1;
	if (rest != text && strchr(rest, ':') == NULL)
		return error_set(
			err, EXIT_CONFIG, "%s: needs a host and a port behind it, as in %s:*:30333",
			transport_name(endpoint->transport), transport_name(endpoint->transport));
	if (split(rest, endpoint, &port, err) < 0 || split_device(endpoint, err) < 0 ||
	    check_host(endpoint, err) < 0)
		return -1;
	return parse_port(port, endpoint, err);
}

/* ---- Looking up ----------------------------------------------------------------------------- */

static void address_any(struct address *address, int family, uint16_t port)
{
	memset(address, 0, sizeof(*address));
	address->storage.ss_family = (sa_family_t)family;
	address->len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	address_set_port(address, port);
}

/* The length says where an abstract name ends; a path has a NUL behind it (unix(7)). */
static void address_local(struct address *address, const char *path)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
	size_t len = strlen(path);
	bool abstract = path[0] == '@';

	memset(address, 0, sizeof(*address));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, len);
	if (abstract)
		un->sun_path[0] = '\0';
	address->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + !abstract);
}

/* /etc/hosts may name the same address twice. */
static int add_address(struct address *addresses, int n, const struct addrinfo *ai)
{
	struct address candidate = {.len = ai->ai_addrlen};

	if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
		return n;
	memcpy(&candidate.storage, ai->ai_addr, ai->ai_addrlen);
	for (int i = 0; i < n; i++)
		if (address_equal(&addresses[i], &candidate))
			return n;
	addresses[n] = candidate;
	return n + 1;
}

/* `flags` as AI_NUMERICHOST: no name, and so no resolver. */
static int look_up(const struct endpoint *endpoint, int flags, struct address *addresses, int max,
		   struct error *err)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICSERV | AI_PASSIVE | flags};
	const char *zone = strchr(endpoint->host, '%');
	struct addrinfo *found = NULL;
	char port[8];
	int n = 0, failure;

	hints.ai_socktype = transport_is_datagram(endpoint->transport) ? SOCK_DGRAM : SOCK_STREAM;
	snprintf(port, sizeof(port), "%u", endpoint->port);
	failure = getaddrinfo(endpoint->host, port, &hints, &found);
	if (failure == EAI_NONAME && zone != NULL && if_nametoindex(zone + 1) == 0) {
		error_set(err, EXIT_FAILED, "the address %s: there is no interface '%s'",
			  endpoint->host, zone + 1);
		return -1;
	}
	if (failure != 0) {
		error_set(err, EXIT_FAILED, "cannot look up the address %s: %s", endpoint->host,
			  failure == EAI_SYSTEM ? "system error" : gai_strerror(failure));
		return -1;
	}
	for (struct addrinfo *ai = found; ai != NULL && n < max; ai = ai->ai_next)
		n = add_address(addresses, n, ai);
	freeaddrinfo(found);
	if (n > 0)
		return n;
	error_set(err, EXIT_FAILED, "the name %s has no IPv4 or IPv6 address", endpoint->host);
	return -1;
}

static int resolve(const struct endpoint *endpoint, int flags, struct address *addresses, int max,
		   struct error *err)
{
	if (transport_is_local(endpoint->transport)) {
		address_local(&addresses[0], endpoint->path);
		return 1;
	}
	if (strcmp(endpoint->host, "*") == 0 && max >= 2) {
		address_any(&addresses[0], AF_INET, endpoint->port);
		address_any(&addresses[1], AF_INET6, endpoint->port);
		return 2;
	}
	return look_up(endpoint, flags, addresses, max, err);
}

int endpoint_resolve(const struct endpoint *endpoint, struct address *addresses, int max,
		     struct error *err)
{
	return resolve(endpoint, 0, addresses, max, err);
}

bool endpoint_clashes(const struct endpoint *a, const struct endpoint *b)
{
	struct address of_a[2], of_b[2];
	struct error err;
	int m, n;

	/* A file is one, whatever kind of socket it shall be. */
	if (a->path[0] == '/' && b->path[0] == '/')
		return strcmp(a->path, b->path) == 0;
	if (a->transport != b->transport || a->port != b->port || strcmp(a->device, b->device) != 0)
		return false;
	if (strcmp(a->host, b->host) == 0 && strcmp(a->path, b->path) == 0)
		return true;
	m = resolve(a, AI_NUMERICHOST, of_a, 2, &err);
	n = resolve(b, AI_NUMERICHOST, of_b, 2, &err);
	for (int i = 0; i < m; i++)
		for (int k = 0; k < n; k++)
			if (address_equal(&of_a[i], &of_b[k]))
				return true;
	return false;
}

/* ---- Writing -------------------------------------------------------------------------------- */

static const struct sockaddr_in *as_in(const struct sockaddr *address)
{
	return (const struct sockaddr_in *)address;
}

static const struct sockaddr_in6 *as_in6(const struct sockaddr *address)
{
	return (const struct sockaddr_in6 *)address;
}

/* `percent` is "" or "%", in front of `device`. */
static void format_in(char *out, size_t cap, const void *in_addr, const char *percent,
		      const char *device, in_port_t port)
{
	char host[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, in_addr, host, sizeof(host));
	snprintf(out, cap, "%s%s%s:%u", host, percent, device, ntohs(port));
}

static void format_in6(char *out, size_t cap, const struct sockaddr_in6 *in6, const char *device)
{
	char host[INET6_ADDRSTRLEN], zone[IF_NAMESIZE];

	inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
	snprintf(zone, sizeof(zone), "%s", device);
	if (in6->sin6_scope_id != 0 && if_indextoname(in6->sin6_scope_id, zone) == NULL)
		snprintf(zone, sizeof(zone), "%u", in6->sin6_scope_id);
	snprintf(out, cap, "[%s%s%s]:%u", host, zone[0] != '\0' ? "%" : "", zone,
		 ntohs(in6->sin6_port));
}

static void format_local(char *out, size_t cap, const char *scheme, const struct sockaddr *address)
{
	const char *path = ((const struct sockaddr_un *)address)->sun_path;
	bool abstract = path[0] == '\0' && path[1] != '\0';

	snprintf(out, cap, "%s:%s%.*s", scheme, abstract ? "@" : "", ADDR_PATH_MAX - abstract,
		 path + abstract);
}

static void format(char *out, size_t cap, const struct sockaddr *address, const char *device)
{
	const char *percent = device[0] != '\0' ? "%" : "";

	if (address->sa_family == AF_INET)
		format_in(out, cap, &as_in(address)->sin_addr, percent, device,
			  as_in(address)->sin_port);
	else if (address->sa_family == AF_INET6 &&
		 IN6_IS_ADDR_V4MAPPED(&as_in6(address)->sin6_addr))
		format_in(out, cap, &as_in6(address)->sin6_addr.s6_addr[12], percent, device,
			  as_in6(address)->sin6_port);
	else if (address->sa_family == AF_INET6)
		format_in6(out, cap, as_in6(address), device);
	else if (address->sa_family == AF_UNIX)
		format_local(out, cap, transport_name(TRANSPORT_UNIX), address);
	else
		snprintf(out, cap, "unknown");
}

void address_format(char *out, size_t cap, const struct sockaddr *address)
{
	format(out, cap, address, "");
}

void address_format_listening(char *out, size_t cap, const struct address *address,
			      enum transport transport, const char *device)
{
	const struct sockaddr *any = (const struct sockaddr *)&address->storage;
	int scheme = 0;

	if (transport_is_local(transport)) {
		format_local(out, cap, transport_name(transport), any);
		return;
	}
	if (transport != TRANSPORT_TCP)
		scheme = snprintf(out, cap, "%s:", transport_name(transport));
	format(out + scheme, cap - (size_t)scheme, any, device);
}

/* ---- Comparing ------------------------------------------------------------------------------ */

uint16_t address_port(const struct address *address)
{
	/* sin_port and sin6_port stand at the same place. */
	return address->storage.ss_family == AF_UNIX
		       ? 0
		       : ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
}

void address_set_port(struct address *address, uint16_t port)
{
	if (address->storage.ss_family != AF_UNIX)
		((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
}

/* A NUL ends a path, and all behind it is zero: so it does for an abstract name. */
static bool equal_local(const struct address *a, const struct address *b)
{
	const struct sockaddr_un *one = (const struct sockaddr_un *)&a->storage;
	const struct sockaddr_un *other = (const struct sockaddr_un *)&b->storage;

	return memcmp(one->sun_path, other->sun_path, sizeof(one->sun_path)) == 0;
}

bool address_equal(const struct address *a, const struct address *b)
{
	const struct sockaddr *x = (const struct sockaddr *)&a->storage;
	const struct sockaddr *y = (const struct sockaddr *)&b->storage;

	if (x->sa_family != y->sa_family)
		return false;
	if (x->sa_family == AF_UNIX)
		return equal_local(a, b);
	if (x->sa_family == AF_INET)
		return as_in(x)->sin_port == as_in(y)->sin_port &&
		       as_in(x)->sin_addr.s_addr == as_in(y)->sin_addr.s_addr;
	return as_in6(x)->sin6_port == as_in6(y)->sin6_port &&
	       as_in6(x)->sin6_scope_id == as_in6(y)->sin6_scope_id &&
	       IN6_ARE_ADDR_EQUAL(&as_in6(x)->sin6_addr, &as_in6(y)->sin6_addr);
}

static bool is_any(const struct address *a)
{
	const struct sockaddr *any = (const struct sockaddr *)&a->storage;

	if (any->sa_family == AF_INET)
		return as_in(any)->sin_addr.s_addr == htonl(INADDR_ANY);
	return any->sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&as_in6(any)->sin6_addr);
}

bool address_overlaps(const struct address *a, const struct address *b)
{
	if (a->storage.ss_family != b->storage.ss_family || address_port(a) != address_port(b))
		return false;
	return address_equal(a, b) || is_any(a) || is_any(b);
}

uint16_t address_format_host(char *out, size_t cap, const struct sockaddr *address)
{
	char text[ADDR_TEXT_MAX], *host = text, *end;

	out[0] = '\0';
	if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
		return 0;
	address_format(text, sizeof(text), address);
	if (host[0] == '[')
		end = strchr(++host, ']');
	else
		end = strrchr(host, ':');
	snprintf(out, cap, "%.*s", (int)(end - host), host);
	/* sin_port and sin6_port stand at the same place. */
	return ntohs(((const struct sockaddr_in *)address)->sin_port);
}
