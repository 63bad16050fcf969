/* The result of a run, for programs. */
#ifndef ECHOD_BENCH_REPORT_H
#define ECHOD_BENCH_REPORT_H

#include "bench/run.h"

/*
 * Print it to standard output as one line of JSON (RFC 8259). Times are in microseconds, and have
 * the precision of struct histogram. Returns 0, or -1 with `err` set.
 *
 *     lines, bytes    that came back, right, in the measured time; the bytes of one direction
 *     seconds, per_second
 *     connections     asked for
 *     errors, first_error     (text or null)
 *     lost, late      UDP: no reply in time; a reply came nevertheless
 *     latency_us      {min, mean, p50, p90, p99, p999, max}
 *     histogram       [[upper end of a bucket, count], ...], empty ones left out
 *     unfinished      {lines, oldest_us}: due, and not answered at the end of the measured time
 *     server          {cpu_ns, rss_kb, processes, rss_kb_before, processes_before} or null
 *     client          {cpu_ns, issue_delay_us}: the latter like latency_us, in open loop: how
 *                     late this program itself was; else null
 */
int report_print(const struct run *run, struct error *err);

#endif
