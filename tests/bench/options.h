/* The command line of load. */
#ifndef ECHOD_BENCH_OPTIONS_H
#define ECHOD_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define OPTIONS_TRAIN_MAX 64 /* udp(7), UDP_SEGMENT */

struct options {
	const char *address;
	const char *port;
	uint32_t connections;
	uint32_t sources;
	uint32_t size;	   /* bytes */
	uint32_t pipeline; /* lines, datagrams or trains under way on each connection */
	bool once;
	bool udp;
	uint32_t train; /* datagrams in one sendmsg */
	uint32_t rate;	/* lines a second; 0: closed loop */
	uint64_t warmup_ns;
	uint64_t measure_ns;
	uint64_t timeout_ns;  /* UDP: then a datagram counts as lost */
	uint64_t patience_ns; /* for the last replies */
	int cpu;	      /* -1: any */
	pid_t server;	      /* 0: none */
	uint32_t idle;	      /* connections that stay silent */
};

/* Returns 0, 1 when the help was asked for and printed, or -1 with `err` set to EXIT_USAGE. */
int options_parse(int argc, char **argv, struct options *options, struct error *err);

#endif
