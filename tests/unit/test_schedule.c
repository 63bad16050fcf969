/* Times of the week. */
#include "support.h"

#include <string.h>

#include "base/schedule.h"

enum { SUN, MON, TUE, WED, THU, FRI, SAT };

static void add(struct schedule *schedule, const char *text)
{
	struct error err = {0};

	if (schedule_add(schedule, text, &err) != 0)
		fail_msg("%s", err.text);
}

static void assert_refused(const char *text, const char *because)
{
	struct schedule schedule = {0};
	struct error err = {0};

	if (schedule_add(&schedule, text, &err) != -1)
		fail_msg("'%s' is taken", text);
	assert_int_equal(err.code, EXIT_CONFIG);
	assert_contains(err.text, "the times '");
	assert_contains(err.text, because);
	assert_int_equal(schedule.count, 0);
}

static bool is_open(const struct schedule *schedule, int day, int hour, int minute)
{
	const struct tm local = {.tm_wday = day, .tm_hour = hour, .tm_min = minute, .tm_sec = 59};

	return schedule_is_open(schedule, &local);
}

static void assert_window(const char *text, unsigned days, int from, int until)
{
	struct schedule schedule = {0};

	add(&schedule, text);
	assert_int_equal(schedule.count, 1);
	assert_int_equal(schedule.windows[0].days, days);
	assert_int_equal(schedule.windows[0].from, from);
	assert_int_equal(schedule.windows[0].until, until);
	schedule_clear(&schedule);
	assert_null(schedule.windows);
}

/* ---- Reading -------------------------------------------------------------------------------- */

static void windows_are_read(void **state)
{
	(void)state;
	assert_window("08:00-18:00", 0x7f, 480, 1080);
	assert_window("00:00-24:00", 0x7f, 0, 1440);
	assert_window("Mon-Fri 08:00-18:00", 0x3e, 480, 1080);
	assert_window("Sat 10:00-12:00", 1u << SAT, 600, 720);
	assert_window("Mon,Wed 22:00-06:00", 1u << MON | 1u << WED, 1320, 360);
	assert_window("Sat-Sun 00:00-23:59", 1u << SAT | 1u << SUN, 0, 1439);
	assert_window("Fri-Mon 09:30-09:31", 1u << FRI | 1u << SAT | 1u << SUN | 1u << MON, 570,
		      571);
	assert_window("Tue,Thu-Fri,Tue 01:02-03:04", 1u << TUE | 1u << THU | 1u << FRI, 62, 184);
	assert_window("Sun-Sat 08:00-18:00", 0x7f, 480, 1080);
	assert_window("Sun-Sun 08:00-18:00", 1u << SUN, 480, 1080);
	assert_window(" \tMon   08:00-18:00 ", 1u << MON, 480, 1080);
	/* Midnight, as an end, is the end of the day. */
	assert_window("22:00-00:00", 0x7f, 1320, 1440);
	assert_window("00:00-00:00", 0x7f, 0, 1440);
	assert_window("08:00-08:00", 0x7f, 480, 480);
}

static void wrong_days_are_said(void **state)
{
	(void)state;
	assert_refused("mon 08:00-18:00", "'mon' is not a day; did you mean Mon?");
	assert_refused("Xyz 08:00-18:00", "'Xyz' is not a day; write Mon, Tue, Wed, Thu, Fri, ");
	assert_refused("Monday 08:00-18:00", "'Monday' is not a day");
	assert_refused("Mon- 08:00-18:00", "'' is not a day");
	assert_refused("Mon,,Tue 08:00-18:00", "'' is not a day");
	assert_refused("Mon, Tue 08:00-18:00", "too many words; write days without blanks");
	assert_refused("Mon-Tue-Wed 08:00-18:00", "'Tue-Wed' is not a day");
	assert_refused("1-5 08:00-18:00", "'1' is not a day");
}

static void wrong_hours_are_said(void **state)
{
	(void)state;
	assert_refused("", "it is empty; write 08:00-18:00");
	assert_refused("  ", "it is empty");
	assert_refused("Mon-Fri", "it has no hours; write Mon-Fri 00:00-24:00 for whole days");
	assert_refused("08:00", "'08:00' is not from-until; write 08:00-18:00");
	assert_refused("8:00-18:00", "'8:00' is not a time of day; write it as in 08:00");
	assert_refused("08:00-6pm", "'6pm' is not a time of day");
	assert_refused("08:60-18:00", "'08:60' is not a time of day");
	assert_refused("08:00-24:01", "'24:01' is not a time of day");
	assert_refused("08:00-25:00", "'25:00' is not a time of day");
	assert_refused("24:00-08:00", "24:00 is only an end; write 00:00");
	assert_refused("08:00-18:00-19:00", "'18:00-19:00' is not a time of day");
	assert_refused("08:00-", "'' is not a time of day");
	assert_refused("08.00-18.00", "'08.00' is not a time of day");
	assert_refused("08:00 - 18:00", "too many words");
	assert_refused("-1:00-18:00", "'' is not a time of day");
	assert_refused("08:00-18:00 Mon", "'08:00' is not a day");
}

/* ---- Deciding ------------------------------------------------------------------------------- */

static void without_a_window_it_is_always_open(void **state)
{
	struct schedule schedule = {0};

	(void)state;
	assert_true(is_open(&schedule, SUN, 0, 0));
	assert_true(is_open(&schedule, SAT, 23, 59));
}

static void the_begin_is_part_of_a_window_and_the_end_is_not(void **state)
{
	struct schedule schedule = {0};

	(void)state;
	add(&schedule, "Mon-Fri 08:00-18:00");
	assert_false(is_open(&schedule, MON, 7, 59));
	assert_true(is_open(&schedule, MON, 8, 0));
	assert_true(is_open(&schedule, FRI, 17, 59));
	assert_false(is_open(&schedule, FRI, 18, 0));
	assert_false(is_open(&schedule, SUN, 12, 0));
	assert_false(is_open(&schedule, SAT, 12, 0));
	schedule_clear(&schedule);
}

static void a_window_over_midnight_belongs_to_the_day_on_which_it_begins(void **state)
{
	struct schedule schedule = {0};

	(void)state;
	add(&schedule, "Mon,Sat 22:00-06:00");
	assert_false(is_open(&schedule, MON, 5, 59));
	assert_false(is_open(&schedule, MON, 21, 59));
	assert_true(is_open(&schedule, MON, 22, 0));
	assert_true(is_open(&schedule, TUE, 0, 0));
	assert_true(is_open(&schedule, TUE, 5, 59));
	assert_false(is_open(&schedule, TUE, 6, 0));
	assert_false(is_open(&schedule, TUE, 22, 0));
	/* Over the end of the week, too. */
	assert_true(is_open(&schedule, SAT, 23, 59));
	assert_true(is_open(&schedule, SUN, 5, 59));
	assert_false(is_open(&schedule, SUN, 6, 0));
	schedule_clear(&schedule);
}

static void a_window_that_ends_when_it_begins_is_a_day_long(void **state)
{
	struct schedule schedule = {0};

	(void)state;
	add(&schedule, "Mon 08:00-08:00");
	assert_false(is_open(&schedule, MON, 7, 59));
	assert_true(is_open(&schedule, MON, 8, 0));
	assert_true(is_open(&schedule, TUE, 7, 59));
	assert_false(is_open(&schedule, TUE, 8, 0));
	schedule_clear(&schedule);
}

static void one_of_several_windows_is_enough(void **state)
{
	struct schedule schedule = {0};

	(void)state;
	add(&schedule, "Mon 08:00-12:00");
	add(&schedule, "Mon 13:00-24:00");
	assert_true(is_open(&schedule, MON, 11, 59));
	assert_false(is_open(&schedule, MON, 12, 30));
	assert_true(is_open(&schedule, MON, 23, 59));
	assert_false(is_open(&schedule, TUE, 0, 0));
	schedule_clear(&schedule);
}

/* A leap second has tm_sec 60, never another minute. */
static void a_whole_week_is_open_every_minute(void **state)
{
	struct schedule schedule = {0};

	(void)state;
	add(&schedule, "00:00-24:00");
	for (int minute = 0; minute < 7 * 24 * 60; minute++)
		if (!is_open(&schedule, minute / 1440, minute / 60 % 24, minute % 60))
			fail_msg("closed in minute %d", minute);
	schedule_clear(&schedule);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_are_read),
		cmocka_unit_test(wrong_days_are_said),
		cmocka_unit_test(wrong_hours_are_said),
		cmocka_unit_test(without_a_window_it_is_always_open),
		cmocka_unit_test(the_begin_is_part_of_a_window_and_the_end_is_not),
		cmocka_unit_test(a_window_over_midnight_belongs_to_the_day_on_which_it_begins),
		cmocka_unit_test(a_window_that_ends_when_it_begins_is_a_day_long),
		cmocka_unit_test(one_of_several_windows_is_enough),
		cmocka_unit_test(a_whole_week_is_open_every_minute),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
