#include "os/local_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "os/socket_list.h"

#define RETRY_PAUSE_MS 10

/* ---- Whose file is it? ---------------------------------------------------------------------- */

struct local_socket_file local_socket_look(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return (struct local_socket_file){0, 0};
	return (struct local_socket_file){st.st_dev, st.st_ino};
}

bool local_socket_is_at(const char *path, dev_t device, ino_t inode)
{
	struct local_socket_file now = local_socket_look(path);

	return now.inode != 0 && now.device == device && now.inode == inode;
}

void local_socket_remove(const char *path, struct local_socket_file file)
{
	if (file.inode != 0 && local_socket_is_at(path, file.device, file.inode) &&
	    unlink(path) < 0)
		log_warning("cannot remove the socket %s: %s", path, strerror(errno));
}

static int say_in_use(int fd, const char *path, struct error *err)
{
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);

	/* Only of a connection it is known who is at the other end. */
	if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 0)
		return error_set(
			err, EXIT_FAILED,
			"a daemon (pid %d) answers at the socket %s: stop it, or name another path",
			(int)peer.pid, path);
	return error_set(err, EXIT_FAILED,
			 "another process listens at the socket %s: end it, or name another path",
			 path);
}

enum owner { NOBODY, SOMEBODY, UNKNOWN };

/* Is somebody at this socket? An error is set unless nobody is. */
static enum owner ask(const struct sockaddr_un *address, int type, const struct stat *st,
		      struct error *err)
{
	const char *path = address->sun_path;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	enum owner owner = SOMEBODY;
	int answer;

	if (fd < 0) {
		error_errno(err, "cannot make the socket");
		return UNKNOWN;
	}
	answer = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? errno : 0;
	/* Between bind and listen it refuses as a stale one does: a daemon is starting. */
	if (answer == ECONNREFUSED && !socket_list_has(path, st->st_dev, st->st_ino)) {
		owner = NOBODY;
	} else if (answer == 0 || answer == ECONNREFUSED || answer == EAGAIN ||
		   answer == EPROTOTYPE) {
		/* A full queue, or the other type of socket, is alive, too. */
		say_in_use(answer == 0 ? fd : -1, path, err);
	} else {
		errno = answer;
		error_errno(err, "the socket %s exists, and cannot be asked who listens there",
			    path);
		owner = UNKNOWN;
	}
	close(fd);
	return owner;
}

/* ---- Taking a path -------------------------------------------------------------------------- */

/* Between the question and now another daemon may have replaced it already. */
static int remove_stale(const char *path, const struct stat *asked, struct error *err)
{
	if (!local_socket_is_at(path, asked->st_dev, asked->st_ino))
		return say_in_use(-1, path, err);
	if (unlink(path) < 0)
		return errno == ENOENT
			       ? say_in_use(-1, path, err)
			       : error_errno(err, "cannot remove the stale socket %s", path);
	log_notice("the socket %s was left behind by a process that no longer runs: replaced",
		   path);
	return 0;
}

/*
 * A file of this name: nothing, a stale socket (removed), or a reason to give up. `*in_use` tells a
 * reason that may pass.
 */
static int clear_path(const struct sockaddr_un *address, int type, bool *in_use, struct error *err)
{
	const char *path = address->sun_path;
	enum owner owner;
	struct stat st;

	*in_use = false;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(err, "cannot look at the socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, EXIT_FAILED,
				 "%s exists and is no socket: name another path, or remove it",
				 path);
	owner = ask(address, type, &st, err);
	*in_use = owner == SOMEBODY;
	return owner == NOBODY ? remove_stale(path, &st, err) : -1;
}

static int set_address(struct sockaddr_un *address, const char *path, struct error *err)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if ((size_t)snprintf(address->sun_path, sizeof(address->sun_path), "%s", path) >=
	    sizeof(address->sun_path))
		return error_set(err, EXIT_CONFIG, "the path of the socket is too long: %s", path);
	return 0;
}

int local_socket_clear(const char *path, int type, int64_t retry_ms, struct error *err)
{
	int64_t until = clock_ms() + retry_ms;
	struct sockaddr_un address;
	bool in_use;

	if (set_address(&address, path, err) < 0)
		return -1;
	/* The kernel tells nobody when the last copy of a socket is closed. */
	while (clear_path(&address, type, &in_use, err) < 0) {
		if (!in_use || clock_ms() >= until)
			return -1;
		poll(NULL, 0, RETRY_PAUSE_MS);
	}
	return 0;
}

/* ---- Rights --------------------------------------------------------------------------------- */

int local_socket_find_rights(struct local_socket_rights *rights, mode_t mode, const char *user,
			     const char *group, struct error *err)
{
	const struct passwd *passwd = user == NULL ? NULL : getpwnam(user);
	const struct group *entry = group == NULL ? NULL : getgrnam(group);

	if (user != NULL && passwd == NULL)
		return error_set(err, EXIT_CONFIG, "there is no user '%s'", user);
	if (group != NULL && entry == NULL)
		return error_set(err, EXIT_CONFIG, "there is no group '%s'", group);
	*rights = (struct local_socket_rights){
		.mode = mode,
		.uid = passwd == NULL ? (uid_t)-1 : passwd->pw_uid,
		.gid = entry == NULL ? (gid_t)-1 : entry->gr_gid,
	};
	return 0;
}

static int give_away(int fd, const char *path, const struct stat *st,
		     const struct local_socket_rights *rights, struct error *err)
{
	if ((rights->uid == (uid_t)-1 || rights->uid == st->st_uid) &&
	    (rights->gid == (gid_t)-1 || rights->gid == st->st_gid))
		return 0;
	if (fchownat(fd, "", rights->uid, rights->gid, AT_EMPTY_PATH) < 0)
		return error_errno(err, "cannot change the owner of the socket %s", path);
	return 0;
}

static int set_mode(int fd, const char *path, const struct stat *st, mode_t mode, struct error *err)
{
	char name[40];

	if ((st->st_mode & 07777) == mode)
		return 0;
	/* fchmod is refused for a descriptor that only stands for a path (open(2), O_PATH). */
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	if (chmod(name, mode) < 0)
		return error_errno(err, "cannot change the mode of the socket %s", path);
	return 0;
}

/*
 * By a descriptor of the file itself: whoever may write to the directory could put another file, or
 * a link to one, in its place between two calls by name.
 */
int local_socket_set_rights(const char *path, struct local_socket_file file,
			    const struct local_socket_rights *rights, struct error *err)
{
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), result;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		result = error_errno(err, "cannot look at the socket %s", path);
	else if (!S_ISSOCK(st.st_mode) || st.st_dev != file.device || st.st_ino != file.inode)
		result = error_set(err, EXIT_FAILED, "the socket %s has been replaced", path);
	else if (give_away(fd, path, &st, rights, err) < 0)
		result = -1;
	else
		result = set_mode(fd, path, &st, rights->mode, err);
	if (fd >= 0)
		close(fd);
	return result;
}

/* ---- Binding -------------------------------------------------------------------------------- */

int local_socket_bind(const char *path, int type, const struct local_socket_rights *rights,
		      struct error *err)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), result;
	struct local_socket_file file;
	struct sockaddr_un address;
	mode_t mask;

	if (fd < 0)
		return error_errno(err, "cannot make the socket");
	/* umask, not chmod after bind: the mode is right from the first instant. */
	mask = umask(0777 & ~rights->mode);
	result = set_address(&address, path, err);
	if (result == 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		result = error_errno(err, "cannot bind the socket %s", path);
	umask(mask);
	if (result == 0) {
		file = local_socket_look(path);
		if (local_socket_set_rights(path, file, rights, err) == 0)
			return fd;
		local_socket_remove(path, file);
	}
	close(fd);
	return -1;
}

int local_socket_listen(const char *path, mode_t mode, int backlog, struct error *err)
{
	struct local_socket_rights rights = {mode, (uid_t)-1, (gid_t)-1};
	int fd = -1;

	if (local_socket_clear(path, SOCK_STREAM, 0, err) == 0)
		fd = local_socket_bind(path, SOCK_STREAM, &rights, err);
	if (fd < 0 || listen(fd, backlog) == 0)
		return fd;
	error_errno(err, "cannot listen at the socket %s", path);
	unlink(path);
	close(fd);
	return -1;
}
