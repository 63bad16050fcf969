#include "run/orphans.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "os/procs.h"
#include "run/supervisor.h"

#define END_MS	 500
#define AWAIT_MS 100 /* longer than SIGKILL needs; everything else stands still meanwhile */
#define PAUSE_MS 5

/* What the shell that became us had started before is in our session, and none of ours. */
static bool is_orphan(struct supervisor *supervisor, const struct proc *proc, pid_t program)
{
	pid_t session = getsid(proc->pid);

	if (proc->parent != getpid() || session < 0 || session == getsid(0) ||
	    child_find(&supervisor->children, proc->pid) != NULL)
		return false;
	return getpid() != 1 || (program > 0 && session == program);
}

/* It, or one that it descends from, is an orphan. */
static bool is_below_orphan(struct supervisor *supervisor, const struct procs *procs,
			    const struct proc *proc, pid_t program)
{
	while (proc != NULL && proc->parent != getpid())
		proc = procs_find(procs, proc->parent);
	return proc != NULL && is_orphan(supervisor, proc, program);
}

static void kill_one(const struct proc *proc)
{
	if (procs_signal(proc, SIGKILL) == 0)
		log_info("process %d is killed: the keeper of its program is gone", (int)proc->pid);
	else if (errno != ESRCH)
		log_warning("process %d, whose keeper is gone, cannot be ended: %s", (int)proc->pid,
			    strerror(errno));
}

unsigned orphans_kill(struct supervisor *supervisor, pid_t program)
{
	struct procs procs;
	struct error err = {0};
	unsigned alive = 0;

	supervisor->has_orphans = true;
	if (procs_scan(&procs, &err) < 0) {
		log_warning("what a killed program left behind cannot be found: %s", err.text);
		return 0;
	}
	procs_mark_descendants(&procs, getpid());
	for (size_t i = 0; i < procs.count; i++) {
		const struct proc *proc = &procs.list[i];

		if (!proc->below || !proc->alive ||
		    !is_below_orphan(supervisor, &procs, proc, program))
			continue;
		kill_one(proc);
		alive++;
	}
	procs_free(&procs);
	return alive;
}

/* Twice nobody, since a scan may miss who gets another parent while it runs. */
static void kill_until_none(struct supervisor *supervisor, pid_t program, int64_t ms, bool reap)
{
	int64_t until = clock_ms() + ms;
	int nobody = 0;

	while (nobody < 2 && clock_ms() < until) {
		nobody = orphans_kill(supervisor, program) == 0 ? nobody + 1 : 0;
		while (reap && waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (nobody == 0)
			poll(NULL, 0, PAUSE_MS);
	}
}

void orphans_await(struct supervisor *supervisor, pid_t program)
{
	kill_until_none(supervisor, program, AWAIT_MS, false);
}

/* There is no loop any more that SIGCHLD would wake. */
void orphans_end(struct supervisor *supervisor)
{
	kill_until_none(supervisor, 0, END_MS, true);
}
