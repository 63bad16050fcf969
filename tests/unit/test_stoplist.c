/* Which services are stopped by order, over a crash of the daemon. */
#include "support.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/stoplist.h"
#include "run/supervisor.h"

#define NOBODY 65534

/* The longest name that a service may have. */
#define LONGEST "a-name-of-thirty-two-characters-"

#define SERVICE(name, port)                                                                        \
	"{ name = \"" name "\"; protocol = \"line\"; workers = 1; listen = [ \"127.0.0.1:" port    \
	"\" ]; }"
#define SERVICES                                                                                   \
	"services = (" SERVICE("line", "1") ", " SERVICE("echo", "2") ", " SERVICE(                \
		"third", "3") ", " SERVICE(LONGEST, "4") " );\n"

struct fixture {
	char *directory;
	char pidfile[SUPPORT_PATH_MAX];
	char path[SUPPORT_PATH_MAX];  /* of the list */
	char fresh[SUPPORT_PATH_MAX]; /* before it has its name */
	struct supervisor supervisor;
	struct generation *generation;
};

static struct generation *make_generation(struct fixture *f)
{
	const struct conf_overrides none = {0};
	struct conf_errors errors = {0};
	struct error err = {0};
	char path[SUPPORT_PATH_MAX];
	struct conf_source *source;
	struct conf *conf;

	support_join(path, f->directory, "echod.conf");
	support_write_file(path, SERVICES);
	source = conf_source_load(path, &errors);
	conf = source == NULL ? NULL : conf_parse(source, &none, &errors);
	if (errors.count > 0)
		print_error("%s\n", errors.lines[0]);
	conf_errors_free(&errors);
	return conf == NULL ? NULL : generation_new(&f->supervisor, 1, source, conf, &err);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (f == NULL || support_make_directory((void **)&f->directory) < 0)
		return -1;
	*state = f;
	setenv("XDG_RUNTIME_DIR", f->directory, 1);
	support_log_capture();
	support_join(f->pidfile, f->directory, "echod.pid");
	support_join(f->path, f->directory, "echod.stopped");
	support_join(f->fresh, f->directory, "echod.stopped.new");
	supervisor_set_up(&f->supervisor, NULL);
	f->generation = make_generation(f);
	return f->generation == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int result;

	generation_free(f->generation);
	result = support_remove_directory((void **)&f->directory);
	free(f);
	return result;
}

/* ---- What the tests ask --------------------------------------------------------------------- */

static struct service *service(struct fixture *f, const char *name)
{
	struct service *found = generation_service(f->generation, name);

	assert_non_null(found);
	return found;
}

static void stop(struct fixture *f, const char *name)
{
	service(f, name)->stopped = true;
}

static void start_all(struct fixture *f)
{
	struct service *each;

	TAILQ_FOREACH (each, &f->generation->services, link)
		each->stopped = false;
}

/* Of these words, separated by spaces, each is the name of a service that is stopped; no other is.
 */
static void assert_stopped(struct fixture *f, const char *names)
{
	char stopped[256] = "";
	struct service *each;

	TAILQ_FOREACH (each, &f->generation->services, link)
		if (each->stopped)
			snprintf(stopped + strlen(stopped), sizeof(stopped) - strlen(stopped),
				 "%s%s", stopped[0] != '\0' ? " " : "", each->conf->name);
	assert_string_equal(stopped, names);
}

static void save(struct fixture *f)
{
	struct error err = {0};

	if (stoplist_save(f->pidfile, f->generation, &err) < 0)
		fail_msg("%s", err.text);
}

static void load(struct fixture *f)
{
	struct error err = {0};

	if (stoplist_load(f->pidfile, f->generation, &err) < 0)
		fail_msg("%s", err.text);
}

static void load_text(struct fixture *f, const char *text)
{
	start_all(f);
	support_write_file(f->path, text);
	load(f);
}

static void assert_file(const char *path, const char *text)
{
	char got[256];

	support_read_file(path, got, sizeof(got));
	assert_string_equal(got, text);
}

static bool exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static ino_t inode(const char *path)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return st.st_ino;
}

/* It cannot be read, nothing is stopped, and the sentence has these parts. */
static void assert_load_refused(struct fixture *f, const char *part, const char *other)
{
	struct error err = {0};

	assert_int_equal(stoplist_load(f->pidfile, f->generation, &err), -1);
	assert_int_not_equal(err.code, 0);
	assert_contains(err.text, part);
	assert_contains(err.text, other);
	assert_null(strchr(err.text, '\n'));
	assert_stopped(f, "");
}

static void assert_save_refused(struct fixture *f, const char *part, const char *other)
{
	struct error err = {0};

	assert_int_equal(stoplist_save(f->pidfile, f->generation, &err), -1);
	assert_int_not_equal(err.code, 0);
	assert_contains(err.text, part);
	assert_contains(err.text, other);
	assert_null(strchr(err.text, '\n'));
}

/* ---- There and back ------------------------------------------------------------------------- */

static void what_was_saved_is_stopped_again(void **state)
{
	struct fixture *f = *state;

	stop(f, "line");
	stop(f, LONGEST);
	save(f);
	assert_file(f->path, "line\n" LONGEST "\n");
	start_all(f);
	load(f);
	assert_stopped(f, "line " LONGEST);
	assert_int_equal(support_log_count("was stopped by order before the daemon died"), 2);
	assert_contains(support_log_text(), "'echod start line'");
}

static void without_a_file_nothing_is_stopped_and_nothing_is_said(void **state)
{
	struct fixture *f = *state;

	load(f);
	assert_stopped(f, "");
	assert_string_equal(support_log_text(), "");
}

static void loading_starts_nothing_that_is_stopped(void **state)
{
	struct fixture *f = *state;

	stop(f, "echo");
	load(f);
	support_write_file(f->path, "line\n");
	load(f);
	assert_stopped(f, "line echo");
}

static void loading_leaves_the_file_for_the_next_crash(void **state)
{
	struct fixture *f = *state;

	load_text(f, "line\n");
	assert_file(f->path, "line\n");
}

static void the_file_stands_beside_the_pidfile_whatever_its_name_is(void **state)
{
	static const struct {
		const char *pidfile;
		const char *list;
	} names[] = {
		{"other.pid", "other.stopped"},
		{"lock", "lock.stopped"},
		{"a.pid.b", "a.pid.b.stopped"},
		{"x.PID", "x.PID.stopped"},
	};
	struct fixture *f = *state;
	char path[SUPPORT_PATH_MAX];

	for (size_t i = 0; i < COUNT_OF(names); i++) {
		start_all(f);
		stop(f, "echo");
		support_join(f->pidfile, f->directory, names[i].pidfile);
		support_join(path, f->directory, names[i].list);
		save(f);
		assert_file(path, "echo\n");
		start_all(f);
		load(f);
		assert_stopped(f, "echo");
		stoplist_remove(f->pidfile);
		assert_false(exists(path));
	}
}

static int open_to_all(void *arg)
{
	struct fixture *f = arg;
	struct error err = {0};
	struct stat st;

	umask(0);
	CHILD_CHECK(stoplist_save(f->pidfile, f->generation, &err) == 0);
	CHILD_CHECK(stat(f->path, &st) == 0);
	CHILD_CHECK((st.st_mode & 07777) == 0644);
	return 0;
}

static void nobody_else_may_write_the_file_whatever_the_umask(void **state)
{
	struct fixture *f = *state;

	stop(f, "line");
	assert_int_equal(support_in_child(open_to_all, f), 0);
}

/* ---- The file is replaced, or goes ---------------------------------------------------------- */

static void the_file_is_replaced_as_a_whole(void **state)
{
	struct fixture *f = *state;
	char kept[SUPPORT_PATH_MAX];
	ino_t first;

	support_join(kept, f->directory, "kept");
	stop(f, "line");
	save(f);
	first = inode(f->path);
	/* Who reads the former file reads it to its end. */
	assert_int_equal(link(f->path, kept), 0);
	stop(f, "third");
	save(f);
	assert_file(f->path, "line\nthird\n");
	assert_file(kept, "line\n");
	assert_int_not_equal(inode(f->path), first);
	assert_false(exists(f->fresh));
}

static void the_file_goes_when_nothing_is_stopped(void **state)
{
	struct fixture *f = *state;

	stop(f, "line");
	save(f);
	start_all(f);
	save(f);
	assert_false(exists(f->path));
	assert_false(exists(f->fresh));
	/* There is none: that is no error. */
	save(f);
}

static void an_orderly_end_removes_the_file(void **state)
{
	struct fixture *f = *state;

	stop(f, "line");
	save(f);
	stoplist_remove(f->pidfile);
	assert_false(exists(f->path));
	stoplist_remove(f->pidfile);
}

static void what_a_daemon_left_that_died_while_it_wrote_is_no_hindrance(void **state)
{
	struct fixture *f = *state;

	support_write_file(f->fresh, "half a na");
	stop(f, "echo");
	save(f);
	assert_file(f->path, "echo\n");
	assert_false(exists(f->fresh));
	/* And it is never read. */
	stoplist_remove(f->pidfile);
	support_write_file(f->fresh, "line\n");
	start_all(f);
	load(f);
	assert_stopped(f, "");
}

static void nothing_is_written_through_a_link(void **state)
{
	struct fixture *f = *state;
	char target[SUPPORT_PATH_MAX];

	support_join(target, f->directory, "target");
	support_write_file(target, "precious");
	assert_int_equal(symlink(target, f->fresh), 0);
	assert_int_equal(symlink(target, f->path), 0);
	stop(f, "line");
	save(f);
	assert_file(target, "precious");
	assert_file(f->path, "line\n");
	load(f);
	assert_stopped(f, "line");
}

/* ---- What stands in the file ---------------------------------------------------------------- */

static void names_that_are_no_longer_configured_are_passed_over(void **state)
{
	struct fixture *f = *state;

	load_text(f, "gone\nline\nLINE\nlin\nlinee\n line\necho \n");
	assert_stopped(f, "line");
	assert_int_equal(support_log_count("was stopped by order"), 1);
}

static void the_last_line_needs_no_end(void **state)
{
	struct fixture *f = *state;

	load_text(f, "echo\nline");
	assert_stopped(f, "line echo");
	load_text(f, LONGEST);
	assert_stopped(f, LONGEST);
}

static void empty_lines_and_an_empty_file_mean_nothing(void **state)
{
	struct fixture *f = *state;

	load_text(f, "");
	assert_stopped(f, "");
	load_text(f, "\n\n\n");
	assert_stopped(f, "");
	load_text(f, "\n\nthird\n\n");
	assert_stopped(f, "third");
}

static void a_name_that_stands_there_twice_is_stopped(void **state)
{
	struct fixture *f = *state;

	load_text(f, "line\nline\n");
	assert_stopped(f, "line");
}

/* A line that is longer than any name is one line, however it is read: no part of it is a name. */
static void the_end_of_a_long_line_is_no_name(void **state)
{
	struct fixture *f = *state;
	char text[512];

	for (size_t len = 1; len < 300; len++) {
		memset(text, 'x', len);
		snprintf(text + len, sizeof(text) - len, "line\necho");
		load_text(f, text);
		assert_stopped(f, "echo");
	}
}

static void the_beginning_of_a_long_line_is_no_name(void **state)
{
	struct fixture *f = *state;
	char text[512];

	for (size_t len = 1; len < 300; len++) {
		snprintf(text, sizeof(text), "line");
		memset(text + 4, 'x', len);
		snprintf(text + 4 + len, sizeof(text) - 4 - len, "\necho");
		load_text(f, text);
		assert_stopped(f, "echo");
	}
}

/* ---- Files that are not believed ------------------------------------------------------------ */

static void a_link_is_refused(void **state)
{
	struct fixture *f = *state;
	char target[SUPPORT_PATH_MAX];

	support_join(target, f->directory, "target");
	support_write_file(target, "line\n");
	assert_int_equal(symlink(target, f->path), 0);
	assert_load_refused(f, f->path, "cannot read");
}

static void a_link_to_nothing_is_refused_too(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(symlink("nothing", f->path), 0);
	assert_load_refused(f, f->path, "cannot read");
}

static void a_file_of_somebody_else_is_refused(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0)
		skip();
	support_write_file(f->path, "line\n");
	assert_int_equal(chown(f->path, NOBODY, NOBODY), 0);
	assert_load_refused(f, f->path, "no file of this user: remove it");
}

static void a_directory_is_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkdir(f->path, 0755), 0);
	assert_load_refused(f, f->path, "remove it");
}

static void a_pipe_is_refused_and_nobody_waits_for_it(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkfifo(f->path, 0644), 0);
	assert_load_refused(f, f->path, "remove it");
}

/* ---- Files that cannot be written ----------------------------------------------------------- */

static void a_directory_that_is_missing_is_said(void **state)
{
	struct fixture *f = *state;

	support_join(f->pidfile, f->directory, "missing/echod.pid");
	load(f);
	save(f);
	stop(f, "line");
	assert_save_refused(f, "missing/echod.stopped", ": No such file or directory");
}

struct attempt {
	struct fixture *f;
	const char *part;
};

/* As an ordinary user, in a directory that is not theirs to write to. */
static int try_without_rights(void *arg)
{
	const struct attempt *attempt = arg;
	struct fixture *f = attempt->f;
	struct error err = {0};

	if (geteuid() == 0)
		CHILD_CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
	CHILD_CHECK(stoplist_save(f->pidfile, f->generation, &err) == -1);
	CHILD_CHECK(err.code == EXIT_PERMISSION);
	CHILD_CHECK(strstr(err.text, attempt->part) != NULL);
	CHILD_CHECK(strstr(err.text, f->directory) != NULL);
	CHILD_CHECK(strstr(err.text, ": Permission denied") != NULL);
	return 0;
}

static void a_directory_that_cannot_be_written_is_said(void **state)
{
	struct fixture *f = *state;
	struct attempt attempt = {f, "cannot write"};

	support_write_file(f->path, "line\n");
	stop(f, "echo");
	assert_int_equal(chmod(f->directory, 0555), 0);
	assert_int_equal(support_in_child(try_without_rights, &attempt), 0);
	/* What stood there still stands there. */
	assert_file(f->path, "line\n");
	start_all(f);
	attempt.part = "cannot remove";
	assert_int_equal(support_in_child(try_without_rights, &attempt), 0);
	assert_int_equal(chmod(f->directory, 0755), 0);
	assert_file(f->path, "line\n");
}

/* As on a full disk. */
static int try_without_room(void *arg)
{
	struct fixture *f = arg;
	const struct rlimit none = {0, 0};
	struct error err = {0};

	signal(SIGXFSZ, SIG_IGN);
	CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
	CHILD_CHECK(stoplist_save(f->pidfile, f->generation, &err) == -1);
	CHILD_CHECK(strstr(err.text, "cannot write") != NULL);
	CHILD_CHECK(strstr(err.text, ": File too large") != NULL);
	return 0;
}

static void a_list_that_cannot_be_written_whole_replaces_nothing(void **state)
{
	struct fixture *f = *state;

	stop(f, "line");
	save(f);
	stop(f, "echo");
	assert_int_equal(support_in_child(try_without_room, f), 0);
	assert_file(f->path, "line\n");
	assert_false(exists(f->fresh));
}

static void what_is_in_the_way_is_said(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkdir(f->path, 0755), 0);
	assert_save_refused(f, f->path, "cannot remove");
	stop(f, "line");
	assert_save_refused(f, f->path, "cannot replace");
	assert_false(exists(f->fresh));
	assert_int_equal(mkdir(f->fresh, 0755), 0);
	assert_save_refused(f, f->fresh, "cannot write");
	assert_true(exists(f->path) && exists(f->fresh));
}

/* The list never has another name than its own: the longest pidfile would be its list itself. */
static void a_pidfile_whose_path_leaves_no_room_for_the_ending_is_safe(void **state)
{
	struct fixture *f = *state;
	char pidfile[PATH_MAX];
	struct error err = {0};
	size_t len;

	/* "/tmp/x/././…/././lock" is the same as "/tmp/x/lock". */
	len = (size_t)snprintf(pidfile, sizeof(pidfile), "%s/", f->directory);
	while (len + strlen("./") + strlen("lock") < PATH_MAX)
		len += (size_t)snprintf(pidfile + len, sizeof(pidfile) - len, "./");
	snprintf(pidfile + len, sizeof(pidfile) - len, "%s",
		 len + strlen("lock") + 1 < PATH_MAX ? "lock5" : "lock");
	assert_int_equal(strlen(pidfile), PATH_MAX - 1);
	support_write_file(pidfile, "4711\n");
	assert_int_equal(stoplist_save(pidfile, f->generation, &err), -1);
	assert_contains(err.text, "cannot remove");
	stop(f, "line");
	assert_int_equal(stoplist_save(pidfile, f->generation, &err), -1);
	assert_contains(err.text, "cannot write");
	assert_file(pidfile, "4711\n");
	stoplist_remove(pidfile);
	assert_file(pidfile, "4711\n");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_saved_is_stopped_again),
		TEST(without_a_file_nothing_is_stopped_and_nothing_is_said),
		TEST(loading_starts_nothing_that_is_stopped),
		TEST(loading_leaves_the_file_for_the_next_crash),
		TEST(the_file_stands_beside_the_pidfile_whatever_its_name_is),
		TEST(nobody_else_may_write_the_file_whatever_the_umask),
		TEST(the_file_is_replaced_as_a_whole),
		TEST(the_file_goes_when_nothing_is_stopped),
		TEST(an_orderly_end_removes_the_file),
		TEST(what_a_daemon_left_that_died_while_it_wrote_is_no_hindrance),
		TEST(nothing_is_written_through_a_link),
		TEST(names_that_are_no_longer_configured_are_passed_over),
		TEST(the_last_line_needs_no_end),
		TEST(empty_lines_and_an_empty_file_mean_nothing),
		TEST(a_name_that_stands_there_twice_is_stopped),
		TEST(the_end_of_a_long_line_is_no_name),
		TEST(the_beginning_of_a_long_line_is_no_name),
		TEST(a_link_is_refused),
		TEST(a_link_to_nothing_is_refused_too),
		TEST(a_file_of_somebody_else_is_refused),
		TEST(a_directory_is_refused),
		TEST(a_pipe_is_refused_and_nobody_waits_for_it),
		TEST(a_directory_that_is_missing_is_said),
		TEST(a_directory_that_cannot_be_written_is_said),
		TEST(a_list_that_cannot_be_written_whole_replaces_nothing),
		TEST(what_is_in_the_way_is_said),
		TEST(a_pidfile_whose_path_leaves_no_room_for_the_ending_is_safe),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
