#include "os/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

#define PROBE_PAUSE_MS 10

static int set_flag(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value));
}

/* -1 when it cannot be asked. */
static int get_flag(int fd, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, level, option, &value, &len) < 0 ? -1 : value;
}

static int place_error(const struct listen_place *place, const char *what, struct error *err)
{
	char text[ADDR_TEXT_MAX];
	int saved = errno;

	address_format_listening(text, sizeof(text), &place->address, place->transport,
				 place->device);
	errno = saved;
	return error_errno(err, "cannot %s %s", what, text);
}

static int socket_type(enum transport transport)
{
	return transport_is_datagram(transport) ? SOCK_DGRAM : SOCK_STREAM;
}

/* The path of a Unix socket's file; NULL: it has none. */
static const char *path_of(const struct listen_place *place)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&place->address.storage;

	return un->sun_family == AF_UNIX && un->sun_path[0] != '\0' ? un->sun_path : NULL;
}

/* ---- Binding -------------------------------------------------------------------------------- */

/* IPv6 may be compiled out, or switched off: then not even :: or ::1 can be bound. */
static bool lacks_family(const struct address *address, int error)
{
	const struct in6_addr *in6 = &((const struct sockaddr_in6 *)&address->storage)->sin6_addr;

	if (address->storage.ss_family != AF_INET6)
		return false;
	return error == EAFNOSUPPORT || (error == EADDRNOTAVAIL && (IN6_IS_ADDR_UNSPECIFIED(in6) ||
								    IN6_IS_ADDR_LOOPBACK(in6)));
}

static enum listen_failure why(const struct listen_place *place, int error)
{
	if (error == EADDRINUSE)
		return LISTEN_IN_USE;
	return lacks_family(&place->address, error) ? LISTEN_UNSUPPORTED : LISTEN_FAILED;
}

static int make_socket(const struct listen_place *place)
{
	int family = place->address.storage.ss_family;
	int type = socket_type(place->transport) | SOCK_NONBLOCK | SOCK_CLOEXEC;
	int fd = -1;

	if (place->mptcp && place->transport == TRANSPORT_TCP)
		fd = socket(family, type, IPPROTO_MPTCP);
	/* Compiled out, or switched off (net.mptcp.enabled): clients fall back to TCP as well. */
	return fd >= 0 ? fd : socket(family, type, 0);
}

static int set_device(int fd, const struct listen_place *place, struct error *err)
{
	const char *device = place->device;

	if (device[0] == '\0' || place->address.storage.ss_family == AF_UNIX)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) < 0)
		return place_error(place, "bind to the interface of", err);
	return 0;
}

/* What must stand before bind. Returns 0 or -1 with errno. */
static int set_up(int fd, const struct listen_place *place, bool reuse_port)
{
	int family = place->address.storage.ss_family;

	/*
	 * Rule 23. SO_REUSEADDR: connections in TIME_WAIT do not keep a new daemon from its port.
	 * With UDP it would let two servers share one unseen.
	 */
	if (place->transport == TRANSPORT_TCP && address_port(&place->address) != 0 &&
	    set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0)
		return -1;
	if (reuse_port && set_flag(fd, SOL_SOCKET, SO_REUSEPORT, 1) < 0)
		return -1;
	return family == AF_INET6 ? set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, !place->both_families)
				  : 0;
}

/* Returns the bound socket, or -1 with the error and its errno. */
static int bound_socket(const struct listen_place *place, bool reuse_port, struct error *err)
{
	const struct sockaddr *address = (const struct sockaddr *)&place->address.storage;
	int fd = make_socket(place), saved;
	/*
	 * When the kernel chooses a port for a UDP socket that shares, it may choose one that we
	 * have already, to be shared. So that one shares only afterwards.
	 */
	bool later = reuse_port && address_port(&place->address) == 0;

	if (fd < 0)
		return place_error(place, "listen on", err);
	if (set_device(fd, place, err) == 0) {
		if (set_up(fd, place, reuse_port && !later) == 0 &&
		    bind(fd, address, place->address.len) == 0 &&
		    (!later || set_flag(fd, SOL_SOCKET, SO_REUSEPORT, 1) == 0))
			return fd;
		place_error(place, "listen on", err);
	}
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

int listen_probe(const struct listen_place *place, int64_t retry_ms, enum listen_failure *failure,
		 struct error *err)
{
	int64_t until = clock_ms() + retry_ms;

	*failure = LISTEN_FAILED;
	if (path_of(place) != NULL)
		return local_socket_clear(path_of(place), socket_type(place->transport), retry_ms,
					  err);
	for (;;) {
		int fd = bound_socket(place, false, err);

		if (fd >= 0) {
			close(fd);
			return 0;
		}
		*failure = why(place, errno);
		if (*failure == LISTEN_UNSUPPORTED)
			return 0; /* listen_open says so, and its caller knows whether it matters */
		if (*failure != LISTEN_IN_USE || clock_ms() >= until)
			return -1;
		/* The kernel tells nobody when a port becomes free: this is the one place that
		 * polls. */
		poll(NULL, 0, PROBE_PAUSE_MS);
	}
}

/* What a bound TCP or UDP socket needs besides. */
static int finish(int fd, const struct listen_place *place, struct error *err)
{
	/* Before the first datagram comes: what waits already would not tell. */
	if (listen_want_facts(fd, err) < 0)
		return -1;
	/*
	 * Until it listens, another daemon's probe, which has SO_REUSEADDR, would not see it
	 * (socket(7)): so it is taken back here, and set again by listen_start.
	 */
	if (set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 0) < 0)
		return place_error(place, "set SO_REUSEADDR on", err);
	return 0;
}

/*
 * A socket that is bound to any port does not keep its port when one of those who share it connects
 * it, and it is healed (SOCK_BINDPORT_LOCK in the kernel). One that names the port does.
 */
static int bound_to_any_port(const struct listen_place *place, struct error *err)
{
	int first = bound_socket(place, true, err), fd = -1, saved;
	struct listen_place same = *place;

	if (first < 0)
		return -1;
	if (listen_address(first, &same.address, err) == 0)
		fd = bound_socket(&same, true, err);
	saved = errno;
	close(first);
	errno = saved;
	return fd;
}

int listen_open(const struct listen_place *place, const struct local_socket_rights *rights,
		enum listen_failure *failure, struct error *err)
{
	bool local = transport_is_local(place->transport);
	int fd;

	*failure = LISTEN_FAILED;
	if (path_of(place) != NULL)
		return local_socket_bind(path_of(place), socket_type(place->transport), rights,
					 err);
	if (local || address_port(&place->address) != 0)
		fd = bound_socket(place, !local, err);
	else
		fd = bound_to_any_port(place, err);
	if (fd < 0)
		*failure = why(place, errno);
	if (fd < 0 || local || finish(fd, place, err) == 0)
		return fd;
	close(fd);
	return -1;
}

/* ---- Listening ------------------------------------------------------------------------------ */

static bool is_datagram(int fd)
{
	return get_flag(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM;
}

/* A connected datagram socket hears from its peer only. */
static bool is_connected(int fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);

	return getpeername(fd, (struct sockaddr *)&peer, &len) == 0;
}

static int start_datagrams(int fd)
{
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};

	return is_connected(fd) ? connect(fd, &nobody, sizeof(nobody)) : 0;
}

static int start_stream(int fd, const struct listen_options *options)
{
	if (options->passed && get_flag(fd, SOL_SOCKET, SO_ACCEPTCONN) > 0)
		return 0;
	if (get_flag(fd, SOL_SOCKET, SO_DOMAIN) != AF_UNIX &&
	    set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0)
		return -1;
	return listen(fd, options->backlog);
}

int listen_start(int fd, const struct listen_options *options, struct error *err)
{
	struct listen_place place = {0};

	if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
	    (is_datagram(fd) ? start_datagrams(fd) : start_stream(fd, options)) == 0)
		return 0;
	error_errno(err, "cannot listen");
	if (listen_identify(fd, &place, &(struct error){0}) == 0)
		return place_error(&place, "listen on", err);
	return -1;
}

bool listen_is_on(int fd)
{
	if ((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0)
		return false;
	return is_datagram(fd) ? !is_connected(fd) : get_flag(fd, SOL_SOCKET, SO_ACCEPTCONN) > 0;
}

unsigned listen_waiting(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);
	int bytes = 0;

	if (is_datagram(fd))
		return ioctl(fd, SIOCINQ, &bytes) == 0 && bytes > 0;
	/* Of a listening socket this is the length of its queue (tcp(7) does not say so). */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || info.tcpi_state != TCP_LISTEN)
		return 0;
	return info.tcpi_unacked;
}

/* ---- What is it? ---------------------------------------------------------------------------- */

/* Returns 0, or -1 for a socket that is none of ours. */
static int find_transport(int fd, enum transport *transport)
{
	int family = get_flag(fd, SOL_SOCKET, SO_DOMAIN), type = get_flag(fd, SOL_SOCKET, SO_TYPE);
	int protocol = get_flag(fd, SOL_SOCKET, SO_PROTOCOL);
	bool internet = family == AF_INET || family == AF_INET6;

	if (family == AF_UNIX && type == SOCK_STREAM)
		*transport = TRANSPORT_UNIX;
	else if (family == AF_UNIX && type == SOCK_DGRAM)
		*transport = TRANSPORT_UNIXGRAM;
	else if (internet && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP))
		*transport = TRANSPORT_TCP;
	else if (internet && protocol == IPPROTO_UDP)
		*transport = TRANSPORT_UDP;
	else
		return -1;
	return 0;
}

int listen_address(int fd, struct address *address, struct error *err)
{
	*address = (struct address){.len = sizeof(address->storage)};
	if (getsockname(fd, (struct sockaddr *)&address->storage, &address->len) < 0)
		return error_errno(err, "cannot ask a socket for its address");
	return 0;
}

bool listen_verify(int fd, enum transport transport, const struct address *address, bool *listening)
{
	enum transport found;
	struct address self;

	if (find_transport(fd, &found) < 0 || found != transport ||
	    listen_address(fd, &self, &(struct error){0}) < 0)
		return false;
	*listening = transport_is_datagram(found) || get_flag(fd, SOL_SOCKET, SO_ACCEPTCONN) > 0;
	return address_equal(&self, address);
}

/* An address that nobody knows, and that the kernel chooses when it listens. */
static bool is_unbound(const struct listen_place *place)
{
	if (transport_is_local(place->transport))
		return place->address.len <= sizeof(sa_family_t);
	return address_port(&place->address) == 0;
}

int listen_identify(int fd, struct listen_place *place, struct error *err)
{
	*place = (struct listen_place){0};
	if (get_flag(fd, SOL_SOCKET, SO_TYPE) < 0)
		return error_errno(err, "the descriptor %d is no socket", fd);
	if (find_transport(fd, &place->transport) < 0)
		return error_set(err, EXIT_FAILED,
				 "the descriptor %d is a socket that is neither TCP, UDP nor Unix",
				 fd);
	if (is_connected(fd))
		return error_set(err, EXIT_FAILED,
				 "the descriptor %d is a connection, not a listening socket", fd);
	if (listen_address(fd, &place->address, err) < 0)
		return -1;
	if (is_unbound(place))
		return error_set(err, EXIT_FAILED,
				 "the descriptor %d is a socket that is not bound to any address",
				 fd);
	return 0;
}
