#include "bench/target.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 10000

static bool is_loopback4(const struct target *target)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&target->address;

	return in->sin_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

int target_parse(struct target *target, const char *address, const char *port, uint32_t sources,
		 struct error *err)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				 .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	int failed = getaddrinfo(address, port, &hints, &found);

	if (failed != 0)
		return error_set(err, EXIT_USAGE,
				 "'%s' and '%s' are no numeric address and port: %s", address, port,
				 gai_strerror(failed));
	memset(target, 0, sizeof(*target));
	memcpy(&target->address, found->ai_addr, found->ai_addrlen);
	target->len = found->ai_addrlen;
	target->sources = sources;
	target->host_text = address;
	target->port_text = port;
	freeaddrinfo(found);
	if (sources > 1 && !is_loopback4(target))
		return error_set(err, EXIT_USAGE,
				 "--sources needs a server in 127.0.0.0/8, not %s: only there are "
				 "so many addresses this machine's",
				 address);
	return 0;
}

/* ---- Sockets -------------------------------------------------------------------------------- */

static int bind_source(const struct target *target, int fd, uint32_t number, struct error *err)
{
	struct sockaddr_in source = {.sin_family = AF_INET};
	int on = 1;

	source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number % target->sources);
	/* The port is chosen when it connects: only then it need not be unique on this machine. */
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) != 0)
		return error_errno(err, "cannot set IP_BIND_ADDRESS_NO_PORT");
	if (bind(fd, (const struct sockaddr *)&source, sizeof(source)) != 0)
		return error_errno(err, "cannot bind a client to source address number %u",
				   (unsigned)(number % target->sources));
	return 0;
}

int target_socket(const struct target *target, int type, uint32_t number, struct error *err)
{
	int fd = socket(target->address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_errno(err, "cannot make socket number %u", (unsigned)number);
	if (target->sources > 1 && bind_source(target, fd, number, err) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* 0, or -1 with errno. */
static int await_connected(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
	int failed = ETIMEDOUT;
	socklen_t len = sizeof(failed);

	if (poll(&poll_fd, 1, CONNECT_TIMEOUT_MS) > 0 &&
	    getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) != 0)
		return -1;
	errno = failed;
	return failed == 0 ? 0 : -1;
}

int target_connect(const struct target *target, int type, uint32_t number, struct error *err)
{
	int fd = target_socket(target, type, number, err);
	int on = 1;

	if (fd < 0)
		return -1;
	if ((connect(fd, (const struct sockaddr *)&target->address, target->len) != 0 &&
	     (errno != EINPROGRESS || await_connected(fd) != 0)) ||
	    (type == SOCK_STREAM &&
	     setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)) {
		error_errno(err, "cannot connect number %u to %s port %s", (unsigned)number,
			    target->host_text, target->port_text);
		close(fd);
		return -1;
	}
	return fd;
}

int target_raise_limit(uint64_t descriptors, struct error *err)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return error_errno(err, "cannot read the limit of descriptors");
	if (limit.rlim_cur >= descriptors)
		return 0;
	limit.rlim_cur = descriptors;
	if (limit.rlim_max < descriptors)
		limit.rlim_max = descriptors; /* root may */
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		return error_errno(
			err,
			"so many connections need %llu descriptors, and the limit cannot "
			"be raised to that (ulimit -Hn); use less, or several processes",
			(unsigned long long)descriptors);
	return 0;
}

/* ---- Connections that stay silent ----------------------------------------------------------- */

int *target_open_idle(const struct target *target, uint32_t count, struct error *err)
{
	int *list;

	if (count == 0)
		return NULL;
	list = malloc(count * sizeof(*list));
	if (list == NULL) {
		error_errno(err, "no memory for %u silent connections", (unsigned)count);
		return NULL;
	}
	for (uint32_t i = 0; i < count; i++) {
		list[i] = target_connect(target, SOCK_STREAM, i, err);
		if (list[i] < 0) {
			error_prefix(err, "silent connections: ");
			target_close_idle(list, i);
			return NULL;
		}
	}
	return list;
}

bool target_idle_is_silent(const int *list, uint32_t count, struct error *err)
{
	char byte;

	for (uint32_t i = 0; i < count; i++) {
		ssize_t n = recv(list[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			continue;
		if (n < 0)
			error_errno(err, "silent connection %u", (unsigned)i);
		else
			error_set(err, EXIT_FAILED, "silent connection %u: %s", (unsigned)i,
				  n == 0 ? "the server ended it" : "the server sent something");
		return false;
	}
	return true;
}

void target_close_idle(int *list, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		close(list[i]);
	free(list);
}
