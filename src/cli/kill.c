/* echod kill NAME: a signal to the processes of a service; what it ends, the daemon starts again.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/signame.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/service.h"

/* By its name, which means the same on every machine; a real-time signal has none. */
static void name_signal(char *out, size_t cap, int sig)
{
	const char *name = signame(sig);

	if (strcmp(name, "SIG?") == 0)
		snprintf(out, cap, "%d", sig);
	else
		snprintf(out, cap, "%s", name);
}

static int run(const struct options *options)
{
	struct error err = {0};
	char name[32];
	json_t *request = client_request("kill", options->words, (size_t)options->word_count, &err);

	name_signal(name, sizeof(name), options->signal != 0 ? options->signal : SIGKILL);
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
