/* Who may come. */
#include "support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/access.h"

#define NEVER (-2)

/* A list of rules, each at "file:N". Ends with NULL. */
static struct access_list list_of(const char *const *texts)
{
	struct access_list list = {0};
	struct error err = {0};
	char where[] = "file:1";

	for (; *texts != NULL; texts++, where[5]++)
		if (access_add(&list, *texts, where, &err) != 0)
			fail_msg("'%s': %s", *texts, err.text);
	return list;
}

#define LIST(...) list_of((const char *const[]){__VA_ARGS__, NULL})

static bool allows_client(const struct access_list *list, const struct access_client *client,
			  int decides)
{
	const struct access_rule *rule = list->rules;
	bool allowed = access_allows(list, client, &rule);

	if (decides == NEVER)
		assert_null(rule);
	else
		assert_ptr_equal(rule, &list->rules[decides]);
	assert_int_equal(access_allows(list, client, NULL), allowed);
	return allowed;
}

/* `decides`: the number of the rule that must decide. */
static bool allows(const struct access_list *list, const char *host, int decides)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct access_client client = {.address = (struct sockaddr *)&in};

	if (inet_pton(AF_INET, host, &in.sin_addr) != 1) {
		assert_int_equal(inet_pton(AF_INET6, host, &in6.sin6_addr), 1);
		client.address = (struct sockaddr *)&in6;
	}
	return allows_client(list, &client, decides);
}

static bool allows_user(const struct access_list *list, uid_t uid, gid_t gid, int decides)
{
	static const gid_t groups[] = {2000, 2001};
	const struct sockaddr address = {.sa_family = AF_UNIX};
	const struct access_client client = {.address = &address,
					     .has_ids = true,
					     .uid = uid,
					     .gid = gid,
					     .groups = groups,
					     .group_count = COUNT_OF(groups)};

	return allows_client(list, &client, decides);
}

static void assert_refused(const char *text, const char *because)
{
	struct access_list list = {0};
	struct error err = {0};

	if (access_add(&list, text, "file:1", &err) != -1)
		fail_msg("'%s' is taken", text);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, "the rule '");
	assert_contains(err.text, because);
	assert_int_equal(list.count, 0);
	assert_null(list.rules);
}

/* ---- Reading -------------------------------------------------------------------------------- */

static void a_rule_keeps_what_was_written_and_where(void **state)
{
	struct access_list list = LIST("allow 10.0.0.0/8", "deny *");

	(void)state;
	assert_int_equal(list.count, 2);
	assert_string_equal(list.rules[0].text, "allow 10.0.0.0/8");
	assert_string_equal(list.rules[0].where, "file:1");
	assert_true(list.rules[0].allow);
	assert_int_equal(list.rules[0].who, ACCESS_NETWORK);
	assert_int_equal(list.rules[0].network.prefix, 8);
	assert_string_equal(list.rules[1].where, "file:2");
	assert_false(list.rules[1].allow);
	assert_int_equal(list.rules[1].who, ACCESS_ALL);
	access_clear(&list);
	assert_int_equal(list.count, 0);
	assert_null(list.rules);
	access_clear(&list);
}

static void blanks_around_words_do_not_matter(void **state)
{
	struct access_list list = LIST(" \tdeny\t  ::1 ");

	(void)state;
	assert_string_equal(list.rules[0].text, "deny\t  ::1");
	assert_false(list.rules[0].allow);
	assert_int_equal(list.rules[0].network.family, AF_INET6);
	access_clear(&list);
}

static void users_and_groups_have_a_name_or_a_number(void **state)
{
	struct access_list list = LIST("allow uid:root", "allow uid:1000", "allow gid:root",
				       "deny gid:4294967294", "allow unix");

	(void)state;
	assert_int_equal(list.rules[0].who, ACCESS_UID);
	assert_int_equal(list.rules[0].uid, 0);
	assert_int_equal(list.rules[1].uid, 1000);
	assert_int_equal(list.rules[2].who, ACCESS_GID);
	assert_int_equal(list.rules[2].gid, 0);
	assert_true(list.rules[3].gid == 4294967294);
	assert_int_equal(list.rules[4].who, ACCESS_UNIX);
	access_clear(&list);
}

static void what_is_no_rule_is_said(void **state)
{
	(void)state;
	assert_refused("", "the rule '': it is empty; write it as in allow 10.0.0.0/8");
	assert_refused("  ", "it is empty");
	assert_refused("allow", "it does not say whom; write it as in allow *");
	assert_refused("deny ", "the rule 'deny': it does not say whom; write it as in deny *");
	assert_refused("10.0.0.0/8", "begins with allow or deny, not with '10.0.0.0/8'");
	assert_refused("Allow *", "'Allow' is not known; did you mean 'allow'?");
	assert_refused("dney *", "did you mean 'deny'?");
	assert_refused("permit *", "begins with allow or deny, not with 'permit'");
	assert_refused("allow 10.0.0.0/8 192.0.2.1", "'192.0.2.1' is one word too many");
	assert_refused("allow 10.0.0.1/8",
		       "the network '10.0.0.1/8' has bits behind its prefix; write 10.0.0.0/8");
	assert_refused("allow 10.0.0.0/33", "is not a number of bits between 0 and 32");
	assert_refused("allow [::1]", "'[::1]' is not a network");
	assert_refused("allow all", "'all' is not known; write a network, an address, *, unix, ");
	assert_refused("allow UNIX", "'UNIX' is not known");
	assert_refused("allow user:root", "'user:root' is not a network");
}

/* "allow uid:gone" must not become "everybody" where the daemon has to go on with it. */
static void an_unknown_user_is_said_and_its_rule_matches_nobody(void **state)
{
	static const struct {
		const char *rule;
		const char *sentence;
	} unknown[] = {
		{"allow uid:no-such-user", "there is no user 'no-such-user'"},
		{"allow gid:no-such-group", "there is no group 'no-such-group'"},
		{"allow uid:", "there is no user ''"},
		{"allow uid:4294967295", "4294967295 is too large for the number of a user"},
		{"allow gid:99999999999999999999", "is too large for the number of a group"},
	};
	struct access_list list = {0};
	struct error err = {0};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(unknown); i++) {
		assert_int_equal(access_add(&list, unknown[i].rule, "file:1", &err), -1);
		assert_int_equal(err.code, EXIT_CONFIG);
		assert_contains(err.text, unknown[i].sentence);
		assert_int_equal(list.count, i + 1);
	}
	assert_false(allows_user(&list, 0, 0, NEVER));
	assert_false(allows_user(&list, 65534, 65534, NEVER));
	assert_false(allows(&list, "127.0.0.1", NEVER));
	access_clear(&list);
}

/* ---- Deciding ------------------------------------------------------------------------------- */

static void an_empty_list_allows_everybody(void **state)
{
	struct access_list list = {0};

	(void)state;
	assert_true(allows(&list, "10.1.2.3", NEVER));
	assert_true(allows(&list, "::1", NEVER));
	assert_true(allows_user(&list, 1000, 1000, NEVER));
}

static void the_first_rule_that_matches_decides(void **state)
{
	struct access_list list = LIST("deny 10.0.0.1", "allow 10.0.0.0/8", "deny *");

	(void)state;
	assert_false(allows(&list, "10.0.0.1", 0));
	assert_true(allows(&list, "10.0.0.2", 1));
	assert_true(allows(&list, "::ffff:10.0.0.2", 1));
	assert_false(allows(&list, "::ffff:10.0.0.1", 0));
	assert_false(allows(&list, "11.0.0.1", 2));
	assert_false(allows(&list, "::1", 2));
	assert_false(allows_user(&list, 0, 0, 2));
	access_clear(&list);
}

static void whom_no_rule_matches_has_the_opposite_of_the_last_rule(void **state)
{
	struct access_list allowed = LIST("deny 10.0.0.1", "allow 10.0.0.0/8");
	struct access_list denied = LIST("allow 10.0.0.1", "deny 10.0.0.0/8");

	(void)state;
	assert_false(allows(&allowed, "192.0.2.1", NEVER));
	assert_false(allows(&allowed, "2001:db8::1", NEVER));
	assert_false(allows_user(&allowed, 0, 0, NEVER));
	assert_true(allows(&denied, "192.0.2.1", NEVER));
	assert_true(allows_user(&denied, 0, 0, NEVER));
	access_clear(&allowed);
	access_clear(&denied);
}

static void clients_of_unix_sockets_are_known_by_user_and_groups(void **state)
{
	struct access_list list =
		LIST("deny uid:1000", "allow gid:2001", "allow gid:3000", "allow uid:1001");

	(void)state;
	assert_false(allows_user(&list, 1000, 3000, 0));
	assert_true(allows_user(&list, 1001, 1001, 1));
	access_clear(&list);
	list = LIST("allow gid:3000", "allow uid:1001");
	assert_true(allows_user(&list, 1, 3000, 0));
	assert_true(allows_user(&list, 1001, 1, 1));
	assert_false(allows_user(&list, 1, 1, NEVER));
	access_clear(&list);
	list = LIST("allow unix", "deny *");
	assert_true(allows_user(&list, 7, 7, 0));
	assert_false(allows(&list, "127.0.0.1", 1));
	access_clear(&list);
}

static void ids_are_looked_at_for_unix_sockets_only(void **state)
{
	struct access_list list = LIST("allow uid:0", "allow gid:0");
	const struct sockaddr_in in = {.sin_family = AF_INET};
	const struct sockaddr local = {.sa_family = AF_UNIX};
	struct access_client client = {.address = (const struct sockaddr *)&in, .has_ids = true};

	(void)state;
	assert_false(allows_client(&list, &client, NEVER));
	client.address = &local;
	assert_true(allows_client(&list, &client, 0));
	client.has_ids = false;
	assert_false(allows_client(&list, &client, NEVER));
	access_clear(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rule_keeps_what_was_written_and_where),
		cmocka_unit_test(blanks_around_words_do_not_matter),
		cmocka_unit_test(users_and_groups_have_a_name_or_a_number),
		cmocka_unit_test(what_is_no_rule_is_said),
		cmocka_unit_test(an_unknown_user_is_said_and_its_rule_matches_nobody),
		cmocka_unit_test(an_empty_list_allows_everybody),
		cmocka_unit_test(the_first_rule_that_matches_decides),
		cmocka_unit_test(whom_no_rule_matches_has_the_opposite_of_the_last_rule),
		cmocka_unit_test(clients_of_unix_sockets_are_known_by_user_and_groups),
		cmocka_unit_test(ids_are_looked_at_for_unix_sockets_only),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
