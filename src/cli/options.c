#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/signame.h"
#include "base/text.h"
#include "cli/cli.h"
#include "os/self.h"

/* Of two with the same name, the second is the one with a NAME behind it. */
const struct command *const commands[] = {
	&command_start,		&command_check,
	&command_access,	&command_stop,
	&command_restart,	&command_reload,
	&command_status,	&command_ps,
	&command_start_service, &command_stop_service,
	&command_kill,		&command_add,
	&command_remove,	NULL,
};

enum {
	OPTION_JSON = 256,
	OPTION_DEFAULTS,
	OPTION_ACCEPT_HANDOVER,
	OPTION_USER,
	OPTION_RESTART,
	OPTION_PRINT_PORTS,
	OPTION_INETD,
};

static const struct option long_options[] = {
	{"config", required_argument, NULL, 'f'},
	{"foreground", no_argument, NULL, 'F'},
	{"port", required_argument, NULL, 'p'},
	{"listen", required_argument, NULL, 'l'},
	{"pidfile", required_argument, NULL, 'P'},
	{"set", required_argument, NULL, 'o'},
	{"verbose", no_argument, NULL, 'v'},
	{"quiet", no_argument, NULL, 'q'},
	{"json", no_argument, NULL, OPTION_JSON},
	{"timeout", required_argument, NULL, 'T'},
	{"signal", required_argument, NULL, 's'},
	{"user", required_argument, NULL, OPTION_USER},
	{"restart", required_argument, NULL, OPTION_RESTART},
	{"defaults", no_argument, NULL, OPTION_DEFAULTS},
	{"inetd", optional_argument, NULL, OPTION_INETD},
	{"print-ports", no_argument, NULL, OPTION_PRINT_PORTS},
	{"accept-handover", required_argument, NULL, OPTION_ACCEPT_HANDOVER},
	{"version", no_argument, NULL, 'V'},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

#define SHORT_OPTIONS ":f:Fp:l:P:o:vqT:s:Vh"

static void print_command(FILE *out, const struct command *command)
{
	char usage[64];

	snprintf(usage, sizeof(usage), "%s%s%s", command->name, command->words != NULL ? " " : "",
		 command->words != NULL ? command->words : "");
	fprintf(out, "  %-23s %s\n", usage, command->summary);
}

void options_usage(FILE *out)
{
	fputs("Usage: echod [options] [verb]\n"
	      "\n"
	      "Without a verb, echod starts. Verbs:\n",
	      out);
	for (const struct command *const *command = commands; *command != NULL; command++)
		print_command(out, *command);
	fputs("\n"
	      "Options, before or behind the verb:\n"
	      "  -f, --config FILE     read FILE instead of the default configuration file\n"
	      "  -F, --foreground      stay in the foreground, log to stderr\n"
	      "  -p, --port N          port of the built-in service (default: 30333; 0: any)\n"
	      "  -l, --listen ADDR     address of the built-in service; may be given again\n"
	      "  -P, --pidfile FILE    the pidfile; it also tells the verbs which daemon is meant\n"
	      "  -o, --set KEY=VALUE   a setting: key, log.key or services.NAME.key\n"
	      "  -v, --verbose         log more; may be given again\n"
	      "  -q, --quiet           log less, and say nothing when a verb succeeds;\n"
	      "                        ps: print only the names of the services\n"
	      "      --inetd[=NAME]    serve what is on descriptor 0, for inetd, as the service NAME\n"
	      "      --print-ports     start: print where it listens, once it serves\n"
	      "      --json            access, ps, status: answer in JSON\n"
	      "  -T, --timeout SECONDS how long a verb waits for the outcome, or for an answer\n"
	      "  -s, --signal SIGNAL   kill: send SIGNAL (default: KILL)\n"
	      "      --user USER       add: run the command as USER\n"
	      "      --restart WHEN    add: run it again always, on-failure or never\n"
	      "      --defaults        check: print every setting with its default\n"
	      "  -V, --version         print the version\n"
	      "  -h, --help            print this text\n"
	      "\n"
	      "Exit status: 0 done, 1 failed, 2 wrong usage, 4 not permitted, 6 wrong configuration,\n"
	      "7 not running. status: 0 runs, 1 dead with a pidfile, 3 does not run, 4 unknown.\n",
	      out);
}

/* Settings and addresses are counted in advance: there are at most argc of each. */
static int make_room(struct options *options, int argc, struct error *err)
{
	struct launch *launch = &options->launch;

	options->settings = calloc((size_t)argc + 1, sizeof(*options->settings));
	options->listen = calloc((size_t)argc + 1, sizeof(*options->listen));
	launch->args = calloc(1, sizeof(*launch->args));
	launch->overrides.settings = options->settings;
	launch->overrides.listen = options->listen;
	if (options->settings == NULL || options->listen == NULL || launch->args == NULL)
		return error_errno(err, "cannot read the command line");
	return 0;
}

/* Remember an option for a restart in place. One word such as -vvv may hold many. */
static int keep_arg(struct launch *launch, const char *text, struct error *err)
{
	size_t n = 0;
	char **larger;

	while (launch->args[n] != NULL)
		n++;
	larger = realloc(launch->args, (n + 2) * sizeof(*larger));
	if (larger == NULL)
		return error_errno(err, "cannot keep the options");
	launch->args = larger;
	larger[n] = strdup(text);
	larger[n + 1] = NULL;
	return larger[n] == NULL ? error_errno(err, "cannot keep the options") : 0;
}

static int keep_option(struct launch *launch, const char *option, const char *value,
		       struct error *err)
{
	if (keep_arg(launch, option, err) < 0)
		return -1;
	return value == NULL ? 0 : keep_arg(launch, value, err);
}

static int set_config(struct options *options, const char *value, struct error *err)
{
	options->config_named = true;
	free(options->launch.config);
	options->launch.config = io_absolute(value, err);
	if (options->launch.config == NULL)
		return -1;
	return keep_option(&options->launch, "-f", options->launch.config, err);
}

/*
 * Without -f, the default file is read if it is there; a restart looks again. One that is there but
 * cannot be looked at is reported when it is read.
 */
static int default_config(struct launch *launch, struct error *err)
{
	if (access(conf_default_path(), F_OK) < 0 && errno == ENOENT)
		return 0;
	launch->config = strdup(conf_default_path());
	return launch->config == NULL ? error_errno(err, "cannot keep the options") : 0;
}

/* "key=value" is copied: cut in place, it would look cut in the process list, too. */
static int add_setting(struct options *options, const char *text, struct error *err)
{
	struct conf_override *setting = &options->settings[options->launch.overrides.setting_count];
	char *equals;

	setting->key = strdup(text);
	if (setting->key == NULL)
		return error_errno(err, "cannot keep the options");
	equals = strchr(setting->key, '=');
	*equals = '\0';
	setting->value = equals + 1;
	options->launch.overrides.setting_count++;
	return 0;
}

static int set_pidfile(struct options *options, const char *value, struct error *err)
{
	char *path = io_absolute(value, err), *setting = NULL;
	int result = path == NULL ? -1 : keep_option(&options->launch, "-P", path, err);

	if (result == 0 && asprintf(&setting, "pidfile=%s", path) < 0)
		result = error_errno(err, "cannot keep the options");
	else if (result == 0)
		result = add_setting(options, setting, err);
	free(setting);
	free(path);
	return result;
}

/* Where a daemon is found is for every verb; what it does is decided at its start. */
static bool tells_where(const char *setting)
{
	return strncmp(setting, "pidfile=", 8) == 0 || strncmp(setting, "control=", 8) == 0;
}

static int set_setting(struct options *options, const char *value, struct error *err)
{
	const char *equals = strchr(value, '=');

	if (equals == NULL || equals == value)
		return error_set(err, EXIT_USAGE, "-o needs key=value, not '%s'", value);
	if (!tells_where(value))
		options->start_option = "-o";
	if (keep_option(&options->launch, "-o", value, err) < 0)
		return -1;
	return add_setting(options, value, err);
}

static int set_port(struct options *options, const char *value, struct error *err)
{
	int64_t port;

	if (text_parse_int(value, &port) < 0 || port < 0 || port > 65535)
		return error_set(err, EXIT_USAGE, "-p needs a port between 0 and 65535, not '%s'",
				 value);
	options->launch.overrides.port = port == 0 ? CONF_ANY_PORT : (int)port;
	return keep_option(&options->launch, "-p", value, err);
}

static int set_listen(struct options *options, const char *value, struct error *err)
{
	options->listen[options->launch.overrides.listen_count++] = value;
	return keep_option(&options->launch, "-l", value, err);
}

static int set_timeout(struct options *options, const char *value, struct error *err)
{
	if (text_parse_time(value, &options->timeout_ms) < 0)
		return error_set(err, EXIT_USAGE, "-T needs a time such as 10, 0.5 or 2m, not '%s'",
				 value);
	return 0;
}

static int set_signal(struct options *options, const char *value, struct error *err)
{
	options->signal = signame_parse(value);
	if (options->signal < 0)
		return error_set(err, EXIT_USAGE,
				 "-s needs a signal such as HUP, SIGHUP or 1, not '%s'", value);
	return 0;
}

static int set_user(struct options *options, const char *value, struct error *err)
{
	if (value[0] == '\0')
		return error_set(err, EXIT_USAGE, "--user needs a name, not ''");
	options->user = value;
	return 0;
}

static int set_restart(struct options *options, const char *value, struct error *err)
{
	if (strcmp(value, "always") != 0 && strcmp(value, "on-failure") != 0 &&
	    strcmp(value, "never") != 0)
		return error_set(err, EXIT_USAGE,
				 "--restart needs always, on-failure or never, not '%s'", value);
	options->restart = value;
	return 0;
}

static int set_handover(struct options *options, const char *value, struct error *err)
{
	int64_t version;

	if (text_parse_int(value, &version) < 0 || version < 1 || version > 1000000)
		return error_set(err, EXIT_USAGE, "--accept-handover needs a version, not '%s'",
				 value);
	options->accept_handover = (int)version;
	return 0;
}

/*
 * There is no daemon, and so no pidfile: that an ordinary user has no place for one is no mistake.
 */
static int set_inetd(struct options *options, const char *name, struct error *err)
{
	options->start_option = "--inetd";
	options->inetd = true;
	options->inetd_name = name;
	return add_setting(options, "pidfile=/nonexistent/echod.pid", err);
}

static int set_option(struct options *options, int option, char *value, struct error *err)
{
	struct launch *launch = &options->launch;

	bool is_short = option < 256;

	if (is_short && strchr("fPpl", option) != NULL && value[0] == '\0')
		return error_set(err, EXIT_USAGE, "the option -%c needs a value, not ''", option);
	if (is_short && strchr("Fplv", option) != NULL)
		options->start_option = option == 'F'	? "-F"
					: option == 'p' ? "-p"
					: option == 'l' ? "-l"
							: "-v";
	switch (option) {
	case 'f':
		return set_config(options, value, err);
	case 'F':
		launch->foreground = launch->overrides.foreground = true;
		return keep_option(launch, "-F", NULL, err);
	case 'p':
		return set_port(options, value, err);
	case 'l':
		return set_listen(options, value, err);
	case 'P':
		return set_pidfile(options, value, err);
	case 'o':
		return set_setting(options, value, err);
	case 'v':
		launch->verbosity++;
		return keep_option(launch, "-v", NULL, err);
	case 'q':
		launch->verbosity = -2;
		options->quiet = true;
		return keep_option(launch, "-q", NULL, err);
	case 'T':
		return set_timeout(options, value, err);
	case 's':
		return set_signal(options, value, err);
	case OPTION_USER:
		return set_user(options, value, err);
	case OPTION_RESTART:
		return set_restart(options, value, err);
	case OPTION_INETD:
		return set_inetd(options, value, err);
	case OPTION_PRINT_PORTS:
		/* Not kept: a restart in place has nobody to print for. */
		options->start_option = "--print-ports";
		launch->print_ports = true;
		return 0;
	case OPTION_JSON:
		options->json = true;
		return 0;
	case OPTION_DEFAULTS:
		options->defaults = true;
		return 0;
	case OPTION_ACCEPT_HANDOVER:
		return set_handover(options, value, err);
	case 'V':
		options->version = true;
		return 0;
	default:
		options->help = true;
		return 0;
	}
}

/* getopt found something that is no option of ours, or an option without its value. */
static int option_error(int kind, char **argv, struct error *err)
{
	const char *word = argv[optind - 1];
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	if (kind == ':' && optopt < 256)
		return error_set(err, EXIT_USAGE, "the option -%c needs a value", optopt);
	if (kind == ':')
		return error_set(err, EXIT_USAGE, "the option %s needs a value", word);
	if (optopt > 0 && optopt < 256)
		return error_set(err, EXIT_USAGE, "there is no option -%c", optopt);
	for (const struct option *known = long_options; known->name != NULL; known++)
		if (strncmp(word, "--", 2) == 0 && text_is_nearer(word + 2, known->name, &best))
			nearest = known->name;
	if (nearest != NULL)
		return error_set(err, EXIT_USAGE, "the option %s is not known; did you mean --%s?",
				 word, nearest);
	return error_set(err, EXIT_USAGE, "the option %s is not known", word);
}

static int find_command(struct options *options, const char *word, struct error *err)
{
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;
	bool found = false;

	for (const struct command *const *command = commands; *command != NULL; command++) {
		if (strcmp((*command)->name, word) == 0 &&
		    (!found || options->word_count >= (*command)->min_words)) {
			options->command = *command;
			found = true;
		}
		if (text_is_nearer(word, (*command)->name, &best))
			nearest = (*command)->name;
	}
	if (found)
		return 0;
	if (nearest != NULL)
		return error_set(err, EXIT_USAGE, "there is no verb '%s'; did you mean '%s'?", word,
				 nearest);
	return error_set(err, EXIT_USAGE, "there is no verb '%s'", word);
}

/* Words behind the verb: as many as it takes, and none that a script has left empty by mistake. */
static int check_words(const struct options *options, struct error *err)
{
	const struct command *command = options->command;
	const char *name = command->name;

	if (options->word_count < command->min_words)
		return error_set(err, EXIT_USAGE, "%s needs %s", name, command->needs);
	if (command->max_words >= 0 && options->word_count > command->max_words)
		return error_set(err, EXIT_USAGE, "%s takes no '%s' behind it%s%s", name,
				 options->words[command->max_words],
				 command->instead != NULL ? ": " : "",
				 command->instead != NULL ? command->instead : "");
	if (options->word_count > 0 && options->words[0][0] == '\0')
		return error_set(err, EXIT_USAGE, "the NAME behind %s is empty", name);
	/* Without "--", options of the command would have been taken for those of echod. */
	if ((command->takes & TAKES_PROGRAM) && !options->dashes)
		return error_set(err, EXIT_USAGE, "%s needs '--' in front of the COMMAND", name);
	return 0;
}

static int check_taken(const struct options *options, struct error *err)
{
	const struct {
		bool given;
		unsigned by; /* enum command_takes */
		const char *text;
	} rules[] = {
		{options->json, TAKES_JSON, "--json is for access, ps and status"},
		{options->timeout_ms >= 0, TAKES_TIMEOUT, "-T is for verbs that wait"},
		{options->signal != 0, TAKES_SIGNAL, "-s is for kill"},
		{options->user != NULL, TAKES_PROGRAM, "--user is for add"},
		{options->restart != NULL, TAKES_PROGRAM, "--restart is for add"},
		{options->defaults || options->accept_handover != 0, TAKES_DEFAULTS,
		 "--defaults is for check"},
	};
	const struct command *command = options->command;

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].given && !(command->takes & rules[i].by))
			return error_set(err, EXIT_USAGE, "%s, not for %s", rules[i].text,
					 command->name);
	if (options->start_option != NULL && !(command->takes & TAKES_START))
		return error_set(
			err, EXIT_USAGE,
			"%s is for a start of the daemon, check and access: a running daemon "
			"keeps the options of its start, and -P says which one is meant",
			options->start_option);
	return check_words(options, err);
}

/*
 * What getopt has left: the verb and its words. It has put them behind everything else, so "--" is
 * the last before them, unless that is the value of the last option.
 */
static int take_words(struct options *options, int argc, char **argv, const char *last_value,
		      struct error *err)
{
	const char *before = argv[optind - 1];

	options->dashes = optind > 1 && strcmp(before, "--") == 0 && before != last_value;
	if (optind >= argc)
		return 0;
	options->words = argv + optind + 1;
	options->word_count = argc - optind - 1;
	return find_command(options, argv[optind], err);
}

int options_parse(struct options *options, int argc, char **argv, struct error *err)
{
	const char *last_value = NULL;
	int option;

	*options = (struct options){.command = &command_start, .timeout_ms = -1};
	if (make_room(options, argc, err) < 0)
		return -1;
	options->launch.self = self_path(argv[0], err);
	if (options->launch.self == NULL)
		return -1;
	while ((option = getopt_long(argc, argv, SHORT_OPTIONS, long_options, NULL)) != -1) {
		if (option == '?' || option == ':')
			return option_error(option, argv, err);
		if (set_option(options, option, optarg, err) < 0)
			return -1;
		last_value = optarg;
	}
	if (options->launch.config == NULL && default_config(&options->launch, err) < 0)
		return -1;
	if (take_words(options, argc, argv, last_value, err) < 0)
		return -1;
	if (options->help || options->version)
		return 0;
	return check_taken(options, err);
}

void options_free(struct options *options)
{
	for (size_t n = 0; options->launch.args != NULL && options->launch.args[n] != NULL; n++)
		free(options->launch.args[n]);
	free(options->launch.args);
	free(options->launch.self);
	free(options->launch.config);
	for (size_t i = 0; i < options->launch.overrides.setting_count; i++)
		free((char *)options->settings[i].key);
	free(options->settings);
	free(options->listen);
}
