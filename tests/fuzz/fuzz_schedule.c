/* Times of the week: what is open in each minute of it, asked once more the long way. */
#include "fuzz.h"

#include <stdlib.h>

#include "base/schedule.h"

const char fuzz_name[] = "schedule";

#define WINDOWS_MAX 8
#define DAY	    (24 * 60)
#define WEEK	    (7 * DAY)

/* Minutes of the week, counted from the window's own beginning. */
static void open_window(const struct schedule_window *window, bool *open)
{
	int len = window->until - window->from;

	FUZZ_CHECK(window->days != 0 && window->days <= 0x7f);
	FUZZ_CHECK(window->from >= 0 && window->from < DAY);
	FUZZ_CHECK(window->until >= 1 && window->until <= DAY);
	if (len <= 0)
		len += DAY;
	for (int day = 0; day < 7; day++)
		for (int i = 0; i < len && (window->days >> day & 1) != 0; i++)
			open[(day * DAY + window->from + i) % WEEK] = true;
}

static void check(const struct schedule *schedule)
{
	bool open[WEEK] = {false};

	for (size_t i = 0; i < schedule->count; i++)
		open_window(&schedule->windows[i], open);
	for (int minute = 0; minute < WEEK; minute++) {
		struct tm tm = {.tm_wday = minute / DAY,
				.tm_hour = minute % DAY / 60,
				.tm_min = minute % 60,
				.tm_sec = minute % 61};

		FUZZ_CHECK(schedule_is_open(schedule, &tm) ==
			   (schedule->count == 0 || open[minute]));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct schedule schedule = {0};
	char *line;

	while (schedule.count < WINDOWS_MAX && (line = fuzz_line(&input)) != NULL) {
		struct error err = {0};
		size_t before = schedule.count;

		if (schedule_add(&schedule, line, &err) == 0)
			FUZZ_CHECK(schedule.count == before + 1);
		else
			FUZZ_CHECK(schedule.count == before && err.text[0] != '\0');
		free(line);
	}
	check(&schedule);
	schedule_clear(&schedule);
	return 0;
}
