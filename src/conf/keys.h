/*
 * The one table of all settings: name, type, range, default, sentence. Only src/conf/ looks at it.
 */
#ifndef ECHOD_CONF_KEYS_H
#define ECHOD_CONF_KEYS_H

#include "conf/conf.h"

enum key_section { KEY_GLOBAL, KEY_LOG, KEY_SERVICE, KEY_SECTIONS };

/* For which services a setting is. */
enum key_for {
	KEY_FOR_ANY,
	KEY_FOR_PROTOCOL, /* those that speak one */
	KEY_FOR_PROGRAM,  /* those that run a command */
};

enum key_type {
	KEY_PATH,	    /* char *, absolute */
	KEY_DIRECTORY,	    /* char *, absolute; a directory of this machine */
	KEY_NAME,	    /* char *, a service's name */
	KEY_USER,	    /* char *, a user of this machine; root only for programs */
	KEY_GROUP,	    /* char *, a group of this machine; root's only for programs */
	KEY_TARGET,	    /* char *, where a log goes */
	KEY_OWNER,	    /* char *, a user of this machine, root too */
	KEY_OWNER_GROUP,    /* char *, a group of this machine, root's too */
	KEY_DEVICE,	    /* char *, a network interface */
	KEY_TEXT,	    /* char *, any text */
	KEY_CHOICE,	    /* char *, one of `choices` */
	KEY_INTEGER,	    /* int64_t */
	KEY_INTEGER_OR_OFF, /* the same, or 0, below `min`: off; of the others, too */
	KEY_TIME,	    /* int64_t, milliseconds */
	KEY_TIME_OR_OFF,
	KEY_SIZE, /* int64_t, bytes */
	KEY_SIZE_OR_OFF,
	KEY_LOAD,	 /* int64_t, hundredths */
	KEY_MODE,	 /* int64_t, permissions, as an octal string */
	KEY_SIGNAL,	 /* int64_t, a signal that can end a process */
	KEY_BOOLEAN,	 /* bool */
	KEY_LISTEN,	 /* listen and listen_count of a service */
	KEY_COMMAND,	 /* char **, the first an absolute path to what can be executed */
	KEY_ENVIRONMENT, /* char **, each NAME=value, each NAME once */
	KEY_ACCESS,	 /* struct access_list */
	KEY_SCHEDULE,	 /* struct schedule */
	KEY_NETWORKS,	 /* proxy_from and its count of a service */
	KEY_PORTS,	 /* deny_source_ports and its count of a service */
};

struct conf_key {
	enum key_section section;
	const char *name;
	enum key_for whom;
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

/* True for the types that take an int64_t; that are times; that are lists of strings. */
bool conf_key_is_number(const struct conf_key *key);
bool conf_key_is_time(const struct conf_key *key);
bool conf_key_is_list(const struct conf_key *key);

/* Is the list sound without a string in it? */
bool conf_key_may_be_empty(const struct conf_key *key);

/* Where the key's value is in `base`, the section's struct. */
void *conf_key_field(const struct conf_key *key, const void *base);

/*
 * Is it a setting of such a service? `base` of other sections is not looked at. Returns 0, or -1
 * with a sentence.
 */
int conf_key_check_kind(const struct conf_key *key, const void *base, struct error *err);

/*
 * Store a value written as text (an option, a default; a list has commas between its strings) into
 * `base`, the section's struct. Returns 0, or -1 with a sentence; then nothing is changed. It is
 * not asked whether this machine has what the value names: conf_key_look does that.
 */
int conf_key_set_text(const struct conf_key *key, void *base, const char *value, struct error *err);

/* The same for a whole number that the file gave without a unit; not for modes. */
int conf_key_set_number(const struct conf_key *key, void *base, int64_t value, struct error *err);

/*
 * Does this machine have the user, group, directory or command that is stored in `base`, and may
 * the service have it? Returns 0, also when there is nothing to look at, or -1 with a sentence.
 */
int conf_key_look(const struct conf_key *key, const void *base, struct error *err);

/* All defaults of a section. `base` must be zeroed. Returns -1 only without memory. */
int conf_keys_set_defaults(enum key_section section, void *base);

/* Free what the keys of a section own. */
void conf_keys_free(enum key_section section, void *base);

/* ---- Lists ---------------------------------------------------------------------------------- */

/*
 * Add one string, which stands at `where`, to a list, and take all out of it. `base` is the
 * section's struct. A cleared command is still one (an empty).
 */
int conf_key_add(const struct conf_key *key, void *base, const char *text, const char *where,
		 struct error *err);
void conf_key_clear(const struct conf_key *key, void *base);

/*
 * conf_key_set_text for lists. Access rules are stored even when this machine lacks a user in them:
 * access_add says why.
 */
int conf_key_set_list(const struct conf_key *key, void *base, const char *value, struct error *err);

/* Free a list. */
void conf_key_free_list(const struct conf_key *key, void *base);

/* Make it a program, whatever its command turns out to be. Returns -1 without memory. */
int conf_program_mark(struct conf_service *service);

/* Add one address to a service. */
int conf_listen_add(struct conf_service *service, const char *text, struct error *err);
void conf_listen_clear(struct conf_service *service);

/* What one setting of a service cannot tell alone: adds errors at the service's `where`. */
void conf_service_check(const struct conf_service *service, struct conf_errors *errors);

/* All of a service's defaults, and where it comes from; and the end of it. -1: no memory. */
int conf_service_init(struct conf_service *service, const char *where);
void conf_service_clear(struct conf_service *service);

#endif
