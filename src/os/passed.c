#include "os/passed.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "os/fds.h"

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */
#define FDS_MAX	 4096

/* Names that a service manager gives to what has none: "unknown", or that of the socket unit. */
static bool is_chosen(const char *name)
{
	size_t len = strlen(name);

	return strcmp(name, "unknown") != 0 && strcmp(name, "stored") != 0 &&
	       !(len >= 7 && strcmp(name + len - 7, ".socket") == 0);
}

/* "one:two": fills in the names, as many as there are sockets. */
static int set_names(struct passed *passed, const char *names, struct error *err)
{
	size_t n = 0;
	bool more = true;

	for (; n < passed->count && more; n++) {
		char *name = passed->sockets[n].name;
		size_t len = strcspn(names, ":");

		snprintf(name, PASSED_NAME_MAX, "%.*s", (int)len, names);
		if (!is_chosen(name))
			name[0] = '\0';
		more = names[len] == ':';
		names += len + more;
	}
	if (n == passed->count && !more)
		return 0;
	return error_set(err, EXIT_FAILED,
			 "LISTEN_FDNAMES has not as many names as LISTEN_FDS says (%zu)",
			 passed->count);
}

static int set_sockets(struct passed *passed, size_t count, struct error *err)
{
	passed->sockets = calloc(count, sizeof(*passed->sockets));
	if (passed->sockets == NULL) {
		error_errno(err, "cannot list what was passed");
		return -1;
	}
	passed->count = count;
	for (size_t i = 0; i < count; i++) {
		passed->sockets[i].fd = FIRST_FD + (int)i;
		if (fds_set_cloexec(passed->sockets[i].fd, true) < 0)
			return error_errno(err,
					   "LISTEN_FDS says %zu, but the descriptor %d cannot be "
					   "used",
					   count, passed->sockets[i].fd);
	}
	return 0;
}

static int take(struct passed *passed, const char *fds, const char *names, struct error *err)
{
	int64_t count = 0;

	if (text_parse_int(fds, &count) < 0 || count < 0 || count > FDS_MAX)
		return error_set(err, EXIT_FAILED, "LISTEN_FDS is no number of sockets: '%s'", fds);
	if (count == 0)
		return 0;
	if (set_sockets(passed, (size_t)count, err) < 0)
		return -1;
	return names == NULL ? 0 : set_names(passed, names, err);
}

int passed_take(struct passed *passed, struct error *err)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int64_t number;
	int result = 0;

	*passed = (struct passed){0};
	if (pid != NULL && fds != NULL && text_parse_int(pid, &number) == 0 && number == getpid())
		result = take(passed, fds, getenv("LISTEN_FDNAMES"), err);
	/* What we start in turn must not take them for its own. */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (result < 0)
		passed_free(passed);
	return result;
}

void passed_free(struct passed *passed)
{
	free(passed->sockets);
	*passed = (struct passed){0};
}
