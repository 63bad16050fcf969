/* The paths of executables: our own, and commands that are to be run. */
#include "support.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/self.h"

/* In a directory with: one/ (no echod), two/echod, three/echod. */
static int setup(void **state)
{
	char path[SUPPORT_PATH_MAX];

	if (support_make_directory(state) < 0)
		return -1;
	support_join(path, *state, "one");
	if (mkdir(path, 0755) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		support_join(path, *state, i == 0 ? "two" : "three");
		if (mkdir(path, 0755) < 0)
			return -1;
		support_join(path, *state, i == 0 ? "two/echod" : "three/echod");
		support_write_file(path, "#!/bin/sh\n");
		if (chmod(path, 0755) < 0)
			return -1;
	}
	return 0;
}

struct search {
	const char *directory;
	const char *path; /* PATH, each @ stands for the directory; NULL: not set */
	const char *argv0;
	const char *found; /* likewise; NULL: nothing */
	char *(*find)(const char *name, struct error *err);
};

static void expand(char *out, size_t cap, const char *text, const char *directory)
{
	size_t used = 0;

	for (; *text != '\0'; text++) {
		int n = *text == '@' ? snprintf(out + used, cap - used, "%s", directory)
				     : snprintf(out + used, cap - used, "%c", *text);

		CHILD_CHECK(n > 0 && used + (size_t)n < cap);
		used += (size_t)n;
	}
	out[used] = '\0';
}

/* In a child: it changes directory and PATH. */
static int search(void *arg)
{
	const struct search *s = arg;
	struct error err = {0};
	char cwd[PATH_MAX], text[4 * PATH_MAX] = "";
	char *path;

	CHILD_CHECK(chdir(s->directory) == 0 && getcwd(cwd, sizeof(cwd)) != NULL);
	unsetenv("PATH");
	if (s->path != NULL) {
		expand(text, sizeof(text), s->path, cwd);
		setenv("PATH", text, 1);
	}
	path = s->find(s->argv0, &err);
	CHILD_CHECK((path == NULL) == (err.text[0] != '\0'));
	if (s->found == NULL) {
		CHILD_CHECK(path == NULL);
		return 0;
	}
	expand(text, sizeof(text), s->found, cwd);
	CHILD_CHECK(path != NULL && strcmp(path, text) == 0);
	free(path);
	return 0;
}

static void assert_found(void **state, const char *path, const char *argv0, const char *found)
{
	struct search s = {*state, path, argv0, found, self_path};

	assert_int_equal(support_in_child(search, &s), 0);
}

static void assert_command(void **state, const char *path, const char *name, const char *found)
{
	struct search s = {*state, path, name, found, self_find_command};

	assert_int_equal(support_in_child(search, &s), 0);
}

static void a_name_with_a_slash_needs_no_path(void **state)
{
	assert_found(state, "@/two", "/usr/sbin/echod", "/usr/sbin/echod");
	assert_found(state, "@/two", "three/echod", "@/three/echod");
	assert_found(state, NULL, "./echod", "@/./echod");
}

static void a_bare_name_is_the_first_in_the_path(void **state)
{
	assert_found(state, "@/one:@/two:@/three", "echod", "@/two/echod");
	assert_found(state, "@/three:@/two", "echod", "@/three/echod");
	assert_found(state, "/nonexistent::@/two", "echod", "@/two/echod");
}

static void an_empty_or_relative_entry_means_the_current_directory(void **state)
{
	char path[SUPPORT_PATH_MAX];

	assert_found(state, "two", "echod", "@/two/echod");
	support_join(path, *state, "echod");
	support_write_file(path, "");
	assert_int_equal(chmod(path, 0755), 0);
	assert_found(state, "", "echod", "@/echod");
	assert_found(state, "@/one:", "echod", "@/echod");
	assert_found(state, ":@/two", "echod", "@/echod");
}

static void a_file_that_cannot_be_executed_is_passed_over(void **state)
{
	char path[SUPPORT_PATH_MAX];

	support_join(path, *state, "two/echod");
	assert_int_equal(chmod(path, 0644), 0);
	assert_found(state, "@/two:@/three", "echod", "@/three/echod");
}

static void a_directory_of_that_name_is_passed_over(void **state)
{
	char path[SUPPORT_PATH_MAX];

	support_join(path, *state, "one/echod");
	assert_int_equal(mkdir(path, 0755), 0);
	assert_found(state, "@/one:@/two", "echod", "@/two/echod");
}

static void a_symbolic_link_stays_unresolved(void **state)
{
	char link[SUPPORT_PATH_MAX];

	support_join(link, *state, "one/echod");
	assert_int_equal(symlink("../two/echod", link), 0);
	assert_found(state, "@/one:@/two", "echod", "@/one/echod");
	assert_found(state, "@/two", "one/echod", "@/one/echod");
}

static void what_is_nowhere_is_said(void **state)
{
	assert_found(state, "@/one", "echod", NULL);
	assert_found(state, NULL, "echod", NULL);
}

static void an_empty_name_is_nowhere(void **state)
{
	assert_found(state, "@/two", "", NULL);
}

static void a_command_is_found_as_a_shell_finds_it(void **state)
{
	assert_command(state, "@/one:@/two:@/three", "echod", "@/two/echod");
	assert_command(state, "two", "echod", "@/two/echod");
	assert_command(state, "@/two", "three/echod", "@/three/echod");
	assert_command(state, NULL, "./two/echod", "@/./two/echod");
	assert_command(state, NULL, "/bin/sh", "/bin/sh");
}

static void a_command_that_is_not_there_is_said(void **state)
{
	assert_command(state, "@/one", "echod", NULL);
	assert_command(state, NULL, "echod", NULL);
	assert_command(state, "@/two", "", NULL);
	assert_command(state, "@/two", "one/echod", NULL);
	assert_command(state, "@/two", "two/echod/more", NULL);
}

static void a_command_that_cannot_be_executed_is_said(void **state)
{
	char path[SUPPORT_PATH_MAX];

	support_join(path, *state, "two/echod");
	assert_int_equal(chmod(path, 0644), 0);
	assert_command(state, "@/three", "two/echod", NULL);
	assert_command(state, "@/three", "./two", NULL);
	assert_command(state, "@/two:@/three", "echod", "@/three/echod");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, support_remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_name_with_a_slash_needs_no_path),
		TEST(a_bare_name_is_the_first_in_the_path),
		TEST(an_empty_or_relative_entry_means_the_current_directory),
		TEST(a_file_that_cannot_be_executed_is_passed_over),
		TEST(a_directory_of_that_name_is_passed_over),
		TEST(a_symbolic_link_stays_unresolved),
		TEST(what_is_nowhere_is_said),
		TEST(an_empty_name_is_nowhere),
		TEST(a_command_is_found_as_a_shell_finds_it),
		TEST(a_command_that_is_not_there_is_said),
		TEST(a_command_that_cannot_be_executed_is_said),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
