#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

#define CHILD_SECONDS 30
#define LOG_KEPT_MAX  (64 * 1024)

void support_limit_time(unsigned seconds)
{
	/* The launcher may have ignored it. */
	signal(SIGALRM, SIG_DFL);
	alarm(seconds);
}

/* ---- Directories and files ------------------------------------------------------------------ */

int support_make_directory(void **state)
{
	const char *parent = getenv("TMPDIR");
	char *path;

	if (asprintf(&path, "%s/echod-unit-XXXXXX", parent != NULL ? parent : "/tmp") < 0)
		return -1;
	if (mkdtemp(path) == NULL) {
		free(path);
		return -1;
	}
	*state = path;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *place)
{
	(void)st;
	(void)kind;
	(void)place;
	return remove(path);
}

int support_remove_directory(void **state)
{
	int result = nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);

	free(*state);
	*state = NULL;
	return result;
}

void support_join(char *out, const char *directory, const char *name)
{
	int len = snprintf(out, SUPPORT_PATH_MAX, "%s/%s", directory, name);

	assert_in_range(len, 1, SUPPORT_PATH_MAX - 1);
}

void support_write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	size_t len = strlen(text);

	assert_int_not_equal(fd, -1);
	/* Whatever the umask: a test may say that others can write. */
	assert_int_equal(fchmod(fd, 0644), 0);
	assert_int_equal(write(fd, text, len), (ssize_t)len);
	close(fd);
}

size_t support_read_file(const char *path, char *out, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;

	assert_int_not_equal(fd, -1);
	len = read(fd, out, cap - 1);
	close(fd);
	assert_true(len >= 0);
	out[len] = '\0';
	return (size_t)len;
}

/* ---- Children ------------------------------------------------------------------------------- */

pid_t support_fork(int (*body)(void *arg), void *arg)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		support_limit_time(CHILD_SECONDS);
		_exit(body(arg));
	}
	assert_true(pid > 0);
	return pid;
}

int support_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int support_in_child(int (*body)(void *arg), void *arg)
{
	return support_wait(support_fork(body, arg));
}

void support_child_failed(const char *file, int line, const char *condition)
{
	dprintf(STDERR_FILENO, "%s:%d: in a child: %s does not hold\n", file, line, condition);
	_exit(1);
}

/* ---- Random numbers ------------------------------------------------------------------------- */

void support_random_start(struct support_random *random)
{
	const char *wanted = getenv("ECHOD_TEST_SEED");

	if (wanted != NULL)
		random->seed = strtoull(wanted, NULL, 0);
	else if (getrandom(&random->seed, sizeof(random->seed), 0) < 0)
		random->seed = (uint64_t)getpid();
	random->state = random->seed;
}

/* splitmix64, by Sebastiano Vigna (public domain). */
uint64_t support_random_next(struct support_random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t support_random_below(struct support_random *random, uint64_t n)
{
	return support_random_next(random) % n;
}

/* ---- The log -------------------------------------------------------------------------------- */

static char log_kept[LOG_KEPT_MAX];
static size_t log_kept_len;

static void log_keep(enum log_level level, const char *line, size_t len)
{
	(void)level;
	if (len > sizeof(log_kept) - log_kept_len - 2)
		return;
	memcpy(log_kept + log_kept_len, line, len);
	log_kept_len += len;
	log_kept[log_kept_len++] = '\n';
	log_kept[log_kept_len] = '\0';
}

void support_log_capture(void)
{
	static const struct log_output keeper = {log_keep, log_keep};

	log_kept[0] = '\0';
	log_kept_len = 0;
	log_set_output(&keeper);
	log_set_level(LOG_LEVEL_DEBUG);
}

const char *support_log_text(void)
{
	return log_kept;
}

unsigned support_log_count(const char *text)
{
	unsigned n = 0;

	for (const char *at = log_kept; (at = strstr(at, text)) != NULL; at += strlen(text))
		n++;
	return n;
}
