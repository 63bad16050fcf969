/* Settings that are lists of strings: listen, command, environment. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "conf/keys.h"

static char ***words_of(const struct conf_key *key, const struct conf_service *service)
{
	return conf_key_field(key, service);
}

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

int conf_key_add(const struct conf_key *key, struct conf_service *service, const char *text,
		 struct error *err)
{
	if (key->type == KEY_LISTEN)
		return conf_listen_add(service, text, err);
	if (check_word(key, *words_of(key, service), text, err) < 0)
		return -1;
	if (append_word(words_of(key, service), text) < 0)
		return error_errno(err, "%s", key->name);
	return 0;
}

void conf_key_clear(const struct conf_key *key, struct conf_service *service)
{
	char **words;

	if (key->type == KEY_LISTEN) {
		conf_listen_clear(service);
		return;
	}
	words = *words_of(key, service);
	for (size_t n = count_words(words); n > 0; n--) {
		free(words[n - 1]);
		words[n - 1] = NULL;
	}
}

void conf_key_free_list(const struct conf_key *key, struct conf_service *service)
{
	conf_key_clear(key, service);
	if (key->type == KEY_LISTEN)
		return;
	free(*words_of(key, service));
	*words_of(key, service) = NULL;
}

static void take_list(const struct conf_key *key, struct conf_service *service,
		      const struct conf_service *from)
{
	conf_key_free_list(key, service);
	if (key->type == KEY_LISTEN) {
		service->listen = from->listen;
		service->listen_count = from->listen_count;
	} else {
		*words_of(key, service) = *words_of(key, from);
	}
}

int conf_key_set_list(const struct conf_key *key, struct conf_service *service, const char *value,
		      struct error *err)
{
	char *copy = strdup(value), *rest = copy, *one;
	int result = copy == NULL ? error_errno(err, "%s", key->name) : 0;
	struct conf_service list = {0};

	while (result == 0 && (one = strsep(&rest, ",")) != NULL)
		result = conf_key_add(key, &list, one, err);
	free(copy);
	if (result < 0) {
		conf_key_free_list(key, &list);
		return -1;
	}
	take_list(key, service, &list);
	return 0;
}

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
