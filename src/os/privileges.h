/* Giving up root, for good, and proving it (capabilities(7), setresuid(2), OpenSSH's uidswap). */
#ifndef ECHOD_OS_PRIVILEGES_H
#define ECHOD_OS_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

struct privileges {
	bool change; /* false: the process does not run as root, and stays who it is */
	uid_t uid;
	gid_t gid;
	char user[64]; /* for messages */
};

/*
 * Find out whom workers run as. `user` NULL: "echod" if there is such a user, else "nobody";
 * `group` NULL: the user's own. An ordinary user can only stay who they are: another `user` is
 * EXIT_PERMISSION. Reads the user database, so it comes before any sandbox.
 */
int privileges_resolve(struct privileges *privileges, const char *user, const char *group,
		       struct error *err);

/*
 * Drop supplementary groups, gid, uid and all capabilities, set no_new_privs, and try to get root
 * back: success there is the failure here.
 */
int privileges_drop(const struct privileges *privileges, struct error *err);

/*
 * Whom a program runs as: the same, but `user` may be "root", and `group` root's.
 */
int privileges_resolve_program(struct privileges *privileges, const char *user, const char *group,
			       struct error *err);

/*
 * Become the user of a program: the user's own supplementary groups (initgroups(3)), gid, uid; all
 * three of each. The capabilities go with root; no_new_privs is not set. Nothing happens when
 * `change` is false. Reads the group database.
 */
int privileges_become(const struct privileges *privileges, struct error *err);

#endif
