/* A service's struct: its begin and end, and programs that no file names. */
#include <stdlib.h>
#include <string.h>

#include "conf/keys.h"

int conf_service_init(struct conf_service *service, const char *where)
{
	memset(service, 0, sizeof(*service));
	service->where = strdup(where);
	if (service->where != NULL && conf_keys_set_defaults(KEY_SERVICE, service) == 0)
		return 0;
	conf_service_clear(service);
	return -1;
}

void conf_service_clear(struct conf_service *service)
{
	conf_keys_free(KEY_SERVICE, service);
	free(service->where);
}

void conf_service_free(struct conf_service *service)
{
	if (service == NULL)
		return;
	conf_service_clear(service);
	free(service);
}

bool conf_is_program(const struct conf_service *service)
{
	return service->command != NULL;
}

/* ---- What one setting cannot tell alone ----------------------------------------------------- */

/*
 * Twice as long as what came, a reply to a forged address would strike harder than its sender can
 * (RFC 2827 tells of such attacks).
 */
static void check_transform(const struct conf_service *service, struct conf_errors *errors)
{
	if (strcmp(service->transform, "hex") != 0 || strcmp(service->protocol, "line") != 0)
		return;
	for (size_t i = 0; i < service->listen_count; i++)
		if (transport_is_datagram(service->listen[i].endpoint.transport))
			conf_errors_add(
				errors, service->where,
				"transform \"hex\" makes replies longer than requests, which is "
				"not done for datagrams: '%s' needs another transform",
				service->listen[i].text);
}

void conf_service_check(const struct conf_service *service, struct conf_errors *errors)
{
	if (conf_is_program(service))
		return;
	check_transform(service, errors);
	if (strcmp(service->proxy_protocol, "off") != 0 && service->proxy_from_count == 0)
		conf_errors_add(errors, service->where,
				"proxy_protocol \"%s\" needs proxy_from, the networks of the "
				"proxies: anybody else could pretend to be any client",
				service->proxy_protocol);
}

/* ---- Equal programs ------------------------------------------------------------------------- */

static bool equal_texts(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* No list and an empty one are the same. */
static bool equal_words(char *const *a, char *const *b)
{
	static char *const none[] = {NULL};

	a = a != NULL ? a : none;
	b = b != NULL ? b : none;
	for (; *a != NULL && *b != NULL; a++, b++)
		if (strcmp(*a, *b) != 0)
			return false;
	return *a == *b;
}

static bool equal_by_key(const struct conf_key *key, const struct conf_service *a,
			 const struct conf_service *b)
{
	const void *from_a = conf_key_field(key, a), *from_b = conf_key_field(key, b);

	if (conf_key_is_number(key))
		return *(const int64_t *)from_a == *(const int64_t *)from_b;
	if (key->type == KEY_BOOLEAN)
		return *(const bool *)from_a == *(const bool *)from_b;
	/* The other kinds of lists are for services with a protocol. */
	if (conf_key_is_list(key))
		return equal_words(*(char *const *const *)from_a, *(char *const *const *)from_b);
	return equal_texts(*(const char *const *)from_a, *(const char *const *)from_b);
}

bool conf_program_equal(const struct conf_service *a, const struct conf_service *b)
{
	if (a == NULL || b == NULL || !conf_is_program(a) || !conf_is_program(b))
		return false;
	/* By the table, so that no setting that is added to it can be forgotten here. */
	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].section == KEY_SERVICE && conf_keys[i].whom != KEY_FOR_PROTOCOL &&
		    !equal_by_key(&conf_keys[i], a, b))
			return false;
	return true;
}

/* ---- A program that no file names ----------------------------------------------------------- */

static int set(struct conf_service *service, const char *name, const char *value, bool check,
	       struct error *err)
{
	const struct conf_key *key = conf_key_find(KEY_SERVICE, name);

	if (conf_key_set_text(key, service, value, err) < 0)
		return -1;
	return check ? conf_key_look(key, service, err) : 0;
}

/* Word by word: a comma is a part of a word here. */
static int set_command(struct conf_service *service, char *const *command, bool check,
		       struct error *err)
{
	const struct conf_key *key = conf_key_find(KEY_SERVICE, "command");

	if (command == NULL || command[0] == NULL)
		return error_set(err, EXIT_CONFIG, "command is empty: there is nothing to run");
	for (size_t i = 0; command[i] != NULL; i++)
		if (conf_key_add(key, service, command[i], service->where, err) < 0)
			return -1;
	return check ? conf_key_look(key, service, err) : 0;
}

static int fill_program(struct conf_service *service, const char *name, char *const *command,
			const char *user, const char *restart, bool check, struct error *err)
{
	/* The command comes before the user: it makes the service one that may be root's. */
	if (set(service, "name", name, check, err) < 0 ||
	    set_command(service, command, check, err) < 0)
		return -1;
	if (user != NULL && set(service, "user", user, check, err) < 0)
		return -1;
	return restart != NULL ? set(service, "restart", restart, check, err) : 0;
}

struct conf_service *conf_program_new(const char *name, char *const *command, const char *user,
				      const char *restart, bool check, struct error *err)
{
	struct conf_service *service = malloc(sizeof(*service));

	if (service == NULL || conf_service_init(service, "echod add") < 0) {
		error_errno(err, "the service '%s'", name);
		free(service);
		return NULL;
	}
	if (fill_program(service, name, command, user, restart, check, err) < 0) {
		conf_service_free(service);
		return NULL;
	}
	return service;
}
