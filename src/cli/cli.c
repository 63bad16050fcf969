#include "cli/cli.h"
#include "run/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* What the user typed, or a file holds, must not steer the terminal. */
static void complain(const char *text)
{
	char line[4 * ERROR_TEXT_MAX];

	text_escape(line, sizeof(line), text, strlen(text));
	fprintf(stderr, "echod: %s\n", line);
}

int cli_fail(const struct error *err)
{
	complain(err->text);
	return err->code;
}

static void load(const struct options *options, struct conf_source **source, struct conf **conf,
		 struct conf_errors *errors)
{
	*conf = NULL;
	*source = conf_source_load(options->launch.config, errors);
	if (*source != NULL)
		*conf = conf_parse(*source, &options->launch.overrides, errors);
	if (*conf != NULL)
		settings_check(*conf, errors);
}

int cli_load(const struct options *options, struct conf_source **source, struct conf **conf)
{
	struct conf_errors errors = {0};
	int code = EXIT_DONE;

	load(options, source, conf, &errors);
	for (size_t i = 0; i < errors.count; i++)
		complain(errors.lines[i]);
	if (errors.count > 0 || errors.unreadable || *conf == NULL) {
		code = errors.unreadable ? EXIT_PERMISSION : EXIT_CONFIG;
		conf_source_free(*source);
		conf_free(*conf);
		*source = NULL;
		*conf = NULL;
	}
	conf_errors_free(&errors);
	return code;
}

static bool names_pidfile(const struct options *options)
{
	for (size_t i = 0; i < options->launch.overrides.setting_count; i++)
		if (strcmp(options->settings[i].key, "pidfile") == 0)
			return true;
	return false;
}

/*
 * A file with mistakes must not keep anybody from stopping the daemon. But when the user names a
 * file, and it does not tell which daemon is meant, then the one with the default pidfile is
 * somebody else.
 */
static bool tells_pidfile(const struct options *options, const struct conf_errors *errors)
{
	return !errors->not_understood || !options->config_named || names_pidfile(options);
}

static struct conf *load_for_pidfile(const struct options *options, struct error *err)
{
	struct conf_errors errors = {0};
	struct conf_source *source;
	struct conf *conf;

	load(options, &source, &conf, &errors);
	if (conf == NULL) {
		conf_source_free(source);
		source = conf_source_load(NULL, &errors);
		conf = source == NULL ? NULL
				      : conf_parse(source, &options->launch.overrides, &errors);
	}
	if (conf == NULL || conf->pidfile == NULL || !tells_pidfile(options, &errors)) {
		error_set(err, EXIT_CONFIG, "%s", errors.count > 0 ? errors.lines[0] : "no memory");
		conf_free(conf);
		conf = NULL;
	} else if (errors.count > 0 && !names_pidfile(options)) {
		complain(errors.lines[0]);
		fprintf(stderr, "echod: going on with the pidfile %s\n", conf->pidfile);
	}
	conf_source_free(source);
	conf_errors_free(&errors);
	return conf;
}

int target_look(const struct options *options, struct target *target, struct error *err)
{
	target->holder = (struct pidfile_holder){0, -1, false, false};
	target->conf = load_for_pidfile(options, err);
	if (target->conf == NULL)
		return -1;
	return pidfile_find(target->conf->pidfile, &target->holder, err);
}

int target_find(const struct options *options, struct target *target)
{
	struct error err = {0};

	if (target_look(options, target, &err) < 0)
		return cli_fail(&err);
	if (target->holder.pid > 0)
		return EXIT_DONE;
	if (target->holder.foreign)
		error_set(&err, EXIT_NOT_RUNNING,
			  "not running (the file %s holds something other than a pid)",
			  target->conf->pidfile);
	else if (target->holder.file_exists)
		error_set(&err, EXIT_NOT_RUNNING,
			  "not running (the pidfile %s was left behind by a daemon that died)",
			  target->conf->pidfile);
	else
		error_set(&err, EXIT_NOT_RUNNING, "not running (no pidfile %s)",
			  target->conf->pidfile);
	return cli_fail(&err);
}

void target_free(struct target *target)
{
	pidfile_holder_close(&target->holder);
	conf_free(target->conf);
	target->conf = NULL;
}
