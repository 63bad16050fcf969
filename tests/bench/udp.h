/*
 * Datagrams, in two files: which are under way and what a reply means (udp.c), and the sockets
 * (udp_socket.c).
 */
#ifndef ECHOD_BENCH_UDP_H
#define ECHOD_BENCH_UDP_H

#include "bench/run.h"

#define TRAIN_MEMORY 8 /* turns of which is known what was lost */

/*
 * A place in a socket's window. In turn t, the place p of a window of w holds unit t * w + p, with
 * --train datagrams each; numbers wrap at 2^32.
 */
struct train {
	uint32_t turn;
	uint64_t pending; /* a bit for each datagram without a reply; 0: the place is free */
	uint64_t begun;	  /* from when the latency counts */
	uint64_t sent;
	uint64_t lost[TRAIN_MEMORY]; /* the same bits, given up, of the turns before */
};

struct udp_socket {
	int fd; /* -1: it has failed */
	uint32_t number;
	struct train *trains; /* of `udp` */
	uint32_t *free;	      /* the free places in the window, the next one at the end; of `udp` */
	uint32_t free_count;
	uint32_t under_way;  /* datagrams */
	uint64_t issued;     /* open loop: trains that were due so far */
	uint64_t dispatched; /* trains that were sent */
};

struct mailbox; /* memory for several datagrams in one call; udp_socket.c */

struct udp {
	struct udp_socket *sockets;
	struct train *trains;
	uint32_t *free;
	uint32_t window;
	struct mailbox *out;
	struct mailbox *in;
};

/* ---- udp.c ---------------------------------------------------------------------------------- */

/* Do without this socket from now on. */
void udp_fail(struct run *run, struct udp_socket *socket);

/* A datagram has arrived, now. */
void udp_take(struct run *run, struct udp_socket *socket, const unsigned char *data, size_t len);

/* So many trains may be sent now. */
uint32_t udp_sendable(const struct run *run, const struct udp_socket *socket);

/* Write the i-th train that may be sent now, from 0 on. */
void udp_write_train(const struct run *run, const struct udp_socket *socket, uint32_t i,
		     unsigned char *out);

/* The first `count` of them were sent, now. */
void udp_sent(struct run *run, struct udp_socket *socket, uint32_t count);

/* ---- udp_socket.c --------------------------------------------------------------------------- */

int udp_open(struct run *run, struct error *err);
void udp_close(struct run *run);

/* Send what may be sent, until the kernel takes no more. */
void udp_send(struct run *run, struct udp_socket *socket);

/* Take replies as long as some are under way and there. */
void udp_receive(struct run *run, struct udp_socket *socket);

#endif
