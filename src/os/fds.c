#include "os/fds.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

int fds_secure_standard(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			continue;
		/* The lowest free number is `fd`: all below it are open. */
		if (open("/dev/null", O_RDWR) != fd)
			return -1;
	}
	return 0;
}

int fds_redirect_standard(int null)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (dup2(null, fd) < 0)
			return -1;
	return 0;
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* For kernels, and tools such as valgrind, without close_range(2). */
static void close_one_by_one(unsigned first, unsigned last)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	if (dir == NULL) {
		for (unsigned fd = first; fd <= last && fd < 65536; fd++)
			close((int)fd);
		return;
	}
	while ((entry = readdir(dir)) != NULL) {
		unsigned long fd = strtoul(entry->d_name, NULL, 10);

		if (entry->d_name[0] != '.' && fd >= first && fd <= last && (int)fd != dirfd(dir))
			close((int)fd);
	}
	closedir(dir);
}

static void close_between(unsigned first, unsigned last)
{
	if (first <= last && close_range(first, last, 0) < 0)
		close_one_by_one(first, last);
}

void fds_close_except(int *keep, size_t n)
{
	unsigned first = STDERR_FILENO + 1;

	if (n > 0)
		qsort(keep, n, sizeof(*keep), compare);
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < (int)first)
			continue;
		close_between(first, (unsigned)keep[i] - 1);
		first = (unsigned)keep[i] + 1;
	}
	close_between(first, UINT_MAX);
}

int fds_set_cloexec(int fd, int on)
{
	return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0);
}

unsigned long fds_raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	if (limit.rlim_cur < limit.rlim_max) {
		struct rlimit raised = {limit.rlim_max, limit.rlim_max};

		/*
		 * An unlimited hard limit is more than the kernel grants: then the soft one stays.
		 */
		if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
			limit = raised;
	}
	return (unsigned long)limit.rlim_cur;
}
