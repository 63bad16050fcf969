/*
 * One run: the loop, its phases and what they count. What is sent is up to the traffic: lines on
 * lasting connections (tcp.c), connections of one line (once.c) or datagrams (udp.c).
 *
 * Everything is counted in lines; a datagram is a line. What is issued at once, a line or a train
 * of datagrams, is a unit. In open loop (--rate), unit k is due at its time whatever the server
 * does, belongs to connection k modulo their number, and its latency counts from then.
 */
#ifndef ECHOD_BENCH_RUN_H
#define ECHOD_BENCH_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "bench/histogram.h"
#include "bench/options.h"
#include "bench/pattern.h"
#include "bench/target.h"
#include "bench/usage.h"

struct run;

/* Lines that were due and have no reply yet. */
struct unfinished {
	uint64_t lines;
	uint64_t oldest; /* when the first of them was due; UINT64_MAX without any */
};

/* A traffic. All functions but `sweep` must be there. */
struct traffic {
	/* Make the connections. Returns 0, or -1 with `err` set; `close` is called even then. */
	int (*open)(struct run *run, struct error *err);
	/* Closed loop: send the first lines. */
	void (*begin)(struct run *run);
	/* epoll_wait(2) has reported `events` for number `index`. */
	void (*ready)(struct run *run, uint32_t index, uint32_t events);
	/* Open loop: unit `k` is due. */
	void (*issue)(struct run *run, uint64_t k);
	/* Called every 20 ms; may be NULL. */
	void (*sweep)(struct run *run);
	/* From now on, nothing new is sent: run->draining is set. Only what has begun is ended. */
	void (*drain)(struct run *run);
	/* How many lines are under way: for these, replies are awaited at the end. */
	uint64_t (*under_way)(struct run *run);
	/* What is under way will not be answered: count it, as errors or as lost. */
	void (*abandon)(struct run *run);
	void (*unfinished)(struct run *run, struct unfinished *unfinished);
	void (*close)(struct run *run);
};

extern const struct traffic tcp_traffic;
extern const struct traffic once_traffic;
extern const struct traffic udp_traffic;

struct run {
	const struct options *options;
	struct target target;
	struct pattern pattern;
	const struct traffic *traffic;
	void *state; /* the traffic's own */
	int epoll;
	int ticker;
	uint64_t now;	      /* nanoseconds of CLOCK_MONOTONIC, as of run_clock */
	uint32_t connections; /* those in use; one that failed is not used again */
	bool draining;

	/* Open loop. */
	double interval; /* nanoseconds from a unit to the next; 0: closed loop */
	uint64_t epoch;	 /* when unit 0 was due */
	uint64_t next_unit;

	/* Counted from the beginning of the measured time on. */
	uint64_t lines;
	uint64_t lost; /* datagrams without a reply */
	uint64_t late; /* replies to them, all the same */
	struct histogram latency;
	struct histogram issue_delay; /* open loop: how late units were issued, by our own fault */

	/* Counted from the start on. */
	uint64_t errors;
	char first_error[ERROR_TEXT_MAX];

	/* Results. */
	uint64_t measured_ns;
	uint64_t client_cpu_ns;
	struct usage_family family;
	struct usage server_first;
	struct usage server_last;
	bool server_known;
	struct unfinished unfinished; /* at the last moment of the measured time */
	uint64_t oldest_ns;	      /* the age of the oldest of these */
};

/*
 * Do all that the options say. Returns 0 when there is a result, with errors counted in it, or -1
 * with `err` set when there is none.
 */
int run_all(struct run *run, const struct options *options, struct error *err);

/* ---- The loop, for phases.c ----------------------------------------------------------------- */

/* A timer that wakes the loop now and then, so that it sees what time it is. Returns 0 or -1. */
int run_start_ticker(struct run *run, struct error *err);

/* Wait for events once, and do what is to be done. run->now is up to date then. */
void run_turn(struct run *run);

/* ---- For traffics --------------------------------------------------------------------------- */

static inline uint64_t run_clock(struct run *run)
{
	struct timespec now;

	/* It cannot fail with this clock. */
	clock_gettime(CLOCK_MONOTONIC, &now);
	run->now = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return run->now;
}

static inline bool run_is_open_loop(const struct run *run)
{
	return run->interval > 0;
}

static inline uint64_t run_due(const struct run *run, uint64_t unit)
{
	return run->epoch + (uint64_t)((double)unit * run->interval);
}

/* A whole reply was right, to what began at `begin`. */
static inline void run_count_line(struct run *run, uint64_t begin)
{
	run->lines++;
	histogram_add(&run->latency, run->now - begin);
}

/* Something is wrong with the server; the first time, it is kept for the user. */
void run_error(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for `len` bytes of line `line` that arrived at `offset` and are not what was sent. */
void run_error_bytes(struct run *run, uint32_t connection, uint64_t line, size_t offset,
		     const unsigned char *data, size_t len);

/*
 * Watch a descriptor as number `index`, for `events` of epoll_ctl(2) and the peer's end. It is
 * edge-triggered, so that the kernel need not be told anything again. Returns 0, or -1 with errno.
 */
int run_watch(const struct run *run, int fd, uint32_t index, uint32_t events);

#endif
