/* echod [start]: read the configuration, become a daemon, serve. echod start NAME: a service. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/service.h"
#include "os/daemonize.h"
#include "os/passed.h"
#include "run/inetd.h"
#include "run/status.h"
#include "run/supervisor.h"

#define ANSWER_MS 5000

/* What the daemon that has just said "ready" answers. */
static json_t *ask_status(const struct conf *conf, struct error *err)
{
	struct pidfile_holder holder = {0, -1, false, false};
	json_t *request = client_request("status", NULL, 0, err), *reply = NULL;
	int fd = -1;

	if (request != NULL && pidfile_find(conf->pidfile, &holder, err) == 0)
		fd = client_connect(conf->control, holder.pid, ANSWER_MS, err);
	if (fd >= 0)
		reply = client_ask(fd, request, ANSWER_MS, err);
	else
		json_decref(request);
	pidfile_holder_close(&holder);
	return reply;
}

static int print_ports(const struct conf *conf)
{
	struct error err = {0};
	json_t *reply = ask_status(conf, &err), *service, *address;
	size_t i, k;

	if (reply == NULL) {
		error_prefix(&err, "it serves, but its ports are not known: ");
		return cli_fail(&err);
	}
	json_array_foreach (json_object_get(reply, "services"), i, service) {
		const char *name = json_string_value(json_object_get(service, "name"));

		json_array_foreach (json_object_get(service, "addresses"), k, address) {
			const char *text = json_string_value(address);

			printf("%s %s%s\n", name, status_scheme(text), text);
		}
	}
	json_decref(reply);
	return EXIT_DONE;
}

/* As a daemon, or in the foreground. Takes source and conf. */
static int launch_it(const struct launch *launch, struct conf_source *source, struct conf *conf)
{
	struct error outcome = {0};
	int report_fd = -1, code;

	if (launch->foreground)
		return supervisor_run(launch, source, conf, -1);
	switch (daemonize(&report_fd, &outcome)) {
	case DAEMONIZE_DAEMON:
		return supervisor_run(launch, source, conf, report_fd);
	case DAEMONIZE_LAUNCHER:
	case DAEMONIZE_FAILED:
		break;
	}
	code = outcome.code == EXIT_DONE ? EXIT_DONE : cli_fail(&outcome);
	if (code == EXIT_DONE && launch->print_ports)
		code = print_ports(conf);
	conf_source_free(source);
	conf_free(conf);
	return code;
}

static int run(const struct options *options)
{
	struct launch launch = options->launch;
	struct conf_source *source;
	struct conf *conf;
	struct error err = {0};
	int code;

	if (options->inetd)
		return inetd_run(&launch, options->inetd_name);
	/* Here, where this is the process that the service manager has started. */
	if (passed_take(&launch.passed, &err) < 0)
		return cli_fail(&err);
	code = cli_load(options, &source, &conf); /* all of it, before anything is touched */
	if (code == EXIT_DONE)
		code = launch_it(&launch, source, conf);
	passed_free(&launch.passed);
	return code;
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
