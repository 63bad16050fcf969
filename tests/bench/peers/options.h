/* The command line of the small servers, and what they say when they listen. */
#ifndef ECHOD_TESTS_BENCH_PEERS_OPTIONS_H
#define ECHOD_TESTS_BENCH_PEERS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
	uint16_t port; /* 0: any that is free */
	bool once;     /* one reply a connection */
	bool udp;
	bool pktinfo;
	bool gro;
};

/* Wrong usage ends the process with 2 and a sentence; the last three only where `udp` is known. */
struct options options_parse(int argc, char **argv, bool knows_udp);

/* The port in host byte order, alone on a line of standard output. */
void options_print_port(uint16_t port);

#endif
