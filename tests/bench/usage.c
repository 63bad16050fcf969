#include "bench/usage.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "os/procs.h"

#define TEXT_MAX                                                                                   \
	8192 /* of a file of /proc that is read here; status is the longest, below 2 KiB           \
	      */

/* A whole file of /proc, NUL-terminated. Returns 0, or -1 with errno. */
static int read_file(const char *path, char text[TEXT_MAX])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;
	int saved;

	if (fd < 0)
		return -1;
	len = io_read_all(fd, text, TEXT_MAX - 1);
	saved = errno;
	close(fd);
	errno = saved;
	if (len < 0)
		return -1;
	text[len] = '\0';
	return 0;
}

/* Is that how a process that has ended looks? */
static bool has_ended(void)
{
	return errno == ENOENT || errno == ESRCH;
}

/* ---- Processor time ------------------------------------------------------------------------- */

/* The first number of schedstat: nanoseconds on a processor. Returns 0, or -1 with errno. */
static int add_thread(const char *tasks, const char *tid, uint64_t *ns)
{
	char path[300];
	char text[TEXT_MAX];
	uint64_t time;

	snprintf(path, sizeof(path), "%s/%s/schedstat", tasks, tid);
	if (read_file(path, text) != 0)
		return has_ended() ? 0 : -1;
	if (sscanf(text, "%" SCNu64, &time) != 1) {
		errno = EPROTO;
		return -1;
	}
	*ns += time;
	return 0;
}

static int add_threads(pid_t pid, uint64_t *ns)
{
	char path[64];
	const struct dirent *entry;
	int failed = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (dir == NULL)
		return -1;
	while (failed == 0 && (entry = readdir(dir)) != NULL)
		if (isdigit((unsigned char)entry->d_name[0]))
			failed = add_thread(path, entry->d_name, ns);
	closedir(dir);
	return failed;
}

/* Of children that have ended. Fields 16 and 17 of stat; number 3 stands behind the name. */
static int add_ended(pid_t pid, uint64_t *ns)
{
	char path[64];
	char text[TEXT_MAX];
	uint64_t user;
	uint64_t system;
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (read_file(path, text) != 0)
		return -1;
	at = strrchr(text, ')');
	if (at == NULL ||
	    sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
		   &user, &system) != 2) {
		errno = EPROTO;
		return -1;
	}
	*ns += (user + system) * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK));
	return 0;
}

/* ---- Memory --------------------------------------------------------------------------------- */

/* A zombie has none: no such line is there. */
static int add_memory(pid_t pid, uint64_t *kb)
{
	char path[64];
	char text[TEXT_MAX];
	uint64_t found;
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if (read_file(path, text) != 0)
		return -1;
	at = strstr(text, "\nRssAnon:");
	if (at != NULL && sscanf(at, "\nRssAnon: %" SCNu64, &found) == 1)
		*kb += found;
	return 0;
}

/* ---- All of them ---------------------------------------------------------------------------- */

/* Returns 0, or -1 with errno; then nothing was added. */
static int add_process(pid_t pid, struct usage *usage)
{
	struct usage more = *usage;

	if (add_threads(pid, &more.cpu_ns) != 0 || add_ended(pid, &more.cpu_ns) != 0 ||
	    add_memory(pid, &more.rss_kb) != 0)
		return -1;
	more.processes++;
	*usage = more;
	return 0;
}

int usage_read(const struct usage_family *family, struct usage *usage, struct error *err)
{
	*usage = (struct usage){0, 0, 0};
	for (size_t i = 0; i < family->count; i++) {
		pid_t pid = family->list[i];

		if (add_process(pid, usage) != 0 && (pid == family->first || !has_ended()))
			return error_errno(err, "--server: cannot read what process %d uses",
					   (int)pid);
	}
	return 0;
}

static int make_list(struct usage_family *family, const struct procs *procs, struct error *err)
{
	family->list = calloc(procs->count + 1, sizeof(*family->list));
	if (family->list == NULL)
		return error_errno(err, "--server: no memory for a list of processes");
	family->list[family->count++] = family->first;
	for (size_t i = 0; i < procs->count; i++)
		if (procs->list[i].below)
			family->list[family->count++] = procs->list[i].pid;
	return 0;
}

int usage_open(struct usage_family *family, pid_t pid, struct error *err)
{
	struct procs procs;
	int failed;

	*family = (struct usage_family){.first = pid};
	if (procs_scan(&procs, err) != 0)
		return error_prefix(err, "--server: ");
	procs_mark_descendants(&procs, pid);
	failed = make_list(family, &procs, err);
	procs_free(&procs);
	return failed;
}

void usage_close(struct usage_family *family)
{
	free(family->list);
	*family = (struct usage_family){0};
}
