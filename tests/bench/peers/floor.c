/*
 * The floor: the least that a program on epoll must do to echo. What a real server costs more than
 * this, it costs for what it offers more.
 *
 *     floor [--port P] [--once]                    TCP; --once: closes after the first answer
 *     floor --udp [--pktinfo] [--gro] [--port P]   UDP
 *
 * It prints its port, and serves 127.0.0.1 until it is killed. --pktinfo serves every loopback
 * address and answers from the one that was asked, --gro takes and answers whole trains of
 * datagrams.
 *
 * It is a yardstick and no server: a client that does not read holds up all others.
 */
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "options.h"

#define BACKLOG	 4096
#define EVENTS	 256
#define LOOPBACK "lo"

static char buffer[65536];

/* ---- TCP ------------------------------------------------------------------------------------ */

static void watch(int epoll, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		err(EXIT_FAILURE, "cannot watch a socket");
}

static void accept_all(int epoll, int listener)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		watch(epoll, fd);
	/* Aborted: the client left before it was accepted; the next look shows who else waits. */
	if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		err(EXIT_FAILURE, "cannot accept a connection (more of them need ulimit -n)");
}

/* False when the client has gone. */
static bool send_all(int fd, const char *data, size_t len)
{
	struct pollfd writable = {.fd = fd, .events = POLLOUT};

	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			if (poll(&writable, 1, -1) < 0 && errno != EINTR)
				err(EXIT_FAILURE, "cannot wait for a client to read");
		} else if (errno != EINTR) {
			return false;
		}
	}
	return true;
}

static void echo(int fd, bool once)
{
	ssize_t n = recv(fd, buffer, sizeof(buffer), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* An error means that the client has gone, and so does a zero: all before it is answered.
	 */
	if (n <= 0 || !send_all(fd, buffer, (size_t)n) || once)
		close(fd);
}

static _Noreturn void serve_tcp(int listener, bool once)
{
	struct epoll_event ready[EVENTS];
	int n, epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0)
		err(EXIT_FAILURE, "cannot make an epoll instance");
	watch(epoll, listener);
	for (;;) {
		n = epoll_wait(epoll, ready, EVENTS, -1);
		if (n < 0 && errno != EINTR)
			err(EXIT_FAILURE, "cannot wait for events");
		for (int i = 0; i < n; i++) {
			if (ready[i].data.fd == listener)
				accept_all(epoll, listener);
			else
				echo(ready[i].data.fd, once);
		}
	}
}

/* ---- UDP ------------------------------------------------------------------------------------ */

/*
 * A reply that the kernel does not take is lost, as the network may lose it: nobody need be told.
 * Without an answer at all stays, for one, who wrote from port 0.
 */
static _Noreturn void serve_udp(int fd)
{
	struct sockaddr_in peer;
	socklen_t peer_len;
	ssize_t n;

	for (;;) {
		peer_len = sizeof(peer);
		n = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&peer, &peer_len);
		if (n >= 0)
			sendto(fd, buffer, (size_t)n, 0, (struct sockaddr *)&peer, peer_len);
		else if (errno != EINTR)
			err(EXIT_FAILURE, "cannot receive datagrams");
	}
}

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int))];
};

static void add_control(struct msghdr *reply, int level, int type, const void *data, size_t len)
{
	struct cmsghdr *cmsg =
		(struct cmsghdr *)((char *)reply->msg_control + reply->msg_controllen);

	cmsg->cmsg_level = level;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), data, len);
	reply->msg_controllen += CMSG_SPACE(len);
}

/* From the address that was asked, and cut into datagrams as long as those that came. */
static void answer_controls(struct msghdr *request, struct msghdr *reply)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(request);
	struct in_pktinfo asked, from = {0};
	int came;
	uint16_t segment;

	for (; cmsg != NULL; cmsg = CMSG_NXTHDR(request, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_PKTINFO) {
			memcpy(&asked, CMSG_DATA(cmsg), sizeof(asked));
			from.ipi_spec_dst = asked.ipi_addr;
			add_control(reply, IPPROTO_IP, IP_PKTINFO, &from, sizeof(from));
		} else if (cmsg->cmsg_level == SOL_UDP && cmsg->cmsg_type == UDP_GRO) {
			memcpy(&came, CMSG_DATA(cmsg), sizeof(came));
			segment = (uint16_t)came;
			add_control(reply, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment));
		}
	}
}

static _Noreturn void serve_udp_controls(int fd)
{
	union control in, out;
	struct sockaddr_in peer;
	struct iovec data = {.iov_base = buffer};
	struct msghdr request = {.msg_name = &peer, .msg_iov = &data, .msg_iovlen = 1};
	struct msghdr reply = request;
	ssize_t n;

	for (;;) {
		data.iov_len = sizeof(buffer);
		request.msg_namelen = sizeof(peer);
		request.msg_control = &in;
		request.msg_controllen = sizeof(in);
		n = recvmsg(fd, &request, 0);
		if (n < 0 && errno != EINTR)
			err(EXIT_FAILURE, "cannot receive datagrams");
		if (n < 0)
			continue;
		data.iov_len = (size_t)n;
		reply.msg_namelen = request.msg_namelen;
		reply.msg_control = &out;
		reply.msg_controllen = 0;
		answer_controls(&request, &reply);
		sendmsg(fd, &reply, 0);
	}
}

/* ---- Start ---------------------------------------------------------------------------------- */

static void set(int fd, int level, int name, const char *what)
{
	int on = 1;

	if (setsockopt(fd, level, name, &on, sizeof(on)) < 0)
		err(EXIT_FAILURE, "cannot set %s", what);
}

static int open_tcp(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(EXIT_FAILURE, "cannot make a TCP socket");
	set(fd, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
	/* Those that are accepted inherit it. */
	set(fd, IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");
	return fd;
}

static int open_udp(const struct options *options)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(EXIT_FAILURE, "cannot make a UDP socket");
	if (options->pktinfo)
		set(fd, IPPROTO_IP, IP_PKTINFO, "IP_PKTINFO");
	/* On any address, but for nobody outside. */
	if (options->pktinfo &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, LOOPBACK, sizeof(LOOPBACK)) < 0)
		err(EXIT_FAILURE, "cannot bind to the device %s", LOOPBACK);
	if (options->gro)
		set(fd, SOL_UDP, UDP_GRO, "UDP_GRO");
	return fd;
}

static int open_socket(const struct options *options)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options->port)};
	socklen_t len = sizeof(address);
	int fd = options->udp ? open_udp(options) : open_tcp();

	address.sin_addr.s_addr = htonl(options->pktinfo ? INADDR_ANY : INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&address, len) < 0)
		err(EXIT_FAILURE, "cannot bind to port %u", options->port);
	if (!options->udp && listen(fd, BACKLOG) < 0)
		err(EXIT_FAILURE, "cannot listen on port %u", options->port);
	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		err(EXIT_FAILURE, "cannot ask for the port");
	options_print_port(ntohs(address.sin_port));
	return fd;
}

int main(int argc, char **argv)
{
	struct options options = options_parse(argc, argv, true);
	int fd = open_socket(&options);

	if (!options.udp)
		serve_tcp(fd, options.once);
	if (options.pktinfo || options.gro)
		serve_udp_controls(fd);
	serve_udp(fd);
}
