/*
 * Who may come: an ordered list of rules, of which the first that matches decides.
 *
 *   "allow 10.0.0.0/8"   a network or an address; an IPv4-mapped client is an IPv4 client
 *   "deny *"             everybody
 *   "allow unix"         every client of a Unix socket
 *   "allow uid:alice"    a client of a Unix socket, by name or number of its user; only digits are
 *                        a number
 *   "allow gid:staff"    or of one of its groups
 *
 * A client that no rule matches gets the opposite of the last rule; an empty list allows everybody.
 */
#ifndef ECHOD_BASE_ACCESS_H
#define ECHOD_BASE_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/network.h"

enum access_who { ACCESS_ALL, ACCESS_NETWORK, ACCESS_UNIX, ACCESS_UID, ACCESS_GID };

struct access_rule {
	bool allow;
	enum access_who who;
	struct network network;
	uid_t uid;
	gid_t gid;
	char *text;  /* as written */
	char *where; /* "file:line", or "command line" */
};

struct access_list {
	struct access_rule *rules;
	size_t count;
};

struct access_client {
	const struct sockaddr *address; /* AF_INET, AF_INET6; AF_UNIX: the rest tells who it is */
	bool has_ids;
	uid_t uid;
	gid_t gid;
	const gid_t *groups; /* the others (SO_PEERGROUPS) */
	size_t group_count;
};

/*
 * Add a rule at the end; both texts are copied, `text` without blanks around it. Returns 0, or -1
 * with a sentence.
 *
 * A user or group that this machine does not have is an error, too, but this rule is kept and
 * matches nobody: where a daemon must go on in spite of it, "allow uid:gone" does not turn into an
 * empty list, which would allow everybody.
 */
int access_add(struct access_list *list, const char *text, const char *where, struct error *err);
void access_clear(struct access_list *list);

/*
 * Is the client allowed? `*rule` is the rule that decided, NULL when none matched (the opposite of
 * the last, or an empty list). `rule` may be NULL. Users and groups are those of Unix sockets only:
 * `has_ids` without an AF_UNIX address is not looked at.
 */
bool access_allows(const struct access_list *list, const struct access_client *client,
		   const struct access_rule **rule);

#endif
