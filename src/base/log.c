#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

static const struct log_output *output;
static enum log_level least_severe = LOG_LEVEL_NOTICE;
static bool copy_to_stderr;

static const char *const level_names[] = {
	[LOG_LEVEL_CRITICAL] = "critical", [LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",   [LOG_LEVEL_NOTICE] = "notice",
	[LOG_LEVEL_INFO] = "info",	   [LOG_LEVEL_DEBUG] = "debug",
};

void log_set_output(const struct log_output *new_output)
{
	output = new_output;
}

void log_set_level(enum log_level level)
{
	least_severe = level;
}

bool log_enabled(enum log_level level)
{
	return level <= least_severe;
}

void log_copy_to_stderr(bool on)
{
	copy_to_stderr = on;
}

__attribute__((format(printf, 3, 0))) static void deliver(enum log_level level, bool to_stderr,
							  const char *format, va_list args)
{
	char text[LOG_LINE_MAX], line[LOG_LINE_MAX];
	int saved = errno;
	size_t len;

	vsnprintf(text, sizeof(text), format, args);
	len = text_escape(line, sizeof(line), text, strlen(text));
	if (output != NULL)
		output->write(level, line, len);
	if (to_stderr && level <= LOG_LEVEL_NOTICE)
		dprintf(STDERR_FILENO, "echod: %s\n", line);
	errno = saved;
}

void log_write(enum log_level level, const char *format, ...)
{
	va_list args;

	if (!log_enabled(level))
		return;
	va_start(args, format);
	deliver(level, copy_to_stderr, format, args);
	va_end(args);
}

void log_write_quietly(enum log_level level, const char *format, ...)
{
	va_list args;

	if (!log_enabled(level))
		return;
	va_start(args, format);
	deliver(level, false, format, args);
	va_end(args);
}

void log_write_in_signal(enum log_level level, const char *line, size_t len)
{
	int saved = errno;

	if (output != NULL)
		output->write_in_signal(level, line, len);
	errno = saved;
}

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

int log_level_parse(const char *name)
{
	for (int level = LOG_LEVEL_CRITICAL; level <= LOG_LEVEL_DEBUG; level++)
		if (strcmp(level_names[level], name) == 0)
			return level;
	return -1;
}
