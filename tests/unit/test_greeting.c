/* What is said first: fields, escapes, and what is refused. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "serve/proto.h"
#include "serve/proxy.h"

static char said[2048];

static void keep(struct proto_out *out, const void *data, size_t len)
{
	size_t before = strlen(said);

	(void)out;
	assert_true(len > 0 && len < sizeof(said) - before);
	memcpy(said + before, data, len);
	said[before + len] = '\0';
}

static struct proto_out out = {keep};

static struct sockaddr_in peer = {.sin_family = AF_INET};
static struct sockaddr_in6 local = {.sin6_family = AF_INET6};

static struct proto_facts facts(void)
{
	inet_pton(AF_INET, "192.0.2.7", &peer.sin_addr);
	peer.sin_port = htons(54321);
	inet_pton(AF_INET6, "2001:db8::1", &local.sin6_addr);
	local.sin6_port = htons(30333);
	return (struct proto_facts){
		.now = {1795365646, 999999999},
		.service = "hello",
		.worker = "hello/2",
		.host = "box.example",
		.transport = "tcp",
		.peer = (const struct sockaddr *)&peer,
		.local = (const struct sockaddr *)&local,
	};
}

static const char *greet_with(const char *greeting, const struct proto_facts *about)
{
	struct error err;

	said[0] = '\0';
	assert_int_equal(greeting_write(greeting, NULL, NULL, &err), 0);
	assert_int_equal(greeting_write(greeting, about, &out, &err), 0);
	return said;
}

static const char *greet(const char *greeting)
{
	struct proto_facts about = facts();

	return greet_with(greeting, &about);
}

/* Checked or written, it fails with this in its sentence. */
static void assert_refused(const char *greeting, const char *text)
{
	struct proto_facts about = facts();
	struct error err = {0};

	assert_int_equal(greeting_write(greeting, NULL, NULL, &err), -1);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, text);
	assert_int_equal(greeting_write(greeting, &about, &out, &err), -1);
	assert_contains(err.text, text);
}

static void a_text_without_fields_is_said_as_it_is(void **state)
{
	(void)state;
	assert_string_equal(greet(""), "");
	assert_string_equal(greet("Hello\r\n\x01\xc3\xa4"), "Hello\r\n\x01\xc3\xa4");
}

static void each_field_is_filled_in(void **state)
{
	char pid[32];

	(void)state;
	snprintf(pid, sizeof(pid), "<%d>", (int)getpid());
	assert_string_equal(greet("<%host>"), "<box.example>");
	assert_string_equal(greet("<%peer>"), "<192.0.2.7:54321>");
	assert_string_equal(greet("<%local>"), "<[2001:db8::1]:30333>");
	assert_string_equal(greet("<%port>"), "<30333>");
	assert_string_equal(greet("<%service>"), "<hello>");
	assert_string_equal(greet("<%worker>"), "<hello/2>");
	assert_string_equal(greet("<%time>"), "<2026-11-22T16:40:46Z>");
	assert_string_equal(greet("<%pid>"), pid);
}

static void fields_stand_next_to_each_other(void **state)
{
	(void)state;
	assert_string_equal(greet("%service%worker%%%port2%%host"), "hellohello/2%303332%host");
	assert_string_equal(greet("%%"), "%");
	assert_string_equal(greet("100%%\\n"), "100%\n");
}

static void escapes_are_control_characters(void **state)
{
	(void)state;
	assert_string_equal(greet("a\\r\\n\\tb\\\\n"), "a\r\n\tb\\n");
	assert_string_equal(greet("\\\\%%\\\\"), "\\%\\");
}

static void an_unknown_field_is_refused(void **state)
{
	(void)state;
	assert_refused("Hello %hots", "there is no field %hots; there are %host, ");
	assert_refused("%hosts", "there is no field %hosts");
	assert_refused("%pidx", "there is no field %pidx");
	assert_refused("%hostnameofthismachineandofallmachinesthatareasgoodorbadasitisfornow",
		       "there is no field %hostname");
}

static void a_lonely_percent_sign_is_refused(void **state)
{
	(void)state;
	assert_refused("100%", "write %% for a percent sign");
	assert_refused("100% of it", "write %% for a percent sign");
	assert_refused("%Host", "write %% for a percent sign");
	assert_refused("%\\n", "write %% for a percent sign");
	assert_refused("%%%", "write %% for a percent sign");
}

static void an_unknown_escape_is_refused(void **state)
{
	(void)state;
	assert_refused("\\q", "write \\\\ for a backslash");
	assert_refused("end\\", "write \\\\ for a backslash");
	assert_refused("\\0", "write \\\\ for a backslash");
}

static void a_unix_socket_is_shown_by_its_name(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/run/\x1b\xff.sock"};
	struct proto_facts about = facts();

	(void)state;
	about.peer = about.local = (const struct sockaddr *)&un;
	assert_string_equal(greet_with("%peer %local %port", &about),
			    "/run/\\x1b\\xff.sock /run/\\x1b\\xff.sock -");
	memcpy(un.sun_path, "\0abc\0\0", 6);
	memset(un.sun_path + 4, 0, sizeof(un.sun_path) - 4);
	assert_string_equal(greet_with("%peer", &about), "@abc");
	memset(un.sun_path, 0, sizeof(un.sun_path));
	assert_string_equal(greet_with("%peer", &about), "unnamed");
	memset(un.sun_path, 0xff, sizeof(un.sun_path));
	assert_int_equal(strlen(greet_with("%peer", &about)), 4 * sizeof(un.sun_path));
}

static void the_header_of_a_proxy_names_the_client(void **state)
{
	struct proxy_header header = {.version = 2, .local = true};
	struct proto_facts about = facts();

	(void)state;
	about.proxy = &header;
	assert_string_equal(greet_with("%peer %port", &about), "192.0.2.7:54321 30333");
	header.local = false;
	memcpy(&header.source.storage, &local, sizeof(local));
	memcpy(&header.destination.storage, &peer, sizeof(peer));
	assert_string_equal(greet_with("%peer %local %port", &about),
			    "[2001:db8::1]:30333 192.0.2.7:54321 54321");
}

static void a_line_service_says_its_greeting_and_goes_on(void **state)
{
	struct proto_settings settings = {.greeting = "220 %host\\r\\n"};
	struct proto_facts about = facts();

	(void)state;
	said[0] = '\0';
	assert_false(proto_line.speaks_first);
	assert_int_equal(proto_line.open(&settings, &about, &out), PROTO_MORE);
	assert_string_equal(said, "220 box.example\r\n");
	said[0] = '\0';
	settings.greeting = NULL;
	assert_int_equal(proto_line.open(&settings, &about, &out), PROTO_MORE);
	assert_string_equal(said, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_text_without_fields_is_said_as_it_is),
		cmocka_unit_test(each_field_is_filled_in),
		cmocka_unit_test(fields_stand_next_to_each_other),
		cmocka_unit_test(escapes_are_control_characters),
		cmocka_unit_test(an_unknown_field_is_refused),
		cmocka_unit_test(a_lonely_percent_sign_is_refused),
		cmocka_unit_test(an_unknown_escape_is_refused),
		cmocka_unit_test(a_unix_socket_is_shown_by_its_name),
		cmocka_unit_test(the_header_of_a_proxy_names_the_client),
		cmocka_unit_test(a_line_service_says_its_greeting_and_goes_on),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
