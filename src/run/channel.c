#include "run/channel.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#define HEADER offsetof(struct channel_message, text)

int channel_pair(int ends[2], struct error *err)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, "cannot make the channel of a worker");
	return 0;
}

int channel_send(int fd, enum channel_type type, int64_t value, const char *text, size_t len)
{
	struct channel_message message;

	if (len > sizeof(message.text))
		len = sizeof(message.text);
	message.type = type;
	message.len = (uint32_t)len;
	message.value = value;
	if (len > 0)
		memcpy(message.text, text, len);
	return send(fd, &message, HEADER + len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

int channel_receive(int fd, struct channel_message *message)
{
	ssize_t n;

	do
		n = recv(fd, message, sizeof(*message), MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return -1;
	if (n < (ssize_t)HEADER || message->len != (size_t)n - HEADER || message->type == 0 ||
	    message->type >= CHANNEL_TYPES)
		return -2;
	return 1;
}
