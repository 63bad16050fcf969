/*
 * Networks and access rules. Lines "? ADDRESS" and "? uid gid group" ask about clients; all others
 * are rules.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/access.h"

const char fuzz_name[] = "access";

#define RULES_MAX 64

/* What is understood is understood again, as the same, when it is written out. */
static void check_network(const char *text)
{
	struct network network = {0}, again = {0};
	struct error err = {0};
	char address[INET6_ADDRSTRLEN], written[NETWORK_TEXT_MAX];

	if (network_parse(text, &network, &err) < 0) {
		FUZZ_CHECK(err.text[0] != '\0');
		return;
	}
	FUZZ_CHECK(network.family == AF_INET || network.family == AF_INET6);
	FUZZ_CHECK(network.prefix <= (network.family == AF_INET ? 32 : 128));
	inet_ntop(network.family, network.address, address, sizeof(address));
	snprintf(written, sizeof(written), "%s/%u", address, network.prefix);
	FUZZ_CHECK(network_parse(written, &again, &err) == 0);
	FUZZ_CHECK(network.family == again.family && network.prefix == again.prefix);
	FUZZ_CHECK(memcmp(network.address, again.address, sizeof(again.address)) == 0);
}

/* Asked alone, a rule says whether it matches: its verdict, or the opposite. */
static bool matches(const struct access_rule *rule, const struct access_client *client)
{
	struct access_list alone = {(struct access_rule *)rule, 1};
	const struct access_rule *found;
	bool allowed = access_allows(&alone, client, &found);

	FUZZ_CHECK(found == NULL || found == rule);
	FUZZ_CHECK(allowed == (found == NULL ? !rule->allow : rule->allow));
	return found != NULL;
}

/* The first that matches decides; without one, the opposite of the last. */
static void check_list(const struct access_list *list, const struct access_client *client)
{
	const struct access_rule *rule, *first = NULL;
	bool allowed = access_allows(list, client, &rule), expected = list->count == 0;

	for (size_t i = 0; i < list->count && first == NULL; i++)
		if (matches(&list->rules[i], client))
			first = &list->rules[i];
	FUZZ_CHECK(rule == first);
	if (first != NULL)
		expected = first->allow;
	else if (list->count > 0)
		expected = !list->rules[list->count - 1].allow;
	FUZZ_CHECK(allowed == expected);
	FUZZ_CHECK(access_allows(list, client, NULL) == allowed);
}

static void ask_unix(const struct access_list *list, const char *text)
{
	/* As small as the caller's: nobody may read behind the family. */
	struct sockaddr *address = fuzz_alloc(sizeof(struct sockaddr));
	struct access_client client = {.address = address};
	unsigned uid = 0, gid = 0, group = 0;
	gid_t groups[1];

	client.has_ids = sscanf(text, "%u %u %u", &uid, &gid, &group) >= 2;
	client.uid = uid;
	client.gid = gid;
	groups[0] = group;
	client.groups = groups;
	client.group_count = group != 0;
	address->sa_family = AF_UNIX;
	check_list(list, &client);
	free(address);
}

static void ask(const struct access_list *list, const char *text)
{
	struct sockaddr_in *in = fuzz_alloc(sizeof(*in));
	struct sockaddr_in6 *in6 = fuzz_alloc(sizeof(*in6));
	struct access_client client = {0};

	in->sin_family = AF_INET;
	in6->sin6_family = AF_INET6;
	if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
		client.address = (const struct sockaddr *)in;
	else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
		client.address = (const struct sockaddr *)in6;
	if (client.address != NULL)
		check_list(list, &client);
	else
		ask_unix(list, text);
	free(in);
	free(in6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct access_list list = {0};
	char *line;

	while (list.count < RULES_MAX && (line = fuzz_line(&input)) != NULL) {
		struct error err = {0};
		size_t before = list.count;

		check_network(line);
		if (strncmp(line, "? ", 2) == 0)
			ask(&list, line + 2);
		else if (access_add(&list, line, "corpus:1", &err) == 0)
			FUZZ_CHECK(list.count == before + 1 && list.rules[before].text != NULL);
		else
			FUZZ_CHECK(err.text[0] != '\0' && list.count <= before + 1);
		free(line);
	}
	ask(&list, "192.0.2.1");
	ask(&list, "::ffff:192.0.2.1");
	ask(&list, "2001:db8::1");
	ask(&list, "0 0 0");
	access_clear(&list);
	FUZZ_CHECK(list.count == 0);
	return 0;
}
