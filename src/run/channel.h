/*
 * Between the supervisor and a worker: a pair of sockets that keeps messages whole (AF_UNIX,
 * SOCK_SEQPACKET). Orders go down, "ready" and log records come up. A message that is not of a
 * known type and size is a fault of the sender. The end of the other side is the end of file.
 */
#ifndef ECHOD_RUN_CHANNEL_H
#define ECHOD_RUN_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"

enum channel_type {
	/* To the worker. */
	CHANNEL_GO = 1, /* accept connections on the sockets of its own; a program: execute it */
	CHANNEL_SERVE,	/* accept on socket `value` of the service too: its own worker is missing */
	CHANNEL_UNSERVE, /* no longer: its own worker is back */
	CHANNEL_GIVE_UP, /* nobody else will accept on socket `value`: empty its queue at the end */
	CHANNEL_RETIRE, /* stop accepting, serve on; `value`: for so many ms at most, 0: no limit */
	CHANNEL_DRAIN,	/* a polite end; `value`: within so many ms */
	CHANNEL_QUIT,	/* end at once; a program: `value` ms after its stop_signal */
	CHANNEL_PING,	/* a sign of life is asked for: one more in counters.heartbeat */
	CHANNEL_SIGNAL, /* a program: send it signal `value` */
	/* To the supervisor. */
	CHANNEL_READY,	 /* "go" would be obeyed at once */
	CHANNEL_FAILED,	 /* `text`: why the worker cannot serve; `value`: an exit code */
	CHANNEL_RETIRED, /* CHANNEL_RETIRE was obeyed: it accepts no more */
	CHANNEL_LOG,	 /* `text` for the log; `value`: its level */
	CHANNEL_PROGRAM, /* a program was executed; `value`: its pid, to be shown and nothing else
			  */
	CHANNEL_ENDED,	 /* a program has ended; `value`: its status (waitpid(2)) */
	CHANNEL_TYPES,
};

struct channel_message {
	uint32_t type;
	uint32_t len; /* of text */
	int64_t value;
	char text[LOG_LINE_MAX];
};

/* Both ends, non-blocking and close-on-exec. Returns 0 or -1. */
int channel_pair(int ends[2], struct error *err);

/* Async-signal-safe. Returns 0, or -1 with errno; EAGAIN: the other side does not read. */
int channel_send(int fd, enum channel_type type, int64_t value, const char *text, size_t len);

/*
 * Returns 1 with a message, 0 when there is none now, -1 at the end of the other side, -2 when it
 * has sent nonsense.
 */
int channel_receive(int fd, struct channel_message *message);

#endif
