#include "os/procs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/io.h"

/* The kernel's own limit of pids (PID_MAX_LIMIT): more entries are no processes. */
#define PROCS_MAX (4u * 1024 * 1024)

/* Longer than the longest line: a name of 64 bytes and 51 numbers of 20 digits. */
#define STAT_MAX 2048

/* ---- One line ------------------------------------------------------------------------------- */

/* Numbers of the fields, as proc(5) counts them. */
enum field { PPID = 4, PGRP = 5, UTIME = 14, STIME = 15, THREADS = 20, STARTTIME = 22, RSS = 24 };

/* All numbers from the field `PPID` on; each stands at its own index. */
static int read_fields(const char *text, int64_t fields[RSS + 1])
{
	for (int i = PPID; i <= RSS; i++) {
		char *end;

		fields[i] = strtoll(text, &end, 10);
		if (end == text || (*end != ' ' && *end != '\n' && *end != '\0'))
			return -1;
		text = end;
	}
	return 0;
}

static uint64_t positive(int64_t value)
{
	return value > 0 ? (uint64_t)value : 0;
}

int procs_parse(const char *text, struct proc *proc)
{
	/* The name is the one thing that may hold a parenthesis. */
	const char *name_end = strrchr(text, ')');
	int64_t fields[RSS + 1];
	int64_t pid = strtoll(text, NULL, 10);
	bool ended;

	if (pid <= 0 || name_end == NULL || name_end[1] != ' ' ||
	    !isalpha((unsigned char)name_end[2]) || read_fields(name_end + 3, fields) < 0)
		return -1;
	ended = strchr("ZXx", name_end[2]) != NULL;
	*proc = (struct proc){
		.pid = (pid_t)pid,
		.parent = (pid_t)fields[PPID],
		.group = (pid_t)fields[PGRP],
		.state = name_end[2],
		/* The first thread may end before the others: then the process lives on. */
		.alive = !ended || fields[THREADS] > 1,
		.started = positive(fields[STARTTIME]),
		.cpu_ms = positive(fields[UTIME] + fields[STIME]) * 1000 /
			  (uint64_t)sysconf(_SC_CLK_TCK),
		.memory = positive(fields[RSS]) * (uint64_t)sysconf(_SC_PAGESIZE),
		.up = PROCS_NOWHERE,
	};
	return 0;
}

/* `proc` is the descriptor of /proc, `name` "PID/stat". Returns 0 or -1 with errno. */
static int read_stat(int dir, const char *name, struct proc *proc)
{
	char text[STAT_MAX];
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	int saved;

	if (fd < 0) {
		if (errno == ENOENT)
			errno = ESRCH;
		return -1;
	}
	n = io_read_all(fd, text, sizeof(text) - 1);
	saved = errno;
	close(fd);
	errno = saved;
	if (n < 0)
		return -1;
	text[n] = '\0';
	if (procs_parse(text, proc) < 0) {
		errno = EPROTO;
		return -1;
	}
	return 0;
}

int procs_read(pid_t pid, struct proc *proc)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	return read_stat(AT_FDCWD, path, proc);
}

/* ---- All of them ---------------------------------------------------------------------------- */

/* A /proc of another pid namespace would name strangers by the numbers of ours. */
static int check_namespace(int dir, struct error *err)
{
	char self[32];
	ssize_t n = readlinkat(dir, "self", self, sizeof(self) - 1);

	if (n < 0)
		return error_errno(err, "cannot read /proc/self");
	self[n] = '\0';
	if (strtol(self, NULL, 10) != (long)getpid())
		return error_set(err, EXIT_FAILED,
				 "/proc belongs to another pid namespace than this process");
	return 0;
}

static int make_room(struct procs *procs, size_t *cap)
{
	size_t more = *cap == 0 ? 256 : 2 * *cap;
	struct proc *larger;

	if (procs->count < *cap)
		return 0;
	if (procs->count >= PROCS_MAX) {
		errno = EOVERFLOW;
		return -1;
	}
	larger = realloc(procs->list, more * sizeof(*larger));
	if (larger == NULL)
		return -1;
	procs->list = larger;
	*cap = more;
	return 0;
}

/* What can go wrong with one process alone: it has ended, or it is hidden (hidepid=1). */
static bool is_its_own(int error)
{
	return error == ESRCH || error == EACCES || error == EPERM;
}

/* Returns 0, or -1 with errno. */
static int read_all(DIR *dir, struct procs *procs)
{
	size_t cap = 0;
	struct dirent *entry;

	while (errno = 0, (entry = readdir(dir)) != NULL) {
		char name[sizeof(entry->d_name) + sizeof("/stat")];

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		if (make_room(procs, &cap) < 0)
			return -1;
		snprintf(name, sizeof(name), "%s/stat", entry->d_name);
		if (read_stat(dirfd(dir), name, &procs->list[procs->count]) == 0)
			procs->count++;
		else if (!is_its_own(errno))
			return -1;
	}
	return errno == 0 ? 0 : -1;
}

static int compare(const void *a, const void *b)
{
	const struct proc *left = a, *right = b;

	return (left->pid > right->pid) - (left->pid < right->pid);
}

static void link_parents(struct procs *procs)
{
	qsort(procs->list, procs->count, sizeof(*procs->list), compare);
	for (size_t i = 0; i < procs->count; i++) {
		const struct proc *parent = procs_find(procs, procs->list[i].parent);

		if (parent != NULL)
			procs->list[i].up = (size_t)(parent - procs->list);
	}
}

int procs_scan(struct procs *procs, struct error *err)
{
	DIR *dir = opendir("/proc");
	int result = -1;

	*procs = (struct procs){NULL, 0};
	if (dir == NULL)
		return error_errno(err, "cannot open /proc");
	if (check_namespace(dirfd(dir), err) < 0)
		goto out;
	if (read_all(dir, procs) < 0) {
		error_errno(err, "cannot read the processes in /proc");
		goto out;
	}
	link_parents(procs);
	result = 0;
out:
	closedir(dir);
	if (result < 0)
		procs_free(procs);
	return result;
}

void procs_free(struct procs *procs)
{
	free(procs->list);
	*procs = (struct procs){NULL, 0};
}

const struct proc *procs_find(const struct procs *procs, pid_t pid)
{
	struct proc key = {.pid = pid};

	if (procs->count == 0)
		return NULL;
	return bsearch(&key, procs->list, procs->count, sizeof(key), compare);
}

/* ---- Descent -------------------------------------------------------------------------------- */

/*
 * Walks up from `i` to the first process that is decided, and gives its answer to all on the way:
 * each is passed twice at most, however deep the tree is. Glances at different moments may even
 * show a circle of parents: who stands on one descends from nobody.
 */
static void decide(struct proc *list, size_t count, size_t i)
{
	size_t at = i, steps = 0;
	bool below;

	while (at != PROCS_NOWHERE && !list[at].decided && steps++ < count)
		at = list[at].up;
	below = at != PROCS_NOWHERE && list[at].decided && list[at].below;
	for (at = i; at != PROCS_NOWHERE && !list[at].decided; at = list[at].up) {
		list[at].decided = true;
		list[at].below = below;
	}
}

size_t procs_mark_descendants(struct procs *procs, pid_t pid)
{
	const struct proc *found = procs_find(procs, pid);
	size_t marked = 0;
	struct proc *root;

	for (size_t i = 0; i < procs->count; i++)
		procs->list[i].below = procs->list[i].decided = false;
	if (found == NULL)
		return 0;
	root = &procs->list[found - procs->list];
	root->decided = root->below = true;
	for (size_t i = 0; i < procs->count; i++)
		decide(procs->list, procs->count, i);
	root->below = false;
	for (size_t i = 0; i < procs->count; i++)
		marked += procs->list[i].below;
	return marked;
}

struct procs_use procs_sum(struct procs *procs, pid_t pid)
{
	struct procs_use use = {0, 0, 0};

	procs_mark_descendants(procs, pid);
	for (size_t i = 0; i < procs->count; i++) {
		const struct proc *proc = &procs->list[i];

		if (!proc->below && proc->pid != pid)
			continue;
		use.count += proc->alive;
		use.cpu_ms += proc->cpu_ms;
		use.memory += proc->memory;
	}
	return use;
}

/* ---- Signals -------------------------------------------------------------------------------- */

int procs_signal(const struct proc *proc, int sig)
{
	struct proc now;
	int pidfd, result;

	if (proc->pid <= 1) {
		errno = EPERM;
		return -1;
	}
	/* First hold what has the number now, then look whether it is the one that is meant. */
	pidfd = pidfd_open(proc->pid, 0);
	if (pidfd < 0 && errno == ESRCH)
		return -1;
	result = procs_read(proc->pid, &now);
	if (result == 0 && now.started != proc->started) {
		errno = ESRCH;
		result = -1;
	} else if (result == 0) {
		/* Without pidfds (a container's seccomp) the look just now has to do. */
		result = pidfd >= 0 ? pidfd_send_signal(pidfd, sig, NULL, 0) : kill(proc->pid, sig);
	}
	if (pidfd >= 0)
		close(pidfd); /* keeps errno: nothing is written back */
	return result;
}
