#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

#define REPLY_MAX (1024 * 1024) /* bytes */
#define RETRY_MS  20

/* A full queue answers EAGAIN at once (unix(7)): then it is tried again until the time is over. */
static int connect_until(int fd, const struct sockaddr_un *address, int64_t until)
{
	while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		if (errno != EAGAIN || clock_ms() >= until)
			return -1;
		poll(NULL, 0, RETRY_MS);
	}
	return 0;
}

int client_connect(const char *path, pid_t pid, int64_t ms, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0 || connect_until(fd, &address, clock_ms() + ms) < 0) {
		error_errno(err, "cannot reach the control socket %s", path);
	} else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid != pid) {
		error_set(err, EXIT_FAILED, "the control socket %s is not that of process %d", path,
			  (int)pid);
	} else {
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

/* A line, without its end, in fresh memory; NULL with the reason. */
static char *read_line(int fd, int64_t ms, struct error *err)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	int64_t until = clock_ms() + ms;
	size_t len = 0;
	char *line = malloc(REPLY_MAX);

	while (line != NULL && len < REPLY_MAX) {
		int64_t left = until - clock_ms();
		int n = poll(&readable, 1, left < 0 ? 0 : (int)(left > 1000000 ? 1000000 : left));
		ssize_t got;

		if (n < 0 && errno != EINTR)
			break;
		if (n == 0 && left <= 0) {
			error_set(err, EXIT_FAILED,
				  "no answer within %.3g s; 'echod status' tells more",
				  (double)ms / 1000);
			free(line);
			return NULL;
		}
		if (n <= 0)
			continue;
		got = read(fd, line + len, REPLY_MAX - len);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got <= 0)
			break;
		len += (size_t)got;
		if (line[len - 1] == '\n') {
			line[len - 1] = '\0';
			return line;
		}
	}
	error_set(err, EXIT_FAILED, "the daemon ended the connection without an answer");
	free(line);
	return NULL;
}

static json_t *understand(const char *line, struct error *err)
{
	json_t *reply = json_loads(line, 0, NULL), *code;
	const char *text;

	if (json_is_true(json_object_get(reply, "ok")))
		return reply;
	text = json_string_value(json_object_get(reply, "error"));
	code = json_object_get(reply, "code");
	error_set(err, json_is_integer(code) ? (int)json_integer_value(code) : EXIT_FAILED, "%s",
		  text != NULL ? text : "the daemon's answer cannot be understood");
	if (err->code == EXIT_DONE)
		err->code = EXIT_FAILED;
	json_decref(reply);
	return NULL;
}

json_t *client_ask(int fd, const char *verb, int64_t ms, struct error *err)
{
	char request[128];
	char *line = NULL;
	json_t *reply = NULL;

	snprintf(request, sizeof(request), "{\"verb\":\"%s\"}\n", verb);
	/* So few bytes always fit into a fresh socket. */
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
		error_errno(err, "cannot ask the daemon");
	else
		line = read_line(fd, ms, err);
	if (line != NULL)
		reply = understand(line, err);
	free(line);
	close(fd);
	return reply;
}
