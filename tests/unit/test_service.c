/* How long the verbs for services wait. */
#include "support.h"

#include "cli/service.h"

static char *command[] = {NULL};

static void a_start_may_take_start_timeout_and_10_s_more(void **state)
{
	struct conf conf = {.start_timeout = 7000};

	(void)state;
	assert_int_equal(service_start_limit(&conf), 17000);
}

/* What `echod add` has started has a stop_timeout that no file tells. */
static void a_stop_may_take_10_s_and_5_s_more_at_least(void **state)
{
	struct conf conf = {.drain_timeout = 0};

	(void)state;
	assert_int_equal(service_stop_limit(&conf), 15000);
}

static void a_stop_may_take_drain_timeout_and_5_s_more(void **state)
{
	struct conf conf = {.drain_timeout = 30000};

	(void)state;
	assert_int_equal(service_stop_limit(&conf), 35000);
}

static void a_stop_waits_for_the_slowest_program(void **state)
{
	struct conf_service services[] = {
		{.command = command, .stop_timeout = 20000},
		{.command = command, .stop_timeout = 60000},
		{.protocol = NULL, .stop_timeout = 90000}, /* not a program: no such setting */
	};
	struct conf conf = {
		.drain_timeout = 30000, .services = services, .service_count = COUNT_OF(services)};

	(void)state;
	assert_int_equal(service_stop_limit(&conf), 65000);
}

static void an_answer_takes_5_s_at_most(void **state)
{
	struct conf conf = {.drain_timeout = 30000, .start_timeout = 30000};

	(void)state;
	assert_int_equal(service_answer_limit(&conf), 5000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_start_may_take_start_timeout_and_10_s_more),
		cmocka_unit_test(a_stop_may_take_10_s_and_5_s_more_at_least),
		cmocka_unit_test(a_stop_may_take_drain_timeout_and_5_s_more),
		cmocka_unit_test(a_stop_waits_for_the_slowest_program),
		cmocka_unit_test(an_answer_takes_5_s_at_most),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
