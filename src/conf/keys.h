/*
 * The one table of all settings: name, type, range, default, sentence. Only src/conf/ looks at it.
 */
#ifndef ECHOD_CONF_KEYS_H
#define ECHOD_CONF_KEYS_H

#include "conf/conf.h"

enum key_section { KEY_GLOBAL, KEY_LOG, KEY_SERVICE, KEY_SECTIONS };

enum key_type {
	KEY_PATH,    /* char *, absolute */
	KEY_NAME,    /* char *, a service's name */
	KEY_USER,    /* char *, a user of this machine, not root */
	KEY_GROUP,   /* char *, a group of this machine */
	KEY_TARGET,  /* char *, where a log goes */
	KEY_CHOICE,  /* char *, one of `choices` */
	KEY_INTEGER, /* int64_t */
	KEY_TIME,    /* int64_t, milliseconds */
	KEY_SIZE,    /* int64_t, bytes */
	KEY_BOOLEAN, /* bool */
	KEY_LISTEN,  /* listen and listen_count of a service */
};

struct conf_key {
	enum key_section section;
	const char *name;
	enum key_type type;
	size_t offset; /* in the section's struct */
	int64_t min;
	int64_t max;
	const char *initial; /* as on the command line; NULL: `initial_said` says what is used */
	const char *initial_said;
	const char *const *choices; /* NULL at the end */
	const char *sentence;
};

extern const struct conf_key conf_keys[];
extern const size_t conf_key_count;

/* NULL when there is no such key. */
const struct conf_key *conf_key_find(enum key_section section, const char *name);

/* The known key nearest to a misspelt one, or NULL. */
const char *conf_key_nearest(enum key_section section, const char *name);

/* True for the types that take an int64_t. */
bool conf_key_is_number(const struct conf_key *key);

/*
 * Store a value written as text (an option, a default) into `base`, the section's struct. Returns
 * 0, or -1 with a sentence; then nothing is changed.
 */
int conf_key_set_text(const struct conf_key *key, void *base, const char *value, struct error *err);

/* The same for a number that the file gave without a unit. */
int conf_key_set_number(const struct conf_key *key, void *base, int64_t value, struct error *err);

/* Add one address to a service. */
int conf_listen_add(struct conf_service *service, const char *text, struct error *err);
void conf_listen_clear(struct conf_service *service);

/* All defaults of a section. `base` must be zeroed. Returns -1 only without memory. */
int conf_keys_set_defaults(enum key_section section, void *base);

/* Free what the keys of a section own. */
void conf_keys_free(enum key_section section, void *base);

#endif
