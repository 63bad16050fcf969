/* The options of listening sockets. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "os/listen.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/*
 * Of what the kernel gives to a socket (net.core.rmem_default, 208 KiB), a hundred datagrams of
 * 1400 bytes take all: what comes faster for a moment would be lost here, and not by the network
 * that somebody measures.
 */
#define DATAGRAM_BUFFER (2 * 1024 * 1024)

/* What is being set: the socket, and what it is. */
struct target {
	int fd;
	int family;
	bool tcp;
	bool udp;
	bool mptcp;
	bool v4; /* IPv4 packets leave it */
	bool v6;
	bool keep; /* what is 0 stays */
};

static int get(int fd, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, level, option, &value, &len) < 0 ? -1 : value;
}

static struct target look_at(int fd, const struct listen_options *options)
{
	int protocol = get(fd, SOL_SOCKET, SO_PROTOCOL);
	struct target target = {.fd = fd, .keep = options->passed};

	target.family = get(fd, SOL_SOCKET, SO_DOMAIN);
	target.mptcp = protocol == IPPROTO_MPTCP;
	target.tcp = protocol == IPPROTO_TCP || target.mptcp;
	target.udp = protocol == IPPROTO_UDP;
	target.v6 = target.family == AF_INET6;
	target.v4 =
		target.family == AF_INET || (target.v6 && get(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0);
	return target;
}

static int option_error(const struct target *target, const char *name, struct error *err)
{
	struct listen_place place;
	char text[ADDR_TEXT_MAX];
	int saved = errno;

	/* A connection that inetd has accepted is nowhere to listen. */
	if (listen_identify(target->fd, &place, &(struct error){0}) < 0) {
		errno = saved;
		return error_errno(err, "cannot set %s", name);
	}
	address_format_listening(text, sizeof(text), &place.address, place.transport, "");
	errno = saved;
	return error_errno(err, "cannot set %s on %s", name, text);
}

static int set(const struct target *target, int level, int option, int64_t value, const char *name,
	       struct error *err)
{
	int number = (int)value;

	if (setsockopt(target->fd, level, option, &number, sizeof(number)) == 0)
		return 0;
	/* Of its options, MPTCP has got one after the other (kernel 5.15 to now). */
	if (target->mptcp && (errno == EOPNOTSUPP || errno == ENOPROTOOPT))
		return 0;
	return option_error(target, name, err);
}

/* The same for an option whose 0 is what the kernel begins with. */
static int set_count(const struct target *target, int level, int option, int64_t value,
		     const char *name, struct error *err)
{
	if (value == 0 && (target->keep || get(target->fd, level, option) == 0))
		return 0;
	return set(target, level, option, value, name, err);
}

static int set_tcp(const struct target *target, const struct listen_options *options,
		   struct error *err)
{
	int64_t idle = (options->keepalive_ms + 999) / 1000;
	int64_t defer = (options->defer_accept_ms + 999) / 1000;

	if (set(target, IPPROTO_TCP, TCP_NODELAY, options->nodelay, "TCP_NODELAY", err) < 0 ||
	    set(target, SOL_SOCKET, SO_KEEPALIVE, idle > 0, "SO_KEEPALIVE", err) < 0)
		return -1;
	if (idle > 0 && set(target, IPPROTO_TCP, TCP_KEEPIDLE, idle, "TCP_KEEPIDLE", err) < 0)
		return -1;
	if (set(target, IPPROTO_TCP, TCP_DEFER_ACCEPT, defer, "TCP_DEFER_ACCEPT", err) < 0)
		return -1;
	if (set_count(target, IPPROTO_TCP, TCP_USER_TIMEOUT, options->user_timeout_ms,
		      "TCP_USER_TIMEOUT", err) < 0)
		return -1;
	return set_count(target, IPPROTO_TCP, TCP_FASTOPEN, options->fastopen, "TCP_FASTOPEN", err);
}

/* Of a socket that has never had one, the kernel tells the MSS that it would choose. */
static int set_mss(const struct target *target, int64_t mss, struct error *err)
{
	if (mss == 0 && (target->keep || target->mptcp))
		return 0;
	return set(target, IPPROTO_TCP, TCP_MAXSEG, mss, "TCP_MAXSEG", err);
}

static int set_tos(const struct target *target, int64_t tos, struct error *err)
{
	if (target->v4 && set_count(target, IPPROTO_IP, IP_TOS, tos, "IP_TOS", err) < 0)
		return -1;
	if (target->v6 && set_count(target, IPPROTO_IPV6, IPV6_TCLASS, tos, "IPV6_TCLASS", err) < 0)
		return -1;
	return 0;
}

static int set_ttl(const struct target *target, int64_t ttl, struct error *err)
{
	int64_t value = ttl != 0 ? ttl : -1; /* -1: the kernel's own */

	if (ttl == 0 && target->keep)
		return 0;
	if (target->v4 && set(target, IPPROTO_IP, IP_TTL, value, "IP_TTL", err) < 0)
		return -1;
	if (target->v6 &&
	    set(target, IPPROTO_IPV6, IPV6_UNICAST_HOPS, value, "IPV6_UNICAST_HOPS", err) < 0)
		return -1;
	return 0;
}

/* Beyond the limit of all (net.core.rmem_max) only who may set that limit can go. */
static int set_buffer(const struct target *target, int64_t bytes, int forced, int option,
		      const char *name, struct error *err)
{
	int number = (int)bytes;

	if (bytes == 0 || setsockopt(target->fd, SOL_SOCKET, forced, &number, sizeof(number)) == 0)
		return 0;
	return set(target, SOL_SOCKET, option, bytes, name, err);
}

/*
 * Only where we may go beyond the limit of all (CAP_NET_ADMIN): else it could become less than it
 * is, where net.core.rmem_default is the larger one.
 */
static void want_buffer(const struct target *target)
{
	int wanted = DATAGRAM_BUFFER;

	/* What was set is told twice (socket(7)). */
	if (!target->keep && get(target->fd, SOL_SOCKET, SO_RCVBUF) / 2 < wanted)
		setsockopt(target->fd, SOL_SOCKET, SO_RCVBUFFORCE, &wanted, sizeof(wanted));
}

/* Of a TCP socket, nothing is lost but a fact for whoever asks. */
static int want(const struct target *target, int level, const int *names, struct error *err)
{
	for (int i = 0; i < (target->udp ? 3 : 2); i++) {
		int on = 1;

		if (setsockopt(target->fd, level, names[i], &on, sizeof(on)) < 0 && target->udp)
			return option_error(target, "IP_PKTINFO", err);
	}
	return 0;
}

static int want_facts(const struct target *target, struct error *err)
{
	static const int v4[] = {IP_RECVTTL, IP_RECVTOS, IP_PKTINFO};
	static const int v6[] = {IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_RECVPKTINFO};

	/* Access rules may name the user of a datagram's sender. */
	if (target->family == AF_UNIX && get(target->fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM)
		return set(target, SOL_SOCKET, SO_PASSCRED, 1, "SO_PASSCRED", err);
	if (!target->tcp && !target->udp)
		return 0;
	if (target->v6 && want(target, IPPROTO_IPV6, v6, err) < 0)
		return -1;
	return target->v4 ? want(target, IPPROTO_IP, v4, err) : 0;
}

int listen_want_facts(int fd, struct error *err)
{
	struct target target = look_at(fd, &(struct listen_options){0});

	return want_facts(&target, err);
}

int listen_set(int fd, const struct listen_options *options, struct error *err)
{
	struct target target = look_at(fd, options);

	if (target.family < 0)
		return error_errno(err, "cannot set options of the descriptor %d", fd);
	/* Accepted sockets inherit all of these: once here is once for every connection. */
	if (set_buffer(&target, options->receive_buffer, SO_RCVBUFFORCE, SO_RCVBUF, "SO_RCVBUF",
		       err) < 0 ||
	    set_buffer(&target, options->send_buffer, SO_SNDBUFFORCE, SO_SNDBUF, "SO_SNDBUF", err) <
		    0)
		return -1;
	if (target.udp && options->receive_buffer == 0)
		want_buffer(&target);
	if (want_facts(&target, err) < 0)
		return -1;
	if (set_tos(&target, options->tos, err) < 0 || set_ttl(&target, options->ttl, err) < 0)
		return -1;
	if (!target.tcp)
		return 0;
	return set_mss(&target, options->mss, err) < 0 ? -1 : set_tcp(&target, options, err);
}
