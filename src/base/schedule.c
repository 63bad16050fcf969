#include "base/schedule.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define BLANKS	 " \t"
#define EVERYDAY 0x7fu
#define MIDNIGHT (24 * 60)

static const char *const day_names[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};

/* ---- Reading -------------------------------------------------------------------------------- */

/* 0 to 6, or -1 with a sentence. */
static int parse_day(const char *name, struct error *err)
{
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	for (int day = 0; day < 7; day++) {
		if (strcmp(name, day_names[day]) == 0)
			return day;
		if (text_is_nearer(name, day_names[day], &best))
			nearest = day_names[day];
	}
	if (nearest != NULL)
		return error_set(err, EXIT_CONFIG, "'%s' is not a day; did you mean %s?", name,
				 nearest);
	return error_set(err, EXIT_CONFIG,
			 "'%s' is not a day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun", name);
}

/* "Mon" or "Mon-Fri"; "Sat-Mon" goes over the end of the week. Cut in place. */
static int parse_day_range(char *text, unsigned *days, struct error *err)
{
	char *dash = strchr(text, '-');
	int from, until;

	if (dash != NULL)
		*dash = '\0';
	from = parse_day(text, err);
	until = dash != NULL && from >= 0 ? parse_day(dash + 1, err) : from;
	if (from < 0 || until < 0)
		return -1;
	for (int day = from; day != until; day = (day + 1) % 7)
		*days |= 1u << day;
	*days |= 1u << until;
	return 0;
}

static int parse_days(char *text, unsigned *days, struct error *err)
{
	char *rest = text, *one;

	*days = 0;
	while ((one = strsep(&rest, ",")) != NULL)
		if (parse_day_range(one, days, err) < 0)
			return -1;
	return 0;
}

/* "08:00", in minutes after midnight; -1: it is none. */
static int parse_clock(const char *text)
{
	int hours, minutes;

	if (strlen(text) != 5 || !isdigit((unsigned char)text[0]) ||
	    !isdigit((unsigned char)text[1]) || text[2] != ':' ||
	    !isdigit((unsigned char)text[3]) || !isdigit((unsigned char)text[4]))
		return -1;
	hours = (text[0] - '0') * 10 + text[1] - '0';
	minutes = (text[3] - '0') * 10 + text[4] - '0';
	if (minutes > 59 || 60 * hours + minutes > MIDNIGHT)
		return -1;
	return 60 * hours + minutes;
}

/* "08:00-18:00". Cut in place. */
static int parse_hours(char *text, struct schedule_window *window, struct error *err)
{
	char *dash = strchr(text, '-');

	if (dash == NULL)
		return error_set(err, EXIT_CONFIG, "'%s' is not from-until; write 08:00-18:00",
				 text);
	*dash = '\0';
	window->from = parse_clock(text);
	window->until = parse_clock(dash + 1);
	if (window->from < 0 || window->until < 0)
		return error_set(err, EXIT_CONFIG,
				 "'%s' is not a time of day; write it as in 08:00, 24 hours a day",
				 window->from < 0 ? text : dash + 1);
	if (window->from == MIDNIGHT)
		return error_set(err, EXIT_CONFIG, "24:00 is only an end; write 00:00");
	/* "Mon 22:00-00:00" ends with Monday. */
	if (window->until == 0)
		window->until = MIDNIGHT;
	return 0;
}

/* Cuts `copy` into its words. */
static int parse_window(char *copy, struct schedule_window *window, struct error *err)
{
	char *rest = NULL, *first = strtok_r(copy, BLANKS, &rest);
	char *second = strtok_r(NULL, BLANKS, &rest);

	if (first == NULL)
		return error_set(err, EXIT_CONFIG, "it is empty; write 08:00-18:00");
	if (strtok_r(NULL, BLANKS, &rest) != NULL)
		return error_set(err, EXIT_CONFIG,
				 "it has too many words; write days without "
				 "blanks, as in Mon,Wed-Fri 08:00-18:00");
	window->days = EVERYDAY;
	if (second == NULL && isalpha((unsigned char)first[0]))
		return error_set(err, EXIT_CONFIG,
				 "it has no hours; write %s 00:00-24:00 for whole days", first);
	if (second != NULL && parse_days(first, &window->days, err) < 0)
		return -1;
	return parse_hours(second != NULL ? second : first, window, err);
}

int schedule_add(struct schedule *schedule, const char *text, struct error *err)
{
	struct schedule_window window, *larger;
	char *copy = strdup(text);
	int result;

	if (copy == NULL)
		return error_errno(err, "the times '%s'", text);
	result = parse_window(copy, &window, err);
	free(copy);
	if (result < 0)
		return error_prefix(err, "the times '%s': ", text);
	larger = realloc(schedule->windows, (schedule->count + 1) * sizeof(*larger));
	if (larger == NULL)
		return error_errno(err, "the times '%s'", text);
	schedule->windows = larger;
	larger[schedule->count++] = window;
	return 0;
}

void schedule_clear(struct schedule *schedule)
{
	free(schedule->windows);
	*schedule = (struct schedule){0};
}

/* ---- Deciding ------------------------------------------------------------------------------- */

static bool is_in(const struct schedule_window *window, int day, int minute)
{
	bool today = (window->days >> day & 1) != 0;
	bool since_yesterday = (window->days >> (day + 6) % 7 & 1) != 0;

	if (window->from < window->until)
		return today && minute >= window->from && minute < window->until;
	return (today && minute >= window->from) || (since_yesterday && minute < window->until);
}

bool schedule_is_open(const struct schedule *schedule, const struct tm *local)
{
	int minute = 60 * local->tm_hour + local->tm_min;

	for (size_t i = 0; i < schedule->count; i++)
		if (is_in(&schedule->windows[i], local->tm_wday, minute))
			return true;
	return schedule->count == 0;
}
