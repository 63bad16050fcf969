/*
 * What a server tells of its clients: greetings, and whoami's object. The first byte says of which
 * family the addresses are, the first line is the greeting, what follows a PROXY header.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/error.h"
#include "serve/proto.h"
#include "serve/proxy.h"

const char fuzz_name[] = "greeting";

#define SAID_MAX (1024 * 1024)

struct said {
	struct proto_out out; /* the first */
	char *text;
	size_t len;
};

static void keep(struct proto_out *out, const void *data, size_t len)
{
	struct said *said = (struct said *)out;

	FUZZ_CHECK(said->len + len < SAID_MAX);
	said->text = realloc(said->text, said->len + len + 1);
	FUZZ_CHECK(said->text != NULL);
	if (len > 0)
		memcpy(said->text + said->len, data, len);
	said->len += len;
	said->text[said->len] = '\0';
}

static void check_greeting(const char *greeting, const struct proto_facts *facts)
{
	struct said none = {.out.write = keep}, said = {.out.write = keep};
	struct error err = {0}, second = {0};
	int checked = greeting_write(greeting, NULL, &none.out, &err);

	FUZZ_CHECK(none.len == 0);
	FUZZ_CHECK(checked == 0 || (checked == -1 && err.text[0] != '\0'));
	FUZZ_CHECK(greeting_write(greeting, facts, &said.out, &second) == checked);
	FUZZ_CHECK(strcmp(err.text, second.text) == 0);
	/* A field takes two bytes at least, and a path, with each byte escaped, 440. */
	FUZZ_CHECK(said.len <= 256 * (strlen(greeting) + 1));
	free(none.text);
	free(said.text);
}

/* One line of JSON, in which nothing that a client or its proxy said can forge another line. */
static void check_whoami(const struct proto_facts *facts)
{
	const struct proto_settings settings = {.max_requests = PROTO_NO_LIMIT, .max_line = 64};
	struct said said = {.out.write = keep};
	json_error_t error;
	json_t *json;

	FUZZ_CHECK(proto_whoami.open(&settings, facts, &said.out) == PROTO_CLOSE);
	FUZZ_CHECK(said.len > 2 && said.text[said.len - 1] == '\n');
	for (size_t i = 0; i + 1 < said.len; i++)
		FUZZ_CHECK((unsigned char)said.text[i] >= 0x20 && said.text[i] != 0x7f);
	json = json_loadb(said.text, said.len, JSON_REJECT_DUPLICATES, &error);
	FUZZ_CHECK(json_is_object(json));
	json_decref(json);
	free(said.text);
}

static void set_addresses(struct sockaddr_storage *peer, struct sockaddr_storage *local,
			  unsigned family)
{
	static const sa_family_t families[] = {AF_INET, AF_INET6, AF_UNIX, AF_UNIX};

	peer->ss_family = local->ss_family = families[family % 4];
	if (family % 4 < 2) {
		/* Both ports stand at the same place. */
		((struct sockaddr_in *)peer)->sin_port = htons(30333);
		((struct sockaddr_in *)local)->sin_port = htons(7);
	} else {
		/* Nothing ends it; and an abstract one. */
		memset(((struct sockaddr_un *)peer)->sun_path, family % 4 == 2 ? 'x' : '\0', 108);
		memcpy(((struct sockaddr_un *)local)->sun_path, "\0abstract", 9);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	unsigned family = fuzz_byte(&input);
	char *greeting = fuzz_line(&input);
	uint8_t *bytes = fuzz_copy(input.data, input.size);
	struct sockaddr_storage peer = {0}, local = {0};
	struct proxy_header header = {0};
	const char *why;
	struct proto_facts facts = {
		.now = {.tv_sec = 1700000000 + family, .tv_nsec = 999999999},
		.service = "line",
		.worker = "line/0",
		.host = "host.example",
		.transport = family % 4 < 2 ? "tcp" : "unix",
		.peer = (const struct sockaddr *)&peer,
		.local = (const struct sockaddr *)&local,
		.ttl = (int)(family % 3) - 1,
		.traffic_class = -1,
		.has_ids = family % 4 >= 2,
	};

	set_addresses(&peer, &local, family);
	if (proxy_parse(bytes, input.size, &header, &why) == PROXY_DONE)
		facts.proxy = &header;
	if (greeting != NULL)
		check_greeting(greeting, &facts);
	check_whoami(&facts);
	free(greeting);
	free(bytes);
	return 0;
}
