/*
 * What every process that the supervisor forks has in common, worker or keeper of a program: it
 * logs through its channel, counts in a page that the supervisor reads, and lets go of all else
 * that it inherited.
 */
#ifndef ECHOD_RUN_CHILD_PROCESS_H
#define ECHOD_RUN_CHILD_PROCESS_H

#include <stddef.h>

#include "base/error.h"
#include "base/log.h"
#include "net/counters.h"

/* Its log goes to `channel` from now on, and `name` is what ps(1) shows. First thing after fork. */
void child_process_begin(int channel, const char *name);

/* Send the log a record as it is. One that the channel cannot take now is counted and dropped. */
void child_process_log(enum log_level level, const char *text, size_t len);

/*
 * The page of the memory file `fd`, which may be closed then; to be unmapped at the end. NULL with
 * the reason.
 */
struct counters *child_process_map_counters(int fd, struct error *err);
void child_process_unmap_counters(struct counters *counters);

/*
 * The written list of what it holds: 0 to 2 on the descriptor `null`, and the `n` in `keep`,
 * which is sorted. All else is closed, so that the end of the supervisor is the end of file on the
 * channel.
 */
int child_process_keep(int null, int *keep, size_t n, struct error *err);

/* Tell the supervisor why it cannot serve, and end. */
_Noreturn void child_process_fail(const struct error *err);

#endif
