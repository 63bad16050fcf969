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

char *self_path(const char *argv0, struct error *err)
{
	const char *path = getenv("PATH");

	if (strchr(argv0, '/') != NULL)
		return io_absolute(argv0, err);
	while (path != NULL) {
		size_t len = strcspn(path, ":");
		char *candidate, *whole;

		/*
		 * An empty entry means the current directory (POSIX, Environment Variables, PATH).
		 */
		if (asprintf(&candidate, "%.*s%s%s", (int)len, path, len > 0 ? "/" : "", argv0) < 0)
			break;
		if (is_executable(candidate)) {
			whole = io_absolute(candidate, err);
			free(candidate);
			return whole;
		}
		free(candidate);
		path = path[len] == ':' ? path + len + 1 : NULL;
	}
	error_set(err, EXIT_FAILED,
		  "cannot find my own executable '%s' in PATH: start it by its path", argv0);
	return NULL;
}
