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
#include "base/text.h"

#define REQUEST_MAX 16384	       /* bytes, the LF included; what run/control.c takes */
#define REPLY_MAX   (16 * 1024 * 1024) /* bytes; memory is touched as far as it is needed */
#define RETRY_MS    20

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

/* ---- The request ---------------------------------------------------------------------------- */

static json_t *word_json(const char *word, struct error *err)
{
	json_t *value = json_string(word);
	char escaped[256];

	if (value != NULL)
		return value;
	text_escape_ascii(escaped, sizeof(escaped), word, strlen(word));
	error_set(err, EXIT_USAGE, "'%s' is not valid UTF-8: the control socket cannot carry it",
		  escaped);
	return NULL;
}

int client_request_add(json_t *request, const char *key, const char *text, struct error *err)
{
	json_t *value;

	if (text == NULL)
		return 0;
	value = word_json(text, err);
	return value == NULL ? -1 : json_object_set_new(request, key, value);
}

static int add_words(json_t *request, char *const *words, size_t count, struct error *err)
{
	json_t *args = json_array();

	json_object_set_new(request, "args", args);
	for (size_t i = 0; i < count; i++) {
		json_t *value = word_json(words[i], err);

		if (value == NULL)
			return -1;
		json_array_append_new(args, value);
	}
	return 0;
}

json_t *client_request(const char *verb, char *const *words, size_t count, struct error *err)
{
	json_t *request = json_pack("{s:s}", "verb", verb);

	if (count > 0 && add_words(request, words, count, err) < 0) {
		json_decref(request);
		return NULL;
	}
	return request;
}

/* The line to send, in fresh memory; NULL with the reason. */
static char *request_line(const json_t *request, struct error *err)
{
	char *text = json_dumps(request, JSON_COMPACT | JSON_PRESERVE_ORDER), *line = NULL;

	if (text == NULL || asprintf(&line, "%s\n", text) < 0) {
		error_set(err, EXIT_FAILED, "no memory to ask the daemon");
		line = NULL;
	} else if (strlen(line) > REQUEST_MAX) {
		error_set(
			err, EXIT_USAGE,
			"the request would have %zu bytes, and the daemon takes %d: put a long command "
			"into a script",
			strlen(line), REQUEST_MAX);
		free(line);
		line = NULL;
	}
	free(text);
	return line;
}

/* Returns what poll(2) returns; a signal is no reason to look at the clock less often. */
static int await(int fd, short events, int64_t until)
{
	struct pollfd watched = {.fd = fd, .events = events};
	int64_t left = until - clock_ms();
	int n = poll(&watched, 1, left < 0 ? 0 : (int)(left > 1000000 ? 1000000 : left));

	if (n < 0 && errno == EINTR)
		return 0;
	return n;
}

/*
 * A daemon that refuses us hangs up without reading, but says why: so a broken pipe is no failure
 * here, and the answer is read all the same.
 */
static int send_line(int fd, const char *line, int64_t until, struct error *err)
{
	size_t sent = 0, len = strlen(line);

	while (sent < len) {
		ssize_t n = send(fd, line + sent, len - sent, MSG_NOSIGNAL);

		if (n >= 0)
			sent += (size_t)n;
		else if (errno == EPIPE || errno == ECONNRESET)
			return 0;
		else if (errno != EAGAIN && errno != EINTR)
			return error_errno(err, "cannot ask the daemon");
		else if (await(fd, POLLOUT, until) <= 0 && clock_ms() >= until)
			return error_set(err, EXIT_FAILED, "the daemon does not take the request");
	}
	return 0;
}

/* ---- The reply ------------------------------------------------------------------------------ */

/* A line, without its end, in fresh memory; NULL with the reason. */
static char *read_line(int fd, int64_t ms, struct error *err)
{
	int64_t until = clock_ms() + ms;
	size_t len = 0;
	char *line = malloc(REPLY_MAX);

	while (line != NULL && len < REPLY_MAX) {
		int n = await(fd, POLLIN, until);
		ssize_t got;

		if (n < 0)
			break;
		if (n == 0 && clock_ms() >= until) {
			error_set(
				err, EXIT_FAILED,
				"no answer within %.3g s; the daemon goes on with it, and 'echod ps' shows how",
				(double)ms / 1000);
			free(line);
			return NULL;
		}
		if (n == 0)
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
	error_set(err, EXIT_FAILED, "%s",
		  text != NULL ? text : "the daemon's answer cannot be understood");
	/* A status has eight bits, and a failure must never look like a success. */
	if (json_integer_value(code) > 0 && json_integer_value(code) <= 255)
		err->code = (int)json_integer_value(code);
	json_decref(reply);
	return NULL;
}

json_t *client_ask(int fd, json_t *request, int64_t ms, struct error *err)
{
	char *asked = request_line(request, err), *line = NULL;
	json_t *reply = NULL;

	if (asked != NULL && send_line(fd, asked, clock_ms() + ms, err) == 0)
		line = read_line(fd, ms, err);
	if (line != NULL)
		reply = understand(line, err);
	json_decref(request);
	free(asked);
	free(line);
	close(fd);
	return reply;
}
