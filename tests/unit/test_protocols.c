/* The protocols that are not made of lines: discard, chargen, daytime, time, whoami. */
#include "support.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "serve/proto.h"
#include "serve/proxy.h"

#define SAID_MAX (1024 * 1024)

struct said {
	struct proto_out out;
	size_t len;
	char text[SAID_MAX];
};

static struct said said;

static void keep(struct proto_out *out, const void *data, size_t len)
{
	struct said *s = (struct said *)out;

	assert_true(len < sizeof(s->text) - s->len);
	memcpy(s->text + s->len, data, len);
	s->len += len;
	s->text[s->len] = '\0';
}

/* What is said when a connection begins, which is all. */
static const char *open_of(const struct proto *proto, const struct proto_facts *facts)
{
	struct proto_settings settings = {.max_requests = PROTO_NO_LIMIT, .max_line = 64};

	said.out.write = keep;
	said.len = 0;
	said.text[0] = '\0';
	assert_true(proto->speaks_first);
	assert_null(proto->input);
	assert_null(proto->produce);
	assert_int_equal(proto->open(&settings, facts, &said.out), PROTO_CLOSE);
	return said.text;
}

/* The answer to a datagram of `len` bytes; false: none. */
static bool datagram_of(const struct proto *proto, const struct proto_facts *facts, size_t len)
{
	struct proto_settings settings = {.max_requests = PROTO_NO_LIMIT, .max_line = 64};
	unsigned char *data = malloc(len + 1), *room = malloc(PROTO_DATAGRAM_MAX);
	const unsigned char *answer;
	size_t reply = SIZE_MAX;

	assert_true(data != NULL && room != NULL);
	memset(data, 'x', len);
	answer = proto->datagram(&settings, facts, data, len, room, &reply);
	said.len = 0;
	if (answer != NULL) {
		assert_true(answer == data || answer == room);
		assert_true(reply <= PROTO_DATAGRAM_MAX);
		keep(&said.out, answer, reply);
	}
	free(data);
	free(room);
	return answer != NULL;
}

/* ---- RFC 863 -------------------------------------------------------------------------------- */

static struct proto_verdict discard(size_t len, bool at_end)
{
	struct proto_settings settings = {.max_requests = 1, .max_line = 2};
	struct proto_state state = {0};
	unsigned char data[16] = "\n\n\n";

	return proto_discard.input(&settings, &state, data, len, 0, at_end, NULL);
}

static void discard_takes_all_and_says_nothing(void **state)
{
	struct proto_verdict verdict = discard(16, false);

	(void)state;
	assert_int_equal(verdict.taken, 16);
	assert_int_equal(verdict.reply, 0);
	assert_int_equal(verdict.requests, 0);
	assert_int_equal(verdict.next, PROTO_MORE);
	assert_false(datagram_of(&proto_discard, NULL, 16));
	assert_false(datagram_of(&proto_discard, NULL, 0));
}

static void discard_ends_with_the_client(void **state)
{
	(void)state;
	assert_int_equal(discard(3, true).taken, 3);
	assert_int_equal(discard(3, true).next, PROTO_CLOSE);
	assert_int_equal(discard(0, true).next, PROTO_CLOSE);
}

/* ---- RFC 864 -------------------------------------------------------------------------------- */

/* Byte by byte, as the RFC words it: "On line N, put characters (0+N mod 95) through (71+N mod
 * 95)." */
static unsigned char chargen_at(uint64_t position)
{
	uint64_t line = position / 74, column = position % 74;

	if (column == 72)
		return '\r';
	return column == 73 ? '\n' : (unsigned char)(' ' + (line + column) % 95);
}

static void chargen_begins_as_the_rfc_shows(void **state)
{
	static const char lines[] =
		" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n"
		"!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefgh\r\n"
		"\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghi\r\n";
	unsigned char out[sizeof(lines) - 1];

	(void)state;
	assert_null(proto_chargen.input);
	proto_chargen.produce(0, out, sizeof(out));
	assert_memory_equal(out, lines, sizeof(out));
}

static void chargen_is_the_same_stream_wherever_it_is_cut(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int i = 0; i < 4000; i++) {
		uint64_t position =
			support_random_next(&random) >> support_random_below(&random, 64);
		size_t len = support_random_below(&random, i % 50 == 0 ? 20000 : 300);
		unsigned char *out = malloc(len + 1);

		assert_non_null(out);
		if (position > UINT64_MAX - len)
			position -= len;
		out[len] = 0xee;
		proto_chargen.produce(position, out, len);
		for (size_t at = 0; at < len; at++)
			if (out[at] != chargen_at(position + at))
				fail_msg("ECHOD_TEST_SEED=%" PRIu64 ": byte %zu at %" PRIu64,
					 random.seed, at, position);
		assert_int_equal(out[len], 0xee);
		free(out);
	}
}

static void chargen_answers_a_datagram_with_no_more_than_it_has(void **state)
{
	static const size_t asked[] = {0, 1, 75, 511, 512, 513, 60000};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(asked); i++) {
		assert_true(datagram_of(&proto_chargen, NULL, asked[i]));
		assert_int_equal(said.len, asked[i] < 512 ? asked[i] : 512);
		for (size_t at = 0; at < said.len; at++)
			assert_int_equal((unsigned char)said.text[at], chargen_at(at));
	}
}

/* ---- RFC 867 -------------------------------------------------------------------------------- */

static time_t utc(const char *text)
{
	struct tm tm = {0};

	assert_non_null(strptime(text, "%Y-%m-%d %H:%M:%S", &tm));
	return timegm(&tm);
}

static void set_zone(const char *zone)
{
	assert_int_equal(setenv("TZ", zone, 1), 0);
	tzset();
}

static const char *daytime(const char *zone, time_t seconds)
{
	struct proto_facts facts = {.now = {seconds, 999999999}};

	set_zone(zone);
	return open_of(&proto_daytime, &facts);
}

static void daytime_is_local_time_with_its_zone(void **state)
{
	time_t november = utc("2026-11-22 16:40:46"), july = utc("2026-07-01 00:00:00");

	(void)state;
	assert_string_equal(daytime("UTC0", november), "22 NOV 2026 16:40:46 UTC\r\n");
	assert_string_equal(daytime("CET-1CEST,M3.5.0,M10.5.0/3", november),
			    "22 NOV 2026 17:40:46 CET\r\n");
	assert_string_equal(daytime("CET-1CEST,M3.5.0,M10.5.0/3", july),
			    "01 JUL 2026 02:00:00 CEST\r\n");
	assert_string_equal(daytime("EST5EDT,M3.2.0,M11.1.0", july),
			    "30 JUN 2026 20:00:00 EDT\r\n");
	assert_string_equal(daytime("<+0545>-5:45", november), "22 NOV 2026 22:25:46 +0545\r\n");
}

static void daytime_names_each_month(void **state)
{
	static const char *const months[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
					     "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};

	(void)state;
	for (int i = 0; i < 12; i++) {
		char date[32], expected[64];

		snprintf(date, sizeof(date), "2025-%02d-28 01:02:03", i + 1);
		snprintf(expected, sizeof(expected), "28 %s 2025 01:02:03 UTC\r\n", months[i]);
		assert_string_equal(daytime("UTC0", utc(date)), expected);
	}
}

static void daytime_is_short_and_printable_whatever_the_zone(void **state)
{
	static const char *const zones[] = {
		"",
		"nonsense",
		":/dev/zero",
		"<\x1b[31m>0",
		"<a b>0",
		"\xc3\xa4\xc3\xb6-0",
		"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ0",
	};
	static const time_t times[] = {0, -1, INT64_C(67767976233532799), INT64_MAX, INT64_MIN};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(zones) * COUNT_OF(times); i++) {
		const char *line = daytime(zones[i / COUNT_OF(times)], times[i % COUNT_OF(times)]);
		size_t len = strlen(line);

		assert_in_range(len, 26 - 4, 64);
		assert_int_equal(len, said.len);
		assert_string_equal(line + len - 2, "\r\n");
		for (size_t at = 0; at < len - 2; at++)
			assert_in_range(line[at], ' ', '~');
	}
	set_zone("UTC0");
}

/* tzfile(5): a file may give its zone any name. */
static void daytime_does_not_repeat_what_a_zone_file_is_made_of(void **state)
{
	static const char file[] = "TZif\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
				   "\0\0\0\0\0\0\0\1\0\0\0\x8"
				   "\0\0\0\0\0\0"
				   "A \r\n\x1b\xff~";
	char zone[SUPPORT_PATH_MAX];
	FILE *stream;

	support_join(zone, *state, "zone");
	stream = fopen(zone, "w");
	assert_non_null(stream);
	assert_int_equal(fwrite(file, sizeof(file), 1, stream), 1);
	fclose(stream);
	assert_string_equal(daytime(zone, 0), "01 JAN 1970 00:00:00 A?????~\r\n");
	set_zone("UTC0");
}

static void daytime_answers_any_datagram_with_the_line(void **state)
{
	struct proto_facts facts = {.now = {utc("2024-02-29 23:59:59"), 0}};

	(void)state;
	set_zone("UTC0");
	for (size_t len = 0; len < 3; len++) {
		assert_true(datagram_of(&proto_daytime, &facts, len));
		assert_string_equal(said.text, "29 FEB 2024 23:59:59 UTC\r\n");
	}
}

/* ---- RFC 868 -------------------------------------------------------------------------------- */

static uint32_t time_of(time_t seconds)
{
	struct proto_facts facts = {.now = {seconds, 999999999}};
	uint32_t from_stream, from_datagram;

	open_of(&proto_time, &facts);
	assert_int_equal(said.len, 4);
	memcpy(&from_stream, said.text, 4);
	assert_true(datagram_of(&proto_time, &facts, 0));
	assert_int_equal(said.len, 4);
	memcpy(&from_datagram, said.text, 4);
	assert_int_equal(from_stream, from_datagram);
	return ntohl(from_stream);
}

/* "2,208,988,800 corresponds to 00:00  1 Jan 1970 GMT", and the other examples of the RFC. */
static void time_is_that_of_the_rfc(void **state)
{
	(void)state;
	assert_int_equal(time_of(0), UINT32_C(2208988800));
	assert_int_equal(time_of(utc("1976-01-01 00:00:00")), UINT32_C(2398291200));
	assert_int_equal(time_of(utc("1980-01-01 00:00:00")), UINT32_C(2524521600));
	assert_int_equal(time_of(utc("1983-05-01 00:00:00")), UINT32_C(2629584000));
	assert_int_equal(time_of(utc("1900-01-01 00:00:01")), 1);
}

static void time_begins_again_in_2036(void **state)
{
	time_t wrap = utc("2036-02-07 06:28:16");

	(void)state;
	assert_int_equal(time_of(wrap - 1), UINT32_MAX);
	assert_int_equal(time_of(wrap), 0);
	assert_int_equal(time_of(wrap + 1), 1);
	assert_int_equal(time_of(utc("2040-01-01 00:00:00")),
			 (uint32_t)(utc("2040-01-01 00:00:00") - wrap));
}

/* ---- whoami --------------------------------------------------------------------------------- */

union any {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
	struct sockaddr_storage storage;
};

static union any address_of(const char *host, uint16_t port)
{
	union any a = {.storage = {0}};

	if (inet_pton(AF_INET, host, &a.in.sin_addr) == 1) {
		a.in.sin_family = AF_INET;
		a.in.sin_port = htons(port);
		return a;
	}
	assert_int_equal(inet_pton(AF_INET6, host, &a.in6.sin6_addr), 1);
	a.in6.sin6_family = AF_INET6;
	a.in6.sin6_port = htons(port);
	return a;
}

static union any unix_of(const char *name, size_t len)
{
	union any a = {.storage = {0}};

	assert_true(len <= sizeof(a.un.sun_path));
	a.un.sun_family = AF_UNIX;
	memcpy(a.un.sun_path, name, len);
	return a;
}

static struct proto_facts facts_of(const union any *peer, const union any *local)
{
	return (struct proto_facts){
		.now = {utc("2026-11-22 16:40:46"), 123456789},
		.service = "who",
		.worker = "who/3",
		.host = "box.example",
		.transport = "tcp",
		.peer = &peer->any,
		.local = &local->any,
		.ttl = -1,
		.traffic_class = -1,
	};
}

static json_t *whoami(const struct proto_facts *facts)
{
	const char *line = open_of(&proto_whoami, facts);
	json_error_t error;
	json_t *all;

	assert_int_equal(strlen(line), said.len);
	assert_ptr_equal(strchr(line, '\n'), line + said.len - 1);
	for (size_t i = 0; i < said.len - 1; i++)
		assert_in_range(line[i], ' ', '~');
	all = json_loads(line, JSON_REJECT_DUPLICATES, &error);
	if (all == NULL)
		fail_msg("%s: %s", error.text, line);
	return all;
}

/* `text` is JSON; takes `is`. */
static void assert_json(json_t *is, const char *text)
{
	json_t *shall = json_loads(text, JSON_DECODE_ANY, NULL);
	char *told = json_dumps(is, JSON_COMPACT | JSON_ENCODE_ANY);

	assert_non_null(shall);
	if (!json_equal(is, shall))
		fail_msg("%s in place of %s", told, text);
	free(told);
	json_decref(shall);
	json_decref(is);
}

static json_t *part(json_t *all, const char *name)
{
	json_t *value = json_incref(json_object_get(all, name));

	json_decref(all);
	if (value == NULL)
		fail_msg("there is no field '%s'", name);
	return value;
}

static void whoami_tells_what_is_known(void **state)
{
	union any peer = address_of("192.0.2.7", 54321), local = address_of("2001:db8::1", 7);
	struct proto_facts facts = facts_of(&peer, &local);
	struct tcp_facts tcp = {1460, 7, 9, 4000000000, 125, 3, true};

	(void)state;
	facts.ttl = 57;
	facts.traffic_class = (46 << 2) + 1;
	facts.tcp = &tcp;
	assert_json(whoami(&facts),
		    "{\"service\":\"who\",\"host\":\"box.example\",\"worker\":\"who/3\","
		    "\"transport\":\"tcp\",\"time\":\"2026-11-22T16:40:46.123456Z\","
		    "\"peer\":{\"address\":\"192.0.2.7\",\"port\":54321},"
		    "\"local\":{\"address\":\"2001:db8::1\",\"port\":7},"
		    "\"ttl\":57,\"dscp\":46,\"ecn\":1,\"tcp\":{\"mss\":1460,\"send_scale\":7,"
		    "\"receive_scale\":9,\"rtt_us\":4000000000,\"rtt_variation_us\":125,"
		    "\"retransmits\":3,\"mptcp\":true},\"proxy\":null}");
}

static void what_whoami_does_not_know_is_null(void **state)
{
	union any peer = address_of("192.0.2.7", 1), local = address_of("192.0.2.8", 65535);
	struct proto_facts facts = facts_of(&peer, &local);

	(void)state;
	facts.transport = "udp";
	assert_json(whoami(&facts),
		    "{\"service\":\"who\",\"host\":\"box.example\",\"worker\":\"who/3\","
		    "\"transport\":\"udp\",\"time\":\"2026-11-22T16:40:46.123456Z\","
		    "\"peer\":{\"address\":\"192.0.2.7\",\"port\":1},"
		    "\"local\":{\"address\":\"192.0.2.8\",\"port\":65535},"
		    "\"ttl\":null,\"dscp\":null,\"ecn\":null,\"tcp\":null,\"proxy\":null}");
}

static void a_traffic_class_of_0_is_known(void **state)
{
	union any peer = address_of("192.0.2.7", 1);
	struct proto_facts facts = facts_of(&peer, &peer);

	(void)state;
	facts.traffic_class = 0;
	assert_json(part(whoami(&facts), "dscp"), "0");
	assert_json(part(whoami(&facts), "ecn"), "0");
	facts.traffic_class = 255;
	assert_json(part(whoami(&facts), "dscp"), "63");
	assert_json(part(whoami(&facts), "ecn"), "3");
}

static void a_mapped_address_is_shown_as_ipv4(void **state)
{
	union any peer = address_of("::ffff:192.0.2.7", 7);
	struct proto_facts facts = facts_of(&peer, &peer);

	(void)state;
	assert_json(part(whoami(&facts), "peer"), "{\"address\":\"192.0.2.7\",\"port\":7}");
}

static void a_link_local_address_has_its_interface(void **state)
{
	union any peer = address_of("fe80::1", 7);
	struct proto_facts facts = facts_of(&peer, &peer);

	(void)state;
	peer.in6.sin6_scope_id = if_nametoindex("lo");
	if (peer.in6.sin6_scope_id == 0)
		skip();
	assert_json(part(whoami(&facts), "peer"), "{\"address\":\"fe80::1%lo\",\"port\":7}");
}

static void a_unix_socket_has_a_path_a_name_or_neither(void **state)
{
	static const char longest[108] = {[0 ... 107] = 'p'};
	char expected[160];
	union any peer = unix_of("/run/x y.sock", 13), local = unix_of(longest, sizeof(longest));
	struct proto_facts facts = facts_of(&peer, &local);

	(void)state;
	snprintf(expected, sizeof(expected), "{\"path\":\"%.108s\"}", longest);
	assert_json(part(whoami(&facts), "peer"), "{\"path\":\"/run/x y.sock\"}");
	assert_json(part(whoami(&facts), "local"), expected);
	peer = unix_of("\0name", 5);
	assert_json(part(whoami(&facts), "peer"), "{\"path\":\"@name\"}");
	peer = unix_of("\0na\0me", 6);
	assert_json(part(whoami(&facts), "peer"), "{\"path\":\"@na\\\\x00me\"}");
	peer = unix_of("", 0);
	assert_json(part(whoami(&facts), "peer"), "{\"path\":null}");
}

static void a_unix_peer_has_its_ids(void **state)
{
	union any peer = unix_of("", 0), local = unix_of("/run/a", 6);
	struct proto_facts facts = facts_of(&peer, &local);

	(void)state;
	facts.has_ids = true;
	facts.pid = 4711;
	facts.uid = 4294967294;
	facts.gid = 0;
	assert_json(part(whoami(&facts), "peer"),
		    "{\"path\":null,\"pid\":4711,\"uid\":4294967294,\"gid\":0}");
	assert_json(part(whoami(&facts), "local"), "{\"path\":\"/run/a\"}");
}

static void what_is_not_printable_is_escaped(void **state)
{
	union any peer = unix_of("/\xff\x1b[31m", 7);
	struct proto_facts facts = facts_of(&peer, &peer);

	(void)state;
	assert_json(part(whoami(&facts), "peer"), "{\"path\":\"/\\\\xff\\\\x1b[31m\"}");
	peer = unix_of("/\xc3\xa4\"\\", 5);
	assert_json(part(whoami(&facts), "peer"), "{\"path\":\"/\xc3\xa4\\\"\\\\\"}");
	peer = unix_of("/\xc2\x9b", 3);
	assert_json(part(whoami(&facts), "peer"), "{\"path\":\"/\\\\xc2\\\\x9b\"}");
}

/* ---- whoami behind a proxy ------------------------------------------------------------------ */

static struct proxy_text text(const char *data, size_t len)
{
	return (struct proxy_text){(const unsigned char *)data, len};
}

#define TEXT(data) text(data, sizeof(data) - 1)

static json_t *whoami_behind(const struct proxy_header *header)
{
	union any peer = address_of("192.0.2.7", 1);
	struct proto_facts facts = facts_of(&peer, &peer);

	facts.proxy = header;
	return part(whoami(&facts), "proxy");
}

static void a_header_without_tlvs_has_addresses_only(void **state)
{
	struct proxy_header header = {.version = 1};

	(void)state;
	header.source.storage = address_of("198.51.100.1", 1024).storage;
	header.destination.storage = address_of("2001:db8::5", 443).storage;
	assert_json(
		whoami_behind(&header),
		"{\"version\":1,\"local\":false,"
		"\"source\":{\"address\":\"198.51.100.1\",\"port\":1024},"
		"\"destination\":{\"address\":\"2001:db8::5\",\"port\":443},"
		"\"alpn\":null,\"authority\":null,\"unique_id\":null,\"netns\":null,\"ssl\":null}");
}

static void a_local_header_has_no_addresses(void **state)
{
	struct proxy_header header = {.version = 2, .local = true};

	(void)state;
	assert_json(
		whoami_behind(&header),
		"{\"version\":2,\"local\":true,\"source\":null,\"destination\":null,"
		"\"alpn\":null,\"authority\":null,\"unique_id\":null,\"netns\":null,\"ssl\":null}");
}

static void a_header_tells_its_tlvs(void **state)
{
	struct proxy_header header = {
		.version = 2,
		.alpn = TEXT("h2"),
		.authority = TEXT("b\xc3\xbc"
				  "cher.example"),
		.unique_id = TEXT("id-1"),
		.netns = TEXT(""),
		.ssl = true,
		.ssl_client = 0x05,
		.ssl_verify = 4294967295,
		.ssl_version = TEXT("TLSv1.3"),
		.ssl_cn = TEXT("c\xffn"),
		.ssl_cipher = TEXT("AES"),
		.ssl_sig_alg = TEXT("SHA256"),
	};

	(void)state;
	header.source.storage = unix_of("/run/s", 6).storage;
	header.destination.storage = unix_of("", 0).storage;
	assert_json(whoami_behind(&header),
		    "{\"version\":2,\"local\":false,\"source\":{\"path\":\"/run/s\"},"
		    "\"destination\":{\"path\":null},\"alpn\":\"h2\","
		    "\"authority\":\"b\\u00fccher.example\",\"unique_id\":\"id-1\",\"netns\":\"\","
		    "\"ssl\":{\"version\":\"TLSv1.3\",\"client_ssl\":true,"
		    "\"client_cert_conn\":false,\"client_cert_sess\":true,"
		    "\"verify\":4294967295,\"cn\":\"c\\\\xffn\",\"cipher\":\"AES\","
		    "\"sig_alg\":\"SHA256\",\"key_alg\":null}}");
}

static void an_id_that_is_no_text_is_hexadecimal(void **state)
{
	struct proxy_header header = {.version = 2, .unique_id = TEXT("a\0\xff")};

	(void)state;
	assert_json(part(whoami_behind(&header), "unique_id"), "\"6100ff\"");
	header.unique_id = TEXT("a\n");
	assert_json(part(whoami_behind(&header), "unique_id"), "\"610a\"");
}

static void the_longest_tlv_is_told_as_a_whole(void **state)
{
	static char bytes[65535];
	struct proxy_header header = {.version = 2};
	json_t *told;

	(void)state;
	memset(bytes, 0xfe, sizeof(bytes));
	header.authority = text(bytes, sizeof(bytes));
	told = part(whoami_behind(&header), "authority");
	assert_int_equal(json_string_length(told), 4 * sizeof(bytes));
	json_decref(told);
}

static void whoami_answers_a_datagram_with_no_more_than_it_has(void **state)
{
	union any peer = address_of("192.0.2.7", 1);
	struct proto_facts facts = facts_of(&peer, &peer);
	char *whole = strdup(open_of(&proto_whoami, &facts));
	size_t len = strlen(whole);

	(void)state;
	for (size_t asked = 0; asked < len + 3; asked++) {
		assert_true(datagram_of(&proto_whoami, &facts, asked));
		assert_int_equal(said.len, asked < len ? asked : len);
		assert_memory_equal(said.text, whole, said.len);
	}
	free(whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(discard_takes_all_and_says_nothing),
		cmocka_unit_test(discard_ends_with_the_client),
		cmocka_unit_test(chargen_begins_as_the_rfc_shows),
		cmocka_unit_test(chargen_is_the_same_stream_wherever_it_is_cut),
		cmocka_unit_test(chargen_answers_a_datagram_with_no_more_than_it_has),
		cmocka_unit_test(daytime_is_local_time_with_its_zone),
		cmocka_unit_test(daytime_names_each_month),
		cmocka_unit_test(daytime_is_short_and_printable_whatever_the_zone),
		cmocka_unit_test_setup_teardown(daytime_does_not_repeat_what_a_zone_file_is_made_of,
						support_make_directory, support_remove_directory),
		cmocka_unit_test(daytime_answers_any_datagram_with_the_line),
		cmocka_unit_test(time_is_that_of_the_rfc),
		cmocka_unit_test(time_begins_again_in_2036),
		cmocka_unit_test(whoami_tells_what_is_known),
		cmocka_unit_test(what_whoami_does_not_know_is_null),
		cmocka_unit_test(a_traffic_class_of_0_is_known),
		cmocka_unit_test(a_mapped_address_is_shown_as_ipv4),
		cmocka_unit_test(a_link_local_address_has_its_interface),
		cmocka_unit_test(a_unix_socket_has_a_path_a_name_or_neither),
		cmocka_unit_test(a_unix_peer_has_its_ids),
		cmocka_unit_test(what_is_not_printable_is_escaped),
		cmocka_unit_test(a_header_without_tlvs_has_addresses_only),
		cmocka_unit_test(a_local_header_has_no_addresses),
		cmocka_unit_test(a_header_tells_its_tlvs),
		cmocka_unit_test(an_id_that_is_no_text_is_hexadecimal),
		cmocka_unit_test(the_longest_tlv_is_told_as_a_whole),
		cmocka_unit_test(whoami_answers_a_datagram_with_no_more_than_it_has),
	};

	support_limit_time(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
