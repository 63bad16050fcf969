/* Addresses as people write them. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

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
	assert_endpoint("tcp:7", "tcp", 7);
	assert_endpoint("tcp:tcp:7", "tcp", 7);
	assert_endpoint("udp:7", "udp", 7);
}

static void schemes_that_are_not_served_are_said(void **state)
{
	(void)state;
	assert_refused("udp:*:7", "scheme udp is not served");
	assert_refused("unix:/run/echo.sock", "scheme unix is not served");
	assert_refused("unixgram:/run/echo.sock", "scheme unixgram is not served");
}

static void a_wrong_port_is_said(void **state)
{
	(void)state;
	assert_refused("*:0", "not between 1 and 65535");
	assert_refused("*:65536", "not between 1 and 65535");
	assert_refused("*:-1", "not between 1 and 65535");
	assert_refused("*:18446744073709551617", "not a number");
	assert_refused("*:", "not a number");
	assert_refused("*:http", "not a number");
	assert_refused("*: 80", "not a number");
	assert_refused("*:80 ", "not a number");
	assert_refused("[::1]", "no port");
	assert_refused("localhost", "no port");
	assert_refused("", "no port");
}

static void a_wrong_host_is_said(void **state)
{
	(void)state;
	assert_refused(":80", "no host");
	assert_refused("[]:80", "no host");
	assert_refused("tcp::80", "no host");
	assert_refused("::1:80", "needs brackets");
	assert_refused("[::1:80", "not closed");
	assert_refused("[::1]80", "no port");
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
	struct endpoint endpoint = {"*", 30333};
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
	struct endpoint four = {"127.0.0.1", 7}, six = {"::1", 7};
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
	struct endpoint endpoint = {"::1::2", 7};
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

static void an_address_of_another_family_is_unknown(void **state)
{
	struct sockaddr address = {.sa_family = AF_UNIX};
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_documented_form_is_read),
		cmocka_unit_test(a_host_may_be_called_like_a_scheme),
		cmocka_unit_test(schemes_that_are_not_served_are_said),
		cmocka_unit_test(a_wrong_port_is_said),
		cmocka_unit_test(a_wrong_host_is_said),
		cmocka_unit_test(a_host_of_255_bytes_fits_and_a_longer_one_is_refused),
		cmocka_unit_test(the_star_is_all_ipv4_and_all_ipv6_addresses_in_this_order),
		cmocka_unit_test(numeric_addresses_need_no_resolver),
		cmocka_unit_test(a_host_that_cannot_be_looked_up_is_said),
		cmocka_unit_test(addresses_are_written_as_they_are_read),
		cmocka_unit_test(the_longest_address_fits_into_addr_text_max),
		cmocka_unit_test(an_address_of_another_family_is_unknown),
		cmocka_unit_test(addresses_are_equal_in_family_address_port_and_interface),
		cmocka_unit_test(sockets_compete_on_one_port_when_one_address_is_all),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
