/* echod kill NAME: a signal to the processes of a service; what it ends, the daemon starts again.
 */
#include <signal.h>

#include "base/signame.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/service.h"

static int run(const struct options *options)
{
	struct error err = {0};
	/* By its name, which means the same on every machine. */
	const char *name = signame(options->signal != 0 ? options->signal : SIGKILL);
	json_t *request = client_request("kill", options->words, (size_t)options->word_count, &err);

	if (request != NULL)
		json_object_set_new(request, "signal", json_string(name));
	return service_tell(options, request, &err, service_answer_limit);
}

const struct command command_kill = {
	.name = "kill",
	.words = "NAME",
	.summary = "send SIGKILL, or -s SIGNAL, to its processes",
	.takes = TAKES_TIMEOUT | TAKES_SIGNAL,
	.min_words = 1,
	.max_words = 1,
	.needs = NEEDS_NAME,
	.instead = ONE_NAME,
	.run = run,
};
