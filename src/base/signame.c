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

#define TABLE_ROWS (sizeof(table) / sizeof(table[0]))

const char *signame(int sig)
{
	for (size_t i = 0; i < TABLE_ROWS; i++)
		if (table[i].sig == sig)
			return table[i].name;
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
	return -1;
}
