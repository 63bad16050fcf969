/* What a server uses: it and all processes that descend from it, as /proc shows them (proc(5)). */
#ifndef ECHOD_BENCH_USAGE_H
#define ECHOD_BENCH_USAGE_H

#include <stddef.h>
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

/* The processes that are looked at. */
struct usage_family {
	pid_t first;
	pid_t *list; /* owned */
	size_t count;
};

/*
 * Find `pid` and what descends from it: a look at all processes there are, which takes its time.
 * Returns 0, or -1 with `err` set; then there is nothing to close.
 */
int usage_open(struct usage_family *family, pid_t pid, struct error *err);
void usage_close(struct usage_family *family);

/*
 * Read what they use now. One that has ended since is left out, unless it is the first. Returns 0,
 * or -1 with `err` set.
 */
int usage_read(const struct usage_family *family, struct usage *usage, struct error *err);

#endif
