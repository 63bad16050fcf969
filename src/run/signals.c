#include "run/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/signame.h"
#include "os/daemonize.h"

enum class { HANDLED, IGNORED, FATAL };

struct row {
	int sig;
	enum class supervisor;
	enum class worker;
};

/* SIGKILL, SIGSTOP and SIGCONT are the kernel's; the real-time signals are ignored as one. */
static const struct row table[] = {
	{SIGHUP, HANDLED, IGNORED},   {SIGUSR1, HANDLED, IGNORED}, {SIGTERM, HANDLED, IGNORED},
	{SIGINT, HANDLED, IGNORED},   {SIGCHLD, HANDLED, IGNORED}, {SIGPIPE, IGNORED, IGNORED},
	{SIGUSR2, IGNORED, IGNORED},  {SIGALRM, IGNORED, IGNORED}, {SIGVTALRM, IGNORED, IGNORED},
	{SIGPROF, IGNORED, IGNORED},  {SIGIO, IGNORED, IGNORED},   {SIGURG, IGNORED, IGNORED},
	{SIGTSTP, IGNORED, IGNORED},  {SIGTTIN, IGNORED, IGNORED}, {SIGTTOU, IGNORED, IGNORED},
	{SIGWINCH, IGNORED, IGNORED}, {SIGXFSZ, IGNORED, IGNORED}, {SIGQUIT, FATAL, FATAL},
	{SIGILL, FATAL, FATAL},	      {SIGTRAP, FATAL, FATAL},	   {SIGABRT, FATAL, FATAL},
	{SIGBUS, FATAL, FATAL},	      {SIGFPE, FATAL, FATAL},	   {SIGSEGV, FATAL, FATAL},
	{SIGSYS, FATAL, FATAL},	      {SIGXCPU, FATAL, FATAL},	   {SIGPWR, FATAL, FATAL},
	{SIGSTKFLT, FATAL, FATAL},
};

#define TABLE_ROWS  (sizeof(table) / sizeof(table[0]))
#define SIGNALS_MAX 65

static volatile sig_atomic_t came[SIGNALS_MAX];
static int wakeup[2] = {-1, -1};

/* What the fatal handler needs, ready before anything goes wrong. */
static const struct pidfile *fatal_pidfile;
static const char *fatal_name = "supervisor";
static _Alignas(16) unsigned char fatal_stack[64 * 1024];

/* Rule 17. A flag, and a byte for the loop: a flag alone would be seen at the next event only. */
static void on_handled(int sig)
{
	int saved = errno;
	ssize_t n;

	came[sig] = 1;
	n = write(wakeup[1], "", 1);
	(void)n; /* a full pipe wakes the loop just as well */
	errno = saved;
}

/* strcat that is async-signal-safe; `cap` is never reached by the texts below. */
static size_t append(char *line, size_t cap, size_t used, const char *text)
{
	while (*text != '\0' && used < cap)
		line[used++] = *text++;
	return used;
}

/*
 * Rule 18. The black box: only async-signal-safe calls (signal-safety(7)), on a stack of its own,
 * because the normal one may be what broke.
 */
static void on_fatal(int sig)
{
	char line[160];
	size_t used = append(line, sizeof(line), 0, "fatal signal ");
	sigset_t only;

	used = append(line, sizeof(line), used, signame(sig));
	used = append(line, sizeof(line), used, " in ");
	used = append(line, sizeof(line), used, fatal_name);
	log_write_in_signal(LOG_LEVEL_CRITICAL, line, used);
	if (fatal_pidfile != NULL)
		pidfile_unlink_in_signal(fatal_pidfile);
	/* SA_RESETHAND made the default action stand again: die by the same signal, with its true
	 * status. */
	sigemptyset(&only);
	sigaddset(&only, sig);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	raise(sig);
	_exit(128 + sig); /* process 1 survives the raise */
}

static void set(int sig, enum class class)
{
	struct sigaction action = {.sa_flags = SA_RESTART};

	sigfillset(&action.sa_mask);
	switch (class) {
	case HANDLED:
		action.sa_handler = on_handled;
		if (sig == SIGCHLD)
			action.sa_flags |= SA_NOCLDSTOP;
		break;
	case IGNORED:
		action.sa_handler = SIG_IGN;
		break;
	case FATAL:
		action.sa_handler = on_fatal;
		action.sa_flags = SA_RESETHAND | SA_ONSTACK;
		break;
	}
	sigaction(sig, &action, NULL); /* cannot fail for the signals of the table */
}

static void set_real_time(void)
{
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		set(sig, IGNORED);
}

static int make_wakeup(struct error *err)
{
	if (pipe2(wakeup, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_errno(err, "cannot make the wake-up pipe");
	return 0;
}

int signals_supervisor(struct error *err)
{
	stack_t stack = {.ss_sp = fatal_stack, .ss_size = sizeof(fatal_stack)};

	if (make_wakeup(err) < 0)
		return -1;
	if (sigaltstack(&stack, NULL) < 0)
		return error_errno(err, "cannot set the stack of the fatal signals");
	for (size_t i = 0; i < TABLE_ROWS; i++)
		set(table[i].sig, table[i].supervisor);
	set_real_time();
	return wakeup[0];
}

void signals_worker(const char *name)
{
	fatal_name = name;
	fatal_pidfile = NULL;
	/* The pipe is the supervisor's: a worker that wrote into it would wake its parent. */
	wakeup[0] = wakeup[1] = -1;
	for (size_t i = 0; i < TABLE_ROWS; i++)
		set(table[i].sig, table[i].worker);
}

bool signals_worker_ignores(int sig)
{
	for (size_t i = 0; i < TABLE_ROWS; i++)
		if (table[i].sig == sig)
			return table[i].worker == IGNORED;
	return sig >= SIGRTMIN;
}

int signals_keeper(const char *name, struct error *err)
{
	signals_worker(name);
	if (make_wakeup(err) < 0)
		return -1;
	for (int sig = 0; sig < SIGNALS_MAX; sig++)
		came[sig] = 0; /* that was the supervisor's */
	/* The one difference to a worker: a keeper has children, and waits for them. */
	set(SIGCHLD, HANDLED);
	return wakeup[0];
}

void signals_set_pidfile(const struct pidfile *pidfile)
{
	fatal_pidfile = pidfile;
}

void signals_clear_wakeup(void)
{
	char bytes[64];

	while (read(wakeup[0], bytes, sizeof(bytes)) > 0)
		;
}

bool signals_take(int sig)
{
	/* Cleared only when it was seen: a signal that comes in between must not be wiped out. */
	if (!came[sig])
		return false;
	came[sig] = 0;
	return true;
}

bool signals_waiting(int sig)
{
	sigset_t pending;

	return came[sig] || (sigpending(&pending) == 0 && sigismember(&pending, sig) == 1);
}

void signals_block(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

void signals_unblock(void)
{
	daemon_unblock_signals();
}

/*
 * The C library keeps the signals below SIGRTMIN from sigaction(3), but a launcher can have ignored
 * them (make(1) does), and execve hands that on: they take the bare system call, whose struct is
 * all zeroes for the default action on every machine.
 */
static void set_default(int sig)
{
	struct sigaction by_default = {.sa_handler = SIG_DFL};
	unsigned long bare[32] = {0};

	if (sigaction(sig, &by_default, NULL) < 0)
		syscall(SYS_rt_sigaction, sig, bare, NULL, (_NSIG - 1) / 8);
}

void signals_default(void)
{
	for (int sig = 1; sig <= SIGRTMAX; sig++)
		set_default(sig);
	daemon_unblock_signals();
}
