/* echod [start]: read the configuration, become a daemon, serve. echod start NAME: a service. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/service.h"
#include "os/daemonize.h"
#include "run/supervisor.h"

static int run(const struct options *options)
{
	struct conf_source *source;
	struct conf *conf;
	struct error outcome = {0};
	int report_fd = -1;
	int code = cli_load(options, &source, &conf); /* all of it, before anything is touched */

	if (code != EXIT_DONE)
		return code;
	if (options->launch.foreground)
		return supervisor_run(&options->launch, source, conf, -1);
	switch (daemonize(&report_fd, &outcome)) {
	case DAEMONIZE_DAEMON:
		return supervisor_run(&options->launch, source, conf, report_fd);
	case DAEMONIZE_LAUNCHER:
	case DAEMONIZE_FAILED:
		break;
	}
	conf_source_free(source);
	conf_free(conf);
	return outcome.code == EXIT_DONE ? EXIT_DONE : cli_fail(&outcome);
}

const struct command command_start = {
	.name = "start",
	.summary = "start the daemon; returns when it serves",
	.takes = TAKES_START,
	.run = run,
};

static int run_service(const struct options *options)
{
	return service_tell_words(options, service_start_limit);
}

const struct command command_start_service = {
	.name = "start",
	.words = "NAME",
	.summary = "start a service that is stopped",
	.takes = TAKES_TIMEOUT,
	.min_words = 1,
	.max_words = 1,
	.instead = ONE_NAME,
	.run = run_service,
};
