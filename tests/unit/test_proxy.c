/* PROXY headers: every form, every cut, every damaged byte. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "serve/proxy.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

struct bytes {
	unsigned char data[PROXY_V2_MAX + 16];
	size_t len;
};

/* On memory that ends where the bytes end: reading behind them is seen by the sanitizer. */
static enum proxy_result parse(const void *data, size_t len, struct proxy_header *header,
			       const char **why)
{
	unsigned char *copy = malloc(len + (len == 0));
	enum proxy_result result;

	assert_non_null(copy);
	memcpy(copy, data, len);
	result = proxy_parse(copy, len, header, why);
	free(copy);
	return result;
}

/* The same again with each byte more. Returns after how many it was decided; 0: never. */
static size_t decided_after(const void *data, size_t len, enum proxy_result expected)
{
	struct proxy_header header;
	const char *why = NULL;
	size_t decided = 0;

	for (size_t n = 0; n <= len; n++) {
		enum proxy_result result = parse(data, n, &header, &why);

		if (decided == 0 && result == PROXY_MORE)
			continue;
		if (decided == 0)
			decided = n;
		assert_int_equal(result, expected);
	}
	return decided;
}

/* The header is sound, ends with its last byte, and no prefix of it is decided. */
static struct proxy_header assert_done(const void *data, size_t len)
{
	struct proxy_header header;
	unsigned char *behind = calloc(1, len + 3);
	const char *why = NULL;

	assert_non_null(behind);
	assert_int_equal(decided_after(data, len, PROXY_DONE), len);
	memcpy(behind, data, len);
	assert_int_equal(proxy_parse(behind, len + 3, &header, &why), PROXY_DONE);
	assert_int_equal(header.len, len);
	free(behind);
	/* Its texts point into what was given. */
	assert_int_equal(proxy_parse(data, len, &header, &why), PROXY_DONE);
	assert_null(why);
	return header;
}

static void assert_bad(const void *data, size_t len, const char *reason)
{
	struct proxy_header header, untouched;
	const char *why = "";

	memset(&header, 0x55, sizeof(header));
	memcpy(&untouched, &header, sizeof(header));
	assert_int_equal(parse(data, len, &header, &why), PROXY_BAD);
	assert_contains(why, reason);
	assert_memory_equal(&header, &untouched, sizeof(header));
	assert_in_range(decided_after(data, len, PROXY_BAD), 1, len);
}

static void assert_address(const struct address *address, const char *text)
{
	char formatted[ADDR_TEXT_MAX];

	address_format(formatted, sizeof(formatted), (const struct sockaddr *)&address->storage);
	assert_string_equal(formatted, text);
}

#define DONE_V1(text)	     assert_done(text, sizeof(text) - 1)
#define BAD_V1(text, reason) assert_bad(text, sizeof(text) - 1, reason)

/* ---- Version 1 ------------------------------------------------------------------------------ */

static void tcp4_tells_both_addresses(void **state)
{
	struct proxy_header header = DONE_V1("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");

	(void)state;
	assert_int_equal(header.version, 1);
	assert_false(header.local);
	assert_false(header.datagram);
	assert_int_equal(header.source.len, sizeof(struct sockaddr_in));
	assert_address(&header.source, "192.168.0.1:56324");
	assert_address(&header.destination, "192.168.0.11:443");
	header = DONE_V1("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n");
	assert_int_equal(header.len, 56);
	header = DONE_V1("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n");
	assert_address(&header.source, "0.0.0.0:0");
}

static void tcp6_tells_both_addresses(void **state)
{
	struct proxy_header header = DONE_V1("PROXY TCP6 2001:DB8::a ::1 65535 1\r\n");

	(void)state;
	assert_int_equal(header.source.len, sizeof(struct sockaddr_in6));
	assert_address(&header.source, "[2001:db8::a]:65535");
	assert_address(&header.destination, "[::1]:1");
	header = DONE_V1("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
			 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n");
	assert_int_equal(header.len, 104);
	header = DONE_V1("PROXY TCP6 ::ffff:192.0.2.1 :: 1 2\r\n");
	assert_address(&header.source, "192.0.2.1:1");
}

static void unknown_leaves_the_connections_own_addresses(void **state)
{
	struct proxy_header header = DONE_V1("PROXY UNKNOWN\r\n");
	char longest[PROXY_V1_MAX + 1];

	(void)state;
	assert_int_equal(header.version, 1);
	assert_true(header.local);
	assert_int_equal(header.source.storage.ss_family, AF_UNSPEC);
	DONE_V1("PROXY UNKNOWN \r\n");
	DONE_V1("PROXY UNKNOWN anything: \r alone, \n alone, \0 and \xff\r\r\n");
	memset(longest, 'x', sizeof(longest));
	memcpy(longest, "PROXY UNKNOWN ", 14);
	memcpy(longest + PROXY_V1_MAX - 2, "\r\n", 2);
	assert_done(longest, PROXY_V1_MAX);
	memcpy(longest + PROXY_V1_MAX - 2, "x\r\n", 3);
	assert_bad(longest, PROXY_V1_MAX + 1, "longer than 107 bytes");
}

static void version_1_is_taken_strictly(void **state)
{
	(void)state;
	BAD_V1("PROXY\tTCP4 1.2.3.4 1.2.3.4 1 1\r\n", "behind PROXY");
	BAD_V1("PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "the family is not");
	BAD_V1("PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", "the family is not");
	BAD_V1("PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n", "the family is not");
	BAD_V1("PROXY TCP44 1.2.3.4 1.2.3.4 1 1\r\n", "behind the family");
	BAD_V1("PROXY UNKNOWNS\r\n", "behind UNKNOWN");
	BAD_V1("PROXY UNKNOWN\n", "behind UNKNOWN");
	BAD_V1("PROXY UNKNOWN\rx", "no LF");
	BAD_V1("PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 1.2.3.4.5 1.2.3.4 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 ::1 1.2.3.4 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n", "the destination address");
	BAD_V1("PROXY TCP4 1.2.3.4 ::1 1 1\r\n", "the destination address");
	BAD_V1("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n", "behind the source address");
	BAD_V1("PROXY TCP6 1.2.3.4 ::1 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP6 ::1::2 ::1 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP6 1:2:3:4:5:6:7 ::1 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP6 12345:: ::1 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "behind the source address");
	BAD_V1("PROXY TCP6 [::1] ::1 1 1\r\n", "the source address");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", "the source port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 080 1\r\n", "the source port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 00 1\r\n", "the source port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n", "the source port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 a 1\r\n", "the source port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1  1\r\n", "the destination port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1 100000\r\n", "the destination port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", "the destination port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "behind the source port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "behind the destination port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "behind the destination port");
	BAD_V1("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\r\n", "no LF");
}

static void a_bad_line_is_known_before_its_end(void **state)
{
	char endless[300];

	(void)state;
	assert_int_equal(decided_after("PROXY X", 7, PROXY_BAD), 7);
	assert_int_equal(decided_after("PROXY TCP4 300.1.1.1 ", 21, PROXY_BAD), 21);
	memset(endless, '1', sizeof(endless));
	memcpy(endless, "PROXY TCP4 ", 11);
	assert_in_range(decided_after(endless, sizeof(endless), PROXY_BAD), 20, 60);
}

/* ---- No header ------------------------------------------------------------------------------ */

static void what_is_no_header_is_known_at_the_first_byte_that_differs(void **state)
{
	(void)state;
	assert_int_equal(decided_after("GET / HTTP/1.1\r\n", 16, PROXY_NONE), 1);
	assert_int_equal(decided_after("PROVE it\n", 9, PROXY_NONE), 4);
	assert_int_equal(decided_after("proxy TCP4", 10, PROXY_NONE), 1);
	assert_int_equal(decided_after("\n\r\n", 3, PROXY_NONE), 1);
	assert_int_equal(decided_after("\r\nhello\r\n", 9, PROXY_NONE), 3);
	assert_int_equal(decided_after("\r\n\r\n\0\r\nQUIT\r", 12, PROXY_NONE), 12);
	assert_int_equal(decided_after("", 0, PROXY_NONE), 0);
}

/* ---- Version 2 ------------------------------------------------------------------------------ */

static void put(struct bytes *bytes, const void *data, size_t len)
{
	assert_in_range(len, 0, sizeof(bytes->data) - bytes->len);
	memcpy(bytes->data + bytes->len, data, len);
	bytes->len += len;
	if (bytes->len >= 16) {
		bytes->data[14] = (unsigned char)((bytes->len - 16) >> 8);
		bytes->data[15] = (unsigned char)(bytes->len - 16);
	}
}

#define PUT(bytes, literal) put(bytes, literal, sizeof(literal) - 1)

static void begin(struct bytes *bytes, unsigned command, unsigned family)
{
	unsigned char rest[4] = {(unsigned char)command, (unsigned char)family, 0, 0};

	bytes->len = 0;
	put(bytes, SIGNATURE, 12);
	put(bytes, rest, 4);
}

static void begin_inet(struct bytes *bytes)
{
	begin(bytes, 0x21, 0x11);
	PUT(bytes, "\xc0\0\2\1\xc0\0\2\2\x30\x39\0\7");
}

static void put_tlv(struct bytes *bytes, unsigned type, const void *value, size_t len)
{
	unsigned char start[3] = {(unsigned char)type, (unsigned char)(len >> 8),
				  (unsigned char)len};

	put(bytes, start, 3);
	put(bytes, value, len);
}

static struct bytes the_bytes; /* too large for the stack of every function */

static void assert_text(const struct proxy_text *text, const char *expected)
{
	assert_non_null(text->data);
	assert_int_equal(text->len, strlen(expected));
	assert_memory_equal(text->data, expected, text->len);
}

static void local_leaves_the_connections_own_addresses(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;

	(void)state;
	begin(b, 0x20, 0x00);
	header = assert_done(b->data, b->len);
	assert_int_equal(header.version, 2);
	assert_true(header.local);
	/* Its family is ignored, even one that is not assigned, and its bytes are skipped. */
	begin(b, 0x20, 0xff);
	put(b, "whatever", 8);
	header = assert_done(b->data, b->len);
	assert_true(header.local);
	assert_false(header.datagram);
	begin(b, 0x20, 0x12);
	put(b, "whatever", 8);
	header = assert_done(b->data, b->len);
	assert_int_equal(header.source.storage.ss_family, AF_UNSPEC);
}

static void inet_tells_both_addresses(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;

	(void)state;
	begin_inet(b);
	header = assert_done(b->data, b->len);
	assert_false(header.local);
	assert_false(header.datagram);
	assert_address(&header.source, "192.0.2.1:12345");
	assert_address(&header.destination, "192.0.2.2:7");
	b->data[13] = 0x12;
	header = assert_done(b->data, b->len);
	assert_true(header.datagram);
	assert_address(&header.source, "192.0.2.1:12345");
}

static void inet6_tells_both_addresses(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;

	(void)state;
	begin(b, 0x21, 0x21);
	PUT(b, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\2");
	PUT(b, "\xff\xff\0\x07");
	header = assert_done(b->data, b->len);
	assert_int_equal(header.source.len, sizeof(struct sockaddr_in6));
	assert_address(&header.source, "[2001:db8::1]:65535");
	assert_address(&header.destination, "[2001:db8::2]:7");
	b->data[13] = 0x22;
	assert_true(assert_done(b->data, b->len).datagram);
}

static void assert_path(const struct address *address, const void *path, size_t len)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;

	assert_int_equal(un->sun_family, AF_UNIX);
	assert_int_equal(address->len, offsetof(struct sockaddr_un, sun_path) + len);
	assert_memory_equal(un->sun_path, path, len);
}

static void unix_tells_both_paths(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;
	unsigned char paths[2][108] = {"/run/a.sock\0behind"};

	(void)state;
	memset(paths[1], 'x', sizeof(paths[1])); /* nothing ends it */
	begin(b, 0x21, 0x31);
	put(b, paths, sizeof(paths));
	header = assert_done(b->data, b->len);
	assert_path(&header.source, "/run/a.sock", 12);
	assert_path(&header.destination, paths[1], 108);
	memset(paths, 0, sizeof(paths));
	memcpy(paths[0], "\0abstract", 9);
	begin(b, 0x21, 0x32);
	put(b, paths, sizeof(paths));
	header = assert_done(b->data, b->len);
	assert_true(header.datagram);
	assert_path(&header.source, "\0abstract", 9);
	assert_path(&header.destination, "", 0);
}

static void an_unspecified_family_or_transport_is_local(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;

	(void)state;
	for (unsigned transport = 0; transport <= 2; transport++) {
		begin(b, 0x21, transport);
		assert_true(assert_done(b->data, b->len).local);
		put(b, "\xff\xff\xff\xff", 4); /* an address of an unknown kind */
		assert_true(assert_done(b->data, b->len).local);
	}
	begin_inet(b);
	b->data[13] = 0x10;
	put_tlv(b, 0x02, "a.example", 9);
	header = assert_done(b->data, b->len);
	assert_true(header.local);
	assert_int_equal(header.source.storage.ss_family, AF_UNSPEC);
	assert_text(&header.authority, "a.example");
}

static void version_2_is_taken_strictly(void **state)
{
	static const struct {
		unsigned command, family;
		const char *why;
		size_t decided;
	} cases[] = {
		{0x11, 0x11, "version", 13},	    {0x31, 0x11, "version", 13},
		{0x00, 0x00, "version", 13},	    {0x22, 0x11, "command", 13},
		{0x2f, 0x11, "command", 13},	    {0x21, 0x41, "address family", 14},
		{0x21, 0xf1, "address family", 14}, {0x21, 0x13, "transport", 14},
		{0x21, 0x03, "transport", 14},	    {0x21, 0x2f, "transport", 14},
		{0x21, 0x21, "too short", 16},	    {0x21, 0x31, "too short", 16},
		{0x21, 0x30, "too short", 16},
	};
	struct bytes *b = &the_bytes;

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		begin_inet(b);
		b->data[12] = (unsigned char)cases[i].command;
		b->data[13] = (unsigned char)cases[i].family;
		assert_bad(b->data, b->len, cases[i].why);
		assert_int_equal(decided_after(b->data, b->len, PROXY_BAD), cases[i].decided);
	}
	begin_inet(b);
	b->data[15] = 11;
	assert_bad(b->data, b->len, "too short");
}

static void tlvs_are_told(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;

	(void)state;
	begin_inet(b);
	put_tlv(b, 0x04, "\0\0\0", 3);
	put_tlv(b, 0x01, "h2", 2);
	put_tlv(b, 0x02, "www.example", 11);
	put_tlv(b, 0xe0, "custom", 6);
	put_tlv(b, 0x05, "id-1", 4);
	put_tlv(b, 0x30, "blue", 4);
	put_tlv(b, 0x02, "second.example", 14); /* the first counts */
	put_tlv(b, 0x04, "", 0);
	header = assert_done(b->data, b->len);
	assert_text(&header.alpn, "h2");
	assert_text(&header.authority, "www.example");
	assert_text(&header.unique_id, "id-1");
	assert_text(&header.netns, "blue");
	assert_false(header.ssl);
	assert_null(header.ssl_version.data);
	assert_address(&header.source, "192.0.2.1:12345");
	begin_inet(b);
	put_tlv(b, 0x02, "", 0);
	header = assert_done(b->data, b->len);
	assert_text(&header.authority, "");
}

static void tlvs_must_fit(void **state)
{
	struct bytes *b = &the_bytes;
	unsigned char id[129] = {0};

	(void)state;
	for (size_t rest = 1; rest <= 4; rest++) {
		begin_inet(b);
		put(b, "\x04\0\2\0", rest);
		assert_bad(b->data, b->len, "longer than what holds it");
	}
	begin_inet(b);
	put_tlv(b, 0x05, id, 128);
	assert_done(b->data, b->len);
	begin_inet(b);
	put_tlv(b, 0x05, id, 129);
	assert_bad(b->data, b->len, "unique ID");
}

#define SSL_VALUE                                                                                  \
	"\x05\0\0\0\1"                                                                             \
	"\x21\0\7TLSv1.3"                                                                          \
	"\x22\0\5alice"                                                                            \
	"\x23\0\6CIPHER"                                                                           \
	"\x24\0\6SHA256"                                                                           \
	"\x25\0\7RSA2048"                                                                          \
	"\x2f\0\1?"                                                                                \
	"\x22\0\3bob"

static void tls_facts_are_told(void **state)
{
	struct proxy_header header;
	struct bytes *b = &the_bytes;

	(void)state;
	begin_inet(b);
	put_tlv(b, 0x20, SSL_VALUE, sizeof(SSL_VALUE) - 1);
	put_tlv(b, 0x20, "\7\0\0\0\0\x21\0\1x", 9); /* the first counts */
	header = assert_done(b->data, b->len);
	assert_true(header.ssl);
	assert_int_equal(header.ssl_client, 5);
	assert_int_equal(header.ssl_verify, 1);
	assert_text(&header.ssl_version, "TLSv1.3");
	assert_text(&header.ssl_cn, "alice");
	assert_text(&header.ssl_cipher, "CIPHER");
	assert_text(&header.ssl_sig_alg, "SHA256");
	assert_text(&header.ssl_key_alg, "RSA2048");
}

static void tls_facts_must_fit(void **state)
{
	struct bytes *b = &the_bytes;

	(void)state;
	begin_inet(b);
	put_tlv(b, 0x20, "\1\0\0\0", 4);
	assert_bad(b->data, b->len, "TLS TLV is too short");
	begin_inet(b);
	put_tlv(b, 0x20, "\1\0\0\0\0", 5);
	assert_done(b->data, b->len);
	begin_inet(b);
	put_tlv(b, 0x20, "\1\0\0\0\0\x21\0\2x", 9);
	put_tlv(b, 0x04, "x", 1); /* it must not be read into */
	assert_bad(b->data, b->len, "longer than what holds it");
	begin_inet(b);
	put_tlv(b, 0x20, "\1\0\0\0\0", 5);
	put_tlv(b, 0x20, "\1\0\0\0\0\x21\0", 7); /* the second must be sound, too */
	assert_bad(b->data, b->len, "longer than what holds it");
}

/* Bit by bit, as RFC 4960 defines it: not the way of the code under test. */
static void seal(struct bytes *bytes, size_t field)
{
	uint32_t crc = UINT32_MAX;

	memset(bytes->data + field, 0, 4);
	for (size_t i = 0; i < bytes->len * 8; i++) {
		uint32_t bit = (bytes->data[i / 8] >> (i % 8)) & 1;

		crc = (crc >> 1) ^ (((crc ^ bit) & 1) != 0 ? 0x82f63b78 : 0);
	}
	for (size_t i = 0; i < 4; i++)
		bytes->data[field + i] = (unsigned char)(~crc >> (24 - 8 * i));
}

static void a_checksum_must_be_right(void **state)
{
	struct bytes *b = &the_bytes;
	size_t field;

	(void)state;
	begin_inet(b);
	put_tlv(b, 0x02, "a", 1);
	field = b->len + 3;
	put_tlv(b, 0x03, "\0\0\0\0", 4);
	put_tlv(b, 0x04, "padding", 7);
	seal(b, field);
	assert_done(b->data, b->len);
	for (size_t bit = 16 * 8; bit < b->len * 8; bit++) {
		struct proxy_header header;
		const char *why;

		b->data[bit / 8] ^= (unsigned char)(1 << bit % 8);
		/* A checksum whose own type is damaged is none. */
		if (bit / 8 < field - 3 || bit / 8 >= field)
			assert_int_equal(parse(b->data, b->len, &header, &why), PROXY_BAD);
		b->data[bit / 8] ^= (unsigned char)(1 << bit % 8);
	}
	put_tlv(b, 0x03, "\0\0\0\0", 4);
	assert_bad(b->data, b->len, "two checksums");
	begin_inet(b);
	put_tlv(b, 0x03, "\0\0\0", 3);
	assert_bad(b->data, b->len, "not 4 bytes");
	begin(b, 0x20, 0);
	put_tlv(b, 0x03, "\0\0\0\0", 4);
	assert_bad(b->data, b->len, "the checksum is wrong");
	seal(b, 19);
	assert_done(b->data, b->len);
}

/* As HAProxy 2.6.12 wrote it for "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl". */
static void a_header_of_haproxy_is_taken(void **state)
{
	static const char bytes[] = SIGNATURE "\x21\x11\0\x2b\x7f\0\0\1\x7f\0\0\1\x89\x88\xbb\x31"
					      "\x03\0\x04\x80\x86\0\xa1\x05\0\x0d"
					      "7F000001:8988\x20\0\5\0\0\0\0\0";
	struct proxy_header header = assert_done(bytes, sizeof(bytes) - 1);

	(void)state;
	assert_address(&header.source, "127.0.0.1:35208");
	assert_address(&header.destination, "127.0.0.1:47921");
	assert_text(&header.unique_id, "7F000001:8988");
	assert_true(header.ssl);
	assert_int_equal(header.ssl_client, 0);
}

static void the_longest_header_is_taken(void **state)
{
	static unsigned char padding[PROXY_V2_MAX - 16 - 12 - 7 - 3];
	struct bytes *b = &the_bytes;
	struct proxy_header header;
	const char *why;

	(void)state;
	begin_inet(b);
	put_tlv(b, 0x04, padding, sizeof(padding));
	put_tlv(b, 0x03, "\0\0\0\0", 4);
	assert_int_equal(b->len, PROXY_V2_MAX);
	seal(b, b->len - 4);
	assert_int_equal(parse(b->data, b->len - 1, &header, &why), PROXY_MORE);
	assert_int_equal(parse(b->data, b->len, &header, &why), PROXY_DONE);
	assert_int_equal(header.len, PROXY_V2_MAX);
	b->data[1000] ^= 1;
	assert_int_equal(parse(b->data, b->len, &header, &why), PROXY_BAD);
}

/* ---- Damage --------------------------------------------------------------------------------- */

/* Nothing is asserted of the result but that it is one, and does not depend on cuts. */
static void damage_each_byte(unsigned char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char was = data[i];

		for (unsigned value = 0; value < 256; value++) {
			struct proxy_header header;
			enum proxy_result result;
			const char *why = NULL;

			data[i] = (unsigned char)value;
			result = parse(data, len, &header, &why);
			assert_in_range(result, PROXY_MORE, PROXY_BAD);
			assert_int_equal(why != NULL, result == PROXY_BAD);
			if (result == PROXY_DONE)
				assert_in_range(header.len, 1, len);
			if (value % 16 == 0)
				decided_after(data, len, result);
		}
		data[i] = was;
	}
}

static void no_damaged_byte_does_harm(void **state)
{
	static const char *const lines[] = {
		"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nbehind",
		"PROXY TCP6 2001:db8::1 ::ffff:1.2.3.4 1 65535\r\nbehind",
		"PROXY UNKNOWN so what\r\nbehind",
	};
	struct bytes *b = &the_bytes;

	(void)state;
	for (size_t i = 0; i < COUNT_OF(lines); i++) {
		b->len = strlen(lines[i]);
		memcpy(b->data, lines[i], b->len);
		damage_each_byte(b->data, b->len);
	}
	begin_inet(b);
	put_tlv(b, 0x20, SSL_VALUE, sizeof(SSL_VALUE) - 1);
	put_tlv(b, 0x03, "\0\0\0\0", 4);
	put_tlv(b, 0x05, "id", 2);
	seal(b, b->len - 9);
	damage_each_byte(b->data, b->len);
	begin(b, 0x20, 0x00);
	put_tlv(b, 0x01, "h2", 2);
	damage_each_byte(b->data, b->len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tcp4_tells_both_addresses),
		cmocka_unit_test(tcp6_tells_both_addresses),
		cmocka_unit_test(unknown_leaves_the_connections_own_addresses),
		cmocka_unit_test(version_1_is_taken_strictly),
		cmocka_unit_test(a_bad_line_is_known_before_its_end),
		cmocka_unit_test(what_is_no_header_is_known_at_the_first_byte_that_differs),
		cmocka_unit_test(local_leaves_the_connections_own_addresses),
		cmocka_unit_test(inet_tells_both_addresses),
		cmocka_unit_test(inet6_tells_both_addresses),
		cmocka_unit_test(unix_tells_both_paths),
		cmocka_unit_test(an_unspecified_family_or_transport_is_local),
		cmocka_unit_test(version_2_is_taken_strictly),
		cmocka_unit_test(tlvs_are_told),
		cmocka_unit_test(tlvs_must_fit),
		cmocka_unit_test(tls_facts_are_told),
		cmocka_unit_test(tls_facts_must_fit),
		cmocka_unit_test(a_checksum_must_be_right),
		cmocka_unit_test(a_header_of_haproxy_is_taken),
		cmocka_unit_test(the_longest_header_is_taken),
		cmocka_unit_test(no_damaged_byte_does_harm),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
