#include "conf/conf.h"

#include <inttypes.h>
#include <libconfig.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "conf/keys.h"
#include "conf/source.h"

#define WHERE_MAX 4200

/* What one pass over the tree carries along. */
struct pass {
	const struct conf_source *source;
	struct conf *conf;
	struct conf_errors *errors;
	bool log_target_set;
	bool log_target_option; /* by the command line */
};

static const char *const section_names[KEY_SECTIONS] = {"", "log", "services"};

const char *conf_default_path(void)
{
	return ECHOD_SYSCONFDIR "/echod.conf";
}

static void where_of(const struct pass *pass, const config_setting_t *setting, char *where)
{
	conf_source_where(pass->source, config_setting_source_line(setting), where, WHERE_MAX);
}

static void wrong(const struct pass *pass, const config_setting_t *setting, const char *text)
{
	char where[WHERE_MAX];

	where_of(pass, setting, where);
	conf_errors_add(pass->errors, where, "%s", text);
}

/* Of a setting that stands in the wrong place, where it belongs; "" for one that is nowhere. */
static const char *where_it_belongs(const char *name)
{
	if (conf_key_find(KEY_LOG, name) != NULL)
		return ": it is for the log, inside of log = { ... }";
	if (conf_key_find(KEY_GLOBAL, name) != NULL)
		return ": it is for the daemon, outside of log and services";
	if (conf_key_find(KEY_SERVICE, name) != NULL)
		return ": it is for a service, inside of services = ( { ... } )";
	return "";
}

static void unknown(const struct pass *pass, const config_setting_t *setting,
		    enum key_section section)
{
	const char *name = config_setting_name(setting);
	const char *belongs = where_it_belongs(name);
	const char *nearest = belongs[0] == '\0' ? conf_key_nearest(section, name) : NULL;
	char text[512];

	if (section == KEY_GLOBAL && nearest == NULL && belongs[0] == '\0') {
		unsigned best = TEXT_FAR;

		for (int i = KEY_LOG; i < KEY_SECTIONS; i++)
			if (text_is_nearer(name, section_names[i], &best))
				nearest = section_names[i];
	}
	if (nearest != NULL)
		snprintf(text, sizeof(text), "there is no setting '%.64s'%s; did you mean '%s'?",
			 name, section == KEY_GLOBAL ? "" : " here", nearest);
	else
		snprintf(text, sizeof(text), "there is no setting '%.64s'%s%s", name,
			 section == KEY_GLOBAL && belongs[0] == '\0' ? "" : " here", belongs);
	wrong(pass, setting, text);
}

static const char *type_wanted(const struct conf_key *key)
{
	switch (key->type) {
	case KEY_INTEGER:
	case KEY_INTEGER_OR_OFF:
		return "a whole number";
	case KEY_TIME:
	case KEY_TIME_OR_OFF:
		return "a time: seconds, or a string with a unit such as \"500ms\", \"2m\"";
	case KEY_SIZE:
	case KEY_SIZE_OR_OFF:
		return "a size: bytes, or a string with a unit such as \"64k\", \"1M\"";
	case KEY_LOAD:
		return "a number such as 8 or 2.5";
	case KEY_MODE:
		return "octal digits in quotes, as in \"022\": without them, 022 is read as the "
		       "decimal number 22";
	case KEY_SIGNAL:
		return "a signal, as in \"SIGTERM\"";
	case KEY_BOOLEAN:
		return "true or false";
	case KEY_LISTEN:
		return "a list of strings, as in [ \"*:30333\" ]";
	case KEY_COMMAND:
		return "a list of strings, as in [ \"/usr/local/bin/sensor\", \"--loop\" ]";
	case KEY_ENVIRONMENT:
		return "a list of strings, as in [ \"LANG=C\" ]";
	case KEY_ACCESS:
		return "a list of strings, as in [ \"allow 10.0.0.0/8\", \"deny *\" ]";
	case KEY_SCHEDULE:
		return "a list of strings, as in [ \"Mon-Fri 08:00-18:00\" ]";
	case KEY_NETWORKS:
		return "a list of strings, as in [ \"10.0.0.0/8\" ]";
	case KEY_PORTS:
		return "a list of ports and ranges, as in ( 53, \"0-1023\" )";
	default:
		return "a string in quotes";
	}
}

static void wrong_type(const struct pass *pass, const config_setting_t *setting,
		       const struct conf_key *key)
{
	char text[256];

	snprintf(text, sizeof(text), "%s must be %s", key->name, type_wanted(key));
	wrong(pass, setting, text);
}

/* The string of a list's element, or the number that may stand for one; NULL: it is neither. */
static const char *element_text(const config_setting_t *one, const struct conf_key *key,
				char *number, size_t cap)
{
	int type = config_setting_type(one);

	if (key->type != KEY_PORTS || (type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64))
		return config_setting_get_string(one);
	snprintf(number, cap, "%lld", config_setting_get_int64(one));
	return number;
}

/* The last of these lines of the text in which the string stands; 0: in none. */
static unsigned find_string(const char *text, unsigned first, unsigned last, const char *string)
{
	size_t len = strlen(string);
	unsigned line = 1, found = 0;

	for (const char *at = text; *at != '\0' && line <= last; at++) {
		if (line >= first && *at == '"' && strncmp(at + 1, string, len) == 0 &&
		    at[1 + len] == '"')
			found = line;
		line += *at == '\n';
	}
	return found;
}

/*
 * Where an element of a list stands, or a value that is a list of one. libconfig notes the line on
 * which it has read what is behind a string: behind the last one, that is the end of the list.
 */
static void where_of_element(const struct pass *pass, const config_setting_t *one, char *where)
{
	const config_setting_t *list = config_setting_parent(one);
	const char *string = config_setting_get_string(one);
	int i = config_setting_index(one);
	unsigned line = config_setting_source_line(one), first, found = 0;

	if (!config_setting_is_group(list) && i == config_setting_length(list) - 1 &&
	    string != NULL) {
		first = config_setting_source_line(
			i > 0 ? config_setting_get_elem(list, (unsigned)i - 1) : list);
		found = find_string(conf_source_text(pass->source), first, line, string);
	}
	conf_source_where(pass->source, found != 0 ? found : line, where, WHERE_MAX);
}

/* One element of a list. Returns -1 when it is wrong, and has said so. */
static int add_to_list(const struct pass *pass, const config_setting_t *one,
		       const struct conf_key *key, void *base)
{
	char where[WHERE_MAX], number[32];
	const char *text = element_text(one, key, number, sizeof(number));
	struct error err = {0};

	if (text == NULL) {
		wrong_type(pass, one, key);
		return -1;
	}
	where_of_element(pass, one, where);
	if (conf_key_add(key, base, text, where, &err) < 0) {
		conf_errors_add(pass->errors, where, "%s", err.text);
		return -1;
	}
	return 0;
}

/* A single string is a list, too. Returns -1 when anything is wrong, and has said what. */
static int set_list(const struct pass *pass, const config_setting_t *setting,
		    const struct conf_key *key, void *base)
{
	bool aggregate = config_setting_is_aggregate(setting);
	int n = aggregate ? config_setting_length(setting) : 1, result = 0;

	conf_key_clear(key, base);
	for (int i = 0; i < n; i++) {
		if (add_to_list(pass,
				aggregate ? config_setting_get_elem(setting, (unsigned)i) : setting,
				key, base) == 0)
			continue;
		result = -1;
		/* The words behind a wrong command are not commands. */
		if (key->type == KEY_COMMAND)
			break;
	}
	if (n > 0 || conf_key_may_be_empty(key))
		return result;
	wrong(pass, setting,
	      key->type == KEY_LISTEN ? "listen is empty: the service could not be reached"
				      : "command is empty: there is nothing to run");
	return -1;
}

/* Only in quotes can it have a unit, or be no number. */
static bool can_be_string(const struct conf_key *key)
{
	return key->type != KEY_BOOLEAN && key->type != KEY_INTEGER &&
	       key->type != KEY_INTEGER_OR_OFF && key->type != KEY_LOAD;
}

static int set_value(const config_setting_t *setting, const struct conf_key *key, void *base,
		     struct error *err)
{
	int type = config_setting_type(setting);
	char text[64];

	if (conf_key_is_number(key) && key->type != KEY_MODE &&
	    (type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64))
		return conf_key_set_number(key, base, config_setting_get_int64(setting), err);
	if ((conf_key_is_time(key) || key->type == KEY_LOAD) && type == CONFIG_TYPE_FLOAT) {
		snprintf(text, sizeof(text), "%.12g", config_setting_get_float(setting));
		return conf_key_set_text(key, base, text, err);
	}
	if (key->type == KEY_BOOLEAN && type == CONFIG_TYPE_BOOL)
		return conf_key_set_text(key, base,
					 config_setting_get_bool(setting) ? "true" : "false", err);
	if (type == CONFIG_TYPE_STRING && can_be_string(key))
		return conf_key_set_text(key, base, config_setting_get_string(setting), err);
	return error_set(err, EXIT_CONFIG, "%s must be %s", key->name, type_wanted(key));
}

static void set_key(const struct pass *pass, const config_setting_t *setting,
		    const struct conf_key *key, void *base)
{
	struct error err = {0};

	if (conf_key_check_kind(key, base, &err) < 0) {
		wrong(pass, setting, err.text);
		return;
	}
	if (conf_key_is_list(key) && !config_setting_is_group(setting)) {
		if (set_list(pass, setting, key, base) < 0)
			return;
	} else if (set_value(setting, key, base, &err) < 0) {
		wrong(pass, setting, err.text);
		return;
	}
	if (conf_key_look(key, base, &err) < 0)
		wrong(pass, setting, err.text);
}

static void read_group(struct pass *pass, const config_setting_t *group, enum key_section section,
		       void *base)
{
	for (int i = 0; i < config_setting_length(group); i++) {
		const config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
		const struct conf_key *key = conf_key_find(section, config_setting_name(setting));

		if (key == NULL) {
			unknown(pass, setting, section);
			continue;
		}
		set_key(pass, setting, key, base);
		if (section == KEY_LOG && strcmp(key->name, "target") == 0)
			pass->log_target_set = true;
	}
}

static struct conf_service *add_service(struct conf *conf, const char *where)
{
	struct conf_service *services =
		realloc(conf->services, (conf->service_count + 1) * sizeof(*services));
	struct conf_service *service;

	if (services == NULL)
		return NULL;
	conf->services = services;
	service = &services[conf->service_count];
	if (conf_service_init(service, where) < 0)
		return NULL;
	conf->service_count++;
	return service;
}

static void read_service(struct pass *pass, const config_setting_t *group)
{
	bool program = config_setting_get_member(group, "command") != NULL;
	struct conf_service *service;
	char where[WHERE_MAX];

	where_of(pass, group, where);
	service = add_service(pass->conf, where);
	/* First of all: the other settings depend on it, in whatever order they stand. */
	if (service == NULL || (program && conf_program_mark(service) < 0)) {
		wrong(pass, group, "no memory for the service");
		return;
	}
	read_group(pass, group, KEY_SERVICE, service);
	if (service->name == NULL && config_setting_get_member(group, "name") == NULL)
		wrong(pass, group, "the service has no name");
	if (!program && service->listen_count == 0 &&
	    config_setting_get_member(group, "listen") == NULL)
		wrong(pass, group, "the service has no listen: say where it can be reached");
}

static void read_services(struct pass *pass, const config_setting_t *list)
{
	if (!config_setting_is_list(list)) {
		wrong(pass, list,
		      "services must be a list of groups, as in ( { name = \"line\"; } )");
		return;
	}
	for (int i = 0; i < config_setting_length(list); i++) {
		const config_setting_t *group = config_setting_get_elem(list, (unsigned)i);

		if (config_setting_is_group(group))
			read_service(pass, group);
		else
			wrong(pass, group, "a service is a group, as in { name = \"line\"; }");
	}
	if (config_setting_length(list) == 0)
		wrong(pass, list, "services is empty: there would be nothing to serve");
}

static void read_root(struct pass *pass, const config_setting_t *root)
{
	for (int i = 0; i < config_setting_length(root); i++) {
		const config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
		const char *name = config_setting_name(setting);
		const struct conf_key *key = conf_key_find(KEY_GLOBAL, name);

		if (strcmp(name, section_names[KEY_SERVICE]) == 0)
			read_services(pass, setting);
		else if (strcmp(name, section_names[KEY_LOG]) != 0 && key == NULL)
			unknown(pass, setting, KEY_GLOBAL);
		else if (key != NULL)
			set_key(pass, setting, key, pass->conf);
		else if (config_setting_is_group(setting))
			read_group(pass, setting, KEY_LOG, &pass->conf->log);
		else
			wrong(pass, setting, "log must be a group, as in { level = \"info\"; }");
		if (key != NULL && strcmp(name, "nice") == 0)
			pass->conf->nice_set = true;
	}
}

/* libconfig says what it met, not what to do. */
static const char *what_to_do(const char *text)
{
	if (strcmp(text, "syntax error") == 0)
		return ": look here and before for a quote, bracket, comma or semicolon that is "
		       "missing or too many";
	if (strcmp(text, "mismatched element type in array") == 0)
		return ": write ( ) in place of [ ] for numbers and strings in one list";
	if (strcmp(text, "duplicate setting name") == 0)
		return ": this setting stands here twice";
	return "";
}

static void read_text(struct pass *pass)
{
	config_t tree;

	config_init(&tree);
	if (config_read_string(&tree, conf_source_text(pass->source)) == CONFIG_TRUE) {
		read_root(pass, config_root_setting(&tree));
	} else {
		char where[WHERE_MAX];

		conf_source_where(pass->source, (unsigned)config_error_line(&tree), where,
				  sizeof(where));
		conf_errors_add(pass->errors, where, "%s%s", config_error_text(&tree),
				what_to_do(config_error_text(&tree)));
		pass->errors->not_understood = true;
	}
	config_destroy(&tree);
}

/* ---- The command line goes over the file ---------------------------------------------------- */

static struct conf_service *find_service(struct conf *conf, const char *name, size_t len)
{
	for (size_t i = 0; i < conf->service_count; i++) {
		const char *known = conf->services[i].name;

		if (known != NULL && strlen(known) == len && strncmp(known, name, len) == 0)
			return &conf->services[i];
	}
	return NULL;
}

/* Splits "services.line.max_lines" into the struct that it means and the key's name. */
static int override_target(struct pass *pass, const char *path, enum key_section *section,
			   void **base, const char **name, struct error *err)
{
	const char *dot = strrchr(path, '.');

	*section = KEY_GLOBAL;
	*base = pass->conf;
	*name = path;
	if (dot == NULL)
		return 0;
	*name = dot + 1;
	if (strncmp(path, "log.", 4) == 0 && path + 3 == dot) {
		*section = KEY_LOG;
		*base = &pass->conf->log;
		return 0;
	}
	if (strncmp(path, "services.", 9) == 0 && dot > path + 9) {
		*section = KEY_SERVICE;
		*base = find_service(pass->conf, path + 9, (size_t)(dot - path - 9));
		if (*base == NULL)
			return error_set(err, EXIT_CONFIG, "there is no service '%.*s'",
					 (int)(dot - path - 9), path + 9);
		return 0;
	}
	return error_set(err, EXIT_CONFIG,
			 "write a setting as key, log.key or services.NAME.key, not '%s'", path);
}

/* NULL, with the reason, when the struct has no such setting. */
static const struct conf_key *override_key(enum key_section section, const char *name,
					   struct error *err)
{
	const struct conf_key *key = conf_key_find(section, name);
	const char *nearest, *belongs = NULL;

	if (key != NULL)
		return key;
	if (section == KEY_GLOBAL && conf_key_find(KEY_LOG, name) != NULL)
		belongs = "log.";
	if (section != KEY_SERVICE && conf_key_find(KEY_SERVICE, name) != NULL)
		belongs = "services.NAME.";
	if (belongs != NULL) {
		error_set(err, EXIT_CONFIG, "there is no setting '%s'; write %s%s", name, belongs,
			  name);
		return NULL;
	}
	nearest = conf_key_nearest(section, name);
	error_set(err, EXIT_CONFIG, "there is no setting '%s'%s%s%s", name,
		  nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
	return NULL;
}

static int override_value(const struct conf_key *key, void *base, const char *value,
			  struct error *err)
{
	if (conf_key_check_kind(key, base, err) < 0 || conf_key_set_text(key, base, value, err) < 0)
		return -1;
	return conf_key_look(key, base, err);
}

static void apply_override(struct pass *pass, const struct conf_override *override)
{
	enum key_section section;
	struct error err = {0};
	const struct conf_key *key = NULL;
	const char *name;
	void *base;

	if (override_target(pass, override->key, &section, &base, &name, &err) == 0)
		key = override_key(section, name, &err);
	if (key == NULL || override_value(key, base, override->value, &err) < 0) {
		conf_errors_add(pass->errors, "command line", "%s", err.text);
		return;
	}
	if (section == KEY_LOG && strcmp(name, "target") == 0)
		pass->log_target_set = pass->log_target_option = true;
	if (section == KEY_GLOBAL && strcmp(name, "nice") == 0)
		pass->conf->nice_set = true;
}

/* "127.0.0.1", "::1" or "host:port"; `port` for those without one. */
static int listen_option(struct conf_service *service, const char *text, int port,
			 struct error *err)
{
	char whole[ADDR_HOST_MAX + 16];
	size_t len = strlen(text);
	const char *colon = strchr(text, ':');
	size_t digits = strspn(text, "0123456789abcdefABCDEF:.");
	bool bare_v6 = colon != NULL && strchr(colon + 1, ':') != NULL &&
		       (text[digits] == '\0' || text[digits] == '%');

	if (len >= ADDR_HOST_MAX)
		return error_set(err, EXIT_CONFIG, "the address '%s' is too long", text);
	if (bare_v6)
		snprintf(whole, sizeof(whole), "[%s]:%d", text, port);
	else if (colon == NULL || (len > 0 && text[len - 1] == ']'))
		snprintf(whole, sizeof(whole), "%s:%d", text, port);
	else
		snprintf(whole, sizeof(whole), "%s", text);
	return conf_listen_add(service, whole, err);
}

/* Without services in the file, one line service serves; -p and -l are for it. */
static void built_in_service(struct pass *pass, const struct conf_overrides *overrides)
{
	struct conf_service *service;
	struct error err = {0};
	int port = overrides->port != 0 ? overrides->port : CONF_DEFAULT_PORT;
	int result = 0;

	if (port == CONF_ANY_PORT)
		port = 0;
	service = add_service(pass->conf, "the built-in service");
	if (service == NULL || (service->name = strdup("line")) == NULL) {
		conf_errors_add(pass->errors, "built-in service", "no memory");
		return;
	}
	for (size_t i = 0; i < overrides->listen_count && result == 0; i++)
		result = listen_option(service, overrides->listen[i], port, &err);
	if (overrides->listen_count == 0)
		result = listen_option(service, "*", port, &err);
	if (result < 0)
		conf_errors_add(pass->errors, "command line", "%s", err.text);
}

/* ---- What one setting cannot tell alone ----------------------------------------------------- */

static void check_names(struct pass *pass, const struct conf_service *a,
			const struct conf_service *b)
{
	if (a->name != NULL && b->name != NULL && strcmp(a->name, b->name) == 0)
		conf_errors_add(pass->errors, a->where, "the service '%s' is already defined at %s",
				a->name, b->where);
}

/* The first `count` addresses of `b` against one of `a`. */
static void check_address(struct pass *pass, const struct conf_service *a,
			  const struct conf_listen *listen, const struct conf_service *b,
			  size_t count)
{
	bool any_port = listen->endpoint.port == 0 && listen->endpoint.path[0] == '\0';

	/* Of two services, each gets a port of its own. */
	for (size_t i = 0; i < count && (!any_port || a == b); i++)
		if (endpoint_clashes(&listen->endpoint, &b->listen[i].endpoint))
			conf_errors_add(pass->errors, a->where,
					"the address '%s' is already used at %s", listen->text,
					b->where);
}

/* Files of ours are there before a service could take their place, or would be lost to it. */
static void check_path(struct pass *pass, const struct conf_service *service,
		       const struct conf_listen *listen)
{
	const struct conf *conf = pass->conf;
	const char *path = listen->endpoint.path, *what = NULL;

	if (conf->control != NULL && strcmp(path, conf->control) == 0)
		what = "control socket";
	else if (conf->pidfile != NULL && strcmp(path, conf->pidfile) == 0)
		what = "pidfile";
	else if (strncmp(conf->log.target, "file:", 5) == 0 &&
		 strcmp(path, conf->log.target + 5) == 0)
		what = "log";
	if (what != NULL)
		conf_errors_add(pass->errors, service->where,
				"the address '%s' is the path of the %s: name another path",
				listen->text, what);
}

/* Each service against those before it, and each address against those before it in its own. */
static void check_services(struct pass *pass)
{
	const struct conf *conf = pass->conf;

	for (size_t i = 0; i < conf->service_count; i++) {
		const struct conf_service *a = &conf->services[i];

		conf_service_check(a, pass->errors);
		for (size_t k = 0; k < a->listen_count; k++)
			check_path(pass, a, &a->listen[k]);
		for (size_t j = 0; j < i; j++)
			check_names(pass, a, &conf->services[j]);
		for (size_t j = 0; j <= i; j++) {
			const struct conf_service *b = &conf->services[j];

			for (size_t k = 0; k < a->listen_count; k++)
				check_address(pass, a, &a->listen[k], b,
					      j == i ? k : b->listen_count);
		}
	}
}

static void check_log(struct pass *pass, bool foreground)
{
	const char *path = pass->log_target_option ? NULL : conf_source_path(pass->source);
	const char *target = pass->conf->log.target;

	/* Opened and closed again as a log, the pidfile would lose its lock. */
	if (pass->conf->pidfile != NULL && strncmp(target, "file:", 5) == 0 &&
	    strcmp(target + 5, pass->conf->pidfile) == 0)
		conf_errors_add(pass->errors, path != NULL ? path : "command line",
				"log.target is the pidfile: name another file");

	if (strcmp(target, "stderr") == 0 && !foreground)
		conf_errors_add(
			pass->errors, path != NULL ? path : "command line",
			"log.target \"stderr\" needs the foreground (-F): a daemon has no stderr");
}

/* ---- Defaults that depend on who starts and where ------------------------------------------- */

static char *default_pidfile(struct conf_errors *errors)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	char *path = NULL;

	if (geteuid() == 0) {
		path = strdup(ECHOD_RUNDIR "/echod.pid");
	} else if (dir != NULL && dir[0] == '/' && access(dir, W_OK) == 0) {
		if (asprintf(&path, "%s/echod.pid", dir) < 0)
			path = NULL;
	} else {
		if (asprintf(&path, "/run/user/%u/echod.pid", (unsigned)geteuid()) < 0)
			return NULL;
		char *slash = strrchr(path, '/');

		*slash = '\0';
		if (access(path, W_OK) < 0)
			conf_errors_add(
				errors, "pidfile",
				"there is no run directory for this user (XDG_RUNTIME_DIR, %s); "
				"name a pidfile with -P FILE",
				path);
		*slash = '/';
	}
	return path;
}

static char *default_control(const char *pidfile)
{
	size_t len = strlen(pidfile);
	char *path;

	if (len > 4 && strcmp(pidfile + len - 4, ".pid") == 0)
		len -= 4;
	return asprintf(&path, "%.*s.sock", (int)len, pidfile) < 0 ? NULL : path;
}

static void fill_paths(struct pass *pass)
{
	struct conf *conf = pass->conf;

	if (conf->pidfile == NULL)
		conf->pidfile = default_pidfile(pass->errors);
	if (conf->pidfile != NULL && conf->control == NULL)
		conf->control = default_control(conf->pidfile);
	if (conf->pidfile == NULL || conf->control == NULL)
		conf_errors_add(pass->errors, "pidfile", "no memory");
	else if (strlen(conf->control) > 107) /* sun_path, unix(7) */
		conf_errors_add(pass->errors, "control",
				"the path of the control socket is longer than 107 bytes: %s",
				conf->control);
	else if (strcmp(conf->control, conf->pidfile) == 0)
		conf_errors_add(pass->errors, "control", "pidfile and control must differ");
}

/* The interface of a service is that of each of its addresses that names none. */
static void fill_devices(struct conf_service *service)
{
	for (size_t i = 0; service->device != NULL && i < service->listen_count; i++) {
		struct endpoint *endpoint = &service->listen[i].endpoint;

		if (endpoint->device[0] == '\0' && !transport_is_local(endpoint->transport))
			snprintf(endpoint->device, sizeof(endpoint->device), "%s", service->device);
	}
}

struct conf *conf_parse(const struct conf_source *source, const struct conf_overrides *overrides,
			struct conf_errors *errors)
{
	struct conf *conf = calloc(1, sizeof(*conf));
	struct pass pass = {source, conf, errors, false, false};

	if (conf == NULL || conf_keys_set_defaults(KEY_GLOBAL, conf) < 0 ||
	    conf_keys_set_defaults(KEY_LOG, &conf->log) < 0) {
		conf_errors_add(errors, "configuration", "no memory");
		conf_free(conf);
		return NULL;
	}
	read_text(&pass);
	if (conf->service_count > 0 && (overrides->port != 0 || overrides->listen_count > 0))
		conf_errors_add(
			errors, "command line",
			"-p and -l are for the built-in service, but %s defines services: change "
			"their listen there",
			conf_source_path(source));
	if (conf->service_count == 0)
		built_in_service(&pass, overrides);
	for (size_t i = 0; i < overrides->setting_count; i++)
		apply_override(&pass, &overrides->settings[i]);
	if (overrides->foreground && !pass.log_target_set) {
		free(conf->log.target);
		conf->log.target = strdup("stderr");
		if (conf->log.target == NULL) {
			conf_errors_add(errors, "configuration", "no memory");
			conf_free(conf);
			return NULL;
		}
	}
	fill_paths(&pass);
	for (size_t i = 0; i < conf->service_count; i++)
		fill_devices(&conf->services[i]);
	check_services(&pass);
	check_log(&pass, overrides->foreground);
	return conf;
}

void conf_free(struct conf *conf)
{
	if (conf == NULL)
		return;
	for (size_t i = 0; i < conf->service_count; i++)
		conf_service_clear(&conf->services[i]);
	free(conf->services);
	conf_keys_free(KEY_LOG, &conf->log);
	conf_keys_free(KEY_GLOBAL, conf);
	free(conf);
}

/* A time or size with a unit is a string in the file, and so is a mode. */
static bool is_quoted(const struct conf_key *key)
{
	int64_t plain;

	if (key->type == KEY_BOOLEAN)
		return false;
	return !conf_key_is_number(key) || key->type == KEY_MODE ||
	       text_parse_int(key->initial, &plain) < 0;
}

/* From commas between to the syntax of the file. */
static void print_list(FILE *out, const char *strings)
{
	for (size_t len; strings[0] != '\0'; strings += len + (strings[len] == ',')) {
		len = strcspn(strings, ",");
		fprintf(out, "\"%.*s\"%s", (int)len, strings, strings[len] == ',' ? ", " : "");
	}
}

static void print_key(FILE *out, const struct conf_key *key, const char *indent)
{
	const char *quote;

	fprintf(out, "%s# %s\n", indent, key->sentence);
	if (key->initial == NULL) {
		fprintf(out, "%s# %s: %s\n", indent, key->name, key->initial_said);
		return;
	}
	/* The service that is printed speaks a protocol: there, these would be wrong. */
	fprintf(out, "%s%s%s = ", indent, key->whom == KEY_FOR_PROGRAM ? "# " : "", key->name);
	if (conf_key_is_list(key)) {
		fprintf(out, "[ ");
		print_list(out, key->initial);
		fprintf(out, " ];\n");
		return;
	}
	quote = is_quoted(key) ? "\"" : "";
	fprintf(out, "%s%s%s;\n", quote, key->initial, quote);
}

void conf_print_defaults(FILE *out)
{
	for (int section = KEY_GLOBAL; section < KEY_SECTIONS; section++) {
		const char *indent = section == KEY_GLOBAL ? "" : "    ";

		if (section == KEY_LOG)
			fprintf(out, "log = {\n");
		if (section == KEY_SERVICE)
			fprintf(out, "services = ( {\n");
		for (size_t i = 0; i < conf_key_count; i++)
			if ((int)conf_keys[i].section == section)
				print_key(out, &conf_keys[i], indent);
		if (section == KEY_LOG)
			fprintf(out, "};\n");
		if (section == KEY_SERVICE)
			fprintf(out, "} );\n");
	}
}
