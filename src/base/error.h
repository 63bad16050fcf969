/*
 * An error on its way to the user: what happened, and the exit code that says so to a script.
 *
 * A function that can fail takes a `struct error *`, fills it with one clear sentence (what, where,
 * why, what to do) and returns -1 or NULL. Callers may put context in front. It is reported once,
 * by the caller who knows what the user was trying to do.
 */
#ifndef ECHOD_BASE_ERROR_H
#define ECHOD_BASE_ERROR_H

#define ERROR_TEXT_MAX 1024

/* Exit codes of the command, after LSB 5.0 "Init Script Actions". */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,      /* failed; also: already running */
	EXIT_USAGE = 2,	      /* wrong usage */
	EXIT_PERMISSION = 4,  /* not permitted */
	EXIT_CONFIG = 6,      /* the configuration is wrong */
	EXIT_NOT_RUNNING = 7, /* echod is not running */
};

/* `echod status` answers with codes of its own (LSB 5.0, action "status"). */
enum status_code {
	STATUS_RUNS = 0,
	STATUS_DEAD_PIDFILE = 1,
	STATUS_STOPPED = 3,
	STATUS_UNKNOWN = 4,
};

struct error {
	int code;		   /* enum exit_code; 0 only before anything failed */
	char text[ERROR_TEXT_MAX]; /* one line, no newline at its end */
};

/* Set code and text. Returns -1, so that `return error_set(...)` reads well. */
int error_set(struct error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * The same with ": " and strerror(errno) behind it; the code is EXIT_PERMISSION for EACCES and
 * EPERM, else EXIT_FAILED. Returns -1; errno is preserved.
 */
int error_errno(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Put context in front of the text, the code unchanged. Returns -1. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
