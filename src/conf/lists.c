/* Settings that are lists of strings. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "conf/keys.h"

/* ---- Words: command, environment ------------------------------------------------------------- */

static size_t count_words(char *const *words)
{
	size_t n = 0;

	while (words != NULL && words[n] != NULL)
		n++;
	return n;
}

/* Only the first word is for echod, the others are the command's own. */
static int check_command_word(char *const *before, const char *word, struct error *err)
{
	if (count_words(before) == 0 && word[0] != '/')
		return error_set(err, EXIT_CONFIG, "command must be an absolute path, not '%s'",
				 word);
	return 0;
}

/* The length of the NAME of NAME=value; 0 when it is none. */
static size_t variable_name(const char *word)
{
	size_t len = 0;

	while (isalnum((unsigned char)word[len]) || word[len] == '_')
		len++;
	return word[len] == '=' && !isdigit((unsigned char)word[0]) ? len : 0;
}

static int check_variable(char *const *before, const char *word, struct error *err)
{
	size_t len = variable_name(word);

	if (len == 0)
		return error_set(
			err, EXIT_CONFIG,
			"environment: '%s' is not NAME=value, the NAME of letters, digits and "
			"'_', the first no digit",
			word);
	for (; before != NULL && *before != NULL; before++)
		if (strncmp(*before, word, len + 1) == 0)
			return error_set(err, EXIT_CONFIG,
					 "environment: the variable '%.*s' stands here twice",
					 (int)len, word);
	return 0;
}

static int check_word(const struct conf_key *key, char *const *before, const char *word,
		      struct error *err)
{
	return key->type == KEY_COMMAND ? check_command_word(before, word, err)
					: check_variable(before, word, err);
}

static int append_word(char ***words, const char *word)
{
	size_t n = count_words(*words);
	char **larger = realloc(*words, (n + 2) * sizeof(*larger));

	if (larger == NULL)
		return -1;
	*words = larger;
	larger[n] = strdup(word);
	larger[n + 1] = NULL;
	return larger[n] == NULL ? -1 : 0;
}

static int add_word(const struct conf_key *key, char ***words, const char *text, struct error *err)
{
	if (check_word(key, *words, text, err) < 0)
		return -1;
	return append_word(words, text) < 0 ? error_errno(err, "%s", key->name) : 0;
}

static void clear_words(char **words)
{
	for (size_t n = count_words(words); n > 0; n--) {
		free(words[n - 1]);
		words[n - 1] = NULL;
	}
}

/* ---- The kind of service, and its addresses -------------------------------------------------- */

int conf_program_mark(struct conf_service *service)
{
	service->command = calloc(1, sizeof(*service->command));
	return service->command == NULL ? -1 : 0;
}

int conf_listen_add(struct conf_service *service, const char *text, struct error *err)
{
	struct conf_listen added = {0}, *larger;

	if (endpoint_parse(text, &added.endpoint, err) < 0)
		return error_prefix(err, "the address '%s': ", text);
	larger = realloc(service->listen, (service->listen_count + 1) * sizeof(*larger));
	if (larger == NULL)
		return error_errno(err, "listen");
	service->listen = larger;
	added.text = strdup(text);
	if (added.text == NULL)
		return error_errno(err, "listen");
	service->listen[service->listen_count++] = added;
	return 0;
}

void conf_listen_clear(struct conf_service *service)
{
	for (size_t i = 0; i < service->listen_count; i++)
		free(service->listen[i].text);
	free(service->listen);
	service->listen = NULL;
	service->listen_count = 0;
}

/* ---- Networks and ports ---------------------------------------------------------------------- */

static int add_network(struct conf_service *service, const char *text, struct error *err)
{
	struct network network = {.family = AF_UNIX}, *larger;

	/* A proxy on this machine may come by a Unix socket, which has no network. */
	if (strcmp(text, "unix") != 0 && network_parse(text, &network, err) < 0)
		return -1;
	larger = realloc(service->proxy_from, (service->proxy_from_count + 1) * sizeof(*larger));
	if (larger == NULL)
		return error_errno(err, "'%s'", text);
	service->proxy_from = larger;
	larger[service->proxy_from_count++] = network;
	return 0;
}

static void clear_networks(struct conf_service *service)
{
	free(service->proxy_from);
	service->proxy_from = NULL;
	service->proxy_from_count = 0;
}

static int parse_port(const char *text, uint16_t *port)
{
	int64_t number;

	if (text_parse_int(text, &number) < 0 || number < 0 || number > UINT16_MAX)
		return -1;
	*port = (uint16_t)number;
	return 0;
}

/* "53" or "0-1023". */
static int parse_ports(const char *text, struct conf_ports *ports, struct error *err)
{
	const char *dash = strchr(text, '-');
	char from[8] = "";
	size_t len = dash != NULL ? (size_t)(dash - text) : strlen(text);

	if (len < sizeof(from))
		memcpy(from, text, len);
	if (parse_port(from, &ports->from) < 0 ||
	    parse_port(dash != NULL ? dash + 1 : from, &ports->until) < 0)
		return error_set(err, EXIT_CONFIG,
				 "'%s' is not a port or a range of ports; write 53 or \"0-1023\", "
				 "up to 65535",
				 text);
	if (ports->from > ports->until)
		return error_set(err, EXIT_CONFIG, "'%s' ends before it begins; write \"%u-%u\"",
				 text, ports->until, ports->from);
	return 0;
}

static int add_ports(struct conf_service *service, const char *text, struct error *err)
{
	struct conf_ports ports, *larger;

	if (parse_ports(text, &ports, err) < 0)
		return -1;
	larger = realloc(service->deny_source_ports,
			 (service->deny_source_port_count + 1) * sizeof(*larger));
	if (larger == NULL)
		return error_errno(err, "'%s'", text);
	service->deny_source_ports = larger;
	larger[service->deny_source_port_count++] = ports;
	return 0;
}

static void clear_ports(struct conf_service *service)
{
	free(service->deny_source_ports);
	service->deny_source_ports = NULL;
	service->deny_source_port_count = 0;
}

/* ---- All of them ----------------------------------------------------------------------------- */

int conf_key_add(const struct conf_key *key, void *base, const char *text, const char *where,
		 struct error *err)
{
	void *field = conf_key_field(key, base);
	int result;

	switch (key->type) {
	case KEY_LISTEN:
		return conf_listen_add(base, text, err);
	case KEY_ACCESS:
		result = access_add(field, text, where, err);
		break;
	case KEY_SCHEDULE:
		result = schedule_add(field, text, err);
		break;
	case KEY_NETWORKS:
		result = add_network(base, text, err);
		break;
	case KEY_PORTS:
		result = add_ports(base, text, err);
		break;
	default:
		return add_word(key, field, text, err);
	}
	return result < 0 ? error_prefix(err, "%s: ", key->name) : 0;
}

void conf_key_clear(const struct conf_key *key, void *base)
{
	void *field = conf_key_field(key, base);

	switch (key->type) {
	case KEY_LISTEN:
		conf_listen_clear(base);
		break;
	case KEY_ACCESS:
		access_clear(field);
		break;
	case KEY_SCHEDULE:
		schedule_clear(field);
		break;
	case KEY_NETWORKS:
		clear_networks(base);
		break;
	case KEY_PORTS:
		clear_ports(base);
		break;
	default:
		clear_words(*(char ***)field);
	}
}

static bool is_words(const struct conf_key *key)
{
	return key->type == KEY_COMMAND || key->type == KEY_ENVIRONMENT;
}

void conf_key_free_list(const struct conf_key *key, void *base)
{
	char ***words = conf_key_field(key, base);

	conf_key_clear(key, base);
	if (!is_words(key))
		return;
	free(*words);
	*words = NULL;
}

/* A struct of its own for a list that is not yet known to be sound. */
union scratch {
	struct conf global;
	struct conf_service service;
};

static void take_list(const struct conf_key *key, void *base, const union scratch *from)
{
	struct conf_service *service = base;
	const void *field = conf_key_field(key, from);

	conf_key_free_list(key, base);
	switch (key->type) {
	case KEY_LISTEN:
		service->listen = from->service.listen;
		service->listen_count = from->service.listen_count;
		break;
	case KEY_ACCESS:
		*(struct access_list *)conf_key_field(key, base) =
			*(const struct access_list *)field;
		break;
	case KEY_SCHEDULE:
		*(struct schedule *)conf_key_field(key, base) = *(const struct schedule *)field;
		break;
	case KEY_NETWORKS:
		service->proxy_from = from->service.proxy_from;
		service->proxy_from_count = from->service.proxy_from_count;
		break;
	case KEY_PORTS:
		service->deny_source_ports = from->service.deny_source_ports;
		service->deny_source_port_count = from->service.deny_source_port_count;
		break;
	default:
		*(char ***)conf_key_field(key, base) = *(char **const *)field;
	}
}

/*
 * A rule of a user that this machine lacks is wrong but kept, so that the list does not turn into
 * one that allows more.
 */
static bool is_kept(const struct conf_key *key, const union scratch *list, size_t strings)
{
	const struct access_list *access = conf_key_field(key, list);

	return key->type == KEY_ACCESS && access->count == strings;
}

int conf_key_set_list(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	char *copy = strdup(value), *rest = copy, *one;
	int result = copy == NULL ? error_errno(err, "%s", key->name) : 0;
	union scratch list = {0};
	size_t strings = 0;

	/* `-o key=` empties what may be empty. */
	if (copy != NULL && copy[0] == '\0' && key->type == KEY_PORTS)
		rest = NULL;
	while ((one = strsep(&rest, ",")) != NULL) {
		strings++;
		if (conf_key_add(key, &list, one, "command line", err) < 0)
			result = -1;
		if (result < 0 && !is_kept(key, &list, strings))
			break;
	}
	free(copy);
	if (result < 0 && !is_kept(key, &list, strings)) {
		conf_key_free_list(key, &list);
		return -1;
	}
	take_list(key, base, &list);
	return result;
}
