#include "run/child_process.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "os/fds.h"
#include "run/channel.h"

/* There is one channel a process; the log's output needs it. */
static int log_channel = -1;
static struct counters *log_counters;

static const struct log_output channel_output = {child_process_log, child_process_log};

static void set_title(const char *name)
{
	char title[16]; /* the kernel's limit (prctl(2), PR_SET_NAME) */

	strncpy(title, name, sizeof(title) - 1);
	title[sizeof(title) - 1] = '\0';
	prctl(PR_SET_NAME, title);
}

void child_process_begin(int channel, const char *name)
{
	log_channel = channel;
	log_copy_to_stderr(false);
	/* libevent's own messages go where the supervisor sent them: to log_write. */
	log_set_output(&channel_output);
	set_title(name);
}

void child_process_log(enum log_level level, const char *text, size_t len)
{
	if (channel_send(log_channel, CHANNEL_LOG, level, text, len) < 0 && log_counters != NULL)
		counter_add(&log_counters->log_dropped, 1);
}

struct counters *child_process_map_counters(int fd, struct error *err)
{
	void *page = mmap(NULL, COUNTERS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (page == MAP_FAILED) {
		error_errno(err, "cannot map the counters");
		return NULL;
	}
	log_counters = page;
	return log_counters;
}

void child_process_unmap_counters(struct counters *counters)
{
	log_counters = NULL;
	munmap(counters, COUNTERS_SIZE);
}

int child_process_keep(int null, int *keep, size_t n, struct error *err)
{
	if (fds_redirect_standard(null) < 0)
		return error_errno(err, "cannot put 0, 1 and 2 on /dev/null");
	fds_close_except(keep, n);
	return 0;
}

_Noreturn void child_process_fail(const struct error *err)
{
	channel_send(log_channel, CHANNEL_FAILED, err->code, err->text, strlen(err->text));
	_exit(EXIT_FAILED);
}
