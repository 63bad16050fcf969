/*
 * The places that a log can go to: the system's logger, stderr, a file. None of them ever blocks
 * the daemon: what cannot be written at once is dropped and counted, and the count is logged when
 * the target takes lines again. syslog(3) is not used: it blocks when the logger has stopped.
 */
#ifndef ECHOD_BASE_LOGTARGET_H
#define ECHOD_BASE_LOGTARGET_H

#include <stdint.h>

#include "base/error.h"

struct log_settings {
	const char *target; /* "syslog", "stderr" or "file:PATH" */
	const char
		*facility; /* for syslog: "daemon", "user", "local0" … (RFC 5424, section 6.2.1) */
	const char *socket; /* for syslog: the logger's datagram socket, "/dev/log" */
};

/*
 * Open a target and send log lines there; only then is the former one closed. A system logger that
 * does not answer is no error: it is tried again once a second. Fails, the former target unchanged,
 * for a file that cannot be opened.
 */
int logtarget_open(const struct log_settings *settings, struct error *err);

/* Whether such a target could be opened; a file is made if it is not there. Returns 0 or -1. */
int logtarget_check(const struct log_settings *settings, struct error *err);

/* The descriptor in use, so that it is not closed with the inherited ones; -1: none. */
int logtarget_fd(void);

/* After execve: go on writing to this descriptor, as these settings say. */
void logtarget_adopt(int fd, const struct log_settings *settings);

/* Messages dropped since the process image started. */
uint64_t logtarget_dropped(void);

/* Close what is open and send lines nowhere. */
void logtarget_close(void);

/* The number of a facility's name, or -1. */
int logtarget_facility(const char *name);

#endif
