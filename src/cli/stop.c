/* echod stop: a polite stop; returns when the daemon is gone, so that a start right after it
 * succeeds. echod stop NAME: the same for one service. */
#include <signal.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/service.h"

static int stop(const struct options *options, const struct target *target, struct error *err)
{
	int64_t patience =
		options->timeout_ms >= 0 ? options->timeout_ms : service_stop_limit(target->conf);
	int gone;

	if (pidfile_signal(&target->holder, SIGUSR1, err) < 0)
		return -1;
	gone = pidfile_await_end(&target->holder, patience, err);
	if (gone == 0)
		return error_set(
			err, EXIT_FAILED,
			"process %d has not ended after %.3g s; it goes on stopping, and a second stop "
			"ends it at once",
			(int)target->holder.pid, (double)patience / 1000);
	return gone < 0 ? -1 : 0;
}

static int run(const struct options *options)
{
	struct target target;
	struct error err = {0};
	int code = target_find(options, &target);

	if (code == EXIT_DONE && stop(options, &target, &err) < 0)
		code = cli_fail(&err);
	else if (code == EXIT_DONE && !options->quiet)
		printf("echod: stopped (pid %d)\n", (int)target.holder.pid);
	target_free(&target);
	return code;
}

const struct command command_stop = {
	.name = "stop",
	.summary = "answer what clients have begun, then end",
	.takes = TAKES_TIMEOUT,
	.run = run,
};

static int run_service(const struct options *options)
{
	return service_tell_words(options, service_stop_limit);
}

const struct command command_stop_service = {
	.name = "stop",
	.words = "NAME",
	.summary = "stop a service politely; it stays stopped",
	.takes = TAKES_TIMEOUT,
	.min_words = 1,
	.max_words = 1,
	.instead = ONE_NAME,
	.run = run_service,
};
