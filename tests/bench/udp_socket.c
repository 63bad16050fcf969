#include "bench/udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH_MAX    64
#define OUT_BYTES    262144 /* of all trains that go out in one call, unless one is longer */
#define JOINED_MAX   65535  /* bytes of replies that the kernel may hand over as one (UDP_GRO) */
#define JOINED_BATCH 4
#define RCVBUF	     (4 << 20)

/* sendmmsg(2) and recvmmsg(2). */
struct mailbox {
	uint32_t count; /* messages in one call */
	size_t room;	/* bytes for each */
	struct mmsghdr header[BATCH_MAX];
	struct iovec iov[BATCH_MAX];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control[BATCH_MAX];
	unsigned char memory[];
};

static struct mailbox *mailbox_new(uint32_t count, size_t room)
{
	struct mailbox *box = calloc(1, sizeof(*box) + count * room);

	if (box == NULL)
		return NULL;
	box->count = count;
	box->room = room;
	for (uint32_t i = 0; i < count; i++) {
		box->iov[i].iov_base = box->memory + i * room;
		box->iov[i].iov_len = room;
		box->header[i].msg_hdr.msg_iov = &box->iov[i];
		box->header[i].msg_hdr.msg_iovlen = 1;
	}
	return box;
}

/* ---- Sending -------------------------------------------------------------------------------- */

/* Returns how many were sent, or -1 with errno. */
static int send_batch(struct run *run, struct udp_socket *socket, uint32_t count)
{
	struct udp *udp = run->state;
	struct mailbox *out = udp->out;

	for (uint32_t i = 0; i < count; i++)
		udp_write_train(run, socket, i, out->memory + i * out->room);
	run_clock(run);
	if (count == 1)
		return send(socket->fd, out->memory, out->room, MSG_DONTWAIT) < 0 ? -1 : 1;
	return sendmmsg(socket->fd, out->header, count, MSG_DONTWAIT);
}

void udp_send(struct run *run, struct udp_socket *socket)
{
	const struct udp *udp = run->state;
	uint32_t count;

	while ((count = udp_sendable(run, socket)) > 0) {
		int n = send_batch(run, socket, count < udp->out->count ? count : udp->out->count);

		if (n < 0 && errno == EINTR)
			continue;
		/* Its time comes with the edge, or with the next sweep. */
		if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
			return;
		if (n < 0) {
			run_error(run, "socket %u: cannot send: %s", (unsigned)socket->number,
				  strerror(errno));
			udp_fail(run, socket);
			return;
		}
		udp_sent(run, socket, (uint32_t)n);
	}
}

/* ---- Receiving ------------------------------------------------------------------------------ */

/* The length of each of the datagrams that the kernel has joined (udp(7), UDP_GRO). */
static size_t segment_of(struct msghdr *header, size_t len)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(header);
	int segment;

	if (cmsg == NULL || cmsg->cmsg_level != SOL_UDP || cmsg->cmsg_type != UDP_GRO)
		return len;
	memcpy(&segment, CMSG_DATA(cmsg), sizeof(segment));
	return (size_t)segment;
}

static void take_joined(struct run *run, struct udp_socket *socket, const unsigned char *data,
			size_t len, size_t segment)
{
	do {
		size_t n = len < segment ? len : segment;

		udp_take(run, socket, data, n);
		data += n;
		len -= n;
	} while (len > 0);
}

/* Returns how many messages there were, or -1 with errno. */
static int receive_batch(struct run *run, struct udp_socket *socket)
{
	struct mailbox *in = ((struct udp *)run->state)->in;
	bool joined = run->options->train > 1;
	int n;

	for (uint32_t i = 0; joined && i < in->count; i++) {
		in->header[i].msg_hdr.msg_control = &in->control[i];
		in->header[i].msg_hdr.msg_controllen = sizeof(in->control[i]);
	}
	n = recvmmsg(socket->fd, in->header, in->count, MSG_DONTWAIT, NULL);
	run_clock(run);
	for (int i = 0; i < n; i++) {
		size_t len = in->header[i].msg_len;

		take_joined(run, socket, in->iov[i].iov_base, len,
			    joined ? segment_of(&in->header[i].msg_hdr, len) : len);
	}
	return n;
}

/* One at a time: recvmmsg(2) costs more than recv(2) for one. */
static int receive_one(struct run *run, struct udp_socket *socket)
{
	struct mailbox *in = ((struct udp *)run->state)->in;
	ssize_t n = recv(socket->fd, in->memory, in->room, MSG_DONTWAIT);

	if (n < 0)
		return -1;
	run_clock(run);
	udp_take(run, socket, in->memory, (size_t)n);
	return 1;
}

void udp_receive(struct run *run, struct udp_socket *socket)
{
	const struct udp *udp = run->state;

	/* Whatever comes while nothing is under way is looked at with the next replies. */
	do {
		int n = udp->in->count == 1 ? receive_one(run, socket) : receive_batch(run, socket);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 && errno != EINTR) {
			run_error(run, "socket %u: cannot receive: %s", (unsigned)socket->number,
				  strerror(errno));
			udp_fail(run, socket);
			return;
		}
	} while (socket->under_way > 0);
}

/* ---- Begin and end -------------------------------------------------------------------------- */

/* Returns 0, or -1 with errno. */
static int set_options(const struct run *run, int fd)
{
	int size = (int)run->options->size;
	int room = RCVBUF;
	int on = 1;

	/* What is lost shall be lost by the server: as much room as may be had. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) != 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) != 0)
		return -1;
	if (run->options->train == 1)
		return 0;
	if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof(size)) != 0)
		return -1;
	return setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on));
}

static int open_socket(struct run *run, uint32_t number, struct error *err)
{
	struct udp *udp = run->state;
	struct udp_socket *socket = &udp->sockets[number];

	socket->number = number;
	socket->trains = udp->trains + (size_t)number * udp->window;
	socket->free = udp->free + (size_t)number * udp->window;
	for (uint32_t i = 0; i < udp->window; i++)
		socket->free[i] = udp->window - 1 - i;
	socket->free_count = udp->window;
	socket->fd = target_connect(&run->target, SOCK_DGRAM, number, err);
	if (socket->fd < 0)
		return -1;
	if (set_options(run, socket->fd) != 0 ||
	    run_watch(run, socket->fd, number, EPOLLIN | EPOLLOUT) != 0)
		return error_errno(err, "cannot set up socket %u", (unsigned)number);
	return 0;
}

static int make_mailboxes(struct udp *udp, const struct options *options)
{
	size_t train = (size_t)options->size * options->train;
	size_t fit = OUT_BYTES / train > 0 ? OUT_BYTES / train : 1;
	uint32_t window = udp->window < BATCH_MAX ? udp->window : BATCH_MAX;

	udp->out = mailbox_new(window < fit ? window : (uint32_t)fit, train);
	/* A longer reply shows by a byte more. */
	udp->in = options->train > 1 ? mailbox_new(JOINED_BATCH, JOINED_MAX)
				     : mailbox_new(window, options->size + 1);
	return udp->out != NULL && udp->in != NULL ? 0 : -1;
}

int udp_open(struct run *run, struct error *err)
{
	uint32_t count = run->options->connections;
	size_t trains = (size_t)count * run->options->pipeline;
	struct udp *udp = calloc(1, sizeof(*udp));

	run->state = udp;
	if (udp == NULL)
		return error_errno(err, "no memory for %u sockets", (unsigned)count);
	udp->window = run->options->pipeline;
	udp->sockets = calloc(count, sizeof(*udp->sockets));
	udp->trains = calloc(trains, sizeof(*udp->trains));
	udp->free = calloc(trains, sizeof(*udp->free));
	if (udp->sockets == NULL || udp->trains == NULL || udp->free == NULL ||
	    make_mailboxes(udp, run->options) != 0)
		return error_errno(err, "no memory for %u sockets", (unsigned)count);
	for (uint32_t i = 0; i < count; i++)
		udp->sockets[i].fd = -1;
	for (uint32_t i = 0; i < count; i++)
		if (open_socket(run, i, err) != 0)
			return -1;
	return 0;
}

void udp_close(struct run *run)
{
	struct udp *udp = run->state;

	if (udp == NULL)
		return;
	for (uint32_t i = 0; udp->sockets != NULL && i < run->options->connections; i++)
		if (udp->sockets[i].fd >= 0)
			close(udp->sockets[i].fd);
	free(udp->in);
	free(udp->out);
	free(udp->free);
	free(udp->trains);
	free(udp->sockets);
	free(udp);
}
