/* What the files of a server and its connections share; nobody else includes it. */
#ifndef ECHOD_NET_SERVER_PRIVATE_H
#define ECHOD_NET_SERVER_PRIVATE_H

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>

#include "base/addr.h"
#include "net/gate.h"
#include "net/poller.h"
#include "net/server.h"
#include "net/timeouts.h"
#include "serve/proxy.h"

/* Bytes of one recv. Less costs a large stream a third more, and more gains little. */
#define SERVER_BUFFER	 (256 * 1024)
#define SERVER_LINGER_MS 2000
/* The PROXY protocol asks for at least 3 s: one lost segment must not end a connection. */
#define SERVER_HEADER_MS    5000
#define SERVER_THROTTLE_MS  20 /* how often a connection that a limit stopped is looked at */
#define SERVER_ACCEPTS_TURN 64
#define SERVER_SINGLE_MAX   63 /* times in a row that only one connection is asked for */
#define SERVER_BUSY_TURN    16 /* requests between two of these */
/* So many refused clients are told why at a time, which takes a descriptor for up to 2 s. */
#define SERVER_REFUSED_MAX 256
#define SERVER_PAUSE_MS	   100
#define SERVER_QUEUE_MAX   65536 /* the largest backlog (listen(2)) */

struct datagrams;

struct listener {
	struct event event;
	struct datagram *datagram; /* NULL: it accepts connections; else all the rest is up to it */
	struct listener *next;	   /* in the order of their numbers */
	struct server *server;
	int fd;
	unsigned single;   /* so many more times, no second connection is asked for */
	unsigned alone;	   /* what `single` was last set to, because none had waited */
	uint64_t requests; /* answered when connections last came */
	bool accepts;	   /* when accepting is not paused */
	bool given_up;	   /* by all others */
};

/* What a protocol writes, until it goes to the client. */
struct server_out {
	struct proto_out out; /* the first: the protocols know no more of it */
	struct evbuffer *bytes;
	bool used;
	bool failed; /* memory ran out */
};

/* Returns -1 without memory. */
int server_out_init(struct server_out *out);

/* Who is at the other end of a Unix socket (SO_PEERCRED, unix(7)). */
struct unix_peer {
	sa_family_t family; /* AF_UNIX */
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/* As the socket tells it; AF_UNSPEC: it no longer knows. */
union conn_peer {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct unix_peer local;
};

/* In the order of use: what each line needs comes first. */
struct server {
	unsigned char *buffer; /* one for all connections: nothing stays in it between two events */
	size_t room;	       /* bytes of it that one recv may fill: never more than max_pending */
	/* proto->plain, or a function that asks for proto->input every time */
	uint64_t (*plain)(const struct proto_settings *settings, uint64_t requests,
			  const unsigned char *data, size_t len);
	struct counters *counters;
	struct timeouts timeouts;
	struct poller poller;
	struct server_settings settings;
	struct event_base *base;
	size_t connections;
	size_t refused; /* of these: they are being told why */
	bool draining;
	struct listener *listeners;
	struct datagrams *datagrams; /* what its datagram sockets share; NULL without any */
	struct event *resume;	     /* accepting again after a pause */
	bool paused;
	int64_t pause_said; /* when a pause was last logged */
	struct server_out out;
	struct gate gate;
	const struct conn *peer_of; /* `peer` is of this one, which has just come */
	union conn_peer peer;
	bool needs_extra; /* of each connection: struct conn_extra */
	bool paces;	  /* and it limits what they say */
	void (*idle)(void *arg);
	void *idle_arg;
};

enum conn_state {
	CONN_OPEN,    /* reading and answering */
	CONN_HEADER,  /* a PROXY header is awaited */
	CONN_CLOSING, /* nothing more is read; the rest of the reply must go out */
	CONN_LINGER,  /* half-closed; what still comes is thrown away */
};

/* Why a connection ends that ends politely. */
enum conn_end {
	CONN_ALL_ANSWERED,
	CONN_ALL_SAID,
	CONN_CLIENT_CLOSED,
	CONN_TOO_LONG,
	CONN_SERVER_STOPS,
	CONN_LIFETIME,
	CONN_REFUSED,
};

/* What only connections need that come through a proxy, or have limits of their own. */
struct conn_extra {
	struct conn *conn;
	struct timeout_entry life; /* in the list of TIMEOUT_LIFETIME when that is on */
	bool has_life;
	struct limits_hold holds[SERVER_SCOPES];
	uint64_t byte_arrival; /* bucket_left */
	uint64_t request_arrival;
	struct conn_header *header; /* NULL: none came */
};

/* The PROXY header of a connection. */
struct conn_header {
	struct proxy_header parsed; /* points into: */
	unsigned char bytes[];
};

/* What most connections never need, and others only for a while. */
struct conn_more {
	unsigned char *held; /* the beginning of a line, allocated only while there is one */
	size_t held_len;
	size_t held_cap;
	struct evbuffer *pending; /* what the kernel did not take, allocated only then */
	/* By the client, when it last took something; of one that lingers 0 until anybody looks. */
	int unacknowledged;
	struct conn_extra *extra; /* NULL: nothing of it is needed */
	bool has_peer;
	union conn_peer peer; /* when the kernel may forget it before it is named */
};

/*
 * A million of them may be idle: each byte counts. In the order of use: a line needs 56 bytes from
 * the beginning. The bits of `unusual` say that a report is of no simple line; all of them are
 * asked in one comparison.
 */
struct conn {
	struct poller_entry socket;
	uint64_t accepted_at : 40; /* clock_coarse_ms: 34 years of uptime */
	union {
		struct {
			uint8_t state : 2;    /* enum conn_state */
			bool has_held : 1;    /* more->held */
			bool has_pending : 1; /* more->pending */
			bool paced : 1;	      /* limits of bytes or requests hold for it */
			bool produces : 1;    /* a stream without end; nothing is pending then */
			bool in_line : 1;     /* struct proto_state */
			bool draining : 1;
		};
		uint8_t unusual;
	};
	uint8_t end : 3;  /* enum conn_end, once it is closing */
	bool linger : 1;  /* closing at once could destroy the reply */
	bool shut : 1;	  /* the client has sent its FIN */
	bool refused : 1; /* it is only told why */
	/* What is held may be whole lines that a limit keeps waiting: only where it is `paced`. */
	bool paused : 1;
	bool corked : 1; /* the last reply was sent, and waits for the FIN (MSG_MORE) */
	struct server *server;
	uint64_t requests; /* answered */
	uint64_t bytes_in;
	uint64_t bytes_out;
	struct timeout_entry timeout; /* in exactly one list, always */
	struct conn_more *more;	      /* NULL: nothing of it is needed */
};

_Static_assert(sizeof(struct conn) <= 88, "with all around it, 100 bytes a connection");

/*
 * Take over an accepted connection, which may be refused or served and ended at once. Without
 * memory it is closed, and the result is false.
 */
bool conn_start(struct server *server, int fd, const struct sockaddr *peer, socklen_t peer_len);

/*
 * Among the files of a connection. Those that return bool return false when the connection is
 * closed or on its way, and after those that return nothing it may be: hands off.
 */
static inline int conn_fd(const struct conn *conn)
{
	return conn->socket.fd;
}

/* How many bytes wait for the kernel to take them. */
static inline size_t conn_pending(const struct conn *conn)
{
	return conn->has_pending ? evbuffer_get_length(conn->more->pending) : 0;
}

static inline size_t conn_held(const struct conn *conn)
{
	return conn->has_held ? conn->more->held_len : 0;
}

/* NULL: it has nothing of the kind. */
static inline struct conn_extra *conn_extra(const struct conn *conn)
{
	return conn->more == NULL ? NULL : conn->more->extra;
}

/* The beginning of the conversation: who it is is known, and may come. */
bool conn_begin(struct conn *conn);

/* What the client has sent; `fresh` of the `len` bytes were never shown to the protocol. */
bool conn_answer(struct conn *conn, unsigned char *data, size_t len, size_t fresh, bool full);

/* Wait for what must come next: the client's bytes, or room for what is pending, or both. */
bool conn_watch(struct conn *conn);

/* The same for EV_READ, EV_WRITE or both, and no others. */
bool conn_watch_for(struct conn *conn, short what);

/* For struct poller. */
void conn_ready(struct poller_entry *entry, short what);

/* The last reply is followed by conn_begin_end at once: then it shares its segment with the FIN. */
bool conn_reply(struct conn *conn, const unsigned char *data, size_t len, bool last);

/* Nothing keeps this client from speaking: which time-out holds for it? */
enum timeout_kind conn_silence(const struct conn *conn);

/*
 * What may have come before its time was over, and was not looked at yet. Returns false when there
 * was nothing, or not all of a PROXY header; else it was heard, or is closed or on its way.
 */
bool conn_hear(struct conn *conn);

/* Go on after a pause. */
void conn_read_on(struct conn *conn);

/* Part of server_drain. */
void conn_drain(struct conn *conn);

/* ---- more.c: what most connections never need ------------------------------------------------ */

/* NULL without memory. */
struct conn_more *conn_get_more(struct conn *conn);
void conn_more_free(struct conn *conn);

/* Keep the beginning of a line for later. */
bool conn_hold(struct conn *conn, const unsigned char *rest, size_t len);
void conn_release_held(struct conn *conn);

/* Returns false without memory, and nothing has changed. */
bool conn_enlarge_held(struct conn *conn);

/* Keep what the kernel does not take now. */
bool conn_keep_pending(struct conn *conn, const unsigned char *data, size_t len);
void conn_release_pending(struct conn *conn);

/* Whom accept(2) named. */
void conn_set_peer(struct conn *conn, const struct sockaddr *peer, socklen_t len);

/* Who is at the other end of the socket; valid until the next call. */
const union conn_peer *conn_peer(const struct conn *conn);

/* Remember it: the kernel forgets who has reset a connection. */
void conn_keep_peer(struct conn *conn);

/* ---- ending.c: how it ends ------------------------------------------------------------------ */

/* Nothing more is read; the end comes once the reply is out. */
void conn_begin_end(struct conn *conn, enum conn_end end);

/* All of the reply is with the kernel. */
void conn_finish(struct conn *conn);

/* Throw away what still comes after the reply. */
void conn_discard(struct conn *conn);

/* Close at once. `reason` is for the log; `counter` may be NULL. */
void conn_close(struct conn *conn, const char *reason, _Atomic uint64_t *counter);
void conn_close_on_error(struct conn *conn, int error);

/* Take note of what the client has acknowledged so far. */
void conn_note_progress(struct conn *conn);

/* For struct timeouts. */
void conn_expired(struct timeout_entry *entry);
struct conn *conn_of_timeout(struct timeout_entry *entry);

/* ---- stream.c: what has no end -------------------------------------------------------------- */

void stream_produce(struct conn *conn);
void stream_event(struct conn *conn, short what);

/* It would go on for ever. */
void stream_end(struct conn *conn);

/* ---- admit.c: who may come ------------------------------------------------------------------ */

/*
 * Whether this client may be served: PROXY header, access, times, load, limits. Returns false when
 * the connection was refused.
 */
bool conn_admit(struct conn *conn);

/* What came in place of, or as, a PROXY header. */
bool conn_header(struct conn *conn, unsigned char *data, size_t len, bool full);

/* No header came in time. */
void conn_header_expired(struct conn *conn);

/* Must a header be awaited of this client? */
bool conn_expects_header(const struct conn *conn);

/* May it send one? Returns false when the connection was refused. */
bool conn_may_send_header(struct conn *conn);

/* The real client: that of the PROXY header where there was one. */
const struct sockaddr *conn_client(const struct conn *conn);

/* "192.0.2.1:4711", "192.0.2.1:4711 (by 10.0.0.1:80)", "unix (pid 1, uid 0)". */
#define CONN_TEXT_MAX (2 * ADDR_TEXT_MAX + 16)
void conn_format(char *out, size_t cap, const struct conn *conn);

/* Give back what it held. */
void conn_extra_free(struct conn *conn);

/* ---- pace.c: how fast ----------------------------------------------------------------------- */

/* How many bytes it may send or receive now; 0: not before the next look. */
size_t conn_bytes_left(const struct conn *conn);

/* How many requests may be answered now. */
uint64_t conn_requests_left(const struct conn *conn);
void conn_charge(struct conn *conn, uint64_t bytes, uint64_t requests);

/*
 * A limit is reached: nothing is read until it allows more. What the client must take first goes
 * on; then the limit is asked again.
 */
void conn_throttle(struct conn *conn);

/* A limit may allow more by now. */
void conn_resume(struct conn *conn);

/* ---- facts.c -------------------------------------------------------------------------------- */

/* Everything that the protocols may tell; what it points to is valid until the next call. */
const struct proto_facts *conn_facts(const struct conn *conn);

/* Tell the owner when nothing is left to do. */
void server_check_idle(struct server *server);

#endif
