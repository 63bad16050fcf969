/* Endpoints: an address that is understood is understood again when it is written out. */
#include "fuzz.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"

const char fuzz_name[] = "address";

#define FOUND_MAX 4

static void write_out(char *out, size_t cap, const struct endpoint *endpoint)
{
	bool brackets = strchr(endpoint->host, ':') != NULL || endpoint->host[0] == '[' ||
			strchr(endpoint->device, ':') != NULL;

	if (transport_is_local(endpoint->transport))
		snprintf(out, cap, "%s:%s", transport_name(endpoint->transport), endpoint->path);
	else
		snprintf(out, cap, "%s:%s%s%s%s%s:%u", transport_name(endpoint->transport),
			 brackets ? "[" : "", endpoint->host,
			 endpoint->device[0] != '\0' ? "%" : "", endpoint->device,
			 brackets ? "]" : "", endpoint->port);
}

static void check_again(const struct endpoint *endpoint)
{
	struct endpoint again;
	struct error err = {0};
	char text[ADDR_HOST_MAX + ADDR_PATH_MAX + 64];

	write_out(text, sizeof(text), endpoint);
	FUZZ_CHECK(endpoint_parse(text, &again, &err) == 0);
	FUZZ_CHECK(endpoint_clashes(endpoint, &again) && endpoint_clashes(&again, endpoint));
	FUZZ_CHECK(endpoint->transport == again.transport);
	FUZZ_CHECK(strcmp(endpoint->path, again.path) == 0);
}

static int resolve(const struct endpoint *endpoint, struct address *found)
{
	struct error err = {0};
	int n = endpoint_resolve(endpoint, found, FOUND_MAX, &err);

	FUZZ_CHECK(n <= FOUND_MAX && n != 0 && (n > 0 || err.text[0] != '\0'));
	return n;
}

/* Written as IPv4, so that it is another address when it is read again. */
static bool is_mapped(const struct address *address)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;

	return in6->sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
}

/* What is said of a listening socket may be written into a configuration. */
static void check_listening(const struct endpoint *endpoint, const struct address *address)
{
	struct endpoint again;
	struct address found[FOUND_MAX];
	struct error err = {0};
	char text[ADDR_TEXT_MAX * 2];

	address_format_listening(text, sizeof(text), address, endpoint->transport,
				 endpoint->device);
	FUZZ_CHECK(strlen(text) > 0 && strlen(text) < ADDR_TEXT_MAX);
	/* Names are escaped for the log, so that they may be others then. */
	if (is_mapped(address) ||
	    endpoint->path[strspn(endpoint->path, "/@.-_abcdefghijklmnopqrstuvwxyz")] != '\0' ||
	    endpoint->device[strspn(endpoint->device, "abcdefghijklmnopqrstuvwxyz")] != '\0')
		return;
	FUZZ_CHECK(endpoint_parse(text, &again, &err) == 0);
	FUZZ_CHECK(again.transport == endpoint->transport);
	FUZZ_CHECK(strcmp(again.device, endpoint->device) == 0);
	FUZZ_CHECK(resolve(&again, found) >= 1 && address_equal(&found[0], address));
}

/* Names would ask the resolver. */
static bool is_known(const struct endpoint *endpoint)
{
	unsigned char bytes[16];

	return transport_is_local(endpoint->transport) || strcmp(endpoint->host, "*") == 0 ||
	       inet_pton(AF_INET, endpoint->host, bytes) == 1 ||
	       inet_pton(AF_INET6, endpoint->host, bytes) == 1;
}

static void check_addresses(const struct endpoint *endpoint)
{
	struct address found[FOUND_MAX];
	int n = is_known(endpoint) ? resolve(endpoint, found) : 0;

	for (int i = 0; i < n; i++) {
		char text[ADDR_TEXT_MAX * 2];

		address_format(text, sizeof(text), (const struct sockaddr *)&found[i].storage);
		FUZZ_CHECK(strlen(text) > 0 && strlen(text) < ADDR_TEXT_MAX);
		FUZZ_CHECK(address_port(&found[i]) == endpoint->port);
		for (int j = 0; j < n; j++)
			FUZZ_CHECK(address_equal(&found[i], &found[j]) == (i == j));
		FUZZ_CHECK(address_overlaps(&found[i], &found[i]));
		check_listening(endpoint, &found[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	char *line;

	while ((line = fuzz_line(&input)) != NULL) {
		struct endpoint endpoint = {0};
		struct error err = {0};

		if (endpoint_parse(line, &endpoint, &err) == 0) {
			check_again(&endpoint);
			check_addresses(&endpoint);
		} else {
			FUZZ_CHECK(err.text[0] != '\0');
		}
		free(line);
	}
	return 0;
}
