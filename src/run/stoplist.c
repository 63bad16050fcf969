#include "run/stoplist.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

/* Room for an ending behind any path: cut off, it would name another file, even the pidfile. */
#define LIST_PATH_MAX (PATH_MAX + 16)

/* The pidfile with the ending .stopped in place of .pid. */
static void path_of(const char *pidfile, const char *ending, char *out, size_t cap)
{
	size_t len = strlen(pidfile);

	if (len > 4 && strcmp(pidfile + len - 4, ".pid") == 0)
		len -= 4;
	snprintf(out, cap, "%.*s.stopped%s", (int)len, pidfile, ending);
}

static bool any_stopped(const struct generation *generation)
{
	const struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		if (service->stopped)
			return true;
	return false;
}

static int write_names(FILE *file, const struct generation *generation)
{
	const struct service *service;
	bool failed = false;

	TAILQ_FOREACH (service, &generation->services, link)
		if (service->stopped)
			failed = fprintf(file, "%s\n", service->conf->name) < 0 || failed;
	/*
	 * A full disk tells at the flush. No fsync: the file is for a crash of the daemon, not of
	 * the machine, and the loop must not wait for a disk.
	 */
	failed = fflush(file) != 0 || failed;
	return failed ? -1 : 0;
}

int stoplist_save(const char *pidfile, const struct generation *generation, struct error *err)
{
	char path[LIST_PATH_MAX], fresh[LIST_PATH_MAX];
	FILE *file = NULL;
	int fd, result;

	path_of(pidfile, "", path, sizeof(path));
	path_of(pidfile, ".new", fresh, sizeof(fresh));
	if (!any_stopped(generation)) {
		if (unlink(path) == 0 || errno == ENOENT)
			return 0;
		return error_errno(err, "cannot remove %s", path);
	}
	unlink(fresh); /* of a daemon that died while it wrote */
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd >= 0)
		file = fdopen(fd, "w");
	if (file == NULL) {
		error_errno(err, "cannot write %s", fresh);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	result = write_names(file, generation);
	if (result < 0)
		error_errno(err, "cannot write %s", fresh);
	fclose(file);
	if (result == 0 && rename(fresh, path) < 0)
		result = error_errno(err, "cannot replace %s", path);
	if (result < 0)
		unlink(fresh);
	return result;
}

static void apply(FILE *file, struct generation *generation)
{
	char *line = NULL;
	size_t cap = 0;

	while (getline(&line, &cap, file) >= 0) {
		struct service *service;

		line[strcspn(line, "\n")] = '\0';
		service = generation_service(generation, line);
		if (service == NULL)
			continue;
		service->stopped = true;
		log_notice("service %s was stopped by order before the daemon died: it stays "
			   "stopped until 'echod start %s'",
			   line, line);
	}
	free(line);
}

int stoplist_load(const char *pidfile, struct generation *generation, struct error *err)
{
	char path[LIST_PATH_MAX];
	struct stat st;
	FILE *file;
	int fd;

	path_of(pidfile, "", path, sizeof(path));
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, "cannot read %s", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) {
		close(fd);
		return error_set(err, EXIT_FAILED,
				 "%s, which names stopped services, is no file of this user: "
				 "remove it",
				 path);
	}
	file = fdopen(fd, "r");
	if (file == NULL) {
		error_errno(err, "cannot read %s", path);
		close(fd);
		return -1;
	}
	apply(file, generation);
	fclose(file);
	return 0;
}

void stoplist_remove(const char *pidfile)
{
	char path[LIST_PATH_MAX];

	path_of(pidfile, "", path, sizeof(path));
	unlink(path);
}
