/*
 * What the server saw of the client, as one JSON object (RFC 8259) on one line. What is not known
 * is null. A text that the client or its proxy gave is shown as it is where it is printable UTF-8,
 * else with each byte that is not printable ASCII as \xHH.
 */
#include <jansson.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "base/text.h"
#include "serve/proto.h"
#include "serve/proxy.h"

/* PP2_TYPE_SSL, section 2.2.6 of the specification that serve/proxy.h names. */
#define CLIENT_SSL	 0x01
#define CLIENT_CERT_CONN 0x02
#define CLIENT_CERT_SESS 0x04

/* Terminals obey C1, U+0080 to U+009F, too (ECMA-48). */
static bool is_control(unsigned char before, unsigned char c)
{
	return c < 0x20 || c == 0x7f || (before == 0xc2 && c >= 0x80 && c <= 0x9f);
}

/* NULL when it is not printable UTF-8. */
static json_t *plain(const char *data, size_t len)
{
	unsigned char before = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)data[i];

		if (is_control(before, c))
			return NULL;
		before = c;
	}
	return json_stringn(data, len);
}

static json_t *text(const char *data, size_t len)
{
	size_t cap = 4 * len + 1;
	json_t *value = plain(data, len);
	char *escaped;

	if (value != NULL)
		return value;
	escaped = malloc(cap);
	if (escaped != NULL)
		value = json_stringn(escaped, text_escape_ascii(escaped, cap, data, len));
	free(escaped);
	return value;
}

static json_t *string(const char *s)
{
	return text(s, strlen(s));
}

static json_t *hex(const unsigned char *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	char *out = malloc(2 * len + 1);
	json_t *value;

	if (out == NULL)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[data[i] >> 4];
		out[2 * i + 1] = digits[data[i] & 15];
	}
	value = json_stringn(out, 2 * len);
	free(out);
	return value;
}

static json_t *known(int number)
{
	return number < 0 ? json_null() : json_integer(number);
}

static json_t *address(const struct sockaddr *a)
{
	char name[FACTS_UNIX_MAX], host[ADDR_TEXT_MAX];
	uint16_t port;
	size_t len;

	if (a->sa_family == AF_UNIX) {
		len = facts_unix_name(name, a);
		return json_pack("{s:o}", "path", len == 0 ? json_null() : text(name, len));
	}
	if (a->sa_family != AF_INET && a->sa_family != AF_INET6)
		return json_null();
	port = address_format_host(host, sizeof(host), a);
	return json_pack("{s:o, s:i}", "address", string(host), "port", (int)port);
}

static json_t *peer(const struct proto_facts *facts)
{
	json_t *object = address(facts->peer);

	if (facts->has_ids && json_is_object(object)) {
		json_object_set_new(object, "pid", json_integer(facts->pid));
		json_object_set_new(object, "uid", json_integer(facts->uid));
		json_object_set_new(object, "gid", json_integer(facts->gid));
	}
	return object;
}

static json_t *tcp(const struct tcp_facts *tcp)
{
	if (tcp == NULL)
		return json_null();
	return json_pack("{s:I, s:i, s:i, s:I, s:I, s:I, s:b}", "mss", (json_int_t)tcp->mss,
			 "send_scale", (int)tcp->send_scale, "receive_scale",
			 (int)tcp->receive_scale, "rtt_us", (json_int_t)tcp->rtt,
			 "rtt_variation_us", (json_int_t)tcp->rtt_variation, "retransmits",
			 (json_int_t)tcp->retransmits, "mptcp", (int)tcp->mptcp);
}

static json_t *proxy_text(struct proxy_text value)
{
	return value.data == NULL ? json_null() : text((const char *)value.data, value.len);
}

/* Most are random bytes: readable as a whole, or not at all. */
static json_t *proxy_id(struct proxy_text value)
{
	json_t *shown;

	if (value.data == NULL)
		return json_null();
	shown = plain((const char *)value.data, value.len);
	return shown != NULL ? shown : hex(value.data, value.len);
}

static json_t *proxy_ssl(const struct proxy_header *header)
{
	if (!header->ssl)
		return json_null();
	return json_pack("{s:o, s:b, s:b, s:b, s:I, s:o, s:o, s:o, s:o}", "version",
			 proxy_text(header->ssl_version), "client_ssl",
			 header->ssl_client & CLIENT_SSL, "client_cert_conn",
			 header->ssl_client & CLIENT_CERT_CONN, "client_cert_sess",
			 header->ssl_client & CLIENT_CERT_SESS, "verify",
			 (json_int_t)header->ssl_verify, "cn", proxy_text(header->ssl_cn), "cipher",
			 proxy_text(header->ssl_cipher), "sig_alg", proxy_text(header->ssl_sig_alg),
			 "key_alg", proxy_text(header->ssl_key_alg));
}

static json_t *proxy(const struct proxy_header *header)
{
	if (header == NULL)
		return json_null();
	return json_pack("{s:i, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "version",
			 header->version, "local", (int)header->local, "source",
			 address((const struct sockaddr *)&header->source.storage), "destination",
			 address((const struct sockaddr *)&header->destination.storage), "alpn",
			 proxy_text(header->alpn), "authority", proxy_text(header->authority),
			 "unique_id", proxy_id(header->unique_id), "netns",
			 proxy_text(header->netns), "ssl", proxy_ssl(header));
}

/* As a line, to be freed; NULL without memory. */
static char *line_of(const struct proto_facts *facts, size_t *len)
{
	bool has_class = facts->traffic_class >= 0;
	char now[FACTS_TIME_MAX], *line;
	json_t *all;

	facts_format_time(now, &facts->now, true);
	all = json_pack("{s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "service",
			string(facts->service), "host", string(facts->host), "worker",
			string(facts->worker), "transport", string(facts->transport), "time", now,
			"peer", peer(facts), "local", address(facts->local), "ttl",
			known(facts->ttl), "dscp",
			known(has_class ? facts->traffic_class >> 2 : -1), "ecn",
			known(has_class ? facts->traffic_class & 3 : -1), "tcp", tcp(facts->tcp),
			"proxy", proxy(facts->proxy));
	/* ASCII only: some of what is printable turns a terminal's text around. */
	line = all == NULL
		       ? NULL
		       : json_dumps(all, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_PRESERVE_ORDER);
	json_decref(all);
	if (line == NULL)
		return NULL;
	*len = strlen(line) + 1;
	line[*len - 1] = '\n'; /* nothing ends it from here on */
	return line;
}

static enum proto_next whoami_open(const struct proto_settings *settings,
				   const struct proto_facts *facts, struct proto_out *out)
{
	size_t len;
	char *line = line_of(facts, &len);

	(void)settings;
	if (line != NULL)
		out->write(out, line, len);
	free(line);
	return PROTO_CLOSE;
}

/* Never more than was sent: with a forged source, a longer reply would be a weapon. */
static const unsigned char *whoami_datagram(const struct proto_settings *settings,
					    const struct proto_facts *facts, unsigned char *data,
					    size_t len, unsigned char *room, size_t *reply)
{
	size_t all = 0;
	char *line = len == 0 ? NULL : line_of(facts, &all);

	(void)settings;
	(void)data;
	if (line == NULL && len > 0)
		return NULL;
	*reply = all < len ? all : len;
	if (*reply > PROTO_DATAGRAM_MAX)
		*reply = PROTO_DATAGRAM_MAX;
	if (*reply > 0)
		memcpy(room, line, *reply);
	free(line);
	return room;
}

const struct proto proto_whoami = {
	.name = "whoami",
	.speaks_first = true,
	.open = whoami_open,
	.datagram = whoami_datagram,
	.heeds_facts = true,
};
