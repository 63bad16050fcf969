#include "net/pktinfo.h"

#include <netinet/udp.h>
#include <string.h>

static void read_ip(struct pktinfo *info, const struct cmsghdr *cmsg)
{
	const unsigned char *data = CMSG_DATA(cmsg);

	if (cmsg->cmsg_type == IP_PKTINFO) {
		memcpy(&info->in, data, sizeof(info->in));
		info->has_in = true;
	} else if (cmsg->cmsg_type == IP_TTL) {
		memcpy(&info->ttl, data, sizeof(info->ttl));
	} else if (cmsg->cmsg_type == IP_TOS) {
		info->traffic_class = *data; /* a byte (ip(7)) */
	}
}

static void read_ipv6(struct pktinfo *info, const struct cmsghdr *cmsg)
{
	const unsigned char *data = CMSG_DATA(cmsg);

	if (cmsg->cmsg_type == IPV6_PKTINFO) {
		memcpy(&info->in6, data, sizeof(info->in6));
		info->has_in6 = true;
	} else if (cmsg->cmsg_type == IPV6_HOPLIMIT) {
		memcpy(&info->ttl, data, sizeof(info->ttl));
	} else if (cmsg->cmsg_type == IPV6_TCLASS) {
		memcpy(&info->traffic_class, data, sizeof(info->traffic_class));
	}
}

static void read_udp(struct pktinfo *info, const struct cmsghdr *cmsg)
{
	int segment = 0;

	if (cmsg->cmsg_type != UDP_GRO)
		return;
	memcpy(&segment, CMSG_DATA(cmsg), sizeof(segment));
	if (segment > 0)
		info->segment = (size_t)segment;
}

void pktinfo_read(struct pktinfo *info, struct msghdr *message)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(message);

	info->has_in = info->has_in6 = info->has_ids = false;
	info->ids = (struct ucred){0};
	info->ttl = info->traffic_class = -1;
	info->segment = 0;
	for (; cmsg != NULL; cmsg = CMSG_NXTHDR(message, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_IP) {
			read_ip(info, cmsg);
		} else if (cmsg->cmsg_level == IPPROTO_IPV6) {
			read_ipv6(info, cmsg);
		} else if (cmsg->cmsg_level == IPPROTO_UDP) {
			read_udp(info, cmsg);
		} else if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&info->ids, CMSG_DATA(cmsg), sizeof(info->ids));
			/* Pid 0: sent before the socket had SO_PASSCRED. */
			info->has_ids = info->ids.pid != 0;
		}
	}
}

static struct in_addr mapped(const struct in6_addr *address)
{
	struct in_addr in;

	memcpy(&in, address->s6_addr + 12, sizeof(in));
	return in;
}

static bool is_unicast_in(struct in_addr address)
{
	return !IN_MULTICAST(ntohl(address.s_addr)) && address.s_addr != htonl(INADDR_BROADCAST) &&
	       address.s_addr != htonl(INADDR_ANY);
}

static bool is_unicast_in6(const struct in6_addr *address)
{
	if (IN6_IS_ADDR_V4MAPPED(address))
		return is_unicast_in(mapped(address));
	return !IN6_IS_ADDR_MULTICAST(address) && !IN6_IS_ADDR_UNSPECIFIED(address);
}

bool pktinfo_to_us_alone(const struct pktinfo *info)
{
	/*
	 * ipi_addr is what the header says, ipi_spec_dst where the kernel would answer from: of a
	 * datagram to a broadcast or multicast address, another one. It is 0 when the datagram came
	 * before the socket had IP_PKTINFO; then a subnet's broadcast address is not known as such.
	 */
	if (info->has_in && info->in.ipi_spec_dst.s_addr != 0)
		return info->in.ipi_addr.s_addr == info->in.ipi_spec_dst.s_addr;
	if (info->has_in)
		return is_unicast_in(info->in.ipi_addr);
	return !info->has_in6 || is_unicast_in6(&info->in6.ipi6_addr);
}

bool pktinfo_is_unicast(const struct sockaddr *address)
{
	return address->sa_family == AF_INET
		       ? is_unicast_in(((const struct sockaddr_in *)address)->sin_addr)
		       : is_unicast_in6(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

bool pktinfo_is_same_asked(const struct pktinfo *one, const struct pktinfo *other)
{
	if (one->has_in || other->has_in)
		return one->has_in && other->has_in &&
		       one->in.ipi_addr.s_addr == other->in.ipi_addr.s_addr;
	if (one->has_in6 && other->has_in6)
		return IN6_ARE_ADDR_EQUAL(&one->in6.ipi6_addr, &other->in6.ipi6_addr) &&
		       (one->in6.ipi6_ifindex == other->in6.ipi6_ifindex ||
			!IN6_IS_ADDR_LINKLOCAL(&one->in6.ipi6_addr));
	return one->has_in6 == other->has_in6;
}

bool pktinfo_asked(const struct pktinfo *info, uint16_t port, union any_address *asked)
{
	if (info->has_in) {
		asked->in = (struct sockaddr_in){.sin_family = AF_INET,
						 .sin_port = htons(port),
						 .sin_addr = info->in.ipi_addr};
	} else if (info->has_in6) {
		asked->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6,
						   .sin6_port = htons(port),
						   .sin6_addr = info->in6.ipi6_addr};
		if (IN6_IS_ADDR_LINKLOCAL(&info->in6.ipi6_addr))
			asked->in6.sin6_scope_id = (uint32_t)info->in6.ipi6_ifindex;
	}
	return info->has_in || info->has_in6;
}

static void set_control(struct msghdr *message, int level, int type, const void *data, size_t len)
{
	struct cmsghdr *cmsg;

	message->msg_controllen = CMSG_SPACE(len);
	cmsg = CMSG_FIRSTHDR(message);
	cmsg->cmsg_level = level;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), data, len);
}

void pktinfo_answer(const struct pktinfo *info, struct msghdr *message)
{
	struct in_pktinfo in = {.ipi_spec_dst = info->in.ipi_addr};
	struct in6_pktinfo in6 = {.ipi6_addr = info->in6.ipi6_addr};

	message->msg_controllen = 0;
	if (info->has_in) {
		set_control(message, IPPROTO_IP, IP_PKTINFO, &in, sizeof(in));
	} else if (info->has_in6) {
		if (IN6_IS_ADDR_LINKLOCAL(&in6.ipi6_addr))
			in6.ipi6_ifindex = info->in6.ipi6_ifindex;
		set_control(message, IPPROTO_IPV6, IPV6_PKTINFO, &in6, sizeof(in6));
	}
}
