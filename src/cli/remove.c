/* echod remove NAME: stop and forget a program that `echod add` has brought. */
#include "cli/cli.h"
#include "cli/service.h"

static int run(const struct options *options)
{
	return service_tell_words(options, service_stop_limit);
}

const struct command command_remove = {
	.name = "remove",
	.words = "NAME",
	.summary = "stop and forget what add has brought",
	.takes = TAKES_TIMEOUT,
	.min_words = 1,
	.max_words = 1,
	.needs = NEEDS_NAME,
	.instead = ONE_NAME,
	.run = run,
};
