#include "base/logtarget.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define LINE_MAX_WITH_PREFIX (LOG_LINE_MAX + 128)

/* One target at a time is open: the process has one log. */
static struct {
	int fd;
	int facility;
	bool priority_prefix; /* stderr read by journald: "<N>" in front (sd-daemon(3)) */
	struct sockaddr_un logger;
	int64_t next_try_ms; /* when a lost logger is tried again */
	bool torn;	     /* the last line could not be written whole */
	uint64_t dropped;
	uint64_t dropped_untold;
} target = {.fd = -1};

static const struct {
	const char *name;
	int number;
} facilities[] = {
	{"kern", 0},	  {"user", 1},	  {"mail", 2},	  {"daemon", 3},  {"auth", 4},
	{"syslog", 5},	  {"lpr", 6},	  {"news", 7},	  {"uucp", 8},	  {"cron", 9},
	{"authpriv", 10}, {"ftp", 11},	  {"local0", 16}, {"local1", 17}, {"local2", 18},
	{"local3", 19},	  {"local4", 20}, {"local5", 21}, {"local6", 22}, {"local7", 23},
};

int logtarget_facility(const char *name)
{
	for (size_t i = 0; i < sizeof(facilities) / sizeof(facilities[0]); i++)
		if (strcmp(facilities[i].name, name) == 0)
			return facilities[i].number;
	return -1;
}

int logtarget_fd(void)
{
	return target.fd;
}

uint64_t logtarget_dropped(void)
{
	return target.dropped;
}

static void drop(void)
{
	target.dropped++;
	target.dropped_untold++;
}

/* ---- syslog: RFC 3164 datagrams to the local logger ---------------------------------------- */

static void logger_connect(void)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	target.next_try_ms = clock_ms() + 1000;
	if (fd < 0)
		return;
	if (connect(fd, (struct sockaddr *)&target.logger, sizeof(target.logger)) < 0) {
		close(fd);
		return;
	}
	target.fd = fd;
}

static bool logger_send(const char *line, size_t len)
{
	if (target.fd < 0 && clock_ms() >= target.next_try_ms)
		logger_connect();
	if (target.fd < 0)
		return false;
	if (send(target.fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
		return false; /* the logger is slow or has stopped: it keeps its socket */
	/* The logger was restarted: its socket is a new one under the same name. */
	close(target.fd);
	target.fd = -1;
	if (clock_ms() >= target.next_try_ms)
		logger_connect();
	return target.fd >= 0 && send(target.fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static bool syslog_line(enum log_level level, const char *text)
{
	char line[LINE_MAX_WITH_PREFIX], when[32];
	time_t now = time(NULL);
	struct tm tm;
	int len;

	localtime_r(&now, &tm);
	strftime(when, sizeof(when), "%b %e %H:%M:%S", &tm);
	len = snprintf(line, sizeof(line), "<%d>%s echod[%d]: %s", target.facility * 8 + (int)level,
		       when, (int)getpid(), text);
	return logger_send(line, (size_t)len);
}

/* "N messages were dropped" goes before the first line that gets through again. */
static void tell_dropped(bool (*send_line)(enum log_level, const char *))
{
	char text[64];

	if (target.dropped_untold == 0)
		return;
	snprintf(text, sizeof(text), "%" PRIu64 " log messages were dropped",
		 target.dropped_untold);
	if (send_line(LOG_LEVEL_WARNING, text))
		target.dropped_untold = 0;
}

static void syslog_write(enum log_level level, const char *text, size_t len)
{
	(void)len;
	tell_dropped(syslog_line);
	if (!syslog_line(level, text))
		drop();
}

/*
 * "<P>echod[123]: " without the time, which async-signal-safe code cannot format; loggers add it.
 */
static size_t signal_line(char *line, size_t cap, bool with_priority, enum log_level level,
			  const char *text, size_t len)
{
	char digits[12];
	size_t used = 0, n = 0;
	int priority = target.facility * 8 + (int)level;
	unsigned pid = (unsigned)getpid();

	if (with_priority) {
		line[used++] = '<';
		if (priority >= 100)
			line[used++] = (char)('0' + priority / 100);
		if (priority >= 10)
			line[used++] = (char)('0' + priority / 10 % 10);
		line[used++] = (char)('0' + priority % 10);
		line[used++] = '>';
	}
	memcpy(line + used, "echod[", 6);
	used += 6;
	do
		digits[n++] = (char)('0' + pid % 10);
	while ((pid /= 10) != 0);
	while (n > 0)
		line[used++] = digits[--n];
	memcpy(line + used, "]: ", 3);
	used += 3;
	if (len > cap - used - 1)
		len = cap - used - 1;
	memcpy(line + used, text, len);
	return used + len;
}

static void syslog_write_in_signal(enum log_level level, const char *text, size_t len)
{
	char line[LINE_MAX_WITH_PREFIX];
	size_t n = signal_line(line, sizeof(line), true, level, text, len);

	if (target.fd < 0 || send(target.fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		drop();
}

static const struct log_output syslog_output = {syslog_write, syslog_write_in_signal};

/* ---- stderr and files ----------------------------------------------------------------------- */

/*
 * stderr may be a pipe or a terminal that nobody reads. It is shared with other processes, so it
 * cannot be made non-blocking; a pipe that polls writable has room for PIPE_BUF bytes (pipe(7)).
 */
static bool descriptor_line(const char *line, size_t len)
{
	struct pollfd writable = {.fd = target.fd, .events = POLLOUT};
	ssize_t n;

	if (target.fd < 0 || poll(&writable, 1, 0) != 1 || !(writable.revents & POLLOUT))
		return false;
	/* A line that a full disk has torn gets its end before the next one begins. */
	if (target.torn && write(target.fd, "\n", 1) != 1)
		return false;
	target.torn = false;
	n = write(target.fd, line, len);
	target.torn = n > 0 && n < (ssize_t)len;
	return n == (ssize_t)len;
}

static bool stderr_line(enum log_level level, const char *text)
{
	char line[LINE_MAX_WITH_PREFIX];
	int len;

	if (target.priority_prefix)
		len = snprintf(line, sizeof(line), "<%d>%s\n", (int)level, text);
	else
		len = snprintf(line, sizeof(line), "echod[%d]: %s\n", (int)getpid(), text);
	return descriptor_line(line, (size_t)len);
}

static void stderr_write(enum log_level level, const char *text, size_t len)
{
	(void)len;
	tell_dropped(stderr_line);
	if (!stderr_line(level, text))
		drop();
}

static void descriptor_write_in_signal(enum log_level level, const char *text, size_t len)
{
	char line[LINE_MAX_WITH_PREFIX];
	size_t n = signal_line(line, sizeof(line), false, level, text, len);

	line[n++] = '\n';
	if (!descriptor_line(line, n))
		drop();
}

static const struct log_output stderr_output = {stderr_write, descriptor_write_in_signal};

/* RFC 3339 time with milliseconds, name, pid, level. */
static bool file_line(enum log_level level, const char *text)
{
	char line[LINE_MAX_WITH_PREFIX], when[32], zone[8];
	struct timespec now;
	struct tm tm;
	int len;

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	strftime(zone, sizeof(zone), "%z", &tm);
	len = snprintf(line, sizeof(line), "%s.%03ld%.3s:%s echod[%d] %s: %s\n", when,
		       now.tv_nsec / 1000000, zone, zone + 3, (int)getpid(), log_level_name(level),
		       text);
	return descriptor_line(line, (size_t)len);
}

static void file_write(enum log_level level, const char *text, size_t len)
{
	(void)len;
	tell_dropped(file_line);
	if (!file_line(level, text))
		drop();
}

static const struct log_output file_output = {file_write, descriptor_write_in_signal};

static int file_open(const char *path, struct error *err)
{
	/* O_NONBLOCK: a FIFO without a reader is refused instead of waited for. */
	int fd =
		open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
	struct stat st;

	if (fd < 0) {
		error_errno(err, "cannot open the log file %s", path);
		return -1;
	}
	if (fstat(fd, &st) < 0 || S_ISDIR(st.st_mode)) {
		close(fd);
		return error_set(err, EXIT_FAILED, "the log file %s is a directory", path);
	}
	return fd;
}

/* journald says which stream it reads: JOURNAL_STREAM=device:inode (systemd.exec(5)). */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

static void target_replace(int fd)
{
	if (target.fd > STDERR_FILENO)
		close(target.fd);
	target.fd = fd;
	target.torn = false;
}

int logtarget_open(const struct log_settings *settings, struct error *err)
{
	int facility = logtarget_facility(settings->facility);

	if (facility < 0)
		return error_set(err, EXIT_CONFIG, "there is no syslog facility '%s'",
				 settings->facility);
	if (strcmp(settings->target, "stderr") == 0) {
		target_replace(STDERR_FILENO);
		target.priority_prefix = stderr_is_journal();
		log_set_output(&stderr_output);
	} else if (strncmp(settings->target, "file:", 5) == 0) {
		int fd = file_open(settings->target + 5, err);

		if (fd < 0)
			return -1;
		target_replace(fd);
		log_set_output(&file_output);
	} else if (strcmp(settings->target, "syslog") == 0) {
		if (strlen(settings->socket) >= sizeof(target.logger.sun_path))
			return error_set(err, EXIT_CONFIG,
					 "the path of the log socket is too long: %s",
					 settings->socket);
		target.logger.sun_family = AF_UNIX;
		snprintf(target.logger.sun_path, sizeof(target.logger.sun_path), "%s",
			 settings->socket);
		target_replace(-1);
		target.facility = facility; /* the warning below has it already */
		logger_connect();
		log_set_output(&syslog_output);
		if (target.fd < 0)
			log_warning(
				"the system logger does not answer at %s: log messages are dropped "
				"until it does",
				settings->socket);
	} else {
		return error_set(err, EXIT_CONFIG,
				 "the log target '%s' is none of syslog, stderr, file:PATH",
				 settings->target);
	}
	target.facility = facility;
	return 0;
}

void logtarget_adopt(int fd, const struct log_settings *settings)
{
	int facility = logtarget_facility(settings->facility);

	target_replace(fd);
	target.facility = facility < 0 ? 3 : facility; /* daemon */
	log_set_output(strncmp(settings->target, "file:", 5) == 0 ? &file_output : &syslog_output);
}

int logtarget_check(const struct log_settings *settings, struct error *err)
{
	int fd;

	if (strncmp(settings->target, "file:", 5) != 0)
		return 0;
	fd = file_open(settings->target + 5, err);
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

void logtarget_close(void)
{
	log_set_output(NULL);
	target_replace(-1);
}
