#include "bench/options.h"

#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>

#include "base/text.h"
#include "bench/pattern.h"

#define SECOND_NS     UINT64_C(1000000000)
#define CONNECTIONS   (1 << 20)
#define PAYLOAD_MAX   65507 /* of UDP over IPv4 */
#define DAY_MS	      INT64_C(86400000)
#define OPTION_LETTER 256 /* options have no letters: their number is behind all of them */

static const char help[] =
	"Usage: load [options] ADDRESS PORT\n"
	"Sends lines to an echo server, checks every byte that comes back, and prints one line of\n"
	"JSON about it. Exit code: 0, 1 when anything was wrong, 2 after a mistake in the usage.\n"
	"\n"
	"  --connections N    connections (UDP: sockets)                               [1]\n"
	"  --sources N        from so many addresses, 127.0.0.1 and the following\n"
	"  --size BYTES       a line with its LF (UDP: a datagram)                     [32]\n"
	"  --pipeline N       so many lines are under way on each connection           [1]\n"
	"  --once             a connection carries one line and ends\n"
	"  --udp              datagrams\n"
	"  --timeout SECONDS  UDP: then a datagram is lost                             [0.2]\n"
	"  --train N          UDP: so many datagrams in one call, by UDP_SEGMENT\n"
	"  --rate N           so many lines a second, whatever the server does\n"
	"  --warmup SECONDS   not counted                                              [0.2]\n"
	"  --seconds SECONDS  measured                                                 [1]\n"
	"  --patience SECONDS at the end, wait so long for the last replies            [10]\n"
	"  --cpu N            run on this processor\n"
	"  --server PID       measure this process and all that descend from it\n"
	"  --idle N           further connections that stay silent\n";

/* One row for each option: the table is what getopt_long(3) is told, too. */
struct option_row {
	const char *name;
	enum { FLAG, NUMBER, TIME } kind;
	size_t offset; /* in struct options */
	int64_t min;   /* of times: milliseconds */
	int64_t max;
};

#define ROW(name, kind, field, min, max)                                                           \
	{                                                                                          \
		name, kind, offsetof(struct options, field), min, max                              \
	}

static const struct option_row rows[] = {
	ROW("connections", NUMBER, connections, 1, CONNECTIONS),
	ROW("sources", NUMBER, sources, 1, 1000000),
	ROW("size", NUMBER, size, PATTERN_MIN, PATTERN_MAX),
	ROW("pipeline", NUMBER, pipeline, 1, 1 << 16),
	ROW("once", FLAG, once, 0, 1),
	ROW("udp", FLAG, udp, 0, 1),
	ROW("train", NUMBER, train, 1, OPTIONS_TRAIN_MAX),
	ROW("rate", NUMBER, rate, 1, 1000000000),
	ROW("warmup", TIME, warmup_ns, 0, DAY_MS),
	ROW("seconds", TIME, measure_ns, 1, DAY_MS),
	ROW("timeout", TIME, timeout_ns, 1, DAY_MS),
	ROW("patience", TIME, patience_ns, 0, DAY_MS),
	ROW("cpu", NUMBER, cpu, 0, CPU_SETSIZE - 1),
	ROW("server", NUMBER, server, 1, INT_MAX),
	ROW("idle", NUMBER, idle, 0, INT_MAX),
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

_Static_assert(sizeof(pid_t) == sizeof(uint32_t) && sizeof(int) == sizeof(uint32_t),
	       "all numbers of struct options are stored as uint32_t");

static int set_number(const struct option_row *row, const char *text, void *field,
		      struct error *err)
{
	int64_t value;

	if (text_parse_int(text, &value) != 0 || value < row->min || value > row->max)
		return error_set(err, EXIT_USAGE, "--%s needs a number from %lld to %lld, not '%s'",
				 row->name, (long long)row->min, (long long)row->max, text);
	*(uint32_t *)field = (uint32_t)value;
	return 0;
}

static int set_time(const struct option_row *row, const char *text, void *field, struct error *err)
{
	int64_t ms;

	if (text_parse_time(text, &ms) != 0 || ms < row->min || ms > row->max)
		return error_set(err, EXIT_USAGE,
				 "--%s needs a time such as 0.5 or 200ms, at least %lld ms and at "
				 "most a day, not '%s'",
				 row->name, (long long)row->min, text);
	*(uint64_t *)field = (uint64_t)ms * (SECOND_NS / 1000);
	return 0;
}

static int set(const struct option_row *row, const char *text, struct options *options,
	       struct error *err)
{
	void *field = (char *)options + row->offset;

	if (row->kind == NUMBER)
		return set_number(row, text, field, err);
	if (row->kind == TIME)
		return set_time(row, text, field, err);
	*(bool *)field = true;
	return 0;
}

/* What goes with what. */
static int check(const struct options *options, struct error *err)
{
	if (options->once && (options->udp || options->pipeline > 1))
		return error_set(err, EXIT_USAGE,
				 "--once is for TCP without --pipeline: its connections carry one "
				 "line each");
	if (options->train > 1 && !options->udp)
		return error_set(err, EXIT_USAGE, "--train is for datagrams: add --udp");
	if (options->idle > 0 && options->udp)
		return error_set(err, EXIT_USAGE, "--idle is for connections: leave out --udp");
	if (options->udp && options->size < PATTERN_NUMBERED)
		return error_set(err, EXIT_USAGE,
				 "--size must be at least %d with --udp: replies are known by "
				 "their number",
				 PATTERN_NUMBERED);
	if (options->udp && options->size * options->train > PAYLOAD_MAX)
		return error_set(err, EXIT_USAGE,
				 "--size times --train may be %d bytes at most with --udp",
				 PAYLOAD_MAX);
	return 0;
}

static int parse_words(int argc, char **argv, const struct option *known, struct options *options,
		       struct error *err)
{
	int found;

	opterr = 0;
	while ((found = getopt_long(argc, argv, ":", known, NULL)) != -1) {
		if (found == '?')
			return error_set(err, EXIT_USAGE, "'%s' is no option of load; see --help",
					 argv[optind - 1]);
		if (found == ':')
			return error_set(err, EXIT_USAGE, "'%s' needs a value; see --help",
					 argv[optind - 1]);
		if (found == OPTION_LETTER + (int)ROWS) {
			fputs(help, stdout);
			return 1;
		}
		if (set(&rows[found - OPTION_LETTER], optarg, options, err) != 0)
			return -1;
	}
	if (argc - optind != 2)
		return error_set(err, EXIT_USAGE, "ADDRESS and PORT are needed; see --help");
	options->address = argv[optind];
	options->port = argv[optind + 1];
	return check(options, err);
}

int options_parse(int argc, char **argv, struct options *options, struct error *err)
{
	struct option known[ROWS + 2] = {{NULL, 0, NULL, 0}};

	*options = (struct options){
		.connections = 1,
		.sources = 1,
		.size = 32,
		.pipeline = 1,
		.train = 1,
		.warmup_ns = SECOND_NS / 5,
		.measure_ns = SECOND_NS,
		.timeout_ns = SECOND_NS / 5,
		.patience_ns = 10 * SECOND_NS,
		.cpu = -1,
	};
	for (size_t i = 0; i < ROWS; i++)
		known[i] = (struct option){rows[i].name, rows[i].kind != FLAG, NULL,
					   OPTION_LETTER + (int)i};
	known[ROWS] = (struct option){"help", no_argument, NULL, OPTION_LETTER + (int)ROWS};
	return parse_words(argc, argv, known, options, err);
}
