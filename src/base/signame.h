/* Names of signals (signal(7)). */
#ifndef ECHOD_BASE_SIGNAME_H
#define ECHOD_BASE_SIGNAME_H

/* "SIGTERM"; "SIG?" for a number without a name. The text is constant. Async-signal-safe. */
const char *signame(int sig);

/*
 * "SIGTERM", "TERM", "sigterm", "15". Returns the number, or -1 when it is none of this machine's
 * signals.
 */
int signame_parse(const char *text);

#endif
