#include "serve/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#define V1_WORD_MAX INET6_ADDRSTRLEN /* an IPv6 address whose end is written as IPv4, and more */

#define V2_FIXED	 16 /* bytes before the addresses */
#define V2_COMMAND_LOCAL 0
#define V2_COMMAND_PROXY 1
#define V2_UNIX_PATH	 108 /* bytes */
#define V2_UNIQUE_ID_MAX 128

/* Section 2.2. */
enum { FAMILY_UNSPEC, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, FAMILIES };
enum { PP2_UNSPEC, PP2_STREAM, PP2_DGRAM, PP2_TRANSPORTS };
enum {
	TLV_ALPN = 0x01,
	TLV_AUTHORITY = 0x02,
	TLV_CRC32C = 0x03,
	TLV_UNIQUE_ID = 0x05,
	TLV_SSL = 0x20,
	TLV_SSL_VERSION = 0x21,
	TLV_SSL_CN = 0x22,
	TLV_SSL_CIPHER = 0x23,
	TLV_SSL_SIG_ALG = 0x24,
	TLV_SSL_KEY_ALG = 0x25,
	TLV_NETNS = 0x30,
};

/* The specification names these five bytes, not the space behind them, as what tells version 1. */
static const unsigned char v1_signature[] = {'P', 'R', 'O', 'X', 'Y'};
static const unsigned char v2_signature[] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
					     0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

static enum proxy_result bad(const char **why, const char *text)
{
	*why = text;
	return PROXY_BAD;
}

/* ---- Addresses ------------------------------------------------------------------------------ */

static void set_inet(struct address *address, const void *host)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&address->storage;

	in->sin_family = AF_INET;
	memcpy(&in->sin_addr, host, sizeof(in->sin_addr));
	address->len = sizeof(*in);
}

static void set_inet6(struct address *address, const void *host)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;

	in6->sin6_family = AF_INET6;
	memcpy(&in6->sin6_addr, host, sizeof(in6->sin6_addr));
	address->len = sizeof(*in6);
}

static void set_port(struct address *address, uint16_t port)
{
	/* The port stands at the same place in both families. */
	((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
}

/*
 * A path may fill all of its 108 bytes and then has no NUL. The length of an abstract name is not
 * told: the NULs behind it are taken for padding. All NULs: the socket had no name.
 */
static void set_unix(struct address *address, const unsigned char *path)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
	size_t len = V2_UNIX_PATH;

	_Static_assert(sizeof(un->sun_path) == V2_UNIX_PATH, "unix(7)");
	un->sun_family = AF_UNIX;
	if (path[0] != '\0')
		len = strnlen((const char *)path, len);
	else
		while (len > 0 && path[len - 1] == '\0')
			len--;
	memcpy(un->sun_path, path, len);
	if (path[0] != '\0' && len < V2_UNIX_PATH)
		len++; /* unix(7): the NUL behind a path is counted */
	address->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

/* ---- Version 1 ------------------------------------------------------------------------------ */

/*
 * Read from left to right, and decided at the first byte that decides: so no cut and no byte behind
 * it makes a difference. PROXY_DONE of a part means: go on.
 */
struct v1 {
	const unsigned char *data;
	size_t len; /* at most PROXY_V1_MAX */
	size_t at;
	const char **why;
};

static enum proxy_result v1_at_end(struct v1 *v1)
{
	if (v1->len < PROXY_V1_MAX)
		return PROXY_MORE;
	return bad(v1->why, "the line is longer than 107 bytes");
}

static enum proxy_result v1_byte(struct v1 *v1, unsigned char byte, const char *wrong)
{
	if (v1->at == v1->len)
		return v1_at_end(v1);
	if (v1->data[v1->at] != byte)
		return bad(v1->why, wrong);
	v1->at++;
	return PROXY_DONE;
}

static bool is_word_byte(unsigned char byte)
{
	return (byte >= '0' && byte <= ':') || (byte >= 'a' && byte <= 'f') ||
	       (byte >= 'A' && byte <= 'F') || byte == '.';
}

/* What addresses and ports are made of, up to the first other byte. */
static enum proxy_result v1_word(struct v1 *v1, char *word, const char *wrong)
{
	size_t n = 0;

	while (v1->at < v1->len && is_word_byte(v1->data[v1->at])) {
		if (n == V1_WORD_MAX)
			return bad(v1->why, wrong);
		word[n++] = (char)v1->data[v1->at++];
	}
	word[n] = '\0';
	return v1->at == v1->len ? v1_at_end(v1) : PROXY_DONE;
}

/* inet_pton(3) takes exactly four octets, without leading zeros, as section 2.1 wants them. */
static bool v1_set_host(struct address *address, int family, const char *word)
{
	unsigned char host[16];

	if (inet_pton(family, word, host) != 1)
		return false;
	if (family == AF_INET)
		set_inet(address, host);
	else
		set_inet6(address, host);
	return true;
}

static bool v1_set_port(struct address *address, const char *word)
{
	size_t len = strlen(word);
	unsigned port = 0;

	if (len == 0 || len > 5 || (word[0] == '0' && len > 1))
		return false;
	for (; *word != '\0'; word++) {
		if (*word < '0' || *word > '9')
			return false;
		port = port * 10 + (unsigned)(*word - '0');
	}
	if (port > UINT16_MAX)
		return false;
	set_port(address, (uint16_t)port);
	return true;
}

/* In their order in the line, with what must stand behind each. */
static const struct {
	bool port;
	bool destination;
	const char *wrong;
	unsigned char next;
	const char *not_next;
} v1_fields[] = {
	{false, false, "the source address is malformed or of another family", ' ',
	 "one space must stand behind the source address"},
	{false, true, "the destination address is malformed or of another family", ' ',
	 "one space must stand behind the destination address"},
	{true, false, "the source port is not a number from 0 to 65535 without leading zeros", ' ',
	 "one space must stand behind the source port"},
	{true, true, "the destination port is not a number from 0 to 65535 without leading zeros",
	 '\r', "CR LF must stand behind the destination port"},
};

static enum proxy_result v1_tcp(struct v1 *v1, int family, struct proxy_header *header)
{
	enum proxy_result result = v1_byte(v1, ' ', "one space must stand behind the family");

	for (size_t i = 0; i < sizeof(v1_fields) / sizeof(v1_fields[0]); i++) {
		struct address *address =
			v1_fields[i].destination ? &header->destination : &header->source;
		char word[V1_WORD_MAX + 1];

		if (result == PROXY_DONE)
			result = v1_word(v1, word, v1_fields[i].wrong);
		if (result != PROXY_DONE)
			return result;
		if (v1_fields[i].port ? !v1_set_port(address, word)
				      : !v1_set_host(address, family, word))
			return bad(v1->why, v1_fields[i].wrong);
		result = v1_byte(v1, v1_fields[i].next, v1_fields[i].not_next);
	}
	return result != PROXY_DONE ? result : v1_byte(v1, '\n', "no LF stands behind the CR");
}

/* The receiver must ignore anything before the CR LF: a CR or LF that stands alone, too. */
static enum proxy_result v1_unknown(struct v1 *v1)
{
	if (v1->at == v1->len)
		return v1_at_end(v1);
	if (v1->data[v1->at] == ' ') {
		while (++v1->at < v1->len)
			if (v1->data[v1->at] == '\n' && v1->data[v1->at - 1] == '\r') {
				v1->at++;
				return PROXY_DONE;
			}
		return v1_at_end(v1);
	}
	if (v1_byte(v1, '\r', "a space or CR LF must stand behind UNKNOWN") != PROXY_DONE)
		return PROXY_BAD;
	return v1_byte(v1, '\n', "no LF stands behind the CR");
}

/* AF_UNSPEC is UNKNOWN. */
static enum proxy_result v1_family(struct v1 *v1, int *family)
{
	static const struct {
		const char *word;
		int family;
	} families[] = {{"TCP4", AF_INET}, {"TCP6", AF_INET6}, {"UNKNOWN", AF_UNSPEC}};
	size_t left = v1->len - v1->at;

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		size_t len = strlen(families[i].word);

		if (memcmp(v1->data + v1->at, families[i].word, left < len ? left : len) != 0)
			continue;
		if (left < len)
			return PROXY_MORE;
		v1->at += len;
		*family = families[i].family;
		return PROXY_DONE;
	}
	return bad(v1->why, "the family is not TCP4, TCP6 or UNKNOWN");
}

static enum proxy_result v1_parse(const unsigned char *data, size_t len,
				  struct proxy_header *header, const char **why)
{
	struct v1 v1 = {data, len < PROXY_V1_MAX ? len : PROXY_V1_MAX, sizeof(v1_signature), why};
	enum proxy_result result = v1_byte(&v1, ' ', "one space must stand behind PROXY");
	int family = AF_UNSPEC;

	if (result == PROXY_DONE)
		result = v1_family(&v1, &family);
	if (result == PROXY_DONE)
		result = family == AF_UNSPEC ? v1_unknown(&v1) : v1_tcp(&v1, family, header);
	header->version = 1;
	header->local = family == AF_UNSPEC;
	header->len = v1.at;
	return result;
}

/* ---- Version 2: the checksum ---------------------------------------------------------------- */

/* CRC32C (RFC 4960, appendix B): the reflected polynomial 0x82f63b78, four bits at a time. */
static uint32_t crc32c_byte(uint32_t crc, unsigned char byte)
{
	static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
					   0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
					   0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
					   0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};

	crc ^= byte;
	crc = (crc >> 4) ^ table[crc & 15];
	return (crc >> 4) ^ table[crc & 15];
}

/* The four bytes at `field`, which hold it, count as zeroes. */
static uint32_t crc32c_without(const unsigned char *data, size_t len, const unsigned char *field)
{
	uint32_t crc = UINT32_MAX;

	for (const unsigned char *p = data; p < data + len; p++)
		crc = crc32c_byte(crc, p >= field && p < field + 4 ? 0 : *p);
	return ~crc;
}

/* ---- Version 2: TLVs ------------------------------------------------------------------------ */

static size_t get_u16(const unsigned char *p)
{
	return (size_t)p[0] << 8 | p[1];
}

static uint32_t get_u32(const unsigned char *p)
{
	return (uint32_t)get_u16(p) << 16 | (uint32_t)get_u16(p + 2);
}

struct tlvs {
	struct proxy_header *header;
	const unsigned char *crc; /* the checksum's field; NULL: none was there */
	const char *why;
};

/* Of several with the same type the first counts. */
static void keep_first(struct proxy_text *text, const unsigned char *value, size_t len)
{
	if (text->data == NULL)
		*text = (struct proxy_text){value, len};
}

typedef bool tlv_reader(struct tlvs *tlvs, unsigned type, const unsigned char *value, size_t len);

/* Returns false with the reason. */
static bool read_tlvs(struct tlvs *tlvs, const unsigned char *data, size_t len, tlv_reader *reader)
{
	while (len > 0) {
		size_t value;

		if (len < 3 || (value = get_u16(data + 1)) > len - 3) {
			tlvs->why = "a TLV is longer than what holds it";
			return false;
		}
		if (!reader(tlvs, data[0], data + 3, value))
			return false;
		data += 3 + value;
		len -= 3 + value;
	}
	return true;
}

static bool read_ssl_tlv(struct tlvs *tlvs, unsigned type, const unsigned char *value, size_t len)
{
	struct proxy_header *header = tlvs->header;

	switch (type) {
	case TLV_SSL_VERSION:
		keep_first(&header->ssl_version, value, len);
		break;
	case TLV_SSL_CN:
		keep_first(&header->ssl_cn, value, len);
		break;
	case TLV_SSL_CIPHER:
		keep_first(&header->ssl_cipher, value, len);
		break;
	case TLV_SSL_SIG_ALG:
		keep_first(&header->ssl_sig_alg, value, len);
		break;
	case TLV_SSL_KEY_ALG:
		keep_first(&header->ssl_key_alg, value, len);
		break;
	default:
		break;
	}
	return true;
}

static bool skip_tlv(struct tlvs *tlvs, unsigned type, const unsigned char *value, size_t len)
{
	(void)tlvs;
	(void)type;
	(void)value;
	(void)len;
	return true;
}

static bool read_ssl(struct tlvs *tlvs, const unsigned char *value, size_t len)
{
	struct proxy_header *header = tlvs->header;
	bool first = !header->ssl;

	if (len < 5) {
		tlvs->why = "the TLS TLV is too short";
		return false;
	}
	if (first) {
		header->ssl = true;
		header->ssl_client = value[0];
		header->ssl_verify = get_u32(value + 1);
	}
	return read_tlvs(tlvs, value + 5, len - 5, first ? read_ssl_tlv : skip_tlv);
}

static bool read_crc(struct tlvs *tlvs, const unsigned char *value, size_t len)
{
	if (len != 4)
		tlvs->why = "the checksum is not 4 bytes long";
	else if (tlvs->crc != NULL)
		tlvs->why = "there are two checksums";
	else
		tlvs->crc = value;
	return tlvs->why == NULL;
}

/* What is not known here is skipped, and so is PP2_TYPE_NOOP. */
static bool read_tlv(struct tlvs *tlvs, unsigned type, const unsigned char *value, size_t len)
{
	struct proxy_header *header = tlvs->header;

	switch (type) {
	case TLV_ALPN:
		keep_first(&header->alpn, value, len);
		break;
	case TLV_AUTHORITY:
		keep_first(&header->authority, value, len);
		break;
	case TLV_CRC32C:
		return read_crc(tlvs, value, len);
	case TLV_UNIQUE_ID:
		if (len > V2_UNIQUE_ID_MAX) {
			tlvs->why = "the unique ID is longer than 128 bytes";
			return false;
		}
		keep_first(&header->unique_id, value, len);
		break;
	case TLV_SSL:
		return read_ssl(tlvs, value, len);
	case TLV_NETNS:
		keep_first(&header->netns, value, len);
		break;
	default:
		break;
	}
	return true;
}

/* ---- Version 2 ------------------------------------------------------------------------------ */

static const size_t v2_addresses_len[FAMILIES] = {
	[FAMILY_UNSPEC] = 0,
	[FAMILY_INET] = 2 * 4 + 2 * 2,
	[FAMILY_INET6] = 2 * 16 + 2 * 2,
	[FAMILY_UNIX] = 2 * V2_UNIX_PATH,
};

static void v2_set_addresses(struct proxy_header *header, unsigned family, const unsigned char *p)
{
	switch (family) {
	case FAMILY_INET:
		set_inet(&header->source, p);
		set_inet(&header->destination, p + 4);
		set_port(&header->source, (uint16_t)get_u16(p + 8));
		set_port(&header->destination, (uint16_t)get_u16(p + 10));
		break;
	case FAMILY_INET6:
		set_inet6(&header->source, p);
		set_inet6(&header->destination, p + 16);
		set_port(&header->source, (uint16_t)get_u16(p + 32));
		set_port(&header->destination, (uint16_t)get_u16(p + 34));
		break;
	default:
		set_unix(&header->source, p);
		set_unix(&header->destination, p + V2_UNIX_PATH);
		break;
	}
}

static bool v2_is_local(const unsigned char *data)
{
	return (data[12] & 15) == V2_COMMAND_LOCAL;
}

/* The fixed part, each byte as soon as it is there. */
static enum proxy_result v2_check_fixed(const unsigned char *data, size_t len, const char **why)
{
	bool local = len > 12 && v2_is_local(data);

	if (len > 12 && data[12] >> 4 != 2)
		return bad(why, "the version is not 2");
	if (len > 12 && (data[12] & 15) > V2_COMMAND_PROXY)
		return bad(why, "the command is not LOCAL or PROXY");
	if (len > 13 && !local && data[13] >> 4 >= FAMILIES)
		return bad(why, "the address family is unknown");
	if (len > 13 && !local && (data[13] & 15) >= PP2_TRANSPORTS)
		return bad(why, "the transport protocol is unknown");
	if (len < V2_FIXED)
		return PROXY_MORE;
	if (!local && get_u16(data + 14) < v2_addresses_len[data[13] >> 4])
		return bad(why, "it is too short for addresses of its family");
	return PROXY_DONE;
}

/* Returns NULL, or the reason why the header is malformed. */
static const char *v2_read_tlvs(struct proxy_header *header, const unsigned char *data)
{
	unsigned family = data[13] >> 4;
	struct proxy_header facts = *header;
	struct tlvs tlvs = {.header = &facts};
	size_t skip = V2_FIXED;

	if (family < FAMILIES && header->len - V2_FIXED >= v2_addresses_len[family])
		skip += v2_addresses_len[family];
	if (!read_tlvs(&tlvs, data + skip, header->len - skip, read_tlv))
		/*
		 * Behind LOCAL and the family UNSPEC nobody says what stands before the TLVs, and
		 * the receiver has to ignore it: what cannot be read there is no mistake.
		 */
		return v2_is_local(data) || family == FAMILY_UNSPEC ? NULL : tlvs.why;
	if (tlvs.crc != NULL && get_u32(tlvs.crc) != crc32c_without(data, header->len, tlvs.crc))
		return "the checksum is wrong";
	*header = facts;
	return NULL;
}

static enum proxy_result v2_parse(const unsigned char *data, size_t len,
				  struct proxy_header *header, const char **why)
{
	enum proxy_result result = v2_check_fixed(data, len, why);
	unsigned family, transport;
	const char *wrong;

	if (result != PROXY_DONE)
		return result;
	header->len = V2_FIXED + get_u16(data + 14);
	if (len < header->len)
		return PROXY_MORE;
	family = data[13] >> 4;
	transport = data[13] & 15;
	header->version = 2;
	header->local = v2_is_local(data) || family == FAMILY_UNSPEC || transport == PP2_UNSPEC;
	header->datagram = !v2_is_local(data) && transport == PP2_DGRAM;
	if (!header->local)
		v2_set_addresses(header, family, data + V2_FIXED);
	wrong = v2_read_tlvs(header, data);
	return wrong == NULL ? PROXY_DONE : bad(why, wrong);
}

/* ---- Both ----------------------------------------------------------------------------------- */

static bool begins(const unsigned char *data, size_t len, const unsigned char *signature,
		   size_t size)
{
	return memcmp(data, signature, len < size ? len : size) == 0;
}

bool proxy_has_v2_signature(const unsigned char *data, size_t len)
{
	return len >= sizeof(v2_signature) && begins(data, len, v2_signature, sizeof(v2_signature));
}

enum proxy_result proxy_parse(const unsigned char *data, size_t len, struct proxy_header *header,
			      const char **why)
{
	struct proxy_header read = {0};
	enum proxy_result result = PROXY_MORE;

	if (len == 0)
		return PROXY_MORE;
	if (begins(data, len, v1_signature, sizeof(v1_signature))) {
		if (len > sizeof(v1_signature))
			result = v1_parse(data, len, &read, why);
	} else if (begins(data, len, v2_signature, sizeof(v2_signature))) {
		if (len > sizeof(v2_signature))
			result = v2_parse(data, len, &read, why);
	} else {
		return PROXY_NONE;
	}
	if (result == PROXY_DONE)
		*header = read;
	return result;
}
