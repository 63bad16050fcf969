/*
 * What settings name and this machine must have: users, groups, directories, commands. Apart from
 * the values themselves, because it changes while the daemon runs: what was sound at the start must
 * still be readable when a file or a user has vanished.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "conf/keys.h"

/* What never works for clients, or only opens files for them, may be root's. */
static bool may_be_root(const struct conf_key *key, const void *base)
{
	return key->type == KEY_OWNER || key->type == KEY_OWNER_GROUP ||
	       (key->section == KEY_SERVICE && conf_is_program(base));
}

static int look_user(const char *name, bool root_too, struct error *err)
{
	const struct passwd *user;

	errno = 0;
	user = getpwnam(name);
	if (user == NULL && errno != 0 && errno != ENOENT)
		return error_errno(err, "cannot look up the user '%s'", name);
	if (user == NULL)
		return error_set(err, EXIT_CONFIG, "there is no user '%s'", name);
	if (user->pw_uid == 0 && !root_too)
		return error_set(err, EXIT_CONFIG,
				 "workers must not run as root: name another user than '%s'", name);
	return 0;
}

static int look_group(const char *name, bool root_too, struct error *err)
{
	const struct group *group = getgrnam(name);

	if (group == NULL)
		return error_set(err, EXIT_CONFIG, "there is no group '%s'", name);
	if (group->gr_gid == 0 && !root_too)
		return error_set(
			err, EXIT_CONFIG,
			"workers must not run in root's group: name another group than '%s'", name);
	return 0;
}

static int look_directory(const struct conf_key *key, const char *path, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set(err, EXIT_CONFIG, "the %s '%s' cannot be used: %s", key->name,
				 path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return error_set(err, EXIT_CONFIG, "the %s '%s' cannot be used: %s", key->name,
				 path, strerror(ENOTDIR));
	return 0;
}

/* Whether its own user may execute it is known when it is executed, and said then. */
static int look_command(const char *path, struct error *err)
{
	struct stat st;
	int why = 0;

	if (stat(path, &st) < 0)
		why = errno;
	else if (S_ISDIR(st.st_mode))
		why = EISDIR;
	else if (!S_ISREG(st.st_mode) || (st.st_mode & (S_IXUSR | S_IXGRP | S_IXOTH)) == 0)
		why = EACCES; /* as execve(2) would say */
	if (why != 0)
		return error_set(err, EXIT_CONFIG, "the command '%s' cannot be executed: %s", path,
				 strerror(why));
	return 0;
}

int conf_key_look(const struct conf_key *key, const void *base, struct error *err)
{
	const char *text;

	if (key->type == KEY_COMMAND) {
		char *const *words = *(char ***)conf_key_field(key, base);

		return words == NULL || words[0] == NULL ? 0 : look_command(words[0], err);
	}
	switch (key->type) {
	case KEY_USER:
	case KEY_OWNER:
	case KEY_GROUP:
	case KEY_OWNER_GROUP:
	case KEY_DIRECTORY:
		break;
	default:
		return 0;
	}
	text = *(char **)conf_key_field(key, base);
	if (text == NULL)
		return 0;
	if (key->type == KEY_DIRECTORY)
		return look_directory(key, text, err);
	if (key->type == KEY_USER || key->type == KEY_OWNER)
		return look_user(text, may_be_root(key, base), err);
	return look_group(text, may_be_root(key, base), err);
}
