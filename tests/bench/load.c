/*
 * A load generator for echo servers. It drives one from one thread, checks every byte that comes
 * back, and measures throughput, latency, and what the server uses. load --help says how.
 */
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "bench/options.h"
#include "bench/report.h"
#include "bench/run.h"

static int pin(int cpu, struct error *err)
{
	cpu_set_t set;

	if (cpu < 0)
		return 0;
	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		return error_errno(err, "--cpu: cannot run on processor %d only", cpu);
	return 0;
}

/* In open loop, a unit shall be sent when it is due and not up to 50 us later (prctl(2)). */
static int sharpen_timers(struct error *err)
{
	if (prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0) != 0)
		return error_errno(err, "cannot set the timer slack");
	return 0;
}

int main(int argc, char **argv)
{
	struct options options;
	struct error err = {0, ""};
	struct run run;
	int parsed = options_parse(argc, argv, &options, &err);

	if (parsed > 0)
		return 0;
	if (parsed < 0 || pin(options.cpu, &err) != 0 || sharpen_timers(&err) != 0 ||
	    run_all(&run, &options, &err) != 0) {
		fprintf(stderr, "load: %s\n", err.text);
		return EXIT_USAGE;
	}
	if (report_print(&run, &err) != 0) {
		fprintf(stderr, "load: %s\n", err.text);
		return EXIT_FAILED;
	}
	return run.errors == 0 ? EXIT_DONE : EXIT_FAILED;
}
