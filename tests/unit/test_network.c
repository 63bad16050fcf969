/* Networks as people write them. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#include "base/network.h"

static struct network network_of(const char *text)
{
	struct network network;
	struct error err = {0};

	if (network_parse(text, &network, &err) != 0)
		fail_msg("'%s': %s", text, err.text);
	return network;
}

static void assert_network(const char *text, int family, const char *address, unsigned prefix)
{
	struct network network = network_of(text);
	uint8_t wanted[16] = {0};

	assert_int_equal(inet_pton(family, address, wanted), 1);
	assert_int_equal(network.family, family);
	assert_int_equal(network.prefix, prefix);
	assert_memory_equal(network.address, wanted, sizeof(wanted));
}

static void assert_refused(const char *text, const char *because)
{
	struct network network = {.prefix = 77};
	struct error err = {0};

	if (network_parse(text, &network, &err) != -1)
		fail_msg("'%s' is taken", text);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, because);
	assert_contains(err.text, text);
	assert_int_equal(network.prefix, 77);
}

static bool contains(const char *text, const char *host)
{
	struct network network = network_of(text);
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_scope_id = 3};

	if (inet_pton(AF_INET, host, &in.sin_addr) == 1)
		return network_contains(&network, (struct sockaddr *)&in);
	assert_int_equal(inet_pton(AF_INET6, host, &in6.sin6_addr), 1);
	return network_contains(&network, (struct sockaddr *)&in6);
}

/* ---- Reading -------------------------------------------------------------------------------- */

static void networks_and_single_addresses_are_read(void **state)
{
	(void)state;
	assert_network("10.0.0.0/8", AF_INET, "10.0.0.0", 8);
	assert_network("0.0.0.0/0", AF_INET, "0.0.0.0", 0);
	assert_network("192.0.2.1", AF_INET, "192.0.2.1", 32);
	assert_network("192.0.2.1/32", AF_INET, "192.0.2.1", 32);
	assert_network("192.0.2.254/31", AF_INET, "192.0.2.254", 31);
	assert_network("2001:db8::/32", AF_INET6, "2001:db8::", 32);
	assert_network("::/0", AF_INET6, "::", 0);
	assert_network("::1", AF_INET6, "::1", 128);
	assert_network("fe80::/10", AF_INET6, "fe80::", 10);
	assert_network("2001:DB8::8000:0:0:0/65", AF_INET6, "2001:db8::8000:0:0:0", 65);
}

static void a_mapped_network_is_the_ipv4_one(void **state)
{
	(void)state;
	assert_network("::ffff:10.0.0.0/104", AF_INET, "10.0.0.0", 8);
	assert_network("::ffff:0:0/96", AF_INET, "0.0.0.0", 0);
	assert_network("::ffff:192.0.2.1", AF_INET, "192.0.2.1", 32);
	/* The old "IPv4-compatible" form is not mapped (RFC 4291, section 2.5.5.1). */
	assert_network("::10.0.0.0/104", AF_INET6, "::10.0.0.0", 104);
}

static void bits_behind_the_prefix_are_said_with_the_right_network(void **state)
{
	(void)state;
	assert_refused("10.0.0.1/8", "has bits behind its prefix; write 10.0.0.0/8");
	assert_refused("192.0.2.1/31", "write 192.0.2.0/31");
	assert_refused("1.2.3.4/0", "write 0.0.0.0/0");
	assert_refused("2001:db8::1/32", "write 2001:db8::/32");
	assert_refused("2001:db8:0:1:ffff::/65", "write 2001:db8:0:1:8000::/65");
	assert_refused("::ffff:10.0.0.1/104", "write 10.0.0.0/8");
	assert_refused("::ffff:0:0/95", "has bits behind its prefix; write ::fffe:0:0/95");
}

static void a_wrong_prefix_is_said(void **state)
{
	static const char *const wrong4[] = {
		"10.0.0.0/",	"10.0.0.0/33",	      "10.0.0.0/-1",
		"10.0.0.0/+8",	"10.0.0.0/ 8",	      "10.0.0.0/8 ",
		"10.0.0.0/8/8", "10.0.0.0/255.0.0.0", "10.0.0.0/18446744073709551624"};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(wrong4); i++)
		assert_refused(
			wrong4[i],
			"is not a number of bits between 0 and 32; write it as in 10.0.0.0/8");
	assert_refused("::/129", "the prefix '129' of the network '::/129' is not a number of bits "
				 "between 0 and 128; write it as in 2001:db8::/32");
}

static void what_is_no_address_is_said(void **state)
{
	static const char *const wrong[] = {
		"",
		"/8",
		"*",
		"10/8",
		"10.0.0/24",
		"10.0.0.0.0",
		"256.0.0.0/8",
		"010.0.0.0/8",
		" 10.0.0.0",
		"localhost",
		"[::1]",
		"[::1]:80",
		"10.0.0.1:80",
		"::1%lo",
		":::",
		"1:2:3:4:5:6:7",
		"g::",
		"10.0.0.0-10.0.0.9",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc/8"};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		assert_refused(wrong[i], "is not a network; write it as in 10.0.0.0/8, ");
}

/* ---- Looking -------------------------------------------------------------------------------- */

static void an_address_is_in_its_network_and_not_beside_it(void **state)
{
	(void)state;
	assert_true(contains("10.0.0.0/8", "10.0.0.0"));
	assert_true(contains("10.0.0.0/8", "10.255.255.255"));
	assert_false(contains("10.0.0.0/8", "9.255.255.255"));
	assert_false(contains("10.0.0.0/8", "11.0.0.0"));
	assert_true(contains("192.0.2.128/25", "192.0.2.200"));
	assert_false(contains("192.0.2.128/25", "192.0.2.127"));
	assert_true(contains("192.0.2.1", "192.0.2.1"));
	assert_false(contains("192.0.2.1", "192.0.2.0"));
	assert_true(contains("0.0.0.0/0", "255.255.255.255"));
	assert_true(contains("2001:db8::/33", "2001:db8:7fff::1"));
	assert_false(contains("2001:db8::/33", "2001:db8:8000::1"));
	assert_true(contains("::/0", "ffff::"));
	assert_true(contains("::1", "::1"));
	assert_false(contains("::1", "::2"));
	/* The interface is not looked at. */
	assert_true(contains("fe80::/10", "fe80::1"));
}

static void a_mapped_address_is_the_ipv4_one(void **state)
{
	(void)state;
	assert_true(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
	assert_false(contains("10.0.0.0/8", "::ffff:11.1.2.3"));
	assert_true(contains("::ffff:10.0.0.0/104", "10.1.2.3"));
	assert_true(contains("::ffff:10.0.0.0/104", "::ffff:10.1.2.3"));
	/* All of IPv6 is not all of IPv4. */
	assert_false(contains("::/0", "::ffff:10.1.2.3"));
	assert_true(contains("0.0.0.0/0", "::ffff:10.1.2.3"));
}

static void families_never_mix(void **state)
{
	struct network all4 = network_of("0.0.0.0/0"), all6 = network_of("::/0");
	const struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/run/x"};
	const struct sockaddr unspecified = {.sa_family = AF_UNSPEC};

	(void)state;
	assert_false(contains("0.0.0.0/0", "::1"));
	assert_false(contains("::/0", "127.0.0.1"));
	assert_false(network_contains(&all4, (const struct sockaddr *)&local));
	assert_false(network_contains(&all6, (const struct sockaddr *)&local));
	assert_false(network_contains(&all4, &unspecified));
	assert_false(network_contains(&all6, &unspecified));
}

/* By each bit: inside exactly when the bits of the prefix are equal. */
static void random_addresses_are_compared_bit_by_bit(void **state)
{
	struct support_random random;

	(void)state;
	support_random_start(&random);
	for (int round = 0; round < 20000; round++) {
		struct network network = {.family = AF_INET6, .address = {0x20}};
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
		unsigned flipped = (unsigned)support_random_below(&random, 128);

		network.prefix = (unsigned)support_random_below(&random, 129);
		for (unsigned bit = 8; bit < network.prefix; bit++)
			network.address[bit / 8] |=
				(uint8_t)(support_random_below(&random, 2) << (7 - bit % 8));
		if (network.prefix < 8)
			network.address[0] &= (uint8_t)(0xff00 >> network.prefix);
		memcpy(in6.sin6_addr.s6_addr, network.address, 16);
		in6.sin6_addr.s6_addr[flipped / 8] ^= (uint8_t)(0x80 >> flipped % 8);
		if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
			continue;
		if (network_contains(&network, (struct sockaddr *)&in6) !=
		    (flipped >= network.prefix))
			fail_msg("seed %llu: prefix %u, bit %u", (unsigned long long)random.seed,
				 network.prefix, flipped);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(networks_and_single_addresses_are_read),
		cmocka_unit_test(a_mapped_network_is_the_ipv4_one),
		cmocka_unit_test(bits_behind_the_prefix_are_said_with_the_right_network),
		cmocka_unit_test(a_wrong_prefix_is_said),
		cmocka_unit_test(what_is_no_address_is_said),
		cmocka_unit_test(an_address_is_in_its_network_and_not_beside_it),
		cmocka_unit_test(a_mapped_address_is_the_ipv4_one),
		cmocka_unit_test(families_never_mix),
		cmocka_unit_test(random_addresses_are_compared_bit_by_bit),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
