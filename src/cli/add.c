/* echod add NAME -- COMMAND...: run and supervise a command, until it is removed or the daemon
 * stops. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/service.h"
#include "os/self.h"

/* The second word becomes `path`: the daemon has another PATH, and another directory. */
static json_t *make_request(const struct options *options, char *path, struct error *err)
{
	char *typed = options->words[1];
	json_t *request;

	options->words[1] = path;
	request = client_request("add", options->words, (size_t)options->word_count, err);
	options->words[1] = typed;
	if (request != NULL &&
	    (client_request_add(request, "user", options->user, err) < 0 ||
	     client_request_add(request, "restart", options->restart, err) < 0)) {
		json_decref(request);
		request = NULL;
	}
	return request;
}

static int run(const struct options *options)
{
	struct error err = {0};
	char *path = self_find_command(options->words[1], &err);
	json_t *request = path == NULL ? NULL : make_request(options, path, &err);

	free(path);
	return service_tell(options, request, &err, service_start_limit);
}

const struct command command_add = {
	.name = "add",
	.words = "NAME -- COMMAND...",
	.summary = "run and supervise a command, until it is removed",
	.takes = TAKES_TIMEOUT | TAKES_PROGRAM,
	.min_words = 2,
	.max_words = -1,
	.needs = "a NAME and, behind '--', a COMMAND",
	.run = run,
};
