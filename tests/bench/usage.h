/* What a server uses: it and all processes that descend from it, as /proc shows them (proc(5)). */
#ifndef ECHOD_BENCH_USAGE_H
#define ECHOD_BENCH_USAGE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct usage {
	/*
	 * Processor time of all living threads (schedstat), and of all children that have ended and
	 * were waited for (cutime and cstime of stat, whose unit is the clock tick).
	 */
	uint64_t cpu_ns;
	uint64_t rss_kb;    /* resident anonymous memory (RssAnon of status) */
	unsigned processes; /* that are there, zombies included */
};

/*
 * Read it now. A process that ends meanwhile is left out, unless it is `pid` itself. Returns 0, or
 * -1 with `err` set.
 */
int usage_read(pid_t pid, struct usage *usage, struct error *err);

#endif
