/*
 * Who may come: from accept to the first byte that a protocol sees. With a PROXY header the client
 * is whom it names, and everything else, access and limits too, is about that one.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "net/server_private.h"

/* ---- Who it is ------------------------------------------------------------------------------ */

/* Does a PROXY header name the client? */
static bool is_behind_proxy(const struct conn *conn)
{
	const struct conn_extra *extra = conn_extra(conn);

	return extra != NULL && extra->header != NULL && !extra->header->parsed.local;
}

const struct sockaddr *conn_client(const struct conn *conn)
{
	if (is_behind_proxy(conn))
		return (const struct sockaddr *)&conn_extra(conn)->header->parsed.source.storage;
	return &conn_peer(conn)->any;
}

static void format_peer(char *out, size_t cap, const union conn_peer *peer)
{
	if (peer->any.sa_family == AF_UNIX)
		snprintf(out, cap, "unix (pid %d, uid %u)", (int)peer->local.pid,
			 (unsigned)peer->local.uid);
	else if (peer->any.sa_family == AF_UNSPEC)
		snprintf(out, cap, "a client that is gone");
	else
		address_format(out, cap, &peer->any);
}

void conn_format(char *out, size_t cap, const struct conn *conn)
{
	char client[ADDR_TEXT_MAX], peer[ADDR_TEXT_MAX];

	format_peer(peer, sizeof(peer), conn_peer(conn));
	if (!is_behind_proxy(conn)) {
		snprintf(out, cap, "%s", peer);
		return;
	}
	address_format(client, sizeof(client), conn_client(conn));
	snprintf(out, cap, "%s (by %s)", client, peer);
}

/* The user at the other end of a Unix socket; whom a proxy names by such an address is not. */
static bool is_local_user(const struct conn *conn)
{
	return !is_behind_proxy(conn) && conn_peer(conn)->any.sa_family == AF_UNIX;
}

/* Its groups are those of the last one that was asked about. */
static struct access_client access_client_of(const struct conn *conn)
{
	/*
	 * All that a process can have: whoever has many must not escape a rule. Memory that the
	 * kernel never fills is never used.
	 */
	static gid_t groups[NGROUPS_MAX];
	struct access_client client = {.address = conn_client(conn)};
	socklen_t len = sizeof(groups);

	if (!is_local_user(conn))
		return client;
	client.has_ids = true;
	client.uid = conn_peer(conn)->local.uid;
	client.gid = conn_peer(conn)->local.gid;
	if (getsockopt(conn_fd(conn), SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0) {
		client.groups = groups;
		client.group_count = len / sizeof(*groups);
	}
	return client;
}

/* ---- Refusing ------------------------------------------------------------------------------- */

static void refuse(struct conn *conn, const struct refusal *refusal)
{
	static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
	enum server_refusal how = conn->server->settings.refusal;
	char client[CONN_TEXT_MAX], message[256];
	int len;

	counter_add(refusal->counter, 1);
	if (log_enabled(LOG_LEVEL_NOTICE)) {
		conn_format(client, sizeof(client), conn);
		log_notice("connection from %s refused: %s", client, refusal->why);
	}
	conn->state = CONN_OPEN;
	conn->linger = true;
	if (how == SERVER_MESSAGE && conn->server->refused < SERVER_REFUSED_MAX) {
		conn->refused = true;
		conn->server->refused++;
		len = snprintf(message, sizeof(message), "echod: refused: %s\r\n", refusal->said);
		if (conn_reply(conn, (const unsigned char *)message, (size_t)len, true))
			conn_begin_end(conn, CONN_REFUSED);
		return;
	}
	/*
	 * A reset is what the kernel sends when a socket that must not linger is closed; also when
	 * bytes were not read, which are there already where accepting is deferred.
	 */
	if (how == SERVER_RESET)
		setsockopt(conn_fd(conn), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	else
		recv(conn_fd(conn), conn->server->buffer, SERVER_BUFFER, 0);
	conn_close(conn, "refused", NULL);
}

/* ---- Limits --------------------------------------------------------------------------------- */

static const struct {
	size_t counter; /* in struct counters */
	const char *setting;
	const char *said;
} verdicts[] = {
	[LIMITS_CONNECTIONS] = {offsetof(struct counters, refused_connections), "max_connections",
				"too many connections"},
	[LIMITS_SOURCE] = {offsetof(struct counters, refused_source), "max_connections_per_source",
			   "too many connections from your address"},
	[LIMITS_PREFIX] = {offsetof(struct counters, refused_prefix), "max_connections_per_prefix",
			   "too many connections from your network"},
	[LIMITS_RATE] = {offsetof(struct counters, refused_rate), "max_connection_rate",
			 "too many new connections"},
	[LIMITS_SOURCE_RATE] = {offsetof(struct counters, refused_source_rate),
				"max_connection_rate_per_source",
				"too many new connections from your address"},
};

static void leave(struct conn *conn)
{
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (conn->server->settings.limits[i] != NULL)
			limits_leave(conn->server->settings.limits[i], &conn_extra(conn)->holds[i]);
}

/* Clients that a proxy names by a Unix address count as one user, whom nobody is. */
static uid_t user_of(const struct conn *conn)
{
	return is_local_user(conn) ? conn_peer(conn)->local.uid : (uid_t)-1;
}

static bool enter(struct conn *conn, struct refusal *refusal)
{
	struct counters *counters = conn->server->counters;
	struct limits_source source;
	bool full = false, not_by_source = false;

	limits_source_of(&source, conn_client(conn), user_of(conn));
	/*
	 * The service first: whom it refuses takes nothing of the rate that all services share.
	 */
	for (int i = SERVER_SCOPES - 1; i >= 0; i--) {
		struct limits *limits = conn->server->settings.limits[i];
		enum limits_verdict verdict;

		if (limits == NULL)
			continue;
		verdict = limits_enter(limits, &source, clock_us(), &conn_extra(conn)->holds[i],
				       &full);
		not_by_source |= full;
		if (verdict == LIMITS_ALLOWED)
			continue;
		leave(conn);
		refusal->counter =
			(_Atomic uint64_t *)((char *)counters + verdicts[verdict].counter);
		refusal->said = verdicts[verdict].said;
		snprintf(refusal->why, sizeof(refusal->why), "%s%s", verdicts[verdict].setting,
			 i == 0 ? " of all services" : "");
		return false;
	}
	if (not_by_source)
		counter_add(&counters->sources_full, 1);
	return true;
}

/* ---- What only some connections need -------------------------------------------------------- */

static bool make_extra(struct conn *conn)
{
	struct conn_more *more = conn_get_more(conn);

	if (more != NULL && more->extra == NULL &&
	    (more->extra = malloc(sizeof(*more->extra))) != NULL)
		*more->extra = (struct conn_extra){.conn = conn};
	if (more == NULL || more->extra == NULL) {
		conn_close(conn, "no memory for its limits", &conn->server->counters->no_memory);
		return false;
	}
	conn_keep_peer(conn);
	return true;
}

void conn_extra_free(struct conn *conn)
{
	struct conn_extra *extra = conn_extra(conn);

	if (extra == NULL)
		return;
	leave(conn);
	if (extra->has_life)
		timeouts_remove(&conn->server->timeouts, &extra->life);
	free(extra->header);
	free(extra);
}

bool conn_admit(struct conn *conn)
{
	struct server *server = conn->server;
	struct refusal refusal;
	struct access_client client = access_client_of(conn);
	int64_t now = clock_coarse_ms(); /* a PROXY header may have taken a while */

	if (!gate_admits(&server->gate, &server->settings, server->counters, &client, now,
			 &refusal)) {
		refuse(conn, &refusal);
		return false;
	}
	if (!server->needs_extra)
		return true;
	if (!make_extra(conn))
		return false;
	if (!enter(conn, &refusal)) {
		refuse(conn, &refusal);
		return false;
	}
	conn->paced = server->paces;
	if (server->settings.lifetime_ms > 0) {
		conn_extra(conn)->has_life = true;
		timeouts_add(&server->timeouts, &conn_extra(conn)->life, TIMEOUT_LIFETIME, now);
	}
	return true;
}

/* ---- The PROXY header ----------------------------------------------------------------------- */

static bool may_send_header(const struct conn *conn)
{
	return gate_trusts_proxy(&conn->server->settings, &conn_peer(conn)->any);
}

bool conn_expects_header(const struct conn *conn)
{
	const struct server_settings *settings = &conn->server->settings;

	return settings->proxy == SERVER_PROXY_REQUIRED ||
	       (settings->proxy == SERVER_PROXY_OPTIONAL && may_send_header(conn));
}

static void refuse_proxy(struct conn *conn, const char *why)
{
	struct refusal refusal = {.counter = &conn->server->counters->refused_proxy,
				  .said = "a PROXY header is required"};

	snprintf(refusal.why, sizeof(refusal.why), "proxy_protocol: %s", why);
	refuse(conn, &refusal);
}

bool conn_may_send_header(struct conn *conn)
{
	if (may_send_header(conn))
		return true;
	refuse_proxy(conn, "proxy_from does not name this address");
	return false;
}

static void malformed(struct conn *conn, const char *why)
{
	char reason[128];

	snprintf(reason, sizeof(reason), "malformed PROXY header: %s", why);
	conn_close(conn, reason, &conn->server->counters->proxy_errors);
}

/* What it points to must stay: the bytes are copied, and read once more. */
static bool keep_header(struct conn *conn, const unsigned char *data, size_t len)
{
	struct conn_header *header;
	const char *why;

	if (!make_extra(conn))
		return false;
	header = malloc(sizeof(*header) + len);
	if (header == NULL) {
		conn_close(conn, "no memory for its PROXY header",
			   &conn->server->counters->no_memory);
		return false;
	}
	memcpy(header->bytes, data, len);
	proxy_parse(header->bytes, len, &header->parsed, &why);
	conn_extra(conn)->header = header;
	return true;
}

/* The rest of what was received is the client's. */
static bool go_on_behind(struct conn *conn, unsigned char *data, size_t len, bool full)
{
	if (!conn_admit(conn) || !conn_begin(conn))
		return false;
	if (len > 0)
		timeouts_heard(&conn->server->timeouts, &conn->timeout);
	return len == 0 && !conn->shut ? conn_hold(conn, data, 0)
				       : conn_answer(conn, data, len, len, full);
}

void conn_header_expired(struct conn *conn)
{
	if (conn->server->settings.proxy == SERVER_PROXY_REQUIRED)
		refuse_proxy(conn, "no PROXY header came in time");
	/* What looked like the beginning of one was the client's own. */
	else if (go_on_behind(conn, conn->has_held ? conn->more->held : NULL, conn_held(conn),
			      true))
		conn_watch(conn);
}

bool conn_header(struct conn *conn, unsigned char *data, size_t len, bool full)
{
	bool required = conn->server->settings.proxy == SERVER_PROXY_REQUIRED;
	struct proxy_header header;
	const char *why = "";

	switch (proxy_parse(data, len, &header, &why)) {
	case PROXY_MORE:
		if (!conn->shut)
			return conn_hold(conn, data, len);
		/* A health check that connects and leaves; or the beginning of something else. */
		if (required) {
			refuse_proxy(conn, "the client left before its PROXY header");
			return false;
		}
		return go_on_behind(conn, data, len, full);
	case PROXY_NONE:
		if (required) {
			refuse_proxy(conn, "what came is no PROXY header");
			return false;
		}
		return go_on_behind(conn, data, len, full);
	case PROXY_BAD:
		malformed(conn, why);
		return false;
	default:
		return keep_header(conn, data, header.len) &&
		       go_on_behind(conn, data + header.len, len - header.len, full);
	}
}
