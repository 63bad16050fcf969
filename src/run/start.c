/* The start of a supervisor: what a process must do before it can serve, in this order. */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "os/daemonize.h"
#include "os/fds.h"
#include "run/control.h"
#include "run/signals.h"
#include "run/stoplist.h"
#include "run/supervisor.h"

/* Workers of a supervisor that died give their port back within moments. */
#define PORT_RETRY_MS 2000

bool launch_sets_nice(const struct launch *launch, const struct conf *conf)
{
	return conf->nice_set || (geteuid() == 0 && !launch->foreground);
}

void supervisor_set_up(struct supervisor *supervisor, const struct launch *launch)
{
	*supervisor = (struct supervisor){
		.launch = launch,
		.pidfile = PIDFILE_NONE,
		.null = -1,
		.report_fd = -1,
		.since = time(NULL),
		.restart = {.trial_output = -1},
	};
	TAILQ_INIT(&supervisor->children);
	TAILQ_INIT(&supervisor->sockets);
}

/* The process: what was inherited is undone before the first handler stands. */
int supervisor_become(const int *keep, size_t keep_count, struct error *err)
{
	struct daemon_reset_options reset = {.keep_fds = keep, .keep_count = keep_count};
	int wakeup;

	if (daemon_reset(&reset, err) < 0)
		return -1;
	/* What a keeper leaves behind when it is killed comes to us. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return error_errno(err, "cannot become the reaper of orphans");
	wakeup = signals_supervisor(err);
	if (wakeup >= 0)
		daemon_unblock_signals();
	fds_raise_limit();
	return wakeup;
}

static void remember_terminal(struct supervisor *supervisor)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	supervisor->had_terminal = fd >= 0;
	if (fd >= 0)
		close(fd);
}

/* Workers get it as 0 to 2, in the foreground too: they need no terminal, and must not have one. */
int supervisor_open_null(struct supervisor *supervisor, struct error *err)
{
	supervisor->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	return supervisor->null < 0 ? error_errno(err, "cannot open /dev/null") : 0;
}

/* What nobody asked for in writing must not keep the daemon from starting. */
static int set_priority(const struct launch *launch, const struct conf *conf, struct error *err)
{
	if (!launch_sets_nice(launch, conf) || daemon_set_priority((int)conf->nice, err) == 0)
		return 0;
	if (conf->nice_set)
		return -1;
	log_warning("%s", err->text);
	return 0;
}

/* Rule 11. Until "ready" the launcher's stderr gets what the log gets; in the foreground they may
 * be one. */
static int open_first_log(const struct launch *launch, const struct conf *conf, struct error *err)
{
	log_copy_to_stderr(strcmp(conf->log.target, "stderr") != 0);
	return supervisor_open_log(launch, conf, err);
}

/* What a service manager has passed stays, and the pipe to the launching command. */
static int become(struct supervisor *supervisor, struct error *err)
{
	const struct passed *passed = &supervisor->launch->passed;
	int *keep = calloc(passed->count + 1, sizeof(*keep)), wakeup;

	if (keep == NULL)
		return error_errno(err, "cannot list descriptors");
	keep[0] = supervisor->report_fd;
	for (size_t i = 0; i < passed->count; i++)
		keep[i + 1] = passed->sockets[i].fd;
	wakeup = supervisor_become(keep, passed->count + 1, err);
	free(keep);
	return wakeup;
}

static int take_passed(struct supervisor *supervisor, struct error *err)
{
	const struct passed *passed = &supervisor->launch->passed;

	for (size_t i = 0; i < passed->count; i++)
		if (sockets_take_passed(&supervisor->sockets, passed->sockets[i].fd,
					passed->sockets[i].name, err) < 0)
			return error_prefix(err, "the service manager has passed a socket: ");
	return 0;
}

/* What comes before the first generation: the process, its log, its lock, its loop. */
static int prepare(struct supervisor *supervisor, const struct conf *conf, struct error *err)
{
	int wakeup = become(supervisor, err);

	if (wakeup < 0 || open_first_log(supervisor->launch, conf, err) < 0 ||
	    supervisor_open_null(supervisor, err) < 0 ||
	    pidfile_lock(&supervisor->pidfile, conf->pidfile, err) < 0)
		return -1;
	signals_set_pidfile(&supervisor->pidfile);
	if (set_priority(supervisor->launch, conf, err) < 0)
		return -1;
	remember_terminal(supervisor);
	return supervisor_make_loop(supervisor, wakeup, err);
}

static int start(struct supervisor *supervisor, struct conf_source *source, struct conf *conf,
		 struct error *err)
{
	if (prepare(supervisor, conf, err) < 0) {
		conf_source_free(source);
		conf_free(conf);
		return -1;
	}
	supervisor->next = generation_new(supervisor, 1, source, conf, err);
	if (supervisor->next == NULL || take_passed(supervisor, err) < 0 ||
	    stoplist_load(conf->pidfile, supervisor->next, err) < 0 ||
	    generation_prepare(supervisor->next, PORT_RETRY_MS, err) < 0)
		return -1;
	supervisor->control = control_open(supervisor, conf->control, err);
	if (supervisor->control == NULL)
		return -1;
	return supervisor_start_workers(supervisor, err);
}

int supervisor_run(const struct launch *launch, struct conf_source *source, struct conf *conf,
		   int report_fd)
{
	struct supervisor supervisor;
	struct error err = {0};

	supervisor_set_up(&supervisor, launch);
	supervisor.report_fd = report_fd;
	/* Before it is raised for the workers: programs get what the launcher had. */
	getrlimit(RLIMIT_NOFILE, &supervisor.nofile);
	if (start(&supervisor, source, conf, &err) < 0)
		supervisor_start_failed(&supervisor, &err);
	else
		supervisor_loop(&supervisor);
	return supervisor_tear_down(&supervisor);
}
