/* From a text or a number to the value in the struct, with its range. */
#include <ctype.h>
#include <inttypes.h>
#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/signame.h"
#include "base/text.h"
#include "conf/keys.h"

#define SECOND	INT64_C(1000)
#define HUNDRED INT64_C(100)

static bool can_be_off(const struct conf_key *key)
{
	return key->type == KEY_INTEGER_OR_OFF || key->type == KEY_TIME_OR_OFF ||
	       key->type == KEY_SIZE_OR_OFF;
}

static bool is_size(const struct conf_key *key)
{
	return key->type == KEY_SIZE || key->type == KEY_SIZE_OR_OFF;
}

static void format_number(const struct conf_key *key, char *out, size_t cap, int64_t value)
{
	if (conf_key_is_time(key))
		text_format_time(out, cap, value);
	else if (is_size(key))
		text_format_size(out, cap, value);
	else if (key->type == KEY_LOAD)
		snprintf(out, cap, "%.15g", (double)value / (double)HUNDRED);
	else if (key->type == KEY_MODE)
		snprintf(out, cap, "%03" PRIo64, (uint64_t)value);
	else
		snprintf(out, cap, "%" PRId64, value);
}

static int out_of_range(const struct conf_key *key, int64_t value, struct error *err)
{
	char low[32], high[32], given[32];

	format_number(key, low, sizeof(low), key->min);
	format_number(key, high, sizeof(high), key->max);
	format_number(key, given, sizeof(given), value);
	if (key->max == INT64_MAX)
		return error_set(err, EXIT_CONFIG, "%s must be at least %s, not %s", key->name, low,
				 given);
	return error_set(err, EXIT_CONFIG, "%s must be %sbetween %s and %s, not %s", key->name,
			 can_be_off(key) ? "0 (off) or " : "", low, high, given);
}

/* A program that only stands still is not stopped, and its stop_timeout would run out each time. */
static int check_signal(const struct conf_key *key, int64_t sig, struct error *err)
{
	if (sig == SIGSTOP)
		return error_set(err, EXIT_CONFIG,
				 "%s cannot be SIGSTOP: it halts, it ends nothing", key->name);
	if (sig == SIGCONT)
		return error_set(
			err, EXIT_CONFIG,
			"%s cannot be SIGCONT: it lets go on what was halted, it ends nothing",
			key->name);
	return 0;
}

/* `value` is in the unit of the struct. */
static int store_number(const struct conf_key *key, void *base, int64_t value, struct error *err)
{
	bool off = can_be_off(key) && value == 0;

	if (!off && (value < key->min || value > key->max))
		return out_of_range(key, value, err);
	if (key->type == KEY_SIGNAL && check_signal(key, value, err) < 0)
		return -1;
	*(int64_t *)conf_key_field(key, base) = value;
	return 0;
}

int conf_key_set_number(const struct conf_key *key, void *base, int64_t value, struct error *err)
{
	int64_t unit = conf_key_is_time(key) ? SECOND : key->type == KEY_LOAD ? HUNDRED : 1;

	if (value > INT64_MAX / unit || value < INT64_MIN / unit)
		return error_set(err, EXIT_CONFIG, "%s is out of range", key->name);
	return store_number(key, base, value * unit, err);
}

static int check_name(const char *value, struct error *err)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)value[i]) &&
		    (i == 0 || strchr("._-", value[i]) == NULL))
			len = 0;
	if (len < 1 || len > 32)
		return error_set(err, EXIT_CONFIG,
				 "the name '%s' is not 1 to 32 letters, digits, '.', '_' or '-', "
				 "the first a letter or digit",
				 value);
	return 0;
}

static int check_choice(const struct conf_key *key, const char *value, struct error *err)
{
	char all[256] = "";
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	for (const char *const *choice = key->choices; *choice != NULL; choice++) {
		if (strcmp(*choice, value) == 0)
			return 0;
		if (text_is_nearer(value, *choice, &best))
			nearest = *choice;
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", all[0] ? ", " : "",
			 *choice);
	}
	if (nearest != NULL)
		return error_set(err, EXIT_CONFIG, "%s '%s' is not known; did you mean '%s'?",
				 key->name, value, nearest);
	return error_set(err, EXIT_CONFIG, "%s '%s' is not known; it is one of %s", key->name,
			 value, all);
}

static int check_target(const char *value, struct error *err)
{
	if (strcmp(value, "syslog") == 0 || strcmp(value, "stderr") == 0)
		return 0;
	if (strncmp(value, "file:", 5) != 0)
		return error_set(err, EXIT_CONFIG,
				 "target '%s' is none of \"syslog\", \"stderr\", \"file:PATH\"",
				 value);
	if (value[5] != '/')
		return error_set(err, EXIT_CONFIG, "target '%s' must name an absolute path", value);
	return 0;
}

/* As the kernel has it (dev_valid_name). Whether there is one is seen when the socket is opened. */
static int check_device(const char *value, struct error *err)
{
	size_t len = strlen(value);

	if (len >= IFNAMSIZ)
		return error_set(err, EXIT_CONFIG,
				 "device '%s' is longer than %d bytes: no interface is called so",
				 value, IFNAMSIZ - 1);
	if (strcmp(value, ".") == 0 || strcmp(value, "..") == 0 ||
	    strcspn(value, "/: \t\n\v\f\r") != len)
		return error_set(err, EXIT_CONFIG,
				 "device '%s' is not the name of an interface; write it as in eth0",
				 value);
	return 0;
}

static int check_text(const struct conf_key *key, const char *value, struct error *err)
{
	if (value[0] == '\0')
		return error_set(err, EXIT_CONFIG, "%s is empty", key->name);
	if ((key->type == KEY_PATH || key->type == KEY_DIRECTORY) && value[0] != '/')
		return error_set(err, EXIT_CONFIG, "%s must be an absolute path, not '%s'",
				 key->name, value);
	if (key->type == KEY_NAME)
		return check_name(value, err);
	if (key->type == KEY_CHOICE)
		return check_choice(key, value, err);
	if (key->type == KEY_TARGET)
		return check_target(value, err);
	if (key->type == KEY_DEVICE)
		return check_device(value, err);
	return 0;
}

static int set_boolean(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
		return error_set(err, EXIT_CONFIG, "%s must be true or false, not '%s'", key->name,
				 value);
	*(bool *)conf_key_field(key, base) = value[0] == 't';
	return 0;
}

/* Octal digits and nothing else. What is too large for permissions is found later. */
static int parse_mode(const char *text, int64_t *mode)
{
	size_t len = strlen(text);

	if (len < 1 || len > 9 || strspn(text, "01234567") != len)
		return -1;
	*mode = strtol(text, NULL, 8);
	return 0;
}

/* As a time of so many seconds, which is in thousandths. */
static int parse_load(const char *text, int64_t *hundredths)
{
	int64_t thousandths;

	if (strspn(text, "0123456789.") != strlen(text) ||
	    text_parse_time(text, &thousandths) < 0 || thousandths % 10 != 0)
		return -1;
	*hundredths = thousandths / 10;
	return 0;
}

static int parse_number(const struct conf_key *key, const char *value, int64_t *number)
{
	switch (key->type) {
	case KEY_TIME:
	case KEY_TIME_OR_OFF:
		return text_parse_time(value, number);
	case KEY_SIZE:
	case KEY_SIZE_OR_OFF:
		return text_parse_size(value, number);
	case KEY_LOAD:
		return parse_load(value, number);
	case KEY_MODE:
		return parse_mode(value, number);
	case KEY_SIGNAL:
		*number = signame_parse(value);
		return *number < 0 ? -1 : 0;
	default:
		return text_parse_int(value, number);
	}
}

/* What a number of the key's type is called, and how it is written. */
static const char *number_words(const struct conf_key *key)
{
	switch (key->type) {
	case KEY_TIME:
	case KEY_TIME_OR_OFF:
		return "time; write 30, \"500ms\", \"2m\", \"1h\"";
	case KEY_SIZE:
	case KEY_SIZE_OR_OFF:
		return "size; write 4096, \"64k\", \"1M\"";
	case KEY_LOAD:
		return "load; write 8 or 2.5, with two digits behind the point at most";
	case KEY_MODE:
		return "mode; write octal digits, as in \"022\"";
	case KEY_SIGNAL:
		return "signal; write \"SIGTERM\", \"TERM\" or 15";
	default:
		return "whole number";
	}
}

static int set_number_text(const struct conf_key *key, void *base, const char *value,
			   struct error *err)
{
	int64_t number;

	if (parse_number(key, value, &number) < 0)
		return error_set(err, EXIT_CONFIG, "%s: '%s' is not a %s", key->name, value,
				 number_words(key));
	return store_number(key, base, number, err);
}

int conf_key_set_text(const struct conf_key *key, void *base, const char *value, struct error *err)
{
	char *copy;

	if (conf_key_is_list(key))
		return conf_key_set_list(key, base, value, err);
	if (key->type == KEY_BOOLEAN)
		return set_boolean(key, base, value, err);
	if (conf_key_is_number(key))
		return set_number_text(key, base, value, err);
	if (check_text(key, value, err) < 0)
		return -1;
	copy = strdup(value);
	if (copy == NULL)
		return error_errno(err, "%s", key->name);
	free(*(char **)conf_key_field(key, base));
	*(char **)conf_key_field(key, base) = copy;
	return 0;
}

int conf_keys_set_defaults(enum key_section section, void *base)
{
	struct error err = {0};

	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].section == section && conf_keys[i].initial != NULL &&
		    conf_key_set_text(&conf_keys[i], base, conf_keys[i].initial, &err) < 0)
			return -1;
	/* The one number without a value of its own. */
	if (section == KEY_SERVICE)
		((struct conf_service *)base)->nice = CONF_NICE_GLOBAL;
	return 0;
}

void conf_keys_free(enum key_section section, void *base)
{
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *key = &conf_keys[i];

		if (key->section != section || conf_key_is_number(key) || key->type == KEY_BOOLEAN)
			continue;
		if (conf_key_is_list(key))
			conf_key_free_list(key, base);
		else
			free(*(char **)conf_key_field(key, base));
	}
}
