/*
 * What the daemon says. One line a message, to wherever log_set_output points; errno is preserved
 * by every function here, so that a caller may log first and look at errno afterwards.
 */
#ifndef ECHOD_BASE_LOG_H
#define ECHOD_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

/* The severities of RFC 5424, section 6.2.1, that echod uses. */
enum log_level {
	LOG_LEVEL_CRITICAL = 2,
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

#define LOG_LINE_MAX 1024 /* longer messages are cut */

/* Where lines go. Both functions must never block. */
struct log_output {
	void (*write)(enum log_level level, const char *line, size_t len);
	/* The same from a signal handler: only async-signal-safe calls (signal-safety(7)). */
	void (*write_in_signal)(enum log_level level, const char *line, size_t len);
};

/* Send messages there from now on; NULL: drop them. The struct must outlive its use. */
void log_set_output(const struct log_output *output);

/* Drop messages less severe than `level`. */
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);

/*
 * As long as this is on, notices and worse also go to stderr as "echod: message" (before "ready").
 */
void log_copy_to_stderr(bool on);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A message that must not reach stderr a second time: the launching command prints it itself. */
void log_write_quietly(enum log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* From a signal handler; `line` is complete. */
void log_write_in_signal(enum log_level level, const char *line, size_t len);

/* "error", "warning", …; and back: -1 for an unknown name. */
const char *log_level_name(enum log_level level);
int log_level_parse(const char *name);

/* Off levels cost a compare: arguments are not even evaluated. */
#define log_at(level, ...) (log_enabled(level) ? log_write(level, __VA_ARGS__) : (void)0)
#define log_error(...)	   log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...)   log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)	   log_at(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)	   log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	   log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
