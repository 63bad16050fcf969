#include "os/daemonize.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "os/environment.h"
#include "os/fds.h"

/* Rule 8, its timers: an alarm that the launcher armed would end the launching command as well. */
static void reset_timers(void)
{
	struct itimerval never = {{0, 0}, {0, 0}};

	alarm(0);
	setitimer(ITIMER_REAL, &never, NULL);
	setitimer(ITIMER_VIRTUAL, &never, NULL);
	setitimer(ITIMER_PROF, &never, NULL);
}

/* The launcher's half: wait for the report, which says more than any exit code could. */
static void await_report(int fd, pid_t child, struct error *outcome)
{
	ssize_t n = io_read_all(fd, outcome, sizeof(*outcome));

	if (n != (ssize_t)sizeof(*outcome))
		error_set(outcome, EXIT_FAILED,
			  "the daemon ended before it was ready; its log may say why");
	outcome->text[sizeof(outcome->text) - 1] = '\0';
	/* The session leader between us: when it is gone, init is the daemon's parent. */
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

enum daemonize_role daemonize(int *report_fd, struct error *outcome)
{
	sigset_t all, before;
	int pipe_fds[2];
	pid_t pid;

	reset_timers();
	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		error_errno(outcome, "cannot make a pipe");
		return DAEMONIZE_FAILED;
	}
	/* Until the daemon has its own handlers, no signal may end it half way: they wait. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);

	/* Rule 1. The shell gets its prompt back, and the child is no process group leader: setsid
	 * works. */
	pid = fork();
	if (pid != 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		close(pipe_fds[1]);
		if (pid < 0)
			error_errno(outcome, "cannot fork");
		else
			await_report(pipe_fds[0], pid, outcome);
		close(pipe_fds[0]);
		return pid < 0 ? DAEMONIZE_FAILED : DAEMONIZE_LAUNCHER;
	}
	close(pipe_fds[0]);
	*report_fd = pipe_fds[1];

	/* Rule 2. A new session and process group, without a terminal and its signals. */
	setsid(); /* fails only for a group leader, which a fresh child is not */

	/* Rule 3. Not a session leader: no terminal that is opened later becomes the controlling
	 * one. */
	pid = fork();
	if (pid < 0) {
		error_errno(outcome, "cannot fork");
		daemon_report(report_fd, outcome);
		_exit(EXIT_FAILED);
	}
	if (pid > 0)
		_exit(EXIT_DONE);
	return DAEMONIZE_DAEMON;
}

void daemon_report(int *report_fd, const struct error *outcome)
{
	if (*report_fd < 0)
		return;
	/* A launcher that was killed meanwhile leaves nobody to tell; SIGPIPE is ignored or
	 * blocked. */
	if (io_write_all(*report_fd, outcome, sizeof(*outcome)) < 0)
		log_warning("the launching command is gone: %s", strerror(errno));
	close(*report_fd);
	*report_fd = -1;
}

static void reset_signals(void)
{
	struct sigaction by_default = {.sa_handler = SIG_DFL};
	sigset_t all;

	/* Rule 8. The launcher may have ignored (nohup), blocked or armed (alarm) anything. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (int sig = 1; sig <= SIGRTMAX; sig++)
		sigaction(sig, &by_default,
			  NULL); /* EINVAL for SIGKILL, SIGSTOP and the C library's own */
	reset_timers();
}

int daemon_reset(const struct daemon_reset_options *options, struct error *err)
{
	int *keep = NULL;

	reset_signals();

	/* Rule 4. The modes that are asked for are the modes that files get. */
	umask(0);

	/* Rule 5. Keep no file system busy. */
	if (chdir("/") < 0)
		return error_errno(err, "cannot change the directory to /");

	/* Rule 6. Inherited descriptors would keep files, terminals and rights alive. */
	if (options->keep_count > 0) {
		keep = malloc(options->keep_count * sizeof(*keep));
		if (keep == NULL)
			return error_errno(err, "cannot list descriptors");
		memcpy(keep, options->keep_fds, options->keep_count * sizeof(*keep));
	}
	fds_close_except(keep, options->keep_count);
	free(keep);

	/* Rule 10. The launcher's environment does not steer the daemon. */
	environment_clean();
	return 0;
}

/* Rule 9. A priority that the launcher had lowered, or raised, does not stay by accident. */
int daemon_set_priority(int nice, struct error *err)
{
	if (setpriority(PRIO_PROCESS, 0, nice) < 0)
		return error_errno(err, "cannot set the priority to %d", nice);
	return 0;
}

void daemon_unblock_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

int daemon_detach(struct error *err)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int result = null < 0 ? -1 : fds_redirect_standard(null);

	/* Rule 7. A library that reads or writes them neither fails nor hits a socket. */
	if (result < 0)
		error_errno(err, "cannot put 0, 1 and 2 on /dev/null");
	if (null > STDERR_FILENO)
		close(null);
	return result;
}
