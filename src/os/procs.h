/*
 * The processes of this machine, as /proc shows them (proc(5)): who descends from whom, and what
 * they use. A scan is a row of glances and not one picture: while it runs, processes start, end and
 * get new parents. Who must know that nothing is left asks the kernel as well (waitpid(2), ECHILD).
 */
#ifndef ECHOD_OS_PROCS_H
#define ECHOD_OS_PROCS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct proc {
	pid_t pid;
	pid_t parent;
	pid_t group;	  /* its process group */
	char state;	  /* 'R', 'S', 'D', 'T', …; 'Z': a zombie */
	bool alive;	  /* false: it has ended; a zombie that still has threads is alive */
	uint64_t started; /* clock ticks after boot: with the pid, it means this very process */
	uint64_t cpu_ms;  /* of the processor, all its threads; not its children's */
	uint64_t memory;  /* bytes resident */
	bool below;	  /* procs_mark_descendants found it */

	/* Of a scan's own use. */
	bool decided;
	size_t up; /* where its parent stands in the list; PROCS_NOWHERE: it is not there */
};

#define PROCS_NOWHERE SIZE_MAX

struct procs {
	struct proc *list; /* by pid, ascending; owned; free with procs_free */
	size_t count;
};

struct procs_use {
	size_t count; /* processes that are alive */
	uint64_t cpu_ms;
	uint64_t memory; /* bytes; what several share is counted for each */
};

/*
 * All that /proc shows. Processes that end meanwhile are left out. Returns 0, or -1 when /proc
 * cannot be read, shows other pids than ours (another namespace's), or memory runs out; then there
 * is nothing to free.
 */
int procs_scan(struct procs *procs, struct error *err);
void procs_free(struct procs *procs);

/* One process now. Returns 0 or -1 with errno; ESRCH: there is none. */
int procs_read(pid_t pid, struct proc *proc);

/* NULL: it was not there. */
const struct proc *procs_find(const struct procs *procs, pid_t pid);

/*
 * Set `below` of every process that descends from `pid`, directly or not, and clear it of all
 * others, `pid` itself too; zombies are marked like others. Returns how many are marked.
 */
size_t procs_mark_descendants(struct procs *procs, pid_t pid);

/* What `pid` and all that descends from it use together; marks as above. */
struct procs_use procs_sum(struct procs *procs, pid_t pid);

/*
 * Signal this very process, and no other that has got its number since. Returns 0, or -1 with
 * errno; ESRCH: it is gone.
 */
int procs_signal(const struct proc *proc, int sig);

/*
 * Read the text of /proc/PID/stat. Returns 0, or -1 when it is none. The name in it may hold
 * anything, spaces and parentheses too.
 */
int procs_parse(const char *text, struct proc *proc);

#endif
