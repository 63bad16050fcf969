#include "os/socket_list.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ANSWER_SIZE 32768 /* of one part; the kernel makes them no larger */

struct wanted {
	const char *path;
	dev_t device;
	ino_t inode;
};

static int ask(void)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req request;
	} question = {
		.header =
			{
				.nlmsg_len = sizeof(question),
				.nlmsg_type = SOCK_DIAG_BY_FAMILY,
				.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
			},
		.request =
			{
				.sdiag_family = AF_UNIX,
				.udiag_states = UINT32_MAX,
				.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS,
			},
	};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	if (fd >= 0 && send(fd, &question, sizeof(question), 0) == (ssize_t)sizeof(question))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* A path comes with its NUL, an abstract name begins with one. */
static bool is_name(const struct rtattr *attribute, const char *path)
{
	size_t len = strlen(path), size = RTA_PAYLOAD(attribute);
	const char *name = RTA_DATA(attribute);

	return size >= len && size <= len + 1 && memcmp(name, path, len) == 0 &&
	       (size == len || name[len] == '\0');
}

/* The kernel's own form of a device's number: 12 bits and 20. */
static bool is_device(uint32_t told, dev_t device)
{
	return told >> 20 == major(device) && (told & 0xfffff) == minor(device);
}

static bool is_it(struct nlmsghdr *header, const struct wanted *wanted)
{
	struct unix_diag_msg *message = NLMSG_DATA(header);
	struct rtattr *attribute = (struct rtattr *)(message + 1);
	unsigned len = (unsigned)NLMSG_PAYLOAD(header, sizeof(*message));
	bool place = false, inode = false;

	for (; RTA_OK(attribute, len); attribute = RTA_NEXT(attribute, len)) {
		const struct unix_diag_vfs *file = RTA_DATA(attribute);

		if (attribute->rta_type == UNIX_DIAG_NAME) {
			place |= is_name(attribute, wanted->path);
		} else if (attribute->rta_type == UNIX_DIAG_VFS &&
			   RTA_PAYLOAD(attribute) >= sizeof(*file)) {
			place |= is_device(file->udiag_vfs_dev, wanted->device);
			/* Of the inode's number, the kernel tells the lower 32 bits. */
			inode = file->udiag_vfs_ino == (uint32_t)wanted->inode;
		}
	}
	return place && inode;
}

/* One part of the answer: 1 found, 0 not in this part, -1 at the end. */
static int look_through(void *part, unsigned len, const struct wanted *wanted)
{
	for (struct nlmsghdr *header = part; NLMSG_OK(header, len);
	     header = NLMSG_NEXT(header, len)) {
		if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY)
			return -1;
		if (is_it(header, wanted))
			return 1;
	}
	return 0;
}

bool socket_list_has(const char *path, dev_t device, ino_t inode)
{
	const struct wanted wanted = {path, device, inode};
	static _Alignas(struct nlmsghdr) char part[ANSWER_SIZE];
	int fd = ask(), result = fd < 0 ? -1 : 0;

	while (result == 0) {
		ssize_t len = recv(fd, part, sizeof(part), 0);

		result = len <= 0 ? -1 : look_through(part, (unsigned)len, &wanted);
	}
	if (fd >= 0)
		close(fd);
	return result > 0;
}
