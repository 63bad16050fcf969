#include "options.h"

#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define USAGE_OUT   2
#define UDP_OPTIONS 3

static uint16_t parse_port(const char *text)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	if (end == text || *end != '\0' || port > UINT16_MAX)
		errx(USAGE_OUT, "'%s' is no port: give a number from 0, any that is free, to 65535",
		     text);
	return (uint16_t)port;
}

struct options options_parse(int argc, char **argv, bool knows_udp)
{
	static const struct option known[] = {
		{"udp", no_argument, NULL, 'u'},  {"pktinfo", no_argument, NULL, 'i'},
		{"gro", no_argument, NULL, 'g'},  {"port", required_argument, NULL, 'p'},
		{"once", no_argument, NULL, 'o'}, {NULL, 0, NULL, 0},
	};
	struct options options = {0};
	int c;

	while ((c = getopt_long(argc, argv, "", knows_udp ? known : known + UDP_OPTIONS, NULL)) !=
	       -1) {
		if (c == '?')
			exit(USAGE_OUT);
		if (c == 'p')
			options.port = parse_port(optarg);
		options.once |= c == 'o';
		options.udp |= c == 'u';
		options.pktinfo |= c == 'i';
		options.gro |= c == 'g';
	}
	if (optind < argc)
		errx(USAGE_OUT, "'%s' is too much: all that is said is said by options",
		     argv[optind]);
	if (options.udp ? options.once : options.pktinfo || options.gro)
		errx(USAGE_OUT, "--once is for TCP, --pktinfo and --gro need --udp");
	return options;
}

void options_print_port(uint16_t port)
{
	printf("%u\n", port);
	if (fflush(stdout) != 0)
		err(EXIT_FAILURE, "cannot print the port");
}
