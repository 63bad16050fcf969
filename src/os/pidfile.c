#include "os/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* How often the file may be replaced under us before it is called a fight. */
#define OPEN_ATTEMPTS 100

/* O_NOFOLLOW: no link leads us to another file. O_NONBLOCK: a FIFO does not hang us. */
#define OPEN_FLAGS (O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

static int open_error(const char *path, struct error *err)
{
	if (errno == ELOOP)
		return error_set(
			err, EXIT_FAILED,
			"the pidfile %s is a symbolic link: remove it or name another file", path);
	if (errno == EISDIR)
		return error_set(err, EXIT_FAILED,
				 "the pidfile %s is a directory: name a file with -P", path);
	if (errno == ENXIO)
		return error_set(err, EXIT_FAILED, "the pidfile %s is not a regular file", path);
	return error_errno(err, "cannot open the pidfile %s", path);
}

/* Who holds a lock that conflicts with one of `type`: its pid, 0 for nobody, -1 with errno. */
static pid_t lock_holder(int fd, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET};

	if (fcntl(fd, F_GETLK, &lock) < 0)
		return -1;
	if (lock.l_type == F_UNLCK)
		return 0;
	/* 0 here means: a process that this pid namespace does not see. */
	return lock.l_pid > 0 ? lock.l_pid : -2;
}

/* Returns 1 when the lock is ours, 0 to try again, -1 when somebody else has it. */
static int try_lock(int fd, const char *path, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	pid_t pid;

	if (fcntl(fd, F_SETLK, &lock) == 0)
		return 1;
	if (errno != EAGAIN && errno != EACCES)
		return error_errno(err, "cannot lock the pidfile %s", path);
	/* Asked for a read lock, only a writer answers: a daemon, not somebody who looks at the
	 * file. */
	pid = lock_holder(fd, F_RDLCK);
	if (pid > 0)
		return error_set(err, EXIT_FAILED, "already running (pid %d)", (int)pid);
	if (pid == -2)
		return error_set(err, EXIT_FAILED,
				 "already running outside this pid namespace (pidfile %s)", path);
	pid = lock_holder(fd, F_WRLCK);
	if (pid > 0)
		return error_set(err, EXIT_FAILED,
				 "process %d holds a read lock on the pidfile %s: end it first",
				 (int)pid, path);
	return 0;
}

/*
 * The former owner may have unlinked the file between our open and our lock: then we hold the lock
 * of a file that nobody else can find.
 */
static bool still_there(int fd, const char *path, struct stat *st)
{
	struct stat now;

	return fstat(fd, st) == 0 && lstat(path, &now) == 0 && st->st_dev == now.st_dev &&
	       st->st_ino == now.st_ino && st->st_nlink == 1;
}

static int check_kind(int fd, const char *path, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(err, "cannot look at the pidfile %s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EXIT_FAILED, "the pidfile %s is not a regular file", path);
	if (st.st_nlink > 1)
		return error_set(
			err, EXIT_FAILED,
			"the pidfile %s has a second name (hard link): remove it or name another "
			"file",
			path);
	return 0;
}

/*
 * What an earlier daemon left in the file: its pid as text in `old`, "" for nothing. A file of NUL
 * bytes is what a loss of power leaves of a pid. Returns -1 when it holds something else.
 */
static int read_old(int fd, const char *path, char old[32], struct error *err)
{
	ssize_t had = pread(fd, old, 31, 0), nul = 0;
	size_t digits;

	if (had < 0)
		return error_errno(err, "cannot read the pidfile %s", path);
	while (nul < had && old[nul] == '\0')
		nul++;
	old[had] = '\0';
	if (nul == had) {
		old[0] = '\0';
		return 0;
	}
	old[strcspn(old, "\n")] = '\0';
	digits = strspn(old, "0123456789");
	if (digits == 0 || old[digits] != '\0')
		return error_set(
			err, EXIT_FAILED,
			"the pidfile %s holds something other than a pid: name another file, or "
			"remove it",
			path);
	return 0;
}

/* A slip of the finger such as -P /etc/hosts must not cost that file. */
static int look_at_old(int fd, const char *path, struct error *err)
{
	char old[32];
	struct stat st;

	if (read_old(fd, path, old, err) < 0)
		return -1;
	if (old[0] != '\0')
		log_notice(
			"the pidfile %s was left behind by process %s, which no longer runs: taken over",
			path, old);
	else if (fstat(fd, &st) == 0 && st.st_size > 0)
		log_notice("the pidfile %s was left behind without a pid: taken over", path);
	return 0;
}

/* First the new text, then the end of the old: a reader never sees an empty file. */
static int write_pid(int fd, const char *path, struct error *err)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	if (pwrite(fd, text, (size_t)len, 0) != len || ftruncate(fd, len) < 0 ||
	    fchmod(fd, 0644) < 0)
		return error_errno(err, "cannot write the pidfile %s", path);
	return 0;
}

/* The lock is ours: make the file ours, too. Returns 0, or -1 with the file as it was or removed.
 */
static int take_over(struct pidfile *pidfile, const char *path, int fd, const struct stat *st,
		     struct error *err)
{
	if (look_at_old(fd, path, err) < 0)
		return -1;
	if (write_pid(fd, path, err) == 0) {
		*pidfile = (struct pidfile){strdup(path), fd, st->st_dev, st->st_ino};
		if (pidfile->path != NULL)
			return 0;
		error_errno(err, "cannot keep the pidfile's path");
	}
	unlink(path); /* half written: the disk is full, say */
	return -1;
}

/* Returns 1 when the lock is ours, 0 to try again, -1 with the reason. */
static int lock_attempt(struct pidfile *pidfile, const char *path, struct error *err)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CREAT | OPEN_FLAGS, 0644);
	int locked;

	if (fd < 0)
		return open_error(path, err);
	locked = check_kind(fd, path, err) < 0 ? -1 : try_lock(fd, path, err);
	if (locked == 1 && !still_there(fd, path, &st))
		locked = 0;
	if (locked == 1 && take_over(pidfile, path, fd, &st, err) == 0)
		return 1;
	close(fd);
	return locked == 0 ? 0 : -1;
}

int pidfile_lock(struct pidfile *pidfile, const char *path, struct error *err)
{
	for (int i = 0; i < OPEN_ATTEMPTS; i++) {
		int result = lock_attempt(pidfile, path, err);

		if (result != 0)
			return result < 0 ? -1 : 0;
	}
	return error_set(err, EXIT_FAILED,
			 "the pidfile %s is replaced again and again by somebody else", path);
}

int pidfile_adopt(struct pidfile *pidfile, const struct pidfile *former, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct stat st;

	if (fstat(former->fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_dev != former->device ||
	    st.st_ino != former->inode)
		return error_set(err, EXIT_FAILED,
				 "the handed-over descriptor %d is not the pidfile %s", former->fd,
				 former->path);
	if (fcntl(former->fd, F_SETLK, &lock) < 0)
		return error_errno(err, "the lock on the pidfile %s was lost", former->path);
	*pidfile = *former;
	pidfile->path = strdup(former->path);
	if (pidfile->path == NULL)
		return error_errno(err, "cannot keep the pidfile's path");
	return 0;
}

void pidfile_unlink_in_signal(const struct pidfile *pidfile)
{
	struct stat now;

	if (pidfile->fd >= 0 && lstat(pidfile->path, &now) == 0 && now.st_dev == pidfile->device &&
	    now.st_ino == pidfile->inode)
		unlink(pidfile->path);
}

void pidfile_remove(struct pidfile *pidfile)
{
	/* Unlinked while still locked: whoever opens the name now makes a new file. */
	pidfile_unlink_in_signal(pidfile);
	if (pidfile->fd >= 0)
		close(pidfile->fd);
	free(pidfile->path);
	*pidfile = (struct pidfile)PIDFILE_NONE;
}

/* ---- The side of the verbs ------------------------------------------------------------------ */

static int find_holder(int fd, const char *path, struct pidfile_holder *holder, struct error *err)
{
	for (int i = 0; i < OPEN_ATTEMPTS; i++) {
		pid_t pid = lock_holder(fd, F_RDLCK);
		int pidfd;

		if (pid == -2)
			return error_set(
				err, EXIT_PERMISSION,
				"echod runs outside this pid namespace: use the verb there");
		if (pid < 0)
			return error_errno(err, "cannot ask for the lock on the pidfile %s", path);
		if (pid == 0)
			return 0;
		pidfd = pidfd_open(pid, 0);
		if (pidfd < 0 && errno != ESRCH)
			return error_errno(err, "cannot get hold of process %d", (int)pid);
		/*
		 * Still the holder: so the descriptor is not of an innocent that got the pid since.
		 */
		if (pidfd >= 0 && lock_holder(fd, F_RDLCK) == pid) {
			holder->pid = pid;
			holder->pidfd = pidfd;
			return 0;
		}
		if (pidfd >= 0)
			close(pidfd);
	}
	return error_set(err, EXIT_FAILED, "the pidfile %s changes hands all the time", path);
}

int pidfile_find(const char *path, struct pidfile_holder *holder, struct error *err)
{
	int fd = open(path, O_RDONLY | OPEN_FLAGS);
	struct stat st;
	char old[32];
	int result;

	*holder = (struct pidfile_holder){0, -1, false, false};
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (fd < 0)
		return open_error(path, err);
	holder->file_exists = true;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		result = find_holder(fd, path, holder, err);
	else
		result = error_set(err, EXIT_FAILED, "the pidfile %s is not a regular file", path);
	/* Without a holder the text tells whether a daemon has ever been here. */
	holder->foreign = result == 0 && holder->pid == 0 && read_old(fd, path, old, err) < 0;
	close(fd);
	return result;
}

int pidfile_signal(const struct pidfile_holder *holder, int sig, struct error *err)
{
	if (pidfd_send_signal(holder->pidfd, sig, NULL, 0) < 0 && errno != ESRCH)
		return error_errno(err, "only root and the daemon's own user may signal process %d",
				   (int)holder->pid);
	return 0;
}

int pidfile_await_end(const struct pidfile_holder *holder, int64_t ms, struct error *err)
{
	struct pollfd ended = {.fd = holder->pidfd, .events = POLLIN};
	int64_t until = clock_ms() + ms;

	for (;;) {
		int64_t left = until - clock_ms();
		int n = poll(&ended, 1, left < 0 ? 0 : (int)(left > 1000000 ? 1000000 : left));

		if (n > 0)
			return 1;
		if (n < 0 && errno != EINTR)
			return error_errno(err, "cannot wait for process %d", (int)holder->pid);
		if (n == 0 && left <= 0)
			return 0;
	}
}

void pidfile_holder_close(struct pidfile_holder *holder)
{
	if (holder->pidfd >= 0)
		close(holder->pidfd);
	holder->pidfd = -1;
}
