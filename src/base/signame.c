#include "base/signame.h"

#include <signal.h>
#include <stddef.h>
#include <strings.h>

#include "base/text.h"

struct row {
	int sig;
	const char *name;
};

/* A table of its own: sigabbrev_np(3) is of glibc only. Of two names the first one is shown. */
static const struct row table[] = {
	{SIGHUP, "SIGHUP"},	  {SIGINT, "SIGINT"},	{SIGQUIT, "SIGQUIT"},
	{SIGILL, "SIGILL"},	  {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"},
	{SIGABRT, "SIGIOT"},	  {SIGBUS, "SIGBUS"},	{SIGFPE, "SIGFPE"},
	{SIGKILL, "SIGKILL"},	  {SIGUSR1, "SIGUSR1"}, {SIGSEGV, "SIGSEGV"},
	{SIGUSR2, "SIGUSR2"},	  {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"},
	{SIGTERM, "SIGTERM"},	  {SIGCHLD, "SIGCHLD"}, {SIGCHLD, "SIGCLD"},
	{SIGSTKFLT, "SIGSTKFLT"}, {SIGCONT, "SIGCONT"}, {SIGSTOP, "SIGSTOP"},
	{SIGTSTP, "SIGTSTP"},	  {SIGTTIN, "SIGTTIN"}, {SIGTTOU, "SIGTTOU"},
	{SIGURG, "SIGURG"},	  {SIGXCPU, "SIGXCPU"}, {SIGXFSZ, "SIGXFSZ"},
	{SIGVTALRM, "SIGVTALRM"}, {SIGPROF, "SIGPROF"}, {SIGWINCH, "SIGWINCH"},
	{SIGIO, "SIGIO"},	  {SIGIO, "SIGPOLL"},	{SIGPWR, "SIGPWR"},
	{SIGSYS, "SIGSYS"},
};

/* SIGRTMIN is known only when the program runs (signal(7)). */
static const char *const real_time[] = {
	"SIGRTMIN",    "SIGRTMIN+1",  "SIGRTMIN+2",  "SIGRTMIN+3",  "SIGRTMIN+4",  "SIGRTMIN+5",
	"SIGRTMIN+6",  "SIGRTMIN+7",  "SIGRTMIN+8",  "SIGRTMIN+9",  "SIGRTMIN+10", "SIGRTMIN+11",
	"SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15", "SIGRTMIN+16", "SIGRTMIN+17",
	"SIGRTMIN+18", "SIGRTMIN+19", "SIGRTMIN+20", "SIGRTMIN+21", "SIGRTMIN+22", "SIGRTMIN+23",
	"SIGRTMIN+24", "SIGRTMIN+25", "SIGRTMIN+26", "SIGRTMIN+27", "SIGRTMIN+28", "SIGRTMIN+29",
	"SIGRTMIN+30",
};

#define REAL_TIME_NAMES ((int)(sizeof(real_time) / sizeof(real_time[0])))

#define TABLE_ROWS (sizeof(table) / sizeof(table[0]))

const char *signame(int sig)
{
	for (size_t i = 0; i < TABLE_ROWS; i++)
		if (table[i].sig == sig)
			return table[i].name;
	if (sig >= SIGRTMIN && sig <= SIGRTMAX && sig - SIGRTMIN < REAL_TIME_NAMES)
		return real_time[sig - SIGRTMIN];
	return "SIG?";
}

int signame_parse(const char *text)
{
	int64_t number;

	if (text_parse_int(text, &number) == 0)
		return number >= 1 && number <= SIGRTMAX ? (int)number : -1;
	for (size_t i = 0; i < TABLE_ROWS; i++)
		if (strcasecmp(text, table[i].name) == 0 ||
		    strcasecmp(text, table[i].name + 3) == 0)
			return table[i].sig;
	for (int i = 0; i < REAL_TIME_NAMES && SIGRTMIN + i <= SIGRTMAX; i++)
		if (strcasecmp(text, real_time[i]) == 0 || strcasecmp(text, real_time[i] + 3) == 0)
			return SIGRTMIN + i;
	return -1;
}
