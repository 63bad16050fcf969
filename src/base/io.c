#include "base/io.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int io_write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t io_read_all(int fd, void *data, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = read(fd, (char *)data + got, len - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

char *io_read_to_end(int fd, size_t limit, size_t *len)
{
	size_t cap = 4096, used = 0;
	char *text = malloc(cap);

	while (text != NULL) {
		ssize_t n = io_read_all(fd, text + used, cap - used - 1);
		char *larger;

		if (n < 0)
			break;
		used += (size_t)n;
		if (used > limit) {
			errno = EFBIG;
			break;
		}
		if (used < cap - 1) {
			text[used] = '\0';
			*len = used;
			return text;
		}
		cap *= 2;
		larger = realloc(text, cap);
		if (larger == NULL)
			break;
		text = larger;
	}
	free(text);
	return NULL;
}

char *io_absolute(const char *path, struct error *err)
{
	char cwd[PATH_MAX];
	char *whole;

	if (path[0] == '/') {
		whole = strdup(path);
	} else {
		if (getcwd(cwd, sizeof(cwd)) == NULL) {
			error_errno(err, "cannot find %s: the current directory", path);
			return NULL;
		}
		if (asprintf(&whole, "%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, path) < 0)
			whole = NULL;
	}
	if (whole == NULL)
		error_errno(err, "cannot keep the path %s", path);
	return whole;
}
