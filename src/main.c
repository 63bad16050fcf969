/* echod: a network echo server daemon. main() picks the verb; src/cli/ has one file for each. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cli/cli.h"
#include "os/fds.h"
#include "run/inetd.h"
#include "run/supervisor.h"

#include "config.h"

/* A restart in place has executed us: the former image left a descriptor behind. -1: it is a first
 * start. */
static int take_handover(void)
{
	const char *text = getenv(HANDOVER_VARIABLE);
	int64_t fd = -1;

	if (text != NULL && (text_parse_int(text, &fd) < 0 || fd <= 2 || fd > 1 << 30))
		fd = -1;
	unsetenv(HANDOVER_VARIABLE);
	return (int)fd;
}

static int usage_error(const struct error *err)
{
	int code = cli_fail(err);

	if (code == EXIT_USAGE)
		fprintf(stderr,
			"Usage: echod [options] [start | check | stop | restart | reload | status | ps]\n"
			"       echod [options] start | stop | kill | remove NAME\n"
			"       echod [options] add NAME -- COMMAND...\n"
			"'echod --help' says more.\n");
	return code;
}

static int run(const struct options *options, int handover)
{
	if (options->help) {
		options_usage(stdout);
		return EXIT_DONE;
	}
	if (options->version) {
		printf("echod %s\n", PACKAGE_VERSION);
		return EXIT_DONE;
	}
	if (handover >= 0 && options->command == &command_start && supervisor_can_resume(handover))
		return supervisor_resume(&options->launch, handover);
	return options->command->run(options);
}

/* Then stderr is not ours: it may be the client. */
static bool is_for_inetd(char **argv)
{
	for (; *argv != NULL; argv++)
		if (strcmp(*argv, "--inetd") == 0 || strncmp(*argv, "--inetd=", 8) == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct options options;
	struct error err = {0};
	int handover, code;

	if (fds_secure_standard() < 0)
		return EXIT_FAILED; /* and nobody to tell */
	handover = take_handover();
	if (options_parse(&options, argc, argv, &err) < 0)
		code = is_for_inetd(argv) ? inetd_fail(&err) : usage_error(&err);
	else
		code = run(&options, handover);
	options_free(&options);
	/* Rule 7: nothing may be lost in a buffer, a full disk behind stdout for instance. */
	if (fflush(stdout) != 0 && errno != EBADF) {
		fprintf(stderr, "echod: cannot write to standard output: %s\n", strerror(errno));
		code = code == EXIT_DONE ? EXIT_FAILED : code;
	}
	return code;
}
