/*
 * The keeper of a program, with real commands. The test is its supervisor: it holds the other end
 * of the channel, and as a subreaper it gets whatever a keeper leaves behind, which must be
 * nothing.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/counters.h"
#include "os/memory_file.h"
#include "os/procs.h"
#include "run/channel.h"
#include "run/program.h"
#include "run/signals.h"

#include "config.h"

#define WAIT_MS	    30000 /* what takes longer does not come */
#define LONG_MS	    3600000
#define RECORDS_MAX 32768

/* Of a shell: until a signal. */
#define WAITS "while :; do sleep 0.01; done"

struct record {
	enum log_level level;
	size_t len;
	char *text; /* with a NUL behind it */
};

struct fixture {
	char *directory;
	struct conf_service service;
	struct privileges privileges;
	struct program_start start;
	uid_t keeper_user; /* 0: whoever runs the test */
	bool own_mounts;   /* its mount namespace is its own */
	bool without_proc; /* from its start */
	struct counters *counters;
	int channel;
	pid_t keeper;
	pid_t leader; /* from CHANNEL_PROGRAM */
	struct record *records;
	size_t record_count;
	size_t record_next; /* the first that no test has waited for */
};

/* ---- Set-up --------------------------------------------------------------------------------- */

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	void *directory = NULL;

	if (f == NULL || support_make_directory(&directory) < 0)
		return -1;
	*state = f;
	f->directory = directory;
	/* For the commands that run as somebody else. */
	chmod(f->directory, 0755);
	f->records = calloc(RECORDS_MAX, sizeof(*f->records));
	f->service = (struct conf_service){
		.name = (char *)"sensor",
		.directory = (char *)"/",
		.umask = 022,
		.stop_signal = SIGTERM,
		.stop_timeout = LONG_MS,
	};
	f->privileges = (struct privileges){.uid = geteuid(), .gid = getegid(), .user = "self"};
	f->start = (struct program_start){
		.name = "sensor",
		.service = &f->service,
		.privileges = &f->privileges,
	};
	getrlimit(RLIMIT_NOFILE, &f->start.nofile);
	f->channel = -1;
	return f->records == NULL || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ? -1 : 0;
}

static size_t left_behind(bool end_them)
{
	struct procs procs;
	struct error err = {0};
	size_t count = 0;

	if (procs_scan(&procs, &err) < 0) {
		print_error("%s\n", err.text);
		return 1;
	}
	procs_mark_descendants(&procs, getpid());
	for (size_t i = 0; i < procs.count; i++)
		if (procs.list[i].below) {
			count++;
			if (end_them)
				procs_signal(&procs.list[i], SIGKILL);
		}
	procs_free(&procs);
	return count;
}

/* No test may leave a process, not even as a zombie. */
static int teardown(void **state)
{
	struct fixture *f = *state;
	void *directory = f->directory;
	size_t count = left_behind(true);

	if (count > 0)
		print_error("%zu processes were left behind\n", count);
	while (waitpid(-1, NULL, 0) > 0)
		;
	if (f->channel >= 0)
		close(f->channel);
	for (size_t i = 0; i < f->record_count; i++)
		free(f->records[i].text);
	if (f->counters != NULL)
		munmap(f->counters, COUNTERS_SIZE);
	support_remove_directory(&directory);
	free(f->records);
	free(f);
	return count > 0 ? -1 : 0;
}

/* ---- The keeper ----------------------------------------------------------------------------- */

static int make_own_mounts(void)
{
	return unshare(CLONE_NEWNS) < 0 ? -1 : mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static int cover_proc(void)
{
	return mount("none", "/proc", "tmpfs", 0, NULL);
}

_Noreturn static void be_keeper(struct fixture *f)
{
	uid_t user = f->keeper_user;

	support_limit_time(2 * WAIT_MS / 1000);
	if ((f->own_mounts && make_own_mounts() < 0) || (f->without_proc && cover_proc() < 0) ||
	    (user != 0 && setresuid(user, user, user) < 0))
		_exit(99);
	program_main(&f->start);
}

static void start_keeper(struct fixture *f)
{
	struct error err = {0};
	int ends[2];

	f->start.counters = memory_file_shared("test", COUNTERS_SIZE, &err);
	assert_true(f->start.counters >= 0);
	f->counters =
		mmap(NULL, COUNTERS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->start.counters, 0);
	assert_ptr_not_equal(f->counters, MAP_FAILED);
	assert_int_equal(channel_pair(ends, &err), 0);
	f->start.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_true(f->start.null >= 0);
	f->start.channel = ends[1];
	fflush(NULL);
	signals_block();
	f->keeper = fork();
	if (f->keeper == 0)
		be_keeper(f);
	signals_unblock();
	assert_true(f->keeper > 0);
	f->channel = ends[0];
	close(ends[1]);
	close(f->start.counters);
	close(f->start.null);
}

static void order(struct fixture *f, enum channel_type type, int64_t value)
{
	assert_int_equal(channel_send(f->channel, type, value, NULL, 0), 0);
}

static void keep_record(struct fixture *f, const struct channel_message *message)
{
	struct record *record = &f->records[f->record_count];

	assert_in_range(f->record_count, 0, RECORDS_MAX - 1);
	record->level = (enum log_level)message->value;
	record->len = message->len;
	record->text = malloc(message->len + 1);
	assert_non_null(record->text);
	memcpy(record->text, message->text, message->len);
	record->text[message->len] = '\0';
	f->record_count++;
}

/* The next message that is no record of the log; those are kept. 0: the end of the channel. */
static int next_message(struct fixture *f, struct channel_message *message)
{
	struct pollfd readable = {.fd = f->channel, .events = POLLIN};

	for (;;) {
		int result = channel_receive(f->channel, message);

		if (result < 0)
			return 0;
		if (result > 0 && message->type != CHANNEL_LOG)
			return (int)message->type;
		if (result > 0)
			keep_record(f, message);
		else if (poll(&readable, 1, WAIT_MS) != 1)
			fail_msg("the keeper says nothing");
	}
}

static int64_t expect(struct fixture *f, enum channel_type type)
{
	struct channel_message message;
	int came = next_message(f, &message);

	if (came == CHANNEL_FAILED && type != CHANNEL_FAILED)
		fail_msg("the keeper failed: %.*s", (int)message.len, message.text);
	assert_int_equal(came, type);
	return message.value;
}

/* What a keeper that has nothing more to say does. */
static void expect_end(struct fixture *f, int code)
{
	struct channel_message message;

	assert_int_equal(next_message(f, &message), 0);
	assert_int_equal(support_wait(f->keeper), code);
}

/* Wait for a record with this text, from the one after the last that was waited for on. */
static const struct record *await_record(struct fixture *f, const char *text)
{
	struct pollfd readable = {.fd = f->channel, .events = POLLIN};
	struct channel_message message;

	for (;;) {
		while (f->record_next < f->record_count) {
			const struct record *record = &f->records[f->record_next++];

			if (strstr(record->text, text) != NULL)
				return record;
		}
		if (poll(&readable, 1, WAIT_MS) != 1 || channel_receive(f->channel, &message) <= 0)
			fail_msg("'%s' is not logged", text);
		assert_int_equal(message.type, CHANNEL_LOG);
		keep_record(f, &message);
	}
}

static bool was_logged(const struct fixture *f, const char *text)
{
	for (size_t i = 0; i < f->record_count; i++)
		if (strstr(f->records[i].text, text) != NULL)
			return true;
	return false;
}

static void run(struct fixture *f, char **command)
{
	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	order(f, CHANNEL_GO, 0);
	f->leader = (pid_t)expect(f, CHANNEL_PROGRAM);
	assert_true(f->leader > 1);
	/* "Executed" comes before anything that the command prints. */
	assert_int_equal(f->record_count, 0);
}

static void run_shell(struct fixture *f, const char *script)
{
	char *command[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};

	run(f, command);
}

static void expect_failure(struct fixture *f, const char *reason)
{
	struct channel_message message;

	assert_int_equal(next_message(f, &message), CHANNEL_FAILED);
	assert_in_range(message.len, 1, sizeof(message.text) - 1);
	message.text[message.len] = '\0';
	assert_contains(message.text, reason);
	assert_true(message.value > 0);
	expect_end(f, EXIT_FAILED);
}

/* The command ended with that status, and so did its keeper. */
static void expect_status(struct fixture *f, int status)
{
	assert_int_equal(expect(f, CHANNEL_ENDED), status);
	expect_end(f, EXIT_DONE);
	assert_int_equal(left_behind(false), 0);
}

#define EXITED(code) ((code) << 8)

/* Run to the end; what was printed is in the records. */
static void run_whole(struct fixture *f, const char *script)
{
	run_shell(f, script);
	expect_status(f, EXITED(0));
}

static void assert_record(const struct fixture *f, size_t i, const char *text)
{
	assert_true(i < f->record_count);
	assert_string_equal(f->records[i].text, text);
}

/* ---- From the start to the end -------------------------------------------------------------- */

static void a_program_is_executed_and_its_end_is_told(void **state)
{
	run_whole(*state, "exit 0");
}

static void its_exit_status_is_told(void **state)
{
	run_shell(*state, "exit 3");
	expect_status(*state, EXITED(3));
}

static void the_signal_that_ended_it_is_told(void **state)
{
	run_shell(*state, "kill -SEGV $$");
	assert_int_equal(expect(*state, CHANNEL_ENDED) & 0x7f, SIGSEGV);
	expect_end(*state, EXIT_DONE);
}

static void nothing_is_executed_before_go(void **state)
{
	struct fixture *f = *state;
	char path[SUPPORT_PATH_MAX], script[SUPPORT_PATH_MAX + 16];
	char *command[] = {(char *)"/bin/sh", (char *)"-c", script, NULL};

	support_join(path, f->directory, "made");
	snprintf(script, sizeof(script), "echo >%s", path);
	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	assert_int_equal(access(path, F_OK), -1);
	order(f, CHANNEL_GO, 0);
	expect(f, CHANNEL_PROGRAM);
	expect_status(f, EXITED(0));
	assert_int_equal(access(path, F_OK), 0);
}

static void order_before_go(struct fixture *f, enum channel_type type)
{
	char *command[] = {(char *)"/bin/true", NULL};

	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	order(f, type, LONG_MS);
	expect_end(f, EXIT_DONE);
	assert_int_equal(left_behind(false), 0);
}

static void a_drain_before_go_ends_it_without_a_status(void **state)
{
	order_before_go(*state, CHANNEL_DRAIN);
}

static void a_quit_before_go_ends_it_without_a_status(void **state)
{
	order_before_go(*state, CHANNEL_QUIT);
}

static void an_end_right_behind_go_has_a_status(void **state)
{
	struct fixture *f = *state;
	char *command[] = {(char *)"/bin/sleep", (char *)"1000", NULL};
	int64_t status;

	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	order(f, CHANNEL_GO, 0);
	order(f, CHANNEL_QUIT, 0);
	expect(f, CHANNEL_PROGRAM);
	status = expect(f, CHANNEL_ENDED);
	assert_true(status == SIGTERM || status == SIGKILL);
	expect_end(f, EXIT_DONE);
}

static void a_leader_that_is_killed_before_go_is_a_failure(void **state)
{
	struct fixture *f = *state;
	char *command[] = {(char *)"/bin/true", NULL};
	struct procs procs;
	struct error err = {0};

	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	assert_int_equal(procs_scan(&procs, &err), 0);
	assert_int_equal(procs_mark_descendants(&procs, f->keeper), 1);
	for (size_t i = 0; i < procs.count; i++)
		if (procs.list[i].below)
			assert_int_equal(procs_signal(&procs.list[i], SIGKILL), 0);
	procs_free(&procs);
	expect_failure(f, "the process that was to execute /bin/true has ended");
}

/* ---- What cannot be executed ---------------------------------------------------------------- */

static void fail_to_start(struct fixture *f, const char *path, const char *reason)
{
	char *command[] = {(char *)path, NULL};

	f->service.command = command;
	start_keeper(f);
	expect_failure(f, reason);
}

static void a_missing_command_is_an_error_of_the_start(void **state)
{
	fail_to_start(*state, "/nonexistent/echod-sensor",
		      "cannot execute /nonexistent/echod-sensor: No such file or directory");
}

static void a_file_that_is_not_executable_is_an_error_of_the_start(void **state)
{
	struct fixture *f = *state;
	char path[SUPPORT_PATH_MAX];

	support_join(path, f->directory, "plain");
	support_write_file(path, "#!/bin/sh\n");
	fail_to_start(f, path, "Permission denied");
}

static void a_directory_is_no_command(void **state)
{
	fail_to_start(*state, "/tmp", "cannot execute /tmp: it is no regular file");
}

static void a_missing_directory_is_an_error_of_the_start(void **state)
{
	struct fixture *f = *state;

	f->service.directory = (char *)"/nonexistent/place";
	fail_to_start(f, "/bin/true", "cannot change the directory to /nonexistent/place");
}

static void fail_to_execute(struct fixture *f, const char *text, const char *reason)
{
	char path[SUPPORT_PATH_MAX];
	char *command[] = {path, NULL};

	support_join(path, f->directory, "command");
	support_write_file(path, text);
	assert_int_equal(chmod(path, 0755), 0);
	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	order(f, CHANNEL_GO, 0);
	expect_failure(f, reason);
}

static void a_file_of_no_known_format_cannot_be_executed(void **state)
{
	fail_to_execute(*state, "echo this is no program\n", "/command: Exec format error");
}

static void a_missing_interpreter_is_named_as_the_reason(void **state)
{
	fail_to_execute(*state, "#!/nonexistent/shell\n", "its interpreter is missing");
}

/* ---- What it finds -------------------------------------------------------------------------- */

static void it_leads_a_session_and_a_group_of_its_own(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "exec sleep 1000");
	assert_int_equal(getsid(f->leader), f->leader);
	assert_int_equal(getpgid(f->leader), f->leader);
	order(f, CHANNEL_QUIT, LONG_MS);
	expect_status(f, SIGTERM);
}

static void its_stdin_is_at_its_end(void **state)
{
	run_shell(*state, "read line");
	expect_status(*state, EXITED(1));
}

static void its_signals_are_as_the_system_has_them(void **state)
{
	static const char *const empty[] = {"SigBlk", "SigIgn", "SigCgt", "ShdPnd"};
	struct fixture *f = *state;
	char *command[] = {(char *)"/bin/cat", (char *)"/proc/self/status", NULL};

	run(f, command);
	expect_status(f, EXITED(0));
	for (size_t i = 0; i < COUNT_OF(empty); i++) {
		char line[64];

		snprintf(line, sizeof(line), "%s:\\x090000000000000000", empty[i]);
		assert_true(was_logged(f, line));
	}
}

static void its_umask_and_directory_are_set(void **state)
{
	struct fixture *f = *state;

	f->service.umask = 0137;
	f->service.directory = f->directory;
	run_whole(f, "umask; pwd");
	assert_record(f, 0, "0137");
	assert_record(f, 1, f->directory);
}

static void its_limit_of_open_files_is_that_of_the_launch(void **state)
{
	struct fixture *f = *state;

	f->start.nofile = (struct rlimit){100, 200};
	run_whole(f, "ulimit -Sn; ulimit -Hn");
	assert_record(f, 0, "100");
	assert_record(f, 1, "200");
}

static void it_inherits_no_descriptor(void **state)
{
	struct fixture *f = *state;
	int stray = open("/dev/null", O_RDONLY); /* not close-on-exec */

	assert_true(stray > 2);
	/* 3 is the directory that ls reads. */
	run_whole(f, "ls /proc/self/fd; readlink /proc/self/fd/0; "
		     "test $(readlink /proc/$$/fd/1) = $(readlink /proc/$$/fd/2) && echo one");
	close(stray);
	assert_record(f, 0, "0");
	assert_record(f, 1, "1");
	assert_record(f, 2, "2");
	assert_record(f, 3, "3");
	assert_record(f, 4, "/dev/null");
	assert_int_equal(f->record_count, 6);
	assert_record(f, 5, "one");
}

static void its_priority_is_set(void **state)
{
	struct fixture *f = *state;

	f->start.set_nice = true;
	f->start.nice = 7;
	f->start.nice_written = true;
	run_whole(f, "nice");
	assert_record(f, 0, "7");
}

static int compare_records(const void *a, const void *b)
{
	return strcmp(((const struct record *)a)->text, ((const struct record *)b)->text);
}

static void its_environment_is_short_and_its_own(void **state)
{
	struct fixture *f = *state;
	char *own[] = {(char *)"COLOUR=red", (char *)"LANG=own", (char *)"EMPTY=", NULL};
	char *command[] = {(char *)"/usr/bin/env", NULL};
	const char *const expected[] = {"COLOUR=red", "EMPTY=",	      "HOME=",	"LANG=own",
					"LOGNAME=",   "PATH=/bin:/x", "SHELL=", "USER="};

	setenv("PATH", "/bin:/x", 1);
	setenv("LANG", "C", 1);
	setenv("SECRET", "word", 1);
	unsetenv("TZ");
	f->service.environment = own;
	run(f, command);
	expect_status(f, EXITED(0));
	qsort(f->records, f->record_count, sizeof(*f->records), compare_records);
	assert_int_equal(f->record_count, COUNT_OF(expected));
	for (size_t i = 0; i < COUNT_OF(expected); i++)
		assert_contains(f->records[i].text, expected[i]);
	unsetenv("SECRET");
}

static void it_runs_as_its_user(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0)
		skip();
	f->privileges =
		(struct privileges){.change = true, .uid = 65534, .gid = 65534, .user = "nobody"};
	setenv("PATH", "/bin:/usr/bin", 1);
	run_whole(f, "id -u; id -g; echo $USER $LOGNAME; exec cat /proc/self/status");
	assert_record(f, 0, "65534");
	assert_record(f, 1, "65534");
	assert_record(f, 2, "nobody nobody");
	assert_true(was_logged(f, "CapEff:\\x090000000000000000"));
}

static void its_directory_must_be_open_to_its_user(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0)
		skip();
	chmod(f->directory, 0700);
	f->privileges =
		(struct privileges){.change = true, .uid = 65534, .gid = 65534, .user = "nobody"};
	f->service.directory = f->directory;
	fail_to_start(f, "/bin/true", "as the user nobody: Permission denied");
}

static void the_keeper_is_called_like_the_service(void **state)
{
	struct fixture *f = *state;
	char path[64], name[64];

	run_shell(f, "exec sleep 1000");
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)f->keeper);
	support_read_file(path, name, sizeof(name));
	assert_string_equal(name, "sensor\n");
	order(f, CHANNEL_QUIT, LONG_MS);
	expect_status(f, SIGTERM);
}

/* ---- What it prints ------------------------------------------------------------------------- */

static void lines_of_both_outputs_are_logged_in_order(void **state)
{
	struct fixture *f = *state;

	run_whole(f, "echo 1; echo 2 >&2; echo 3; echo; printf 4");
	assert_int_equal(f->record_count, 4);
	for (size_t i = 0; i < 4; i++) {
		char text[] = {(char)('1' + i), '\0'};

		assert_record(f, i, text);
		assert_int_equal(f->records[i].level, LOG_LEVEL_NOTICE);
	}
}

static void long_lines_come_in_pieces_and_whole(void **state)
{
	struct fixture *f = *state;
	static const size_t lengths[] = {960, 40, 960, 1, 960, 959};
	size_t at = 0;

	run_whole(f, "printf '%01000d\\n%0961d\\n%0960d\\n%0959d\\n' 0 0 0 0");
	assert_int_equal(f->record_count, COUNT_OF(lengths));
	for (size_t i = 0; i < COUNT_OF(lengths); i++, at++)
		assert_int_equal(f->records[at].len, lengths[i]);
}

static void control_bytes_are_escaped(void **state)
{
	struct fixture *f = *state;
	static const char bytes[] = "a\\x00b\\x1b\\x0d\377";

	run_whole(f, "printf 'a\\000b\\033\\r\\377\\n'");
	assert_int_equal(f->record_count, 1);
	assert_int_equal(f->records[0].len, sizeof(bytes) - 1);
	assert_memory_equal(f->records[0].text, bytes, sizeof(bytes) - 1);
}

static void a_program_that_closes_its_outputs_lives_on(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'exit 4' USR1; printf last; exec >/dev/null 2>&1; " WAITS);
	/* At the end of file, not at that of the program. */
	await_record(f, "last");
	order(f, CHANNEL_SIGNAL, SIGUSR1);
	expect_status(f, EXITED(4));
}

static void await_counter(const _Atomic uint64_t *counter, uint64_t n)
{
	int64_t limit = clock_ms() + WAIT_MS;

	while (counter_get(counter) < n && clock_ms() < limit)
		poll(NULL, 0, 2);
	assert_true(counter_get(counter) >= n);
}

#define PRINTED 20000

static void a_supervisor_that_does_not_read_holds_up_nothing(void **state)
{
	struct fixture *f = *state;
	char script[2 * SUPPORT_PATH_MAX], path[SUPPORT_PATH_MAX];
	int64_t limit = clock_ms() + WAIT_MS;

	support_join(path, f->directory, "done");
	snprintf(script, sizeof(script), "seq %d; echo >%s", PRINTED, path);
	run_shell(f, script);
	while (access(path, F_OK) < 0 && clock_ms() < limit)
		poll(NULL, 0, 2);
	assert_int_equal(access(path, F_OK), 0);
	await_counter(&f->counters->log_dropped, 1);
	/* The status does not get lost, and every line was passed on or counted. */
	expect_status(f, EXITED(0));
	assert_int_equal(f->record_count + counter_get(&f->counters->log_dropped), PRINTED);
}

/* ---- Orders --------------------------------------------------------------------------------- */

#define OBEDIENT "trap 'echo bye; exit 5' TERM; echo up; " WAITS
#define STUBBORN "trap '' TERM; echo up; " WAITS

static void a_drained_program_ends_as_it_likes(void **state)
{
	struct fixture *f = *state;

	run_shell(f, OBEDIENT);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, EXITED(5));
	assert_true(was_logged(f, "bye"));
}

static void a_program_that_does_not_end_in_time_is_killed(void **state)
{
	struct fixture *f = *state;

	run_shell(f, STUBBORN);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, 100);
	expect_status(f, SIGKILL);
	assert_true(was_logged(f, "did not end in time and are killed"));
}

static void a_quit_without_time_kills_at_once(void **state)
{
	struct fixture *f = *state;

	run_shell(f, STUBBORN);
	await_record(f, "up");
	order(f, CHANNEL_QUIT, 0);
	expect_status(f, SIGKILL);
}

static void a_quit_shortens_a_drain(void **state)
{
	struct fixture *f = *state;

	run_shell(f, STUBBORN);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	order(f, CHANNEL_QUIT, 50);
	expect_status(f, SIGKILL);
}

static void a_drain_does_not_prolong_a_quit(void **state)
{
	struct fixture *f = *state;

	run_shell(f, STUBBORN);
	await_record(f, "up");
	order(f, CHANNEL_QUIT, 50);
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, SIGKILL);
}

static void it_is_asked_once_however_many_orders_come(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'echo asked' TERM; trap 'exit 0' USR1; echo up; " WAITS);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	await_record(f, "asked");
	order(f, CHANNEL_DRAIN, LONG_MS);
	order(f, CHANNEL_QUIT, LONG_MS);
	order(f, CHANNEL_SIGNAL, SIGUSR1);
	expect_status(f, EXITED(0));
	while (f->record_next < f->record_count)
		assert_null(strstr(f->records[f->record_next++].text, "asked"));
}

static void the_stop_signal_is_the_services_own(void **state)
{
	struct fixture *f = *state;

	f->service.stop_signal = SIGUSR2;
	run_shell(f, "trap '' TERM; trap 'exit 6' USR2; echo up; " WAITS);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, EXITED(6));
}

static void a_stopped_program_obeys(void **state)
{
	struct fixture *f = *state;
	struct proc proc = {.state = '?'};
	int64_t limit = clock_ms() + WAIT_MS;

	run_shell(f, OBEDIENT);
	await_record(f, "up");
	assert_int_equal(kill(f->leader, SIGSTOP), 0);
	while (procs_read(f->leader, &proc) == 0 && proc.state != 'T' && clock_ms() < limit)
		poll(NULL, 0, 2);
	assert_int_equal(proc.state, 'T');
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, EXITED(5));
}

static void a_signal_is_passed_to_the_leader(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'echo hup' HUP; trap 'exit 0' INT; echo up; " WAITS);
	await_record(f, "up");
	order(f, CHANNEL_SIGNAL, SIGHUP);
	await_record(f, "hup");
	order(f, CHANNEL_SIGNAL, 0);
	await_record(f, "cannot send signal 0");
	order(f, CHANNEL_SIGNAL, -9);
	await_record(f, "cannot send signal -9");
	order(f, CHANNEL_SIGNAL, SIGINT);
	expect_status(f, EXITED(0));
}

static void a_ping_is_counted(void **state)
{
	struct fixture *f = *state;

	run_shell(f, OBEDIENT);
	order(f, CHANNEL_PING, 0);
	order(f, CHANNEL_PING, 0);
	await_counter(&f->counters->heartbeat, 2);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, EXITED(5));
}

static void without_a_supervisor_it_ends_politely(void **state)
{
	struct fixture *f = *state;
	char path[SUPPORT_PATH_MAX], script[2 * SUPPORT_PATH_MAX];

	support_join(path, f->directory, "bye");
	snprintf(script, sizeof(script), "trap 'echo >%s; exit 0' TERM; echo up; " WAITS, path);
	run_shell(f, script);
	await_record(f, "up");
	close(f->channel);
	f->channel = -1;
	assert_int_equal(support_wait(f->keeper), EXIT_DONE);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(left_behind(false), 0);
}

static void without_a_supervisor_a_stubborn_one_is_killed(void **state)
{
	struct fixture *f = *state;

	f->service.stop_timeout = 50;
	run_shell(f, STUBBORN);
	await_record(f, "up");
	close(f->channel);
	f->channel = -1;
	assert_int_equal(support_wait(f->keeper), EXIT_DONE);
	assert_int_equal(left_behind(false), 0);
}

static void without_a_supervisor_nothing_is_executed(void **state)
{
	struct fixture *f = *state;
	char *command[] = {(char *)"/bin/true", NULL};

	f->service.command = command;
	start_keeper(f);
	expect(f, CHANNEL_READY);
	close(f->channel);
	f->channel = -1;
	assert_int_equal(support_wait(f->keeper), EXIT_DONE);
	assert_int_equal(left_behind(false), 0);
}

/* ---- What it starts ------------------------------------------------------------------------- */

/* A process that has left session, group and parent, and says so once that is done. */
#define STRAY(script) "(setsid sh -c '" script "' &); "

/*
 * The leader sets its own trap first: what it starts later says that it is up, and has none of it
 * (a shell's child forgets the traps that are set, though not the signals that are ignored).
 */

static void its_group_is_asked_with_it(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'wait; exit 0' TERM; "
		     "sh -c 'trap \"echo child; exit 0\" TERM; echo up; " WAITS "' & wait");
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, EXITED(0));
	assert_true(was_logged(f, "child"));
}

static void what_has_left_the_group_is_asked_after_the_leader(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'echo leader; exit 7' TERM; " STRAY(
			     "trap \"echo stray; exit 0\" TERM; echo up; " WAITS) WAITS);
	await_record(f, "up");
	order(f, CHANNEL_DRAIN, LONG_MS);
	expect_status(f, EXITED(7));
	await_record(f, "leader");
	await_record(f, "stray");
}

static void what_a_program_leaves_behind_is_asked_to_end(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'exit 8' USR1; "
		     "sh -c 'trap \"echo child; exit 0\" TERM; echo one; " WAITS
		     "' & " STRAY("trap \"echo stray; exit 0\" TERM; echo two; " WAITS) WAITS);
	await_record(f, "o");
	await_record(f, "o");
	order(f, CHANNEL_SIGNAL, SIGUSR1);
	expect_status(f, EXITED(8));
	assert_true(was_logged(f, "processes behind, which shall end, too"));
	assert_true(was_logged(f, "child"));
	assert_true(was_logged(f, "stray"));
}

static void what_does_not_end_in_time_is_killed_wherever_it_went(void **state)
{
	struct fixture *f = *state;

	f->service.stop_timeout = 100;
	run_shell(f, "trap 'exit 9' USR1; " STRAY("trap \"\" TERM; echo one; " WAITS)
			     STRAY("trap \"\" TERM; (setsid sh -c \"echo two; " WAITS
				   "\" &); " WAITS) WAITS);
	await_record(f, "o");
	await_record(f, "o");
	order(f, CHANNEL_SIGNAL, SIGUSR1);
	expect_status(f, EXITED(9));
}

static void a_quit_shortens_the_wait_for_what_was_left(void **state)
{
	struct fixture *f = *state;

	run_shell(f, "trap 'exit 0' USR1; " STRAY("trap \"\" TERM; echo up; " WAITS) WAITS);
	await_record(f, "up");
	order(f, CHANNEL_SIGNAL, SIGUSR1);
	await_record(f, "behind");
	order(f, CHANNEL_QUIT, 0);
	expect_status(f, EXITED(0));
}

static void many_that_start_others_all_the_time_are_ended(void **state)
{
	struct fixture *f = *state;

	f->service.stop_timeout = 0;
	run_shell(
		f,
		"trap '' TERM; i=0; while [ $i -lt 20 ]; do i=$((i+1)); " STRAY(
			"while :; do setsid sleep 100 & sleep 0.05; done") "done; echo up; " WAITS);
	await_record(f, "up");
	order(f, CHANNEL_QUIT, 0);
	expect_status(f, SIGKILL);
}

static bool has_zombies(pid_t parent)
{
	struct procs procs;
	struct error err = {0};
	bool found = false;

	assert_int_equal(procs_scan(&procs, &err), 0);
	for (size_t i = 0; i < procs.count; i++)
		found = found || (procs.list[i].parent == parent && !procs.list[i].alive);
	procs_free(&procs);
	return found;
}

static void strays_that_end_are_reaped_while_it_lives(void **state)
{
	struct fixture *f = *state;
	int64_t limit = clock_ms() + WAIT_MS;

	run_shell(f, "i=0; while [ $i -lt 50 ]; do i=$((i+1)); (true &); done; echo up; "
		     "exec sleep 1000");
	await_record(f, "up");
	while (has_zombies(f->keeper) && clock_ms() < limit)
		poll(NULL, 0, 2);
	assert_false(has_zombies(f->keeper));
	order(f, CHANNEL_QUIT, LONG_MS);
	expect_status(f, SIGTERM);
}

static void a_keeper_that_is_killed_takes_the_leader_along(void **state)
{
	struct fixture *f = *state;
	int status;

	run_shell(f, "trap '' TERM HUP; echo up; while :; do read line <&1; done");
	await_record(f, "up");
	assert_int_equal(kill(f->keeper, SIGKILL), 0);
	assert_int_equal(support_wait(f->keeper), 128 + SIGKILL);
	/* It has become the test's, which is the next subreaper. */
	assert_int_equal(waitpid(f->leader, &status, 0), f->leader);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void copy_file(const char *from, const char *to, mode_t mode)
{
	char block[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	ssize_t n;

	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, block, sizeof(block))) > 0)
		assert_int_equal(write(out, block, (size_t)n), n);
	assert_int_equal(fchmod(out, mode), 0);
	close(in);
	close(out);
}

/* Hide /proc from a keeper with mounts of its own. */
static int hide_proc(void *arg)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", *(pid_t *)arg);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHILD_CHECK(fd >= 0 && setns(fd, CLONE_NEWNS) == 0);
	CHILD_CHECK(cover_proc() == 0);
	return 0;
}

static int try_without_proc(void *arg)
{
	(void)arg;
#ifdef ECHOD_SANITIZERS
	return 1; /* the check for leaks reads /proc itself */
#endif
	return geteuid() == 0 && make_own_mounts() == 0 && cover_proc() == 0 ? 0 : 1;
}

static bool can_be_without_proc(void)
{
	return support_in_child(try_without_proc, NULL) == 0;
}

static void when_proc_vanishes_the_group_is_ended_all_the_same(void **state)
{
	struct fixture *f = *state;

	if (!can_be_without_proc())
		skip();
	f->own_mounts = true;
	run_shell(f, "sh -c \"" STUBBORN "\" & " STUBBORN);
	await_record(f, "up");
	await_record(f, "up");
	assert_int_equal(support_in_child(hide_proc, &f->keeper), 0);
	order(f, CHANNEL_DRAIN, 50);
	expect_status(f, SIGKILL);
	assert_true(was_logged(f, "cannot see the program's processes"));
}

static void without_proc_nothing_is_started(void **state)
{
	struct fixture *f = *state;
	char *command[] = {(char *)"/bin/true", NULL};

	if (!can_be_without_proc())
		skip();
	f->own_mounts = f->without_proc = true;
	f->service.command = command;
	start_keeper(f);
	expect_failure(f, "cannot watch the command's processes: ");
}

#define BECOME_ROOT "--become-root"

/* What this test program does when it is called with that: a set-user-ID program in earnest. */
static int become_root_and_wait(void)
{
	support_limit_time(2 * WAIT_MS / 1000);
	if (setresuid(0, 0, 0) < 0)
		return 1;
	for (;;) {
		if (write(STDOUT_FILENO, "root\n", 5) < 0)
			return 1;
		pause();
	}
}

/* Under a keeper that is an ordinary user's. */
static void what_may_not_be_killed_is_named_and_left(void **state)
{
	struct fixture *f = *state;
	char path[SUPPORT_PATH_MAX], script[2 * SUPPORT_PATH_MAX];

	if (geteuid() != 0)
		skip();
	support_join(path, f->directory, "sleeper");
	copy_file("/proc/self/exe", path, 04755);
	f->keeper_user = 65534;
	f->privileges = (struct privileges){.uid = 65534, .gid = getegid(), .user = "nobody"};
	snprintf(script, sizeof(script), "trap '' TERM; setsid %s " BECOME_ROOT " & " WAITS, path);
	run_shell(f, script);
	await_record(f, "root");
	order(f, CHANNEL_QUIT, 0);
	assert_int_equal(expect(f, CHANNEL_ENDED), SIGKILL);
	expect_end(f, EXIT_DONE);
	assert_true(was_logged(f, "cannot be ended and are left: "));
	assert_int_equal(left_behind(true), 1);
	assert_int_not_equal(waitpid(-1, NULL, 0), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_program_is_executed_and_its_end_is_told),
		TEST(its_exit_status_is_told),
		TEST(the_signal_that_ended_it_is_told),
		TEST(nothing_is_executed_before_go),
		TEST(a_drain_before_go_ends_it_without_a_status),
		TEST(a_quit_before_go_ends_it_without_a_status),
		TEST(an_end_right_behind_go_has_a_status),
		TEST(a_leader_that_is_killed_before_go_is_a_failure),
		TEST(a_missing_command_is_an_error_of_the_start),
		TEST(a_file_that_is_not_executable_is_an_error_of_the_start),
		TEST(a_directory_is_no_command),
		TEST(a_missing_directory_is_an_error_of_the_start),
		TEST(a_file_of_no_known_format_cannot_be_executed),
		TEST(a_missing_interpreter_is_named_as_the_reason),
		TEST(it_leads_a_session_and_a_group_of_its_own),
		TEST(its_stdin_is_at_its_end),
		TEST(its_signals_are_as_the_system_has_them),
		TEST(its_umask_and_directory_are_set),
		TEST(its_limit_of_open_files_is_that_of_the_launch),
		TEST(it_inherits_no_descriptor),
		TEST(its_priority_is_set),
		TEST(its_environment_is_short_and_its_own),
		TEST(it_runs_as_its_user),
		TEST(its_directory_must_be_open_to_its_user),
		TEST(the_keeper_is_called_like_the_service),
		TEST(lines_of_both_outputs_are_logged_in_order),
		TEST(long_lines_come_in_pieces_and_whole),
		TEST(control_bytes_are_escaped),
		TEST(a_program_that_closes_its_outputs_lives_on),
		TEST(a_supervisor_that_does_not_read_holds_up_nothing),
		TEST(a_drained_program_ends_as_it_likes),
		TEST(a_program_that_does_not_end_in_time_is_killed),
		TEST(a_quit_without_time_kills_at_once),
		TEST(a_quit_shortens_a_drain),
		TEST(a_drain_does_not_prolong_a_quit),
		TEST(it_is_asked_once_however_many_orders_come),
		TEST(the_stop_signal_is_the_services_own),
		TEST(a_stopped_program_obeys),
		TEST(a_signal_is_passed_to_the_leader),
		TEST(a_ping_is_counted),
		TEST(without_a_supervisor_it_ends_politely),
		TEST(without_a_supervisor_a_stubborn_one_is_killed),
		TEST(without_a_supervisor_nothing_is_executed),
		TEST(its_group_is_asked_with_it),
		TEST(what_has_left_the_group_is_asked_after_the_leader),
		TEST(what_a_program_leaves_behind_is_asked_to_end),
		TEST(what_does_not_end_in_time_is_killed_wherever_it_went),
		TEST(a_quit_shortens_the_wait_for_what_was_left),
		TEST(many_that_start_others_all_the_time_are_ended),
		TEST(strays_that_end_are_reaped_while_it_lives),
		TEST(a_keeper_that_is_killed_takes_the_leader_along),
		TEST(when_proc_vanishes_the_group_is_ended_all_the_same),
		TEST(without_proc_nothing_is_started),
		TEST(what_may_not_be_killed_is_named_and_left),
	};

	if (argc == 2 && strcmp(argv[1], BECOME_ROOT) == 0)
		return become_root_and_wait();
	support_limit_time(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
