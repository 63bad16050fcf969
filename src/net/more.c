/* What most connections never need: bytes that wait, who it is, and where that is kept. */
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "net/server_private.h"

#define HELD_MIN 512 /* bytes; doubled as a line grows */

struct conn_more *conn_get_more(struct conn *conn)
{
	if (conn->more == NULL && (conn->more = malloc(sizeof(*conn->more))) != NULL)
		*conn->more = (struct conn_more){0};
	return conn->more;
}

/* A connection that is idle again costs no more than one that never said anything. */
static void tidy(struct conn *conn)
{
	struct conn_more *more = conn->more;

	if (conn->has_held || conn->has_pending || more->has_peer || more->extra != NULL)
		return;
	free(more);
	conn->more = NULL;
}

void conn_more_free(struct conn *conn)
{
	if (conn->more == NULL)
		return;
	if (conn->has_pending)
		evbuffer_free(conn->more->pending);
	conn_extra_free(conn);
	free(conn->more->held);
	free(conn->more);
	conn->more = NULL;
}

/* ---- Bytes that wait ------------------------------------------------------------------------ */

static void no_memory(struct conn *conn, const char *reason)
{
	conn_close(conn, reason, &conn->server->counters->no_memory);
}

void conn_release_held(struct conn *conn)
{
	if (!conn->has_held)
		return;
	free(conn->more->held);
	conn->more->held = NULL;
	conn->more->held_len = conn->more->held_cap = 0;
	conn->has_held = false;
	tidy(conn);
}

/* Room for a line that has begun. */
static size_t room_for(size_t len)
{
	size_t cap = HELD_MIN;

	while (cap < len + HELD_MIN / 2)
		cap *= 2;
	return cap;
}

bool conn_hold(struct conn *conn, const unsigned char *rest, size_t len)
{
	struct conn_more *more;
	unsigned char *place;

	if (len == 0) {
		conn_release_held(conn);
		return true;
	}
	more = conn_get_more(conn);
	place = more == NULL ? NULL : len <= more->held_cap ? more->held : malloc(room_for(len));
	if (place == NULL) {
		no_memory(conn, "no memory for its line");
		return false;
	}
	memmove(place, rest, len); /* it may lie in the old place */
	if (place != more->held) {
		free(more->held);
		more->held = place;
		more->held_cap = room_for(len);
	}
	more->held_len = len;
	conn->has_held = true;
	return true;
}

bool conn_enlarge_held(struct conn *conn)
{
	struct conn_more *more = conn->more;
	unsigned char *larger = realloc(more->held, more->held_cap * 2);

	if (larger == NULL)
		return false;
	more->held = larger;
	more->held_cap *= 2;
	return true;
}

bool conn_keep_pending(struct conn *conn, const unsigned char *data, size_t len)
{
	struct conn_more *more = conn_get_more(conn);

	if (more == NULL) {
		no_memory(conn, "no memory for its reply");
		return false;
	}
	if (!conn->has_pending) {
		more->pending = evbuffer_new();
		conn->has_pending = more->pending != NULL;
	}
	if (conn->has_pending && evbuffer_add(more->pending, data, len) == 0)
		return true;
	no_memory(conn, "no memory for its reply");
	return false;
}

void conn_release_pending(struct conn *conn)
{
	evbuffer_free(conn->more->pending);
	conn->more->pending = NULL;
	conn->has_pending = false;
	tidy(conn);
}

/* ---- Who it is ------------------------------------------------------------------------------ */

/* The name of a Unix client, mostly empty, tells nothing; its ids do. */
static void read_ids(int fd, struct unix_peer *peer)
{
	struct ucred ids = {0};
	socklen_t len = sizeof(ids);

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &ids, &len);
	*peer = (struct unix_peer){AF_UNIX, ids.pid, ids.uid, ids.gid};
}

void conn_set_peer(struct conn *conn, const struct sockaddr *peer, socklen_t len)
{
	struct server *server = conn->server;

	memset(&server->peer, 0, sizeof(server->peer));
	server->peer_of = conn;
	if (len < sizeof(peer->sa_family) || peer->sa_family == AF_UNIX)
		read_ids(conn_fd(conn), &server->peer.local);
	else
		memcpy(&server->peer, peer,
		       len < sizeof(server->peer) ? len : sizeof(server->peer));
}

const union conn_peer *conn_peer(const struct conn *conn)
{
	static union {
		union conn_peer peer;
		struct sockaddr_storage room;
	} asked;
	socklen_t len = sizeof(asked);

	if (conn->server->peer_of == conn)
		return &conn->server->peer;
	if (conn->more != NULL && conn->more->has_peer)
		return &conn->more->peer;
	memset(&asked, 0, sizeof(asked));
	if (getpeername(conn_fd(conn), (struct sockaddr *)&asked, &len) == 0 &&
	    asked.room.ss_family == AF_UNIX)
		read_ids(conn_fd(conn), &asked.peer.local);
	return &asked.peer;
}

void conn_keep_peer(struct conn *conn)
{
	struct conn_more *more = conn_get_more(conn);

	/* Without memory it has no name in the log, which is no reason to end it. */
	if (more == NULL || more->has_peer)
		return;
	more->peer = *conn_peer(conn);
	more->has_peer = true;
}
