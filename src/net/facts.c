/* What the kernel knows of a connection, for protocols that tell it. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <time.h>

#include "net/server_private.h"

/*
 * TTL and TOS of the segment that completed the handshake: the only ones that the kernel keeps for
 * a stream. ip(7) and ipv6(7) do not tell: getsockopt gives the control messages that recvmsg
 * would.
 */
#ifndef IPV6_2292PKTOPTIONS /* linux/in6.h */
#define IPV6_2292PKTOPTIONS 6
#endif
#ifndef IPV6_2292HOPLIMIT
#define IPV6_2292HOPLIMIT 8
#endif

static void find_number(const struct cmsghdr *cmsg, int level, int type, int *number)
{
	if (cmsg->cmsg_level == level && cmsg->cmsg_type == type &&
	    cmsg->cmsg_len >= CMSG_LEN(sizeof(*number)))
		memcpy(number, CMSG_DATA(cmsg), sizeof(*number));
}

static void read_options(int fd, int level, int option, struct proto_facts *facts)
{
	char room[256] __attribute__((aligned(8))) = {0};
	socklen_t len = sizeof(room);
	struct msghdr message = {.msg_control = room};

	if (getsockopt(fd, level, option, room, &len) < 0)
		return;
	message.msg_controllen = len;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message); cmsg != NULL;
	     cmsg = CMSG_NXTHDR(&message, cmsg)) {
		find_number(cmsg, IPPROTO_IP, IP_TTL, &facts->ttl);
		find_number(cmsg, IPPROTO_IP, IP_TOS, &facts->traffic_class);
		find_number(cmsg, IPPROTO_IPV6, IPV6_2292HOPLIMIT, &facts->ttl);
		find_number(cmsg, IPPROTO_IPV6, IPV6_HOPLIMIT, &facts->ttl);
		find_number(cmsg, IPPROTO_IPV6, IPV6_TCLASS, &facts->traffic_class);
	}
}

static bool tcp_facts(int fd, struct tcp_facts *tcp)
{
	struct tcp_info info;
	socklen_t len = sizeof(info), protocol_len = sizeof(int);
	int protocol = 0;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return false;
	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &protocol_len);
	*tcp = (struct tcp_facts){
		.mss = info.tcpi_snd_mss,
		.send_scale = info.tcpi_snd_wscale,
		.receive_scale = info.tcpi_rcv_wscale,
		.rtt = info.tcpi_rtt,
		.rtt_variation = info.tcpi_rttvar,
		.retransmits = info.tcpi_total_retrans,
		.mptcp = protocol != IPPROTO_TCP,
	};
	return true;
}

static void find_names(const struct conn *conn, struct sockaddr_storage *peer,
		       struct sockaddr_storage *local)
{
	socklen_t peer_len = sizeof(*peer), local_len = sizeof(*local);

	memset(local, 0, sizeof(*local));
	memset(peer, 0, sizeof(*peer));
	getsockname(conn_fd(conn), (struct sockaddr *)local, &local_len);
	/* The kernel no longer knows the peer of a TCP connection that was reset. */
	if (conn_peer(conn)->any.sa_family != AF_UNIX)
		memcpy(peer, conn_peer(conn), sizeof(union conn_peer));
	else if (getpeername(conn_fd(conn), (struct sockaddr *)peer, &peer_len) < 0)
		peer->ss_family = AF_UNIX;
}

const struct proto_facts *conn_facts(const struct conn *conn)
{
	static struct proto_facts facts;
	static struct tcp_facts tcp;
	static struct sockaddr_storage peer, local;
	const struct server_settings *settings = &conn->server->settings;
	int fd = conn_fd(conn);

	find_names(conn, &peer, &local);
	facts = (struct proto_facts){
		.service = settings->service,
		.worker = settings->worker,
		.host = settings->host,
		.peer = (struct sockaddr *)&peer,
		.local = (struct sockaddr *)&local,
		.ttl = -1,
		.traffic_class = -1,
	};
	clock_gettime(CLOCK_REALTIME, &facts.now);
	if (conn_extra(conn) != NULL && conn_extra(conn)->header != NULL)
		facts.proxy = &conn_extra(conn)->header->parsed;
	if (local.ss_family == AF_UNIX) {
		facts.transport = "unix";
		facts.has_ids = true;
		facts.pid = conn_peer(conn)->local.pid;
		facts.uid = conn_peer(conn)->local.uid;
		facts.gid = conn_peer(conn)->local.gid;
		return &facts;
	}
	facts.transport = "tcp";
	/* An IPv6 socket may serve an IPv4 client. */
	read_options(fd, IPPROTO_IP, IP_PKTOPTIONS, &facts);
	if (local.ss_family == AF_INET6)
		read_options(fd, IPPROTO_IPV6, IPV6_2292PKTOPTIONS, &facts);
	if (tcp_facts(fd, &tcp))
		facts.tcp = &tcp;
	return &facts;
}
