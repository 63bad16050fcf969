/*
 * Times of the week when a service is open, in the machine's local time:
 *
 *   "08:00-18:00"           every day
 *   "Mon-Fri 08:00-18:00"   some days; also "Sat 10:00-12:00", "Mon,Wed 22:00-06:00"
 *
 * Days are written Sun to Sat; "Fri-Mon" goes over the end of the week. A window over midnight
 * belongs to the day on which it begins. The end is not part of it; 24:00 and 00:00 both end a day.
 * No window at all: always open.
 */
#ifndef ECHOD_BASE_SCHEDULE_H
#define ECHOD_BASE_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/error.h"

struct schedule_window {
	unsigned days; /* bit 0: Sunday, as in tm_wday */
	int from;      /* minutes after midnight, 0 to 1439 */
	int until;     /* 1 to 1440; at most `from`: on the next day */
};

struct schedule {
	struct schedule_window *windows; /* owned */
	size_t count;
};

/* Add a window. Returns 0, or -1 with a sentence; then nothing is changed. */
int schedule_add(struct schedule *schedule, const char *text, struct error *err);
void schedule_clear(struct schedule *schedule);

/* Is it open at this local time (localtime_r(3))? Only tm_wday, tm_hour and tm_min are looked at.
 */
bool schedule_is_open(const struct schedule *schedule, const struct tm *local);

#endif
