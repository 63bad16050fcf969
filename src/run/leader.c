#include "run/leader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/daemonize.h"
#include "os/fds.h"
#include "run/channel.h"
#include "run/signals.h"

/* ---- The environment ------------------------------------------------------------------------ */

/* Of the supervisor's own: what does not depend on the user. */
static const char *const kept[] = {"PATH", "TZ", "LANG"};

#define KEPT_COUNT (sizeof(kept) / sizeof(kept[0]))

static int set_variable(const char *name, const char *value)
{
	return value == NULL ? 0 : setenv(name, value, 1);
}

/* What login(1) would set. A user that the database does not know has none of it. */
static int set_user_variables(uid_t uid)
{
	const struct passwd *user = getpwuid(uid);

	if (user == NULL)
		return 0;
	if (set_variable("USER", user->pw_name) < 0 || set_variable("LOGNAME", user->pw_name) < 0 ||
	    set_variable("HOME", user->pw_dir) < 0 || set_variable("SHELL", user->pw_shell) < 0)
		return -1;
	return 0;
}

/* Returns 0 or -1 with errno. */
static int set_kept_variables(void)
{
	char *values[KEPT_COUNT] = {NULL};
	int result = 0;

	for (size_t i = 0; i < KEPT_COUNT && result == 0; i++) {
		const char *value = getenv(kept[i]);

		values[i] = value == NULL ? NULL : strdup(value);
		result = value != NULL && values[i] == NULL ? -1 : 0;
	}
	if (result == 0)
		clearenv();
	for (size_t i = 0; i < KEPT_COUNT; i++) {
		if (result == 0)
			result = set_variable(kept[i], values[i]);
		free(values[i]);
	}
	return result;
}

static int set_environment(const struct program_start *start, struct error *err)
{
	char **own = start->service->environment;
	uid_t uid = start->privileges->change ? start->privileges->uid : geteuid();

	if (set_kept_variables() < 0 || set_user_variables(uid) < 0)
		return error_errno(err, "cannot set the environment");
	for (; own != NULL && *own != NULL; own++)
		if (putenv(*own) != 0)
			return error_errno(err, "cannot set the environment");
	return 0;
}

/* ---- Becoming the command ------------------------------------------------------------------- */

/* What only root may do, or what must be done before it is gone. */
static int set_up_as_root(const struct program_start *start, struct error *err)
{
	if (setsid() < 0)
		return error_errno(err, "cannot make a session");
	if (setrlimit(RLIMIT_NOFILE, &start->nofile) < 0)
		return error_errno(err, "cannot set the limit of open files");
	if (start->set_nice && daemon_set_priority(start->nice, err) < 0 && start->nice_written)
		return -1;
	umask((mode_t)start->service->umask);
	return privileges_become(start->privileges, err);
}

/* A keeper that is killed takes the command along. */
static int follow_keeper(pid_t keeper, struct error *err)
{
	/* Not sooner: a change of user undoes it (prctl(2)). */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return error_errno(err, "cannot tie the command to its keeper");
	if (getppid() != keeper)
		return error_set(err, EXIT_FAILED, "the keeper ended");
	return 0;
}

static int set_directory(const struct program_start *start, struct error *err)
{
	const char *directory = start->service->directory;

	if (chdir(directory) < 0)
		return error_errno(err, "cannot change the directory to %s as the user %s",
				   directory, start->privileges->user);
	return 0;
}

/* Said before "go", so that a wrong path is an error of the start. */
static int check_command(const struct program_start *start, struct error *err)
{
	const char *path = start->service->command[0];
	struct stat st;

	if (stat(path, &st) < 0)
		return error_errno(err, "cannot execute %s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EXIT_FAILED, "cannot execute %s: it is no regular file",
				 path);
	if (faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0)
		return error_errno(err, "cannot execute %s as the user %s", path,
				   start->privileges->user);
	return 0;
}

/* 0 to 2 and `channel` stay, the latter up to the execve. */
static int set_descriptors(int output, int channel, struct error *err)
{
	if (dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0)
		return error_errno(err, "cannot set stdout and stderr");
	fds_close_except(&channel, 1);
	return 0;
}

static int prepare(const struct program_start *start, pid_t keeper, int output, int channel,
		   struct error *err)
{
	/* Descriptors last: what looks up users may have opened some. */
	if (set_environment(start, err) < 0 || set_up_as_root(start, err) < 0 ||
	    follow_keeper(keeper, err) < 0 || set_directory(start, err) < 0 ||
	    check_command(start, err) < 0)
		return -1;
	return set_descriptors(output, channel, err);
}

/* Returns only when "go" was said: without a keeper there is nobody to execute for. */
static void await_go(int channel)
{
	struct pollfd readable = {.fd = channel, .events = POLLIN};
	struct channel_message message;
	int result;

	while ((result = channel_receive(channel, &message)) == 0)
		poll(&readable, 1, -1);
	if (result < 0 || message.type != CHANNEL_GO)
		_exit(EXIT_FAILED);
}

static void execute(char **command, struct error *err)
{
	/*
	 * The handlers are the keeper's until they are reset; what came meanwhile is still blocked
	 * and has its default effect once the mask is empty.
	 */
	signals_default();
	execve(command[0], command, environ);
	if (errno == ENOENT && access(command[0], F_OK) == 0)
		error_set(err, EXIT_FAILED, "cannot execute %s: its interpreter is missing",
			  command[0]);
	else
		error_errno(err, "cannot execute %s", command[0]);
}

_Noreturn static void leader_main(const struct program_start *start, pid_t keeper, int output,
				  int channel)
{
	struct error err = {0};

	if (prepare(start, keeper, output, channel, &err) == 0) {
		channel_send(channel, CHANNEL_READY, 0, NULL, 0);
		await_go(channel);
		execute(start->service->command, &err);
	}
	channel_send(channel, CHANNEL_FAILED, err.code, err.text, strlen(err.text));
	_exit(EXIT_FAILED);
}

int leader_fork(struct leader *leader, const struct program_start *start, int output,
		struct error *err)
{
	pid_t keeper = getpid();
	int ends[2];

	if (channel_pair(ends, err) < 0)
		return -1;
	leader->pid = fork();
	if (leader->pid == 0)
		leader_main(start, keeper, output, ends[1]);
	close(ends[1]);
	if (leader->pid > 0) {
		leader->channel = ends[0];
		return 0;
	}
	error_errno(err, "cannot fork the process of the command");
	close(ends[0]);
	return -1;
}
