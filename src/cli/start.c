/* echod [start]: read the configuration, become a daemon, serve. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
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

const struct command command_start = {"start", "start the daemon; returns when it serves",
				      TAKES_START, run};
