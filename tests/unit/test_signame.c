/* Names of signals. */
#include "support.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/signame.h"

static void every_standard_signal_has_a_name(void **state)
{
	(void)state;
	/* Linux has 31; above them are the C library's own and the real-time signals. */
	for (int sig = 1; sig <= 31; sig++)
		if (strcmp(signame(sig), "SIG?") == 0)
			fail_msg("signal %d has no name", sig);
	assert_string_equal(signame(SIGTERM), "SIGTERM");
	assert_string_equal(signame(SIGKILL), "SIGKILL");
	assert_string_equal(signame(SIGSTOP), "SIGSTOP");
	assert_string_equal(signame(SIGCONT), "SIGCONT");
}

static void of_two_names_the_usual_one_is_shown(void **state)
{
	(void)state;
	assert_string_equal(signame(SIGABRT), "SIGABRT");
	assert_string_equal(signame(SIGCHLD), "SIGCHLD");
	assert_string_equal(signame(SIGIO), "SIGIO");
	assert_int_equal(signame_parse("SIGIOT"), SIGABRT);
	assert_int_equal(signame_parse("CLD"), SIGCHLD);
	assert_int_equal(signame_parse("poll"), SIGIO);
}

static void a_number_without_a_name_is_shown_as_such(void **state)
{
	const int nameless[] = {0, -1, 32, SIGRTMAX + 1, 1000};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(nameless); i++)
		assert_string_equal(signame(nameless[i]), "SIG?");
}

static void every_name_is_read_in_each_of_its_forms(void **state)
{
	(void)state;
	for (int sig = 1; sig <= 31; sig++) {
		const char *name = signame(sig);
		char lower[32], number[16];

		snprintf(lower, sizeof(lower), "%s", name);
		for (char *c = lower; *c != '\0'; c++)
			*c = (char)tolower((unsigned char)*c);
		snprintf(number, sizeof(number), "%d", sig);
		if (signame_parse(name) != sig || signame_parse(name + 3) != sig ||
		    signame_parse(lower) != sig || signame_parse(number) != sig)
			fail_msg("%s is not read as %d", name, sig);
	}
	assert_int_equal(signame_parse("sigterm"), SIGTERM);
	assert_int_equal(signame_parse("usr1"), SIGUSR1);
	assert_int_equal(signame_parse("SigHup"), SIGHUP);
}

static void real_time_signals_are_numbers(void **state)
{
	char last[16], beyond[16];

	(void)state;
	snprintf(last, sizeof(last), "%d", SIGRTMAX);
	snprintf(beyond, sizeof(beyond), "%d", SIGRTMAX + 1);
	assert_int_equal(signame_parse(last), SIGRTMAX);
	assert_string_equal(signame(SIGRTMIN), "SIGRTMIN");
	assert_string_equal(signame(SIGRTMAX), "SIGRTMIN+30");
	assert_int_equal(signame_parse("SIGRTMIN"), SIGRTMIN);
	assert_int_equal(signame_parse("rtmin+3"), SIGRTMIN + 3);
	assert_int_equal(signame_parse(beyond), -1);
}

static void what_is_no_signal_is_refused(void **state)
{
	static const char *const wrong[] = {
		"",	 "0",	     "-1",	   "-15",	 "+15",
		" 15",	 "15 ",	     "4294967311", "SIG",	 "SIG?",
		"SIG15", "SIGTER",   "SIGTERMS",   "SIGSIGTERM", " TERM",
		"TERM ", "SIGRTMIN+31", "HUP,TERM",   "1.0",	 "99999999999999999999"};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		if (signame_parse(wrong[i]) != -1)
			fail_msg("'%s' is read as %d", wrong[i], signame_parse(wrong[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_standard_signal_has_a_name),
		cmocka_unit_test(of_two_names_the_usual_one_is_shown),
		cmocka_unit_test(a_number_without_a_name_is_shown_as_such),
		cmocka_unit_test(every_name_is_read_in_each_of_its_forms),
		cmocka_unit_test(real_time_signals_are_numbers),
		cmocka_unit_test(what_is_no_signal_is_refused),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
