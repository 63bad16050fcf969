/* echod check: read the configuration, say all that is wrong, touch nothing. */
#include <stdio.h>

#include "cli/cli.h"

static int run(const struct options *options)
{
	struct conf_source *source;
	struct conf *conf;
	int code;

	if (options->defaults) {
		conf_print_defaults(stdout);
		return EXIT_DONE;
	}
	/* Asked by a running daemon that is about to execute this binary: could we take over from
	 * it? */
	if (options->accept_handover != 0 && options->accept_handover != HANDOVER_VERSION) {
		fprintf(stderr,
			"echod: this executable cannot take over from the running one (hand-over version "
			"%d, not %d): stop and start\n",
			HANDOVER_VERSION, options->accept_handover);
		return EXIT_FAILED;
	}
	code = cli_load(options, &source, &conf);
	if (code == EXIT_DONE && options->accept_handover != 0)
		printf("echod: %s\n", HANDOVER_ACCEPTED);
	if (code == EXIT_DONE && !options->quiet) {
		if (conf_source_path(source) != NULL)
			printf("echod: the configuration %s is correct\n",
			       conf_source_path(source));
		else
			printf("echod: there is no configuration file; the built-in service would serve\n");
	}
	conf_source_free(source);
	conf_free(conf);
	return code;
}

const struct command command_check = {
	.name = "check",
	.summary = "read the configuration and say what is wrong",
	.takes = TAKES_DEFAULTS | TAKES_START,
	.run = run,
};
