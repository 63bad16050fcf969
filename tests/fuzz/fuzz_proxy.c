/*
 * PROXY headers: what is decided for a beginning stays so, whatever follows, and nothing is read
 * behind what has come.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "serve/proxy.h"

const char fuzz_name[] = "proxy";

/* Each prefix up to here is tried, and then some: enough for two Unix paths and their TLVs. */
#define EACH_BYTE_MAX 320

static bool is_inside(const struct proxy_text *text, const uint8_t *data, size_t len)
{
	return text->data == NULL ? text->len == 0
				  : text->data >= data && text->len <= len &&
					    text->data + text->len <= data + len;
}

static void check_texts(const struct proxy_header *header, const uint8_t *data)
{
	const struct proxy_text *texts[] = {
		&header->alpn,	     &header->authority,   &header->unique_id,
		&header->netns,	     &header->ssl_cn,	   &header->ssl_version,
		&header->ssl_cipher, &header->ssl_key_alg, &header->ssl_sig_alg,
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		FUZZ_CHECK(is_inside(texts[i], data, header->len));
		FUZZ_CHECK(texts[i]->data == NULL || header->version == 2);
	}
	FUZZ_CHECK(header->unique_id.len <= 128);
}

static void check_address(const struct address *address, const struct proxy_header *header)
{
	char text[ADDR_TEXT_MAX * 4];
	sa_family_t family = address->storage.ss_family;

	FUZZ_CHECK((family == AF_UNSPEC) == header->local);
	FUZZ_CHECK(family == AF_UNSPEC || family == AF_INET || family == AF_INET6 ||
		   (family == AF_UNIX && header->version == 2));
	FUZZ_CHECK(address->len <= sizeof(address->storage));
	FUZZ_CHECK(header->local ? address->len == 0 : address->len >= sizeof(sa_family_t));
	if (family == AF_INET || family == AF_INET6) {
		address_format(text, sizeof(text), (const struct sockaddr *)&address->storage);
		FUZZ_CHECK(strlen(text) < ADDR_TEXT_MAX);
	}
}

static void check_header(const struct proxy_header *header, const uint8_t *data, size_t size)
{
	FUZZ_CHECK(header->version == 1 || header->version == 2);
	FUZZ_CHECK(header->len >= 15 && header->len <= size);
	FUZZ_CHECK(header->version == 2 || header->len <= PROXY_V1_MAX);
	check_texts(header, data);
	check_address(&header->source, header);
	check_address(&header->destination, header);
	FUZZ_CHECK(header->source.storage.ss_family == header->destination.storage.ss_family);
}

/* On memory that ends where the bytes end. */
static enum proxy_result parse(const uint8_t *data, size_t size, size_t *len, const char **why)
{
	uint8_t *copy = fuzz_copy(data, size);
	struct proxy_header header = {0};
	enum proxy_result result = proxy_parse(copy, size, &header, why);

	FUZZ_CHECK(result >= PROXY_MORE && result <= PROXY_BAD);
	if (result == PROXY_DONE)
		check_header(&header, copy, size);
	*len = header.len;
	free(copy);
	return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *whole_why = NULL;
	size_t whole_len, len;
	enum proxy_result whole = parse(data, size, &whole_len, &whole_why);
	bool decided = false;

	FUZZ_CHECK((whole == PROXY_BAD) == (whole_why != NULL && whole_why[0] != '\0'));
	for (size_t n = 0; n <= size; n += n < EACH_BYTE_MAX ? 1 : 1 + n / 7) {
		const char *why = NULL;
		enum proxy_result result = parse(data, n, &len, &why);

		if (result == PROXY_MORE) {
			FUZZ_CHECK(!decided);
			continue;
		}
		decided = true;
		FUZZ_CHECK(result == whole && why == whole_why && len == whole_len);
	}
	return 0;
}
