#include "os/local_socket.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

/* A file of this name: nothing, a stale socket (removed), or a reason to give up. */
static int clear_path(const struct sockaddr_un *address, struct error *err)
{
	const char *path = address->sun_path;
	struct stat st;
	int fd, result;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(err, "cannot look at the socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(
			err, EXIT_FAILED,
			"the socket %s exists and is no socket: remove it, or name another path",
			path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, "cannot make the socket");
	result = connect(fd, (const struct sockaddr *)address, sizeof(*address));
	if (result < 0 && errno == ECONNREFUSED) {
		/* Nobody listens, and nobody else will bind it: the pid lock is ours. */
		result = unlink(path);
		if (result < 0)
			error_errno(err, "cannot remove the stale socket %s", path);
		else
			log_notice("the socket %s was left behind by a daemon that no longer runs: "
				   "replaced",
				   path);
	} else if (result < 0 && errno == EAGAIN) {
		result = error_set(
			err, EXIT_FAILED,
			"a daemon listens at the socket %s: stop it, or name another path", path);
	} else if (result < 0) {
		error_errno(err, "the socket %s exists, and cannot be asked who listens there",
			    path);
	} else {
		struct ucred peer = {0};
		socklen_t len = sizeof(peer);

		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
		result = error_set(
			err, EXIT_FAILED,
			"a daemon (pid %d) answers at the socket %s: stop it, or name another path",
			(int)peer.pid, path);
	}
	close(fd);
	return result;
}

static int bind_at(const struct sockaddr_un *address, mode_t mode, int backlog, struct error *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask;
	int result;

	if (fd < 0)
		return error_errno(err, "cannot make the socket");
	/* umask, not chmod after bind: the mode is right from the first instant. */
	mask = umask(0777 & ~mode);
	result = bind(fd, (const struct sockaddr *)address, sizeof(*address));
	umask(mask);
	if (result < 0) {
		error_errno(err, "cannot bind the socket %s", address->sun_path);
	} else if (listen(fd, backlog) < 0) {
		error_errno(err, "cannot listen at the socket %s", address->sun_path);
		unlink(address->sun_path);
	} else {
		return fd;
	}
	close(fd);
	return -1;
}

int local_socket_listen(const char *path, mode_t mode, int backlog, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if ((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
	    sizeof(address.sun_path))
		return error_set(err, EXIT_CONFIG, "the path of the socket is too long: %s", path);
	return clear_path(&address, err) < 0 ? -1 : bind_at(&address, mode, backlog, err);
}

bool local_socket_is_at(const char *path, dev_t device, ino_t inode)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_dev == device &&
	       st.st_ino == inode;
}
