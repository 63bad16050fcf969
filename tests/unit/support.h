/*
 * What the unit tests share: temporary directories, forked children, random numbers, a captured
 * log.
 */
#ifndef ECHOD_TESTS_UNIT_SUPPORT_H
#define ECHOD_TESTS_UNIT_SUPPORT_H

/* cmocka.h needs the first four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <sys/types.h>

#define SUPPORT_PATH_MAX 512
#define COUNT_OF(array)	 (sizeof(array) / sizeof((array)[0]))

/*
 * A test program that hangs ends by SIGALRM instead of hanging the whole run. First thing in
 * main().
 */
void support_limit_time(unsigned seconds);

/* ---- Directories and files ------------------------------------------------------------------ */

/* Set-up and tear-down of a test that needs an empty directory of its own: `*state` is its path. */
int support_make_directory(void **state);
int support_remove_directory(void **state);

/* "directory/name" in `out`, which has SUPPORT_PATH_MAX bytes. */
void support_join(char *out, const char *directory, const char *name);

/* Make or replace a file of mode 0644. */
void support_write_file(const char *path, const char *text);

/* The whole text of a file, at most `cap` - 1 bytes of it, NUL-terminated. Returns its length. */
size_t support_read_file(const char *path, char *out, size_t cap);

/* ---- Children ------------------------------------------------------------------------------- */

/*
 * Run `body` in a child that ends with its result. A cmocka assertion in a child would go on with
 * the next test there: use CHILD_CHECK. A child that hangs ends by SIGALRM.
 */
pid_t support_fork(int (*body)(void *arg), void *arg);

/* Wait for its end: its exit code, or 128 + the signal that ended it. */
int support_wait(pid_t pid);

/* Both. */
int support_in_child(int (*body)(void *arg), void *arg);

/* In a child: say what does not hold, and end with 1. */
#define CHILD_CHECK(condition)                                                                     \
	((condition) ? (void)0 : support_child_failed(__FILE__, __LINE__, #condition))
void support_child_failed(const char *file, int line, const char *condition)
	__attribute__((noreturn));

/* ---- Random numbers ------------------------------------------------------------------------- */

struct support_random {
	uint64_t seed; /* print this when a test fails; ECHOD_TEST_SEED=N repeats the run */
	uint64_t state;
};

void support_random_start(struct support_random *random);
uint64_t support_random_next(struct support_random *random);

/* 0 to n - 1. */
uint64_t support_random_below(struct support_random *random, uint64_t n);

/* ---- The log -------------------------------------------------------------------------------- */

/* Keep what is logged from now on, at all levels, in memory, and forget what was kept before. */
void support_log_capture(void);

/* Everything that was logged since, one message a line. */
const char *support_log_text(void);

/* How often `text` stands in it. */
unsigned support_log_count(const char *text);

#define assert_contains(text, part)                                                                \
	do {                                                                                       \
		const char *where_ = (text);                                                       \
		if (strstr(where_, (part)) == NULL)                                                \
			fail_msg("'%s' is not in '%s'", (part), where_);                           \
	} while (0)

#endif
