#include "run/family.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "os/procs.h"

/* Strays that are reaped in one go. */
#define REAPED_A_TURN 256

int family_start(struct family *family, struct error *err)
{
	struct procs procs;

	*family = (struct family){.leader = 0};
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return error_errno(err, "cannot become the reaper of the command's processes");
	/* Better no program than one whose processes cannot be found when it shall end. */
	if (procs_scan(&procs, err) < 0)
		return error_prefix(err, "cannot watch the command's processes: ");
	procs_free(&procs);
	return 0;
}

void family_set_leader(struct family *family, pid_t leader)
{
	family->leader = leader;
	family->group = leader;
}

/* All descendants are marked. Returns 0, or -1 after a word to the log. */
static int look(struct family *family, struct procs *procs)
{
	struct error err = {0};

	if (procs_scan(procs, &err) < 0) {
		if (!family->blind)
			log_warning("cannot see the program's processes: %s", err.text);
		family->blind = true;
		return -1;
	}
	family->blind = false;
	procs_mark_descendants(procs, getpid());
	return 0;
}

/* ---- Reaping -------------------------------------------------------------------------------- */

/* The number of a child that can be reaped, and is not; 0: there is none. */
static pid_t peek(idtype_t type, pid_t pid)
{
	siginfo_t info = {0};

	if (waitid(type, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
		return 0;
	return info.si_pid;
}

bool family_reap_strays(struct family *family)
{
	if (family->leader_ended)
		return false;
	for (int i = 0; i < REAPED_A_TURN; i++) {
		pid_t pid;

		family->leader_ended = peek(P_PID, family->leader) != 0;
		if (family->leader_ended)
			return false;
		pid = peek(P_ALL, 0);
		if (pid == 0)
			return false;
		/* The leader may have ended between the two looks. */
		if (pid != family->leader)
			waitpid(pid, NULL, WNOHANG);
	}
	return true;
}

static void reap_leader(struct family *family)
{
	if (family->leader == 0 || waitpid(family->leader, &family->status, WNOHANG) <= 0)
		return;
	family->leader = family->group = 0;
	family->leader_ended = true;
}

bool family_reap_all(struct family *family)
{
	struct procs procs;
	pid_t pid;

	/* By number: of several zombies the kernel would name the leader, the oldest, first. */
	if (look(family, &procs) == 0) {
		for (size_t i = 0; i < procs.count; i++)
			if (procs.list[i].parent == getpid() && procs.list[i].pid != family->leader)
				waitpid(procs.list[i].pid, NULL, WNOHANG);
		procs_free(&procs);
	}
	reap_leader(family);
	/* The kernel knows what a scan may have missed: who has no child has no family. */
	do
		pid = waitpid(-1, NULL, WNOHANG);
	while (pid > 0);
	return pid < 0 && errno == ECHILD;
}

/* ---- Signals -------------------------------------------------------------------------------- */

void family_signal_group(struct family *family, int sig)
{
	if (family->group <= 1)
		return;
	/* A leader that has not made its session yet has no group: nobody to signal. */
	if (kill(-family->group, sig) < 0 && errno != ESRCH)
		log_warning("cannot signal the program: %s", strerror(errno));
	kill(-family->group, SIGCONT);
}

void family_signal_strays(struct family *family, int sig)
{
	struct procs procs;

	if (look(family, &procs) < 0)
		return;
	for (size_t i = 0; i < procs.count; i++) {
		const struct proc *proc = &procs.list[i];

		if (!proc->below || !proc->alive || proc->group == family->group)
			continue;
		/* One that may not be signalled is named when it does not end. */
		procs_signal(proc, sig);
		procs_signal(proc, SIGCONT);
	}
	procs_free(&procs);
}

int family_alive(struct family *family)
{
	struct procs procs;
	int alive = 0;

	if (look(family, &procs) < 0)
		return -1;
	for (size_t i = 0; i < procs.count; i++)
		alive += procs.list[i].below && procs.list[i].alive;
	procs_free(&procs);
	return alive;
}

int family_kill(struct family *family)
{
	struct procs procs;
	int alive = 0;

	/* The group at one blow, also when /proc cannot be read: a fork in it finds no gap. */
	if (family->group > 1)
		kill(-family->group, SIGKILL);
	if (look(family, &procs) < 0)
		return -1;
	for (size_t i = 0; i < procs.count; i++) {
		if (!procs.list[i].below || !procs.list[i].alive)
			continue;
		alive++;
		procs_signal(&procs.list[i], SIGKILL);
	}
	procs_free(&procs);
	return alive;
}

void family_list(struct family *family, char *out, size_t cap)
{
	static const char others[] = ", and others";
	struct procs procs;
	size_t used = 0;

	out[0] = '\0';
	if (look(family, &procs) < 0)
		return;
	for (size_t i = 0; i < procs.count; i++) {
		if (!procs.list[i].below || !procs.list[i].alive)
			continue;
		if (used + sizeof(others) + 16 > cap) {
			snprintf(out + used, cap - used, "%s", others);
			break;
		}
		used += (size_t)snprintf(out + used, cap - used, "%s%d", used > 0 ? ", " : "",
					 (int)procs.list[i].pid);
	}
	procs_free(&procs);
}
