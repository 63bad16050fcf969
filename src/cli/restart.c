/* echod restart, echod reload: restart in place; returns when the new generation serves, or why it
 * does not. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"

/* Beyond the time that the daemon allows itself for the trial and for its workers. */
#define GRACE_MS 10000

static json_t *restart(const struct options *options, const struct target *target,
		       struct error *err)
{
	int64_t patience = options->timeout_ms >= 0 ? options->timeout_ms
						    : 2 * target->conf->start_timeout + GRACE_MS;
	/* Connected first: without a way to learn the outcome, nothing is begun. */
	int fd = client_connect(target->conf->control, target->holder.pid, patience, err);

	if (fd < 0)
		return NULL;
	/*
	 * Signalled before asking: so the daemon knows, when it is asked, which restart is meant.
	 */
	if (pidfile_signal(&target->holder, SIGHUP, err) < 0) {
		close(fd);
		return NULL;
	}
	return client_ask(fd, client_request("await-restart", NULL, 0, err), patience, err);
}

static int run(const struct options *options)
{
	struct target target;
	struct error err = {0};
	json_t *reply = NULL;
	int code = target_find(options, &target);

	if (code == EXIT_DONE) {
		reply = restart(options, &target, &err);
		if (reply == NULL)
			code = cli_fail(&err);
		else if (!options->quiet)
			printf("echod: restarted (pid %d): %s\n", (int)target.holder.pid,
			       json_string_value(json_object_get(reply, "text")));
	}
	json_decref(reply);
	target_free(&target);
	return code;
}

#define FOR_ONE_SERVICE                                                                             \
	"it is for the whole daemon; for one service there are 'echod stop NAME' and 'echod start " \
	"NAME', or 'echod kill NAME', after which it is started again"

const struct command command_restart = {
	.name = "restart",
	.summary = "start anew in place: same pid, no client refused",
	.takes = TAKES_TIMEOUT,
	.instead = FOR_ONE_SERVICE,
	.run = run,
};

const struct command command_reload = {
	.name = "reload",
	.summary = "the same as restart: it applies every setting",
	.takes = TAKES_TIMEOUT,
	.instead = FOR_ONE_SERVICE,
	.run = run,
};
