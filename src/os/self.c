#include "os/self.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"

/* A directory passes access(X_OK), too. */
static int is_executable(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* The first of that name in PATH; NULL with the reason. */
static char *find_in_path(const char *name, struct error *err)
{
	const char *path = getenv("PATH");

	while (path != NULL) {
		size_t len = strcspn(path, ":");
		char *candidate, *whole;

		/*
		 * An empty entry means the current directory (POSIX, Environment Variables, PATH).
		 */
		if (asprintf(&candidate, "%.*s%s%s", (int)len, path, len > 0 ? "/" : "", name) < 0)
			break;
		if (is_executable(candidate)) {
			whole = io_absolute(candidate, err);
			free(candidate);
			return whole;
		}
		free(candidate);
		path = path[len] == ':' ? path + len + 1 : NULL;
	}
	error_set(err, EXIT_FAILED, "there is no command '%s' in PATH", name);
	return NULL;
}

char *self_path(const char *argv0, struct error *err)
{
	char *path;

	if (strchr(argv0, '/') != NULL)
		return io_absolute(argv0, err);
	path = find_in_path(argv0, err);
	if (path == NULL)
		error_prefix(err, "start echod by its path: ");
	return path;
}

char *self_find_command(const char *name, struct error *err)
{
	struct stat st;

	if (strchr(name, '/') == NULL)
		return find_in_path(name, err);
	if (stat(name, &st) < 0) {
		error_errno(err, "cannot run %s", name);
		return NULL;
	}
	if (!is_executable(name)) {
		error_set(err, EXIT_FAILED, "cannot run %s: it is not an executable file", name);
		return NULL;
	}
	return io_absolute(name, err);
}
