/*
 * An echo of bytes on io_uring: one request accepts all connections, one receives all that comes on
 * a connection, into buffers that the kernel takes from a ring, and what is sent goes to the kernel
 * together with the wait for more. So one system call serves as many messages as there are.
 *
 *     uring [--port P] [--once]      --once: closes after the first answer
 *
 * It prints its port, and serves 127.0.0.1 until it is killed. It ends with code 77 where the
 * kernel does not offer what it needs: Linux 6.1, and a system that allows io_uring.
 *
 * It is a yardstick and no server: clients that do not read can take all buffers, and hold up all
 * others.
 */
#include <err.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "options.h"

#define BACKLOG	   4096
#define ENTRIES	   4096
#define BUFFERS	   256 /* a power of two */
#define BUFFER	   65536
#define NONE	   (-1)
#define CANNOT_OUT 77 /* a test that was skipped, for automake */

/* A multiple of 64 KiB would put the beginnings of all buffers into the same lines of the cache. */
#define STRIDE (BUFFER + 192)

/* What was asked for: the lowest bits of a request's user data; above them is the connection. */
enum kind { ACCEPT, RECV, SEND, CLOSE, KINDS };

struct connection {
	struct connection *next_hungry;
	int fd;
	int first, last; /* buffers that wait to be sent; the first of them is under way */
	bool receiving;	 /* or hungry: then it will be */
	bool ended;	 /* no more buffers are to be sent */
};

static struct options options;
static struct io_uring ring;
static int listener;
static struct io_uring_buf_ring *free_buffers;
static char *buffers;
static struct {
	unsigned len;
	int next; /* of the same connection */
} filled[BUFFERS];
static struct connection *hungry; /* there was no buffer for what they have sent */

/* ---- Requests ------------------------------------------------------------------------------- */

/* Requests that are linked must go to the kernel together. */
static void make_room(unsigned requests)
{
	while (io_uring_sq_space_left(&ring) < requests) {
		int n = io_uring_submit(&ring);

		if (n < 0 && n != -EINTR)
			errx(EXIT_FAILURE, "the kernel takes no requests: %s", strerror(-n));
	}
}

static void mark(struct io_uring_sqe *sqe, const struct connection *connection, enum kind kind)
{
	io_uring_sqe_set_data64(sqe, (uintptr_t)connection | kind);
}

static void request_accept(void)
{
	struct io_uring_sqe *sqe;

	make_room(1);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
	mark(sqe, NULL, ACCEPT);
}

/* Of connections that live for one answer, no second look is needed. */
static void request_recv(struct connection *connection)
{
	struct io_uring_sqe *sqe;

	make_room(1);
	sqe = io_uring_get_sqe(&ring);
	if (options.once)
		io_uring_prep_recv(sqe, connection->fd, NULL, 0, 0);
	else
		io_uring_prep_recv_multishot(sqe, connection->fd, NULL, 0, 0);
	/* A client that has just come has seldom sent already. */
	sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	mark(sqe, connection, RECV);
	connection->receiving = true;
}

static char *data_of(int buffer)
{
	return buffers + (size_t)buffer * STRIDE;
}

/* One at a time: two that are under way may overtake each other. */
static void request_send(struct connection *connection)
{
	int buffer = connection->first;
	struct io_uring_sqe *sqe;

	make_room(2);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_send(sqe, connection->fd, data_of(buffer), filled[buffer].len,
			   MSG_NOSIGNAL | MSG_WAITALL);
	mark(sqe, connection, SEND);
	if (!options.once)
		return;
	sqe->flags |= IOSQE_IO_LINK;
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_close(sqe, connection->fd);
	mark(sqe, connection, CLOSE);
}

/* ---- Buffers -------------------------------------------------------------------------------- */

static void feed_hungry(void)
{
	struct connection *connection = hungry;

	if (connection == NULL)
		return;
	hungry = connection->next_hungry;
	request_recv(connection);
}

static void free_buffer(int buffer)
{
	io_uring_buf_ring_add(free_buffers, data_of(buffer), BUFFER, (unsigned short)buffer,
			      io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(free_buffers, 1);
	feed_hungry();
}

static void open_buffers(void)
{
	size_t size = BUFFERS * sizeof(struct io_uring_buf);
	struct io_uring_buf_reg reg = {.ring_entries = BUFFERS};
	int result;

	free_buffers = aligned_alloc((size_t)sysconf(_SC_PAGESIZE), size);
	buffers = malloc((size_t)BUFFERS * STRIDE);
	if (free_buffers == NULL || buffers == NULL)
		errx(EXIT_FAILURE, "out of memory for %d buffers", BUFFERS);
	io_uring_buf_ring_init(free_buffers);
	reg.ring_addr = (uintptr_t)free_buffers;
	result = io_uring_register_buf_ring(&ring, &reg, 0);
	if (result < 0)
		errx(CANNOT_OUT, "the kernel takes no ring of buffers: %s", strerror(-result));
	for (int i = 0; i < BUFFERS; i++)
		free_buffer(i);
}

/* ---- Connections ---------------------------------------------------------------------------- */

static void close_if_done(struct connection *connection)
{
	if (!connection->ended || connection->receiving || connection->first != NONE)
		return;
	close(connection->fd);
	free(connection);
}

static void on_accept(struct connection *connection, const struct io_uring_cqe *cqe)
{
	if (!(cqe->flags & IORING_CQE_F_MORE))
		request_accept();
	if (cqe->res == -ECONNABORTED || cqe->res == -EINTR)
		return;
	if (cqe->res < 0)
		errx(EXIT_FAILURE, "cannot accept a connection (more of them need ulimit -n): %s",
		     strerror(-cqe->res));
	connection = calloc(1, sizeof(*connection));
	if (connection == NULL)
		errx(EXIT_FAILURE, "out of memory for a connection");
	connection->fd = cqe->res;
	connection->first = NONE;
	request_recv(connection);
}

static void queue(struct connection *connection, int buffer, unsigned len)
{
	filled[buffer].len = len;
	filled[buffer].next = NONE;
	if (connection->first != NONE) {
		filled[connection->last].next = buffer;
		connection->last = buffer;
		return;
	}
	connection->first = connection->last = buffer;
	request_send(connection);
}

static void on_recv(struct connection *connection, const struct io_uring_cqe *cqe)
{
	int buffer = (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);

	if (cqe->res == -ENOBUFS) {
		connection->next_hungry = hungry;
		hungry = connection;
		return;
	}
	connection->receiving = cqe->flags & IORING_CQE_F_MORE;
	if (cqe->res > 0 && !connection->ended)
		queue(connection, buffer, (unsigned)cqe->res);
	else if (cqe->flags & IORING_CQE_F_BUFFER)
		free_buffer(buffer);
	else
		feed_hungry(); /* it may have had a buffer, and has let it go */
	if (cqe->res <= 0)
		connection->ended = true;
	else if (!connection->receiving && !options.once)
		request_recv(connection);
	close_if_done(connection);
}

static int take_first(struct connection *connection)
{
	int buffer = connection->first;

	connection->first = filled[buffer].next;
	return buffer;
}

static void on_send(struct connection *connection, const struct io_uring_cqe *cqe)
{
	int buffer = take_first(connection);
	bool failed = cqe->res != (int)filled[buffer].len;

	free_buffer(buffer);
	if (options.once) /* a close follows */
		return;
	if (failed) {
		connection->ended = true;
		while (connection->first != NONE)
			free_buffer(take_first(connection));
		/* This ends the receiving. */
		shutdown(connection->fd, SHUT_RDWR);
	}
	if (connection->first != NONE)
		request_send(connection);
	close_if_done(connection);
}

/* Cancelled where the answer failed. */
static void on_close(struct connection *connection, const struct io_uring_cqe *cqe)
{
	if (cqe->res < 0)
		close(connection->fd);
	free(connection);
}

/* ---- Start ---------------------------------------------------------------------------------- */

static void open_ring(void)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER |
						  IORING_SETUP_DEFER_TASKRUN};
	int result = io_uring_queue_init_params(ENTRIES, &ring, &params);

	if (result < 0)
		errx(CANNOT_OUT,
		     "the kernel makes no ring, which needs Linux 6.1, and 0 in "
		     "/proc/sys/kernel/io_uring_disabled: %s",
		     strerror(-result));
	result = io_uring_register_ring_fd(&ring);
	if (result < 0)
		errx(CANNOT_OUT, "the kernel does not register the ring: %s", strerror(-result));
}

static _Noreturn void serve(void)
{
	static void (*const on_done[KINDS])(struct connection *, const struct io_uring_cqe *) = {
		[ACCEPT] = on_accept, [RECV] = on_recv, [SEND] = on_send, [CLOSE] = on_close};
	struct io_uring_cqe *cqe;
	unsigned head, n;
	int result;

	for (;;) {
		result = io_uring_submit_and_wait(&ring, 1);
		/* Busy: what is done must be taken first. */
		if (result < 0 && result != -EINTR && result != -EBUSY)
			errx(EXIT_FAILURE, "cannot wait for events: %s", strerror(-result));
		n = 0;
		io_uring_for_each_cqe(&ring, head, cqe)
		{
			uintptr_t data = (uintptr_t)io_uring_cqe_get_data64(cqe);

			on_done[data % KINDS]((struct connection *)(data - data % KINDS), cqe);
			n++;
		}
		io_uring_cq_advance(&ring, n);
	}
}

static void set(int level, int name, const char *what)
{
	int on = 1;

	if (setsockopt(listener, level, name, &on, sizeof(on)) < 0)
		err(EXIT_FAILURE, "cannot set %s", what);
}

static void open_listener(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port)};
	socklen_t len = sizeof(address);

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0)
		err(EXIT_FAILURE, "cannot make a TCP socket");
	set(SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
	/* Those that are accepted inherit it. */
	set(IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&address, len) < 0)
		err(EXIT_FAILURE, "cannot bind to port %u", options.port);
	if (listen(listener, BACKLOG) < 0)
		err(EXIT_FAILURE, "cannot listen on port %u", options.port);
	if (getsockname(listener, (struct sockaddr *)&address, &len) < 0)
		err(EXIT_FAILURE, "cannot ask for the port");
	options_print_port(ntohs(address.sin_port));
}

int main(int argc, char **argv)
{
	options = options_parse(argc, argv, false);
	open_ring();
	open_buffers();
	open_listener();
	request_accept();
	serve();
}
