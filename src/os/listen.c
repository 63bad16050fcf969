#include "os/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define PROBE_PAUSE_MS 10

static int set_flag(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value));
}

static int listen_error(const struct address *address, struct error *err)
{
	char text[ADDR_TEXT_MAX];
	int saved = errno;

	address_format(text, sizeof(text), (const struct sockaddr *)&address->storage);
	errno = saved;
	return error_errno(err, "cannot listen on %s", text);
}

/* IPv6 may be compiled out, or switched off: then not even :: or ::1 can be bound. */
static bool lacks_family(const struct address *address, int error)
{
	const struct in6_addr *in6 = &((const struct sockaddr_in6 *)&address->storage)->sin6_addr;

	if (address->storage.ss_family != AF_INET6)
		return false;
	return error == EAFNOSUPPORT || (error == EADDRNOTAVAIL && (IN6_IS_ADDR_UNSPECIFIED(in6) ||
								    IN6_IS_ADDR_LOOPBACK(in6)));
}

/* Returns the bound socket or -1 with errno. */
static int bound_socket(const struct address *address, bool reuse_port)
{
	int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int saved;

	if (fd < 0)
		return -1;
	/*
	 * Rule 23. SO_REUSEADDR: connections in TIME_WAIT do not keep a new daemon from its port.
	 */
	if (set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1) == 0 &&
	    (!reuse_port || set_flag(fd, SOL_SOCKET, SO_REUSEPORT, 1) == 0) &&
	    (address->storage.ss_family != AF_INET6 ||
	     set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) == 0) &&
	    bind(fd, (const struct sockaddr *)&address->storage, address->len) == 0)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

int listen_probe(const struct address *address, int64_t retry_ms, struct error *err)
{
	int64_t until = clock_ms() + retry_ms;

	for (;;) {
		int fd = bound_socket(address, false);

		if (fd >= 0) {
			close(fd);
			return 0;
		}
		if (lacks_family(address, errno))
			return 0; /* listen_open says so, and its caller knows whether it matters */
		if (errno != EADDRINUSE || clock_ms() >= until)
			return listen_error(address, err);
		/* The kernel tells nobody when a port becomes free: this is the one place that
		 * polls. */
		poll(NULL, 0, PROBE_PAUSE_MS);
	}
}

int listen_open(const struct address *address, bool *unsupported, struct error *err)
{
	int fd = bound_socket(address, true);

	*unsupported = fd < 0 && lacks_family(address, errno);
	/*
	 * Until it listens, another daemon's probe, which has SO_REUSEADDR, would not see it
	 * (socket(7)): so it is taken back here, and set again by listen_start.
	 */
	if (fd >= 0 && set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 0) < 0) {
		error_errno(err, "cannot set SO_REUSEADDR");
		close(fd);
		return -1;
	}
	return fd >= 0 ? fd : listen_error(address, err);
}

int listen_set(int fd, const struct listen_options *options, struct error *err)
{
	int idle = (int)((options->keepalive_ms + 999) / 1000);
	int defer = (int)((options->defer_accept_ms + 999) / 1000);

	/* Accepted sockets inherit all of these: once here is once for every connection. */
	if (set_flag(fd, IPPROTO_TCP, TCP_NODELAY, options->nodelay) < 0)
		return error_errno(err, "cannot set TCP_NODELAY");
	if (set_flag(fd, SOL_SOCKET, SO_KEEPALIVE, idle > 0) < 0)
		return error_errno(err, "cannot set SO_KEEPALIVE");
	if (idle > 0 && set_flag(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle) < 0)
		return error_errno(err, "cannot set TCP_KEEPIDLE");
	if (set_flag(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, defer) < 0)
		return error_errno(err, "cannot set TCP_DEFER_ACCEPT");
	return 0;
}

int listen_start(int fd, const struct listen_options *options, struct error *err)
{
	struct address self = {.len = sizeof(self.storage)};

	if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1) == 0 &&
	    listen(fd, options->backlog) == 0)
		return 0;
	if (getsockname(fd, (struct sockaddr *)&self.storage, &self.len) < 0)
		return error_errno(err, "cannot listen");
	return listen_error(&self, err);
}

bool listen_is_on(int fd)
{
	int on = 0;
	socklen_t len = sizeof(on);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on != 0 &&
	       (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

unsigned listen_waiting(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	/* Of a listening socket this is the length of its queue (tcp(7) does not say so). */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || info.tcpi_state != TCP_LISTEN)
		return 0;
	return info.tcpi_unacked;
}

bool listen_verify(int fd, const struct address *address, bool *listening)
{
	struct address self = {.len = sizeof(self.storage)};
	socklen_t len = sizeof(int);
	int accepts = 0, protocol = 0;

	if (getsockname(fd, (struct sockaddr *)&self.storage, &self.len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) < 0)
		return false;
	*listening = accepts != 0;
	return protocol == IPPROTO_TCP && address_equal(&self, address);
}
