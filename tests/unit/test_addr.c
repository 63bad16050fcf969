/* Addresses as people write them. */
#include "support.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/addr.h"

static void assert_endpoint(const char *text, const char *host, unsigned port)
{
	struct endpoint endpoint;
	struct error err = {0};

	if (endpoint_parse(text, &endpoint, &err) != 0)
		fail_msg("'%s': %s", text, err.text);
	assert_string_equal(endpoint.host, host);
	assert_int_equal(endpoint.port, port);
}

static void assert_refused(const char *text, const char *because)
{
	struct endpoint endpoint;
	struct error err = {0};

	if (endpoint_parse(text, &endpoint, &err) != -1)
		fail_msg("'%s' is taken", text);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, because);
}

static struct address ipv4(const char *host, uint16_t port)
{
	struct address address = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *)&address.storage;

	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	assert_int_equal(inet_pton(AF_INET, host, &in->sin_addr), 1);
	return address;
}

static struct address ipv6(const char *host, uint16_t port, uint32_t scope)
{
	struct address address = {.len = sizeof(struct sockaddr_in6)};
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address.storage;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	in6->sin6_scope_id = scope;
	assert_int_equal(inet_pton(AF_INET6, host, &in6->sin6_addr), 1);
	return address;
}

static void assert_written(struct address address, const char *text)
{
	char out[ADDR_TEXT_MAX];

	address_format(out, sizeof(out), (struct sockaddr *)&address.storage);
	assert_string_equal(out, text);
}

/* ---- Reading -------------------------------------------------------------------------------- */

static void every_documented_form_is_read(void **state)
{
	(void)state;
	assert_endpoint("*:30333", "*", 30333);
	assert_endpoint("127.0.0.1:30333", "127.0.0.1", 30333);
	assert_endpoint("[::1]:30333", "::1", 30333);
	assert_endpoint("[fe80::1%eth0]:30333", "fe80::1%eth0", 30333);
	assert_endpoint("localhost:30333", "localhost", 30333);
	assert_endpoint("tcp:*:30333", "*", 30333);
	assert_endpoint("tcp:[::1]:1", "::1", 1);
	assert_endpoint("host:65535", "host", 65535);
}

static void a_host_may_be_called_like_a_scheme(void **state)
{
	(void)state;
	assert_endpoint("tcp:tcp:7", "tcp", 7);
	assert_endpoint("tcp:unix:7", "unix", 7);
}

static void assert_transport(const char *text, enum transport transport, const char *host,
			     const char *device, const char *path)
{
	struct endpoint endpoint;
	struct error err = {0};

	if (endpoint_parse(text, &endpoint, &err) != 0)
		fail_msg("'%s': %s", text, err.text);
	assert_int_equal(endpoint.transport, transport);
	assert_string_equal(endpoint.host, host);
	assert_string_equal(endpoint.device, device);
	assert_string_equal(endpoint.path, path);
}

static void every_scheme_is_read(void **state)
{
	(void)state;
	assert_transport("*:7", TRANSPORT_TCP, "*", "", "");
	assert_transport("tcp:*:7", TRANSPORT_TCP, "*", "", "");
	assert_transport("udp:*:7", TRANSPORT_UDP, "*", "", "");
	assert_transport("udp:[::1]:7", TRANSPORT_UDP, "::1", "", "");
	assert_transport("unix:/run/x.sock", TRANSPORT_UNIX, "", "", "/run/x.sock");
	assert_transport("unix:/a:7", TRANSPORT_UNIX, "", "", "/a:7");
	assert_transport("unix:@name", TRANSPORT_UNIX, "", "", "@name");
	assert_transport("unixgram:/x", TRANSPORT_UNIXGRAM, "", "", "/x");
	assert_transport("unixgram:@x y", TRANSPORT_UNIXGRAM, "", "", "@x y");
}

static void an_interface_is_a_zone_only_of_link_local_addresses(void **state)
{
	(void)state;
	assert_transport("*%eth0:7", TRANSPORT_TCP, "*", "eth0", "");
	assert_transport("udp:127.0.0.1%lo:7", TRANSPORT_UDP, "127.0.0.1", "lo", "");
	assert_transport("[::1%lo]:7", TRANSPORT_TCP, "::1", "lo", "");
	assert_transport("[::%abcdefghijklmno]:7", TRANSPORT_TCP, "::", "abcdefghijklmno", "");
	assert_transport("[fe80::1%eth0]:7", TRANSPORT_TCP, "fe80::1%eth0", "", "");
	assert_transport("[ff02::1%2]:7", TRANSPORT_TCP, "ff02::1%2", "", "");
	assert_refused("*%:7", "1 to 15 bytes");
	assert_refused("*%abcdefghijklmnop:7", "1 to 15 bytes");
	assert_refused("%lo:7", "no host");
}

static void a_port_may_be_any_and_its_name_must_be_known(void **state)
{
	(void)state;
	assert_endpoint("*:0", "*", 0);
	assert_refused("*:no-such-service", "no service of tcp has that name");
	assert_refused("udp:*:no-such-service", "no service of udp has that name");
}

static void names_of_ports_stand_in_the_list_of_services(void **state)
{
	(void)state;
	/* A small system may have no such list. */
	if (getservbyname("echo", "tcp") == NULL || getservbyname("domain", "udp") == NULL)
		skip();
	assert_endpoint("*:echo", "*", 7);
	assert_endpoint("udp:*:domain", "*", 53);
	assert_endpoint("[::1]:echo", "::1", 7);
}

static void a_wrong_port_is_said(void **state)
{
	(void)state;
	assert_refused("*:65536", "not between 0 and 65535");
	assert_refused("*:-1", "not between 0 and 65535");
	assert_refused("*:18446744073709551617", "not a number");
	assert_refused("*:", "there is no port");
	assert_refused("*: 80", "not a number");
	assert_refused("*:80 ", "not a number");
	assert_refused("[::1]", "no port");
	assert_refused("localhost", "no port");
	assert_refused("", "no port");
}

static void a_wrong_path_is_said(void **state)
{
	char longest[128];

	(void)state;
	assert_refused("unix:run/x", "absolute path");
	assert_refused("unix:7", "absolute path");
	assert_refused("unixgram:", "absolute path");
	assert_refused("unix:/", "is empty");
	assert_refused("unix:@", "is empty");
	snprintf(longest, sizeof(longest), "unix:/%0106d", 0);
	assert_transport(longest, TRANSPORT_UNIX, "", "", longest + 5);
	snprintf(longest, sizeof(longest), "unix:/%0107d", 0);
	assert_refused(longest, "longer than 107 bytes");
}

static void a_wrong_host_is_said(void **state)
{
	(void)state;
	assert_refused(":80", "no host");
	assert_refused("[]:80", "no host");
	assert_refused("tcp::80", "no host");
	assert_refused("tcp:7", "tcp: needs a host and a port");
	assert_refused("udp:7", "as in udp:*:30333");
	assert_refused("::1:80", "needs brackets");
	assert_refused("sctp:*:80", "there is no transport 'sctp'; write tcp, udp, ");
	assert_refused("UDP:[::1]:80", "there is no transport 'UDP'");
	assert_refused("face:1:80", "needs brackets");
	assert_refused("[::1:80", "not closed");
	assert_refused("[::1]80", "no port");
	assert_refused("[::ffff:192.0.2.1]:80", "is an IPv4 address: write it as 192.0.2.1");
}

static void a_host_of_255_bytes_fits_and_a_longer_one_is_refused(void **state)
{
	char host[ADDR_HOST_MAX + 1], text[ADDR_HOST_MAX + 8];

	(void)state;
	memset(host, 'h', sizeof(host));
	host[ADDR_HOST_MAX - 1] = '\0';
	snprintf(text, sizeof(text), "%s:1", host);
	assert_endpoint(text, host, 1);
	host[ADDR_HOST_MAX - 1] = 'h';
	host[ADDR_HOST_MAX] = '\0';
	snprintf(text, sizeof(text), "%s:1", host);
	assert_refused(text, "longer than 255 bytes");
}

/* ---- Looking up ----------------------------------------------------------------------------- */

static void the_star_is_all_ipv4_and_all_ipv6_addresses_in_this_order(void **state)
{
	struct endpoint endpoint = {.host = "*", .port = 30333};
	struct address found[4];
	struct error err = {0};

	(void)state;
	assert_int_equal(endpoint_resolve(&endpoint, found, 4, &err), 2);
	assert_written(found[0], "0.0.0.0:30333");
	assert_written(found[1], "[::]:30333");
	assert_int_equal(found[0].len, sizeof(struct sockaddr_in));
	assert_int_equal(found[1].len, sizeof(struct sockaddr_in6));
}

static void numeric_addresses_need_no_resolver(void **state)
{
	struct endpoint four = {.host = "127.0.0.1", .port = 7};
	struct endpoint six = {.host = "::1", .port = 7};
	struct address found[4];
	struct error err = {0};

	(void)state;
	assert_int_equal(endpoint_resolve(&four, found, 4, &err), 1);
	assert_written(found[0], "127.0.0.1:7");
	assert_int_equal(endpoint_resolve(&six, found, 4, &err), 1);
	assert_written(found[0], "[::1]:7");
}

static void a_host_that_cannot_be_looked_up_is_said(void **state)
{
	/* No resolver is asked about a numeric address with too many dots in it. */
	struct endpoint endpoint = {.host = "::1::2", .port = 7};
	struct address found[1];
	struct error err = {0};

	(void)state;
	assert_int_equal(endpoint_resolve(&endpoint, found, 1, &err), -1);
	assert_int_equal(err.code, EXIT_FAILED);
	assert_contains(err.text, "cannot look up the address ::1::2: ");
}

/* ---- Writing -------------------------------------------------------------------------------- */

static void addresses_are_written_as_they_are_read(void **state)
{
	(void)state;
	assert_written(ipv4("10.1.2.3", 80), "10.1.2.3:80");
	assert_written(ipv6("2001:db8::1", 80, 0), "[2001:db8::1]:80");
	assert_written(ipv6("::ffff:10.1.2.3", 80, 0), "10.1.2.3:80");
	assert_written(ipv6("fe80::1", 80, 1), "[fe80::1%lo]:80");
	assert_written(ipv6("fe80::1", 80, 4000000000), "[fe80::1%4000000000]:80");
}

static void the_longest_address_fits_into_addr_text_max(void **state)
{
	const char *longest =
		"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%abcdefghijklmno]:65535";

	(void)state;
	assert_true(strlen(longest) < ADDR_TEXT_MAX);
}

static struct address local(const char *text, enum transport *transport)
{
	struct endpoint endpoint;
	struct address address;
	struct error err = {0};

	assert_int_equal(endpoint_parse(text, &endpoint, &err), 0);
	assert_int_equal(endpoint_resolve(&endpoint, &address, 1, &err), 1);
	*transport = endpoint.transport;
	return address;
}

static void assert_listening(struct address address, enum transport transport, const char *device,
			     const char *text)
{
	char out[ADDR_TEXT_MAX];

	address_format_listening(out, sizeof(out), &address, transport, device);
	assert_string_equal(out, text);
}

static void listening_addresses_are_written_as_they_are_read(void **state)
{
	enum transport transport;

	(void)state;
	assert_listening(ipv4("10.1.2.3", 80), TRANSPORT_TCP, "", "10.1.2.3:80");
	assert_listening(ipv4("10.1.2.3", 80), TRANSPORT_TCP, "lo", "10.1.2.3%lo:80");
	assert_listening(ipv4("10.1.2.3", 80), TRANSPORT_UDP, "lo", "udp:10.1.2.3%lo:80");
	assert_listening(ipv6("::1", 80, 0), TRANSPORT_UDP, "lo", "udp:[::1%lo]:80");
	assert_listening(local("unix:/run/x", &transport), TRANSPORT_UNIX, "", "unix:/run/x");
	assert_listening(local("unixgram:@x", &transport), TRANSPORT_UNIXGRAM, "", "unixgram:@x");
}

static void unix_addresses_are_written_as_they_are_read(void **state)
{
	struct address nameless = {.len = sizeof(sa_family_t)};
	char longest[128];
	enum transport transport;

	(void)state;
	assert_written(local("unix:/run/x", &transport), "unix:/run/x");
	assert_written(local("unix:@name", &transport), "unix:@name");
	snprintf(longest, sizeof(longest), "unix:@%0106d", 0);
	assert_written(local(longest, &transport), longest);
	nameless.storage.ss_family = AF_UNIX;
	assert_written(nameless, "unix:");
}

static void the_kernel_names_a_unix_socket_as_we_do(void **state)
{
	struct address bound = {.len = sizeof(bound.storage)}, wanted;
	enum transport transport;
	char name[64];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(name, sizeof(name), "unix:@echod-test-%d", (int)getpid());
	wanted = local(name, &transport);
	assert_int_equal(bind(fd, (struct sockaddr *)&wanted.storage, wanted.len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&bound.storage, &bound.len), 0);
	assert_true(address_equal(&bound, &wanted));
	assert_int_equal(bound.len, wanted.len);
	close(fd);
}

static void an_address_of_another_family_is_unknown(void **state)
{
	struct sockaddr address = {.sa_family = AF_NETLINK};
	char out[ADDR_TEXT_MAX];

	(void)state;
	address_format(out, sizeof(out), &address);
	assert_string_equal(out, "unknown");
}

/* ---- Comparing ------------------------------------------------------------------------------ */

static void addresses_are_equal_in_family_address_port_and_interface(void **state)
{
	struct address a = ipv4("127.0.0.1", 7), b = ipv4("127.0.0.1", 7);
	struct address other_port = ipv4("127.0.0.1", 8), other_host = ipv4("127.0.0.2", 7);
	struct address six = ipv6("fe80::1", 7, 1), same = ipv6("fe80::1", 7, 1);
	struct address other_zone = ipv6("fe80::1", 7, 2), other_six = ipv6("fe80::2", 7, 1);

	(void)state;
	assert_true(address_equal(&a, &b));
	assert_false(address_equal(&a, &other_port));
	assert_false(address_equal(&a, &other_host));
	assert_true(address_equal(&six, &same));
	assert_false(address_equal(&six, &other_zone));
	assert_false(address_equal(&six, &other_six));
	assert_false(address_equal(&a, &six));
}

static void sockets_compete_on_one_port_when_one_address_is_all(void **state)
{
	struct address any = ipv4("0.0.0.0", 7), one = ipv4("127.0.0.1", 7);
	struct address two = ipv4("127.0.0.2", 7), elsewhere = ipv4("127.0.0.1", 8);
	struct address any6 = ipv6("::", 7, 0), one6 = ipv6("::1", 7, 0);

	(void)state;
	assert_true(address_overlaps(&any, &one));
	assert_true(address_overlaps(&one, &any));
	assert_true(address_overlaps(&one, &one));
	assert_false(address_overlaps(&one, &two));
	assert_false(address_overlaps(&any, &elsewhere));
	assert_true(address_overlaps(&any6, &one6));
	/* IPv6 sockets are V6ONLY. */
	assert_false(address_overlaps(&any6, &any));
}

static void unix_addresses_compete_when_they_are_the_same(void **state)
{
	enum transport transport;
	struct address path = local("unix:/run/x", &transport);
	struct address same = local("unix:/run/x", &transport);
	struct address other = local("unix:/run/x1", &transport);
	struct address name = local("unix:@/run/x", &transport);
	struct address any = ipv4("0.0.0.0", 0);

	(void)state;
	assert_true(address_equal(&path, &same));
	assert_true(address_overlaps(&path, &same));
	assert_false(address_equal(&path, &other));
	assert_false(address_overlaps(&path, &other));
	assert_false(address_equal(&path, &name));
	assert_false(address_overlaps(&path, &any));
	assert_false(address_overlaps(&any, &path));
	assert_int_equal(address_port(&path), 0);
}

static bool same_place(const char *a, const char *b)
{
	struct endpoint one, other;
	struct error err = {0};

	assert_int_equal(endpoint_parse(a, &one, &err), 0);
	assert_int_equal(endpoint_parse(b, &other, &err), 0);
	return endpoint_clashes(&one, &other);
}

static void endpoints_clash_when_both_mean_one_address(void **state)
{
	(void)state;
	assert_true(same_place("*:7", "tcp:*:7"));
	assert_false(same_place("tcp:*:53", "udp:*:53"));
	assert_false(same_place("*:7", "*%lo:7"));
	assert_true(same_place("unix:/x", "unixgram:/x"));
	assert_false(same_place("unix:@x", "unixgram:@x"));
	assert_false(same_place("unix:/x", "unix:/y"));
	assert_true(same_place("*:7", "0.0.0.0:7"));
	assert_true(same_place("[::]:7", "*:7"));
	assert_false(same_place("*:7", "127.0.0.1:7"));
	assert_true(same_place("127.1:7", "127.0.0.1:7"));
	assert_true(same_place("[::1]:7", "[0:0::1]:7"));
	assert_false(same_place("[::1]:7", "[0:0::1]:8"));
	assert_true(same_place("a.name.invalid:7", "a.name.invalid:7"));
	assert_false(same_place("a.name.invalid:7", "127.0.0.1:7"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_documented_form_is_read),
		cmocka_unit_test(a_host_may_be_called_like_a_scheme),
		cmocka_unit_test(every_scheme_is_read),
		cmocka_unit_test(an_interface_is_a_zone_only_of_link_local_addresses),
		cmocka_unit_test(a_port_may_be_any_and_its_name_must_be_known),
		cmocka_unit_test(names_of_ports_stand_in_the_list_of_services),
		cmocka_unit_test(a_wrong_path_is_said),
		cmocka_unit_test(a_wrong_port_is_said),
		cmocka_unit_test(a_wrong_host_is_said),
		cmocka_unit_test(a_host_of_255_bytes_fits_and_a_longer_one_is_refused),
		cmocka_unit_test(the_star_is_all_ipv4_and_all_ipv6_addresses_in_this_order),
		cmocka_unit_test(numeric_addresses_need_no_resolver),
		cmocka_unit_test(a_host_that_cannot_be_looked_up_is_said),
		cmocka_unit_test(addresses_are_written_as_they_are_read),
		cmocka_unit_test(the_longest_address_fits_into_addr_text_max),
		cmocka_unit_test(listening_addresses_are_written_as_they_are_read),
		cmocka_unit_test(unix_addresses_are_written_as_they_are_read),
		cmocka_unit_test(the_kernel_names_a_unix_socket_as_we_do),
		cmocka_unit_test(an_address_of_another_family_is_unknown),
		cmocka_unit_test(addresses_are_equal_in_family_address_port_and_interface),
		cmocka_unit_test(sockets_compete_on_one_port_when_one_address_is_all),
		cmocka_unit_test(unix_addresses_compete_when_they_are_the_same),
		cmocka_unit_test(endpoints_clash_when_both_mean_one_address),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
