/* echod access: may this client use that service, and which rule says so? */
#include <arpa/inet.h>
#include <grp.h>
#include <jansson.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "cli/cli.h"

#define GROUPS_MAX 1024
#define NO_ID	   UINT32_MAX /* no process has it */

struct asked {
	struct access_client client;
	struct sockaddr_storage address;
	gid_t groups[GROUPS_MAX];
};

/* What one list of rules says. */
struct answer {
	const char *of; /* "all services", or the service's name */
	const struct access_list *list;
	const struct access_rule *rule; /* NULL: none matched */
	bool allowed;
};

/* ---- The client -------------------------------------------------------------------------------
 */

static int no_address(const char *text, struct error *err)
{
	return error_set(err, EXIT_USAGE,
			 "'%s' is not an ADDRESS: write 192.0.2.1, 2001:db8::1, unix, uid:NAME or "
			 "uid:NAME,gid:NAME",
			 text);
}

static bool is_number(const char *text, uint32_t *id)
{
	int64_t number;

	if (text_parse_int(text, &number) < 0 || number < 0 || number >= NO_ID)
		return false;
	*id = (uint32_t)number;
	return true;
}

/* Without a word about groups: those that the user has. */
static int own_groups(struct asked *asked, const struct passwd *user, struct error *err)
{
	int count = GROUPS_MAX;

	if (user == NULL)
		return 0;
	if (getgrouplist(user->pw_name, user->pw_gid, asked->groups, &count) < 0)
		return error_set(err, EXIT_FAILED, "the user '%s' has more than %d groups",
				 user->pw_name, GROUPS_MAX);
	asked->client.gid = user->pw_gid;
	asked->client.groups = asked->groups;
	asked->client.group_count = (size_t)count;
	return 0;
}

static int parse_group(struct asked *asked, const char *name, struct error *err)
{
	const struct group *group;
	uint32_t id;

	if (is_number(name, &id)) {
		asked->client.gid = id;
		return 0;
	}
	group = getgrnam(name);
	if (group == NULL)
		return error_set(err, EXIT_USAGE, "there is no group '%s'", name);
	asked->client.gid = group->gr_gid;
	return 0;
}

/* "NAME" or "NAME,gid:NAME", behind "uid:". Cut in place. */
static int parse_user(struct asked *asked, char *name, struct error *err)
{
	char *comma = strchr(name, ',');
	const struct passwd *user;
	uint32_t id;

	if (comma != NULL)
		*comma = '\0';
	user = is_number(name, &id) ? getpwuid(id) : getpwnam(name);
	if (user == NULL && !is_number(name, &id))
		return error_set(err, EXIT_USAGE, "there is no user '%s'", name);
	asked->client.has_ids = true;
	asked->client.uid = user != NULL ? user->pw_uid : id;
	asked->client.gid = NO_ID;
	if (comma == NULL)
		return own_groups(asked, user, err);
	if (strncmp(comma + 1, "gid:", 4) != 0)
		return no_address(comma + 1, err);
	return parse_group(asked, comma + 5, err);
}

static int parse_client(struct asked *asked, const char *text, struct error *err)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&asked->address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&asked->address;
	char *copy;
	int result;

	memset(asked, 0, sizeof(*asked));
	asked->client.address = (struct sockaddr *)&asked->address;
	asked->address.ss_family = AF_INET;
	if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
		return 0;
	asked->address.ss_family = AF_INET6;
	if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
		return 0;
	asked->address.ss_family = AF_UNIX;
	if (strcmp(text, "unix") == 0)
		return 0;
	if (strncmp(text, "uid:", 4) != 0)
		return no_address(text, err);
	copy = strdup(text + 4);
	if (copy == NULL)
		return error_errno(err, "cannot read the address");
	result = parse_user(asked, copy, err);
	free(copy);
	return result;
}

/* ---- The service ------------------------------------------------------------------------------
 */

/* NULL with the reason. Not EXIT_FAILED: that would be taken for a client that is refused. */
static const struct conf_service *find_service(const struct conf *conf, const char *name,
					       struct error *err)
{
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	for (size_t i = 0; i < conf->service_count; i++) {
		const struct conf_service *service = &conf->services[i];

		if (text_is_nearer(name, service->name, &best))
			nearest = service->name;
		if (strcmp(name, service->name) != 0)
			continue;
		if (!conf_is_program(service))
			return service;
		error_set(err, EXIT_USAGE, "%s is a program: it has no clients", name);
		return NULL;
	}
	error_set(err, EXIT_USAGE, "there is no service '%s'%s%s%s", name,
		  nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
		  nearest != NULL ? "'?" : "");
	return NULL;
}

/* ---- The answer -------------------------------------------------------------------------------
 */

/* In the order in which a server asks. Returns how many lists had rules; the last one decides. */
static int ask(const struct conf *conf, const struct conf_service *service,
	       const struct access_client *client, struct answer *answers)
{
	const struct answer lists[] = {
		{.of = "all services", .list = &conf->limits.access},
		{.of = service->name, .list = &service->limits.access},
	};
	int count = 0;

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		struct answer *answer = &answers[count];

		if (lists[i].list->count == 0)
			continue;
		*answer = lists[i];
		answer->allowed = access_allows(answer->list, client, &answer->rule);
		count++;
		if (!answer->allowed)
			break;
	}
	return count;
}

static bool is_allowed(const struct answer *answers, int count)
{
	return count == 0 || answers[count - 1].allowed;
}

/* The rule that decided, or the last one, of which it is the opposite. */
static const struct access_rule *rule_of(const struct answer *answer)
{
	return answer->rule != NULL ? answer->rule : &answer->list->rules[answer->list->count - 1];
}

static bool is_open(const struct conf *conf, const struct conf_service *service,
		    const struct tm *now)
{
	return schedule_is_open(&conf->limits.access_times, now) &&
	       schedule_is_open(&service->limits.access_times, now);
}

static void print_rules(FILE *out, const struct answer *answers, int count)
{
	if (count == 0)
		fputs("there are no access rules", out);
	for (int i = 0; i < count; i++) {
		const struct access_rule *rule = rule_of(&answers[i]);

		fprintf(out, "%s%s'%s' at %s%s", i > 0 ? " and " : "",
			answers[i].rule != NULL ? "" : "the opposite of the last rule, ",
			rule->text, rule->where, answers[i].rule != NULL ? "" : " (none matches),");
	}
	if (count > 0)
		fputs(count > 1 ? " decide" : " decides", out);
}

/* `closed` is the time at which the service is; NULL: it is open. */
static void print_text(const struct options *options, const struct answer *answers, int count,
		       const char *closed)
{
	const char *name = options->words[0], *client = options->words[1];
	char *line = NULL, escaped[4 * ERROR_TEXT_MAX];
	size_t len = 0;
	FILE *out = open_memstream(&line, &len);

	if (out == NULL)
		return;
	fprintf(out, "%s %s %s: ", client, is_allowed(answers, count) ? "may use" : "may not use",
		name);
	print_rules(out, answers, count);
	fclose(out);
	/* The file's path is somebody's text. */
	text_escape(escaped, sizeof(escaped), line, len);
	free(line);
	printf("echod: %s\n", escaped);
	if (closed != NULL)
		printf("echod: note: access_times keep %s closed for everybody now (%s)\n", name,
		       closed);
}

/* A path or a name need not be UTF-8, but a string of JSON must. */
static json_t *json_text(const char *text)
{
	char escaped[4 * ERROR_TEXT_MAX];

	text_escape_ascii(escaped, sizeof(escaped), text, strlen(text));
	return json_string(escaped);
}

static json_t *json_rule(const struct answer *answer)
{
	const struct access_rule *rule = rule_of(answer);

	return json_pack("{s:s, s:b, s:b, s:o, s:o}", "of", answer->of, "allowed", answer->allowed,
			 "matched", answer->rule != NULL, "rule", json_text(rule->text), "where",
			 json_text(rule->where));
}

static json_t *json_rules(const struct answer *answers, int count)
{
	json_t *rules = json_array();

	for (int i = 0; i < count; i++)
		json_array_append_new(rules, json_rule(&answers[i]));
	return rules;
}

static void print_json(const struct options *options, const struct answer *answers, int count,
		       const char *closed)
{
	json_t *reply =
		json_pack("{s:b, s:i, s:s, s:o, s:b, s:b, s:o}", "ok", 1, "schema", 1, "service",
			  options->words[0], "client", json_text(options->words[1]), "allowed",
			  is_allowed(answers, count), "open", closed == NULL, "rules",
			  json_rules(answers, count));

	json_dumpf(reply, stdout, JSON_COMPACT);
	puts("");
	json_decref(reply);
}

static int tell(const struct options *options, const struct conf *conf,
		const struct conf_service *service, const struct access_client *client)
{
	struct answer answers[2];
	int count = ask(conf, service, client, answers);
	time_t now = time(NULL);
	struct tm local = {0};
	char text[32] = "";
	const char *closed = NULL;

	localtime_r(&now, &local);
	strftime(text, sizeof(text), "%a %H:%M", &local);
	if (!is_open(conf, service, &local))
		closed = text;
	if (options->json)
		print_json(options, answers, count, closed);
	else if (!options->quiet)
		print_text(options, answers, count, closed);
	return is_allowed(answers, count) ? EXIT_DONE : EXIT_FAILED;
}

static int run(const struct options *options)
{
	const struct conf_service *service;
	struct conf_source *source;
	struct asked asked;
	struct error err = {0};
	struct conf *conf;
	int code;

	if (parse_client(&asked, options->words[1], &err) < 0)
		return cli_fail(&err);
	code = cli_load(options, &source, &conf);
	if (code != EXIT_DONE)
		return code;
	service = find_service(conf, options->words[0], &err);
	code = service != NULL ? tell(options, conf, service, &asked.client) : cli_fail(&err);
	conf_source_free(source);
	conf_free(conf);
	return code;
}

const struct command command_access = {
	.name = "access",
	.words = "NAME ADDRESS",
	.summary = "say which rule decides whether a client may use a service",
	.takes = TAKES_JSON | TAKES_START,
	.min_words = 2,
	.max_words = 2,
	.needs = "a NAME and an ADDRESS, as in 'echod access line 192.0.2.1'",
	.instead = "one client at a time",
	.run = run,
};
