/*
 * The pid lock: one daemon a pidfile, and the right pid to signal.
 *
 * The lock is a POSIX record lock (fcntl(2), F_SETLK) on the whole file, held for life by one
 * descriptor. It survives execve, it ends with the process whatever happens, children do not
 * inherit it, and F_GETLK names its holder. The price: if the holder ever opens and closes the same
 * file again, the lock is silently gone. So nobody in the daemon does. The text in the file is for
 * people; only the lock counts.
 */
#ifndef ECHOD_OS_PIDFILE_H
#define ECHOD_OS_PIDFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct pidfile {
	char *path; /* owned */
	int fd;	    /* holds the lock; -1: none */
	dev_t device;
	ino_t inode;
};

#define PIDFILE_NONE                                                                               \
	{                                                                                          \
		NULL, -1, 0, 0                                                                     \
	}

/*
 * Take the lock and write the pid. A file left by a daemon that died is taken over, with a notice
 * in the log. Fails with "already running (pid N)" and EXIT_FAILED, or with the reason why the path
 * is unusable (a link, a FIFO, a directory, …); then the file is as it was.
 */
int pidfile_lock(struct pidfile *pidfile, const char *path, struct error *err);

/*
 * After execve: check that `fd` is still the file that `former` names by device and inode (its path
 * may be gone: an administrator may have removed it), and that it holds the lock.
 */
int pidfile_adopt(struct pidfile *pidfile, const struct pidfile *former, struct error *err);

/* Unlink the file if it is still ours, then give up the lock. */
void pidfile_remove(struct pidfile *pidfile);

/* The unlinking alone, async-signal-safe, for the handler of fatal signals. */
void pidfile_unlink_in_signal(const struct pidfile *pidfile);

/* What a verb finds under a path. */
struct pidfile_holder {
	pid_t pid; /* 0: nobody holds the lock */
	int pidfd; /* pidfd_open(2) of that very process; -1: none. The caller closes it. */
	bool file_exists;
	bool foreign; /* nobody holds it, and it holds something other than a pid */
};

/*
 * Find who holds the lock. Returns 0, holder or none, or -1 when that cannot be known (permission,
 * or a holder outside this pid namespace).
 */
int pidfile_find(const char *path, struct pidfile_holder *holder, struct error *err);

/* Signal that process and no other. Returns 0, or -1 with `err`; ESRCH (it just ended) is not an
 * error. */
int pidfile_signal(const struct pidfile_holder *holder, int sig, struct error *err);

/* Wait for its end, at most `ms` milliseconds. Returns 1 when it is gone, 0 when it is not, -1 on
 * error. */
int pidfile_await_end(const struct pidfile_holder *holder, int64_t ms, struct error *err);

void pidfile_holder_close(struct pidfile_holder *holder);

#endif
