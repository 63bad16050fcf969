#include "base/access.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define BLANKS " \t"

/* No process has this id: chown(2) takes it for "leave as it is". */
#define NO_ID UINT32_MAX

/* ---- Reading -------------------------------------------------------------------------------- */

static int look_up(const char *name, bool is_group, uint32_t *id, struct error *err)
{
	const char *kind = is_group ? "group" : "user";
	const struct passwd *user = NULL;
	const struct group *group = NULL;

	errno = 0;
	if (is_group)
		group = getgrnam(name);
	else
		user = getpwnam(name);
	if (user == NULL && group == NULL && errno != 0 && errno != ENOENT)
		return error_errno(err, "cannot look up the %s '%s'", kind, name);
	if (user == NULL && group == NULL)
		return error_set(err, EXIT_CONFIG, "there is no %s '%s'", kind, name);
	*id = is_group ? group->gr_gid : user->pw_uid;
	return 0;
}

/* `*id` becomes NO_ID when there is none. */
static int parse_id(const char *name, bool is_group, uint32_t *id, struct error *err)
{
	int64_t number;

	*id = NO_ID;
	if (name[0] == '\0' || strspn(name, "0123456789") != strlen(name))
		return look_up(name, is_group, id, err);
	if (text_parse_int(name, &number) < 0 || number >= NO_ID)
		return error_set(err, EXIT_CONFIG, "%s is too large for the number of a %s", name,
				 is_group ? "group" : "user");
	*id = (uint32_t)number;
	return 0;
}

static int parse_who(const char *who, struct access_rule *rule, struct error *err)
{
	rule->who = ACCESS_NETWORK;
	if (strcmp(who, "*") == 0) {
		rule->who = ACCESS_ALL;
	} else if (strcmp(who, "unix") == 0) {
		rule->who = ACCESS_UNIX;
	} else if (strncmp(who, "uid:", 4) == 0) {
		rule->who = ACCESS_UID;
		return parse_id(who + 4, false, &rule->uid, err);
	} else if (strncmp(who, "gid:", 4) == 0) {
		rule->who = ACCESS_GID;
		return parse_id(who + 4, true, &rule->gid, err);
	} else if (strpbrk(who, ".:/") == NULL) {
		return error_set(
			err, EXIT_CONFIG,
			"'%s' is not known; write a network, an address, *, unix, uid:NAME "
			"or gid:NAME",
			who);
	} else {
		return network_parse(who, &rule->network, err);
	}
	return 0;
}

static int parse_verdict(const char *word, struct access_rule *rule, struct error *err)
{
	static const char *const verdicts[] = {"deny", "allow"};
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	for (int i = 0; i < 2; i++) {
		if (strcmp(word, verdicts[i]) == 0) {
			rule->allow = i == 1;
			return 0;
		}
		if (text_is_nearer(word, verdicts[i], &best))
			nearest = verdicts[i];
	}
	if (nearest != NULL)
		return error_set(err, EXIT_CONFIG, "'%s' is not known; did you mean '%s'?", word,
				 nearest);
	return error_set(err, EXIT_CONFIG, "a rule begins with allow or deny, not with '%s'", word);
}

/* Cuts `copy` into its words. `*kept` when the rule is whole but names nobody. */
static int parse_words(char *copy, struct access_rule *rule, bool *kept, struct error *err)
{
	char *rest = NULL;
	const char *verdict = strtok_r(copy, BLANKS, &rest), *who = strtok_r(NULL, BLANKS, &rest);
	const char *more = strtok_r(NULL, BLANKS, &rest);

	if (verdict == NULL)
		return error_set(err, EXIT_CONFIG, "it is empty; write it as in allow 10.0.0.0/8");
	if (parse_verdict(verdict, rule, err) < 0)
		return -1;
	if (who == NULL)
		return error_set(err, EXIT_CONFIG, "it does not say whom; write it as in %s *",
				 verdict);
	if (more != NULL)
		return error_set(err, EXIT_CONFIG,
				 "'%s' is one word too many: a rule is for one network", more);
	if (parse_who(who, rule, err) == 0)
		return 0;
	*kept = (rule->who == ACCESS_UID && rule->uid == NO_ID) ||
		(rule->who == ACCESS_GID && rule->gid == NO_ID);
	return -1;
}

static char *without_blanks(const char *text)
{
	size_t len;

	text += strspn(text, BLANKS);
	len = strlen(text);
	while (len > 0 && strchr(BLANKS, text[len - 1]) != NULL)
		len--;
	return strndup(text, len);
}

/* The texts go over to the list. */
static int append(struct access_list *list, const struct access_rule *rule)
{
	struct access_rule *larger = realloc(list->rules, (list->count + 1) * sizeof(*list->rules));

	if (larger == NULL)
		return -1;
	list->rules = larger;
	larger[list->count++] = *rule;
	return 0;
}

int access_add(struct access_list *list, const char *text, const char *where, struct error *err)
{
	struct access_rule rule = {.text = without_blanks(text), .where = strdup(where)};
	char *copy = strdup(text);
	bool kept = false;
	int result = 0;

	if (rule.text == NULL || rule.where == NULL || copy == NULL) {
		result = error_errno(err, "the rule '%s'", text);
		goto out;
	}
	if (parse_words(copy, &rule, &kept, err) < 0)
		result = error_prefix(err, "the rule '%s': ", rule.text);
	if (result < 0 && !kept)
		goto out;
	if (append(list, &rule) == 0)
		rule = (struct access_rule){0};
	else
		result = error_errno(err, "the rule '%s'", text);
out:
	free(copy);
	free(rule.text);
	free(rule.where);
	return result;
}

void access_clear(struct access_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		free(list->rules[i].text);
		free(list->rules[i].where);
	}
	free(list->rules);
	*list = (struct access_list){0};
}

/* ---- Deciding ------------------------------------------------------------------------------- */

static bool is_in_group(const struct access_client *client, gid_t gid)
{
	if (client->gid == gid)
		return true;
	for (size_t i = 0; i < client->group_count; i++)
		if (client->groups[i] == gid)
			return true;
	return false;
}

static bool matches(const struct access_rule *rule, const struct access_client *client)
{
	bool is_unix = client->address->sa_family == AF_UNIX;

	switch (rule->who) {
	case ACCESS_ALL:
		return true;
	case ACCESS_NETWORK:
		return network_contains(&rule->network, client->address);
	case ACCESS_UNIX:
		return is_unix;
	case ACCESS_UID:
		return is_unix && client->has_ids && client->uid == rule->uid;
	case ACCESS_GID:
		return is_unix && client->has_ids && is_in_group(client, rule->gid);
	}
	return false;
}

bool access_allows(const struct access_list *list, const struct access_client *client,
		   const struct access_rule **rule)
{
	const struct access_rule *found = NULL;

	for (size_t i = 0; i < list->count && found == NULL; i++)
		if (matches(&list->rules[i], client))
			found = &list->rules[i];
	if (rule != NULL)
		*rule = found;
	if (found != NULL)
		return found->allow;
	return list->count == 0 || !list->rules[list->count - 1].allow;
}
