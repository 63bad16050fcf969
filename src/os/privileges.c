#include "os/privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* getpwnam with a sentence: a missing user and a broken user database are different things. */
static const struct passwd *find_user(const char *name, struct error *err)
{
	const struct passwd *user;

	errno = 0;
	user = getpwnam(name);
	if (user == NULL && errno != 0 && errno != ENOENT)
		error_errno(err, "cannot look up the user '%s'", name);
	else if (user == NULL)
		error_set(err, EXIT_CONFIG, "there is no user '%s'", name);
	return user;
}

static int stay(struct privileges *privileges, const char *who, const char *user, const char *group,
		struct error *err)
{
	const struct passwd *self = getpwuid(geteuid());

	privileges->change = false;
	privileges->uid = geteuid();
	privileges->gid = getegid();
	snprintf(privileges->user, sizeof(privileges->user), "%s",
		 self != NULL ? self->pw_name : "self");
	if (user != NULL && (self == NULL || strcmp(user, self->pw_name) != 0))
		return error_set(
			err, EXIT_PERMISSION,
			"only root can run %s as the user '%s'; leave out 'user' or start as root",
			who, user);
	if (group != NULL)
		return error_set(
			err, EXIT_PERMISSION,
			"only root can run %s in the group '%s'; leave out 'group' or start as root",
			who, group);
	return 0;
}

/* As root: the user (NULL: the default) and the group (NULL: the user's own) in numbers. */
static int find(struct privileges *privileges, const char *who, const char *user, const char *group,
		struct error *err)
{
	const struct passwd *found = user != NULL ? find_user(user, err) : getpwnam("echod");

	if (found == NULL && user == NULL)
		found = find_user("nobody", err);
	if (found == NULL)
		return error_prefix(err, "%s need a user to run as: ", who);
	/* The name counts: a part of it could be somebody else's, with other groups. */
	if (strlen(found->pw_name) >= sizeof(privileges->user))
		return error_set(err, EXIT_CONFIG, "the name of the user '%s' is too long",
				 found->pw_name);
	privileges->change = true;
	privileges->uid = found->pw_uid;
	privileges->gid = found->pw_gid;
	snprintf(privileges->user, sizeof(privileges->user), "%s", found->pw_name);
	if (group != NULL) {
		const struct group *named = getgrnam(group);

		if (named == NULL)
			return error_set(err, EXIT_CONFIG, "there is no group '%s'", group);
		privileges->gid = named->gr_gid;
	}
	return 0;
}

int privileges_resolve(struct privileges *privileges, const char *user, const char *group,
		       struct error *err)
{
	if (geteuid() != 0)
		return stay(privileges, "workers", user, group, err);
	if (find(privileges, "workers", user, group, err) < 0)
		return -1;
	if (privileges->uid == 0 || privileges->gid == 0)
		return error_set(
			err, EXIT_CONFIG,
			"workers must not run as root, nor in its group: set user and group");
	return 0;
}

int privileges_resolve_program(struct privileges *privileges, const char *user, const char *group,
			       struct error *err)
{
	if (geteuid() != 0)
		return stay(privileges, "programs", user, group, err);
	return find(privileges, "programs", user, group, err);
}

/* Before it come the supplementary groups: without root they can no longer be changed. */
static int change_user(const struct privileges *privileges, struct error *err)
{
	if (setresgid(privileges->gid, privileges->gid, privileges->gid) < 0)
		return error_errno(err, "cannot change the group to %u", (unsigned)privileges->gid);
	if (setresuid(privileges->uid, privileges->uid, privileges->uid) < 0)
		return error_errno(err, "cannot change the user to %s", privileges->user);
	return 0;
}

/* A service manager may have given capabilities to an ordinary user, too: they go as well. */
static int drop_capabilities(struct error *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
	    syscall(SYS_capset, &header, data) < 0)
		return error_errno(err, "cannot drop the capabilities");
	if (syscall(SYS_capget, &header, data) < 0)
		return error_errno(err, "cannot see the worker's capabilities");
	for (int i = 0; i < 2; i++)
		if (data[i].permitted | data[i].effective | data[i].inheritable)
			return error_set(err, EXIT_FAILED, "the worker kept capabilities");
	return 0;
}

static int prove_ids(const struct privileges *privileges, const char *who, struct error *err)
{
	uid_t real, effective, saved;
	gid_t greal, geffective, gsaved;

	if (getresuid(&real, &effective, &saved) < 0 || getresgid(&greal, &geffective, &gsaved) < 0)
		return error_errno(err, "cannot see the user of %s", who);
	if (real != privileges->uid || effective != real || saved != real ||
	    greal != privileges->gid || geffective != greal || gsaved != greal)
		return error_set(err, EXIT_FAILED, "%s did not become user %s whole", who,
				 privileges->user);
	return 0;
}

static int prove_no_return(const struct privileges *privileges, const char *who, struct error *err)
{
	if (setuid(0) == 0 || seteuid(0) == 0 || setresuid(-1, 0, -1) == 0)
		return error_set(err, EXIT_FAILED, "%s could become root again", who);
	if (privileges->gid != 0 && (setgid(0) == 0 || setegid(0) == 0))
		return error_set(err, EXIT_FAILED, "%s could get root's group again", who);
	return 0;
}

static int become_worker(const struct privileges *privileges, struct error *err)
{
	if (setgroups(0, NULL) < 0)
		return error_errno(err, "cannot drop the supplementary groups");
	return change_user(privileges, err);
}

static int prove_worker(const struct privileges *privileges, struct error *err)
{
	if (prove_no_return(privileges, "the worker", err) < 0 ||
	    prove_ids(privileges, "the worker", err) < 0)
		return -1;
	if (getgroups(0, NULL) != 0)
		return error_set(err, EXIT_FAILED, "the worker kept supplementary groups");
	return 0;
}

int privileges_drop(const struct privileges *privileges, struct error *err)
{
	if (privileges->change && become_worker(privileges, err) < 0)
		return -1;
	if (drop_capabilities(err) < 0 || (privileges->change && prove_worker(privileges, err) < 0))
		return -1;
	/* No setuid program, ever: nothing that a worker could execute gives rights back. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, "cannot set no_new_privs");
	return 0;
}

int privileges_become(const struct privileges *privileges, struct error *err)
{
	if (!privileges->change)
		return 0;
	if (initgroups(privileges->user, privileges->gid) < 0)
		return error_errno(err, "cannot set the supplementary groups of %s",
				   privileges->user);
	if (change_user(privileges, err) < 0)
		return -1;
	if (privileges->uid != 0 && prove_no_return(privileges, "the program", err) < 0)
		return -1;
	return prove_ids(privileges, "the program", err);
}
