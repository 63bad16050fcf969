/* The places that a log can go to: none of them blocks, none loses a line without a word. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/logtarget.h"

#define LINES_MAX   100000
#define RETRY_LIMIT 10000 /* ms in which a lost logger must be found again */

struct fixture {
	char *directory;
	char socket[SUPPORT_PATH_MAX];
	char file[SUPPORT_PATH_MAX];
	char target[SUPPORT_PATH_MAX + 8]; /* "file:" and the file */
	int logger;			   /* our end; -1: not running */
	uint64_t dropped_before;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (f == NULL || support_make_directory((void **)&f->directory) < 0)
		return -1;
	support_join(f->socket, f->directory, "log");
	support_join(f->file, f->directory, "file");
	snprintf(f->target, sizeof(f->target), "file:%s", f->file);
	f->logger = -1;
	f->dropped_before = logtarget_dropped();
	log_set_level(LOG_LEVEL_INFO);
	*state = f;
	return 0;
}

/* What one test dropped must not be told in the next. */
static int forget_dropped(struct fixture *f)
{
	struct log_settings settings = {f->target, "daemon", ""};
	struct error err = {0};

	unlink(f->file);
	if (logtarget_open(&settings, &err) < 0)
		return -1;
	log_notice("the end");
	logtarget_close();
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int result = forget_dropped(f);

	if (f->logger >= 0)
		close(f->logger);
	result |= support_remove_directory((void **)&f->directory);
	free(f);
	return result;
}

static uint64_t dropped(const struct fixture *f)
{
	return logtarget_dropped() - f->dropped_before;
}

static int open_target(const char *target, const char *facility, const char *socket_path)
{
	struct log_settings settings = {target, facility, socket_path};
	struct error err = {0};
	int result = logtarget_open(&settings, &err);

	assert_int_equal(result < 0, err.text[0] != '\0');
	return result;
}

/* ---- A system logger of our own ------------------------------------------------------------- */

static void logger_start(struct fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	assert_true(strlen(f->socket) < sizeof(address.sun_path));
	strcpy(address.sun_path, f->socket);
	f->logger = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(f->logger >= 0);
	assert_int_equal(bind(f->logger, (struct sockaddr *)&address, sizeof(address)), 0);
}

static void logger_stop(struct fixture *f)
{
	close(f->logger);
	f->logger = -1;
	assert_int_equal(unlink(f->socket), 0);
}

/* One message, NUL-terminated, or "" when none waits. */
static const char *logger_read(const struct fixture *f)
{
	static char message[4096];
	ssize_t len = recv(f->logger, message, sizeof(message) - 1, MSG_DONTWAIT);

	assert_true(len >= 0 || errno == EAGAIN);
	message[len < 0 ? 0 : len] = '\0';
	return message;
}

/* The text behind "<29>Jan  1 00:00:00 echod[pid]: ". */
static void assert_message(const struct fixture *f, int priority, const char *text)
{
	const char *message = logger_read(f);
	int found, day, hour, minute, second, pid, front = -1;
	char month[4];

	sscanf(message, "<%d>%3s %d %d:%d:%d echod[%d]: %n", &found, month, &day, &hour, &minute,
	       &second, &pid, &front);
	if (front < 0)
		fail_msg("no RFC 3164 message: '%s'", message);
	assert_int_equal(found, priority);
	assert_int_equal(pid, getpid());
	assert_string_equal(message + front, text);
}

static void syslog_start(struct fixture *f)
{
	logger_start(f);
	assert_int_equal(open_target("syslog", "daemon", f->socket), 0);
}

/* ---- Syslog --------------------------------------------------------------------------------- */

static void syslog_gets_rfc_3164_messages(void **state)
{
	struct fixture *f = *state;

	syslog_start(f);
	log_notice("one");
	log_error("two");
	assert_message(f, 3 * 8 + 5, "one");
	assert_message(f, 3 * 8 + 3, "two");
	assert_string_equal(logger_read(f), "");
	assert_int_equal(dropped(f), 0);
}

static void the_facility_is_in_the_priority(void **state)
{
	struct fixture *f = *state;

	logger_start(f);
	assert_int_equal(open_target("syslog", "local7", f->socket), 0);
	log_notice("one");
	assert_message(f, 23 * 8 + 5, "one");
}

static void a_message_of_full_length_arrives_whole(void **state)
{
	struct fixture *f = *state;
	char text[LOG_LINE_MAX];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	syslog_start(f);
	log_notice("%s", text);
	assert_message(f, 29, text);
}

static void a_signal_handler_s_message_has_priority_and_pid(void **state)
{
	struct fixture *f = *state;
	char wanted[128];

	logger_start(f);
	assert_int_equal(open_target("syslog", "local0", f->socket), 0);
	log_write_in_signal(LOG_LEVEL_CRITICAL, "killed", 6);
	snprintf(wanted, sizeof(wanted), "<130>echod[%d]: killed", (int)getpid());
	assert_string_equal(logger_read(f), wanted);
}

/* Log until a message is dropped. Returns how many were taken. */
static unsigned fill(const struct fixture *f)
{
	unsigned n = 0;

	while (dropped(f) == 0 && n < LINES_MAX) {
		log_notice("message %u", n);
		n++;
	}
	assert_int_equal(dropped(f), 1);
	return n - 1;
}

static void a_logger_that_does_not_read_blocks_nobody(void **state)
{
	struct fixture *f = *state;
	unsigned taken;

	syslog_start(f);
	/* A call that blocks would end the test by its time limit. */
	taken = fill(f);
	for (int i = 0; i < 41; i++)
		log_notice("too much");
	log_write_in_signal(LOG_LEVEL_CRITICAL, "too much", 8);
	assert_int_equal(dropped(f), 43);
	for (unsigned i = 0; i < taken; i++) {
		char text[32];

		snprintf(text, sizeof(text), "message %u", i);
		assert_message(f, 29, text);
	}
	assert_string_equal(logger_read(f), "");
}

static void dropped_messages_are_said_before_the_next_one_and_once(void **state)
{
	struct fixture *f = *state;

	syslog_start(f);
	fill(f);
	for (int i = 0; i < 6; i++)
		log_notice("too much");
	while (logger_read(f)[0] != '\0')
		;
	log_notice("heard");
	log_notice("heard too");
	assert_message(f, 28, "7 log messages were dropped");
	assert_message(f, 29, "heard");
	assert_message(f, 29, "heard too");
	assert_string_equal(logger_read(f), "");
	assert_int_equal(dropped(f), 7);
}

/* Log until the logger hears something again: the target tries once a second. */
static unsigned log_until_heard(const struct fixture *f)
{
	int64_t limit = clock_ms() + RETRY_LIMIT;
	struct pollfd heard = {.fd = f->logger, .events = POLLIN};
	unsigned n = 0;

	do {
		assert_true(clock_ms() < limit);
		log_notice("are you there?");
		n++;
	} while (poll(&heard, 1, 20) == 0);
	return n;
}

static void a_restarted_logger_is_found_again_and_told_what_it_missed(void **state)
{
	struct fixture *f = *state;
	char text[64];
	unsigned missed;

	syslog_start(f);
	log_notice("before");
	assert_message(f, 29, "before");
	logger_stop(f);
	log_notice("into the void");
	assert_int_equal(dropped(f), 1);
	logger_start(f);
	/* The one into the void, and all but the last of these. */
	missed = log_until_heard(f);
	assert_int_equal(dropped(f), missed);
	snprintf(text, sizeof(text), "%u log messages were dropped", missed);
	assert_message(f, 28, text);
	assert_message(f, 29, "are you there?");
}

static void a_logger_that_is_not_there_is_no_error_and_found_later(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(open_target("syslog", "daemon", f->socket), 0);
	assert_int_equal(logtarget_fd(), -1);
	/* The message about the missing logger is itself the first one. */
	assert_int_equal(dropped(f), 1);
	logger_start(f);
	log_until_heard(f);
	assert_true(logtarget_fd() >= 0);
	assert_contains(logger_read(f), " log messages were dropped");
	assert_message(f, 29, "are you there?");
}

static void the_loggers_descriptor_is_not_inherited_and_does_not_block(void **state)
{
	struct fixture *f = *state;

	syslog_start(f);
	assert_int_equal(fcntl(logtarget_fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(logtarget_fd(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

/* ---- Files ---------------------------------------------------------------------------------- */

static void a_file_gets_rfc_3339_lines(void **state)
{
	struct fixture *f = *state;
	char text[512], level[16], message[16], zone;
	int pid, ms, year;

	assert_int_equal(open_target(f->target, "daemon", ""), 0);
	log_notice("one");
	support_read_file(f->file, text, sizeof(text));
	assert_int_equal(
		sscanf(text, "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%3d%c%*2d:%*2d echod[%d] %15[^:]: %15s",
		       &year, &ms, &zone, &pid, level, message),
		6);
	assert_in_range(year, 2000, 9999);
	assert_true(zone == '+' || zone == '-');
	assert_int_equal(pid, getpid());
	assert_string_equal(level, "notice");
	assert_string_equal(message, "one");
	assert_int_equal(text[strlen(text) - 1], '\n');
}

static void a_file_is_appended_to_and_never_readable_by_all(void **state)
{
	struct fixture *f = *state;
	char text[1024];
	struct stat st;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(open_target(f->target, "daemon", ""), 0);
		log_notice("round %d", i);
		logtarget_close();
	}
	support_read_file(f->file, text, sizeof(text));
	assert_contains(text, "round 0\n");
	assert_contains(text, "round 1\n");
	assert_int_equal(stat(f->file, &st), 0);
	assert_int_equal(st.st_mode & 0137, 0);
}

static void a_signal_handler_s_line_ends_with_a_newline(void **state)
{
	struct fixture *f = *state;
	char text[256], wanted[256];

	assert_int_equal(open_target(f->target, "daemon", ""), 0);
	log_write_in_signal(LOG_LEVEL_CRITICAL, "killed", 6);
	support_read_file(f->file, text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "echod[%d]: killed\n", (int)getpid());
	assert_string_equal(text, wanted);
}

static void a_fifo_that_nobody_reads_blocks_nobody(void **state)
{
	struct fixture *f = *state;
	char piece[8192];
	int reader;

	assert_int_equal(mkfifo(f->file, 0600), 0);
	/* Without any reader it is refused rather than waited for. */
	assert_int_equal(open_target(f->target, "daemon", ""), -1);
	reader = open(f->file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(reader >= 0);
	assert_int_equal(open_target(f->target, "daemon", ""), 0);
	fill(f);
	while (read(reader, piece, sizeof(piece)) > 0)
		;
	log_notice("heard");
	piece[read(reader, piece, sizeof(piece) - 1)] = '\0';
	close(reader);
	assert_contains(piece, "warning: 1 log messages were dropped\n");
	assert_contains(piece, "notice: heard\n");
}

static void a_full_disk_is_counted(void **state)
{
	struct fixture *f = *state;

	if (access("/dev/full", W_OK) < 0)
		skip();
	assert_int_equal(open_target("file:/dev/full", "daemon", ""), 0);
	log_notice("one");
	log_notice("two");
	assert_int_equal(dropped(f), 2);
}

/* ---- Standard error ------------------------------------------------------------------------- */

static int write_to_stderr(void *arg)
{
	struct log_settings settings = {"stderr", "daemon", ""};
	struct error err = {0};
	struct stat st;
	char journal[64];
	bool journald = *(int *)arg < 0;
	int fd = journald ? -*(int *)arg : *(int *)arg;

	CHILD_CHECK(fstat(fd, &st) == 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
	snprintf(journal, sizeof(journal), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino + (journald ? 0 : 1));
	setenv("JOURNAL_STREAM", journal, 1);
	CHILD_CHECK(logtarget_open(&settings, &err) == 0);
	log_warning("one");
	logtarget_close();
	CHILD_CHECK(fcntl(STDERR_FILENO, F_GETFD) >= 0);
	return 0;
}

static void stderr_has_the_priority_in_front_only_when_journald_reads_it(void **state)
{
	char text[256], wanted[256];
	int ends[2], child_end;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	child_end = ends[1];
	pid = support_fork(write_to_stderr, &child_end);
	assert_int_equal(support_wait(pid), 0);
	snprintf(wanted, sizeof(wanted), "echod[%d]: one\n", (int)pid);
	text[read(ends[0], text, sizeof(text) - 1)] = '\0';
	assert_string_equal(text, wanted);
	child_end = -ends[1];
	assert_int_equal(support_in_child(write_to_stderr, &child_end), 0);
	text[read(ends[0], text, sizeof(text) - 1)] = '\0';
	assert_string_equal(text, "<4>one\n");
	close(ends[0]);
	close(ends[1]);
}

/* ---- What cannot be opened ------------------------------------------------------------------ */

static void what_cannot_be_opened_is_said(void **state)
{
	struct fixture *f = *state;
	const struct log_settings wrong[] = {
		{"file:/nonexistent/echod.log", "daemon", ""},
		{"file:/", "daemon", ""},
		{"console", "daemon", ""},
		{"syslog", "nonsense", f->socket},
	};
	const char *const because[] = {
		"cannot open the log file /nonexistent/echod.log: No such file or directory",
		"the log file /",
		"the log target 'console' is none of syslog, stderr, file:PATH",
		"there is no syslog facility 'nonsense'",
	};

	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		struct error err = {0};

		assert_int_equal(logtarget_open(&wrong[i], &err), -1);
		assert_contains(err.text, because[i]);
		assert_int_not_equal(err.code, EXIT_DONE);
	}
}

static void a_log_socket_path_that_does_not_fit_is_said(void **state)
{
	char path[200];
	struct log_settings settings = {"syslog", "daemon", path};
	struct error err = {0};

	(void)state;
	memset(path, 'x', sizeof(path) - 1);
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(logtarget_open(&settings, &err), -1);
	assert_contains(err.text, "too long");
}

static void after_a_failure_the_former_target_goes_on_unchanged(void **state)
{
	struct fixture *f = *state;

	syslog_start(f);
	assert_int_equal(open_target("file:/nonexistent/echod.log", "local7", ""), -1);
	log_notice("still here");
	assert_message(f, 29, "still here");
	assert_int_equal(open_target("console", "local7", ""), -1);
	log_notice("and here");
	assert_message(f, 29, "and here");
}

static void a_new_target_takes_over_and_the_former_one_is_closed(void **state)
{
	struct fixture *f = *state;
	char text[512];
	int former;

	syslog_start(f);
	former = logtarget_fd();
	assert_int_equal(open_target(f->target, "daemon", ""), 0);
	assert_int_not_equal(logtarget_fd(), former);
	assert_int_equal(fcntl(former, F_GETFD), -1);
	log_notice("in the file");
	assert_string_equal(logger_read(f), "");
	support_read_file(f->file, text, sizeof(text));
	assert_contains(text, "in the file");
	logtarget_close();
	assert_int_equal(logtarget_fd(), -1);
	log_notice("nowhere");
}

static void facilities_have_the_numbers_of_rfc_5424(void **state)
{
	(void)state;
	assert_int_equal(logtarget_facility("kern"), 0);
	assert_int_equal(logtarget_facility("daemon"), 3);
	assert_int_equal(logtarget_facility("authpriv"), 10);
	assert_int_equal(logtarget_facility("local0"), 16);
	assert_int_equal(logtarget_facility("local7"), 23);
	assert_int_equal(logtarget_facility("local8"), -1);
	assert_int_equal(logtarget_facility(""), -1);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(syslog_gets_rfc_3164_messages),
		TEST(the_facility_is_in_the_priority),
		TEST(a_message_of_full_length_arrives_whole),
		TEST(a_signal_handler_s_message_has_priority_and_pid),
		TEST(a_logger_that_does_not_read_blocks_nobody),
		TEST(dropped_messages_are_said_before_the_next_one_and_once),
		TEST(a_restarted_logger_is_found_again_and_told_what_it_missed),
		TEST(a_logger_that_is_not_there_is_no_error_and_found_later),
		TEST(the_loggers_descriptor_is_not_inherited_and_does_not_block),
		TEST(a_file_gets_rfc_3339_lines),
		TEST(a_file_is_appended_to_and_never_readable_by_all),
		TEST(a_signal_handler_s_line_ends_with_a_newline),
		TEST(a_fifo_that_nobody_reads_blocks_nobody),
		TEST(a_full_disk_is_counted),
		TEST(stderr_has_the_priority_in_front_only_when_journald_reads_it),
		TEST(what_cannot_be_opened_is_said),
		TEST(a_log_socket_path_that_does_not_fit_is_said),
		TEST(after_a_failure_the_former_target_goes_on_unchanged),
		TEST(a_new_target_takes_over_and_the_former_one_is_closed),
		TEST(facilities_have_the_numbers_of_rfc_5424),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
