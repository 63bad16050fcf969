#include "bench/report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

static double us(uint64_t ns)
{
	return (double)ns / 1000;
}

/* To the nanosecond: a mean has no more sense than that. */
static double us_of_mean(double ns)
{
	return round(ns) / 1000;
}

static json_t *summary_of(const struct histogram *histogram)
{
	return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "min",
			 histogram->count > 0 ? us(histogram->min) : 0.0, "mean",
			 us_of_mean(histogram_mean(histogram)), "p50",
			 us(histogram_percentile(histogram, 0.5)), "p90",
			 us(histogram_percentile(histogram, 0.9)), "p99",
			 us(histogram_percentile(histogram, 0.99)), "p999",
			 us(histogram_percentile(histogram, 0.999)), "max", us(histogram->max));
}

/* jansson takes a NULL in a list or an object for an error, and so all of it fails. */
static json_t *buckets_of(const struct histogram *histogram)
{
	json_t *list = json_array();

	for (size_t i = 0; list != NULL && i < HISTOGRAM_BUCKETS; i++) {
		if (histogram->bucket[i] == 0)
			continue;
		if (json_array_append_new(list, json_pack("[f, I]", us(histogram_upper(i)),
							  (json_int_t)histogram->bucket[i])) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *server_of(const struct run *run)
{
	const struct usage *first = &run->server_first;
	const struct usage *last = &run->server_last;

	if (!run->server_known)
		return json_null();
	return json_pack("{s:I, s:I, s:i, s:I, s:i}", "cpu_ns",
			 (json_int_t)(last->cpu_ns - first->cpu_ns), "rss_kb",
			 (json_int_t)last->rss_kb, "processes", (int)last->processes,
			 "rss_kb_before", (json_int_t)first->rss_kb, "processes_before",
			 (int)first->processes);
}

static json_t *client_of(const struct run *run)
{
	return json_pack("{s:I, s:o}", "cpu_ns", (json_int_t)run->client_cpu_ns, "issue_delay_us",
			 run_is_open_loop(run) ? summary_of(&run->issue_delay) : json_null());
}

static json_t *result_of(const struct run *run)
{
	double seconds = (double)run->measured_ns / 1e9;

	return json_pack(
		"{s:I, s:I, s:f, s:f, s:i, s:I, s:s?, s:I, s:I, s:o, s:o, s:{s:I, s:f}, s:o, s:o}",
		"lines", (json_int_t)run->lines, "bytes",
		(json_int_t)run->lines * run->options->size, "seconds", seconds, "per_second",
		seconds > 0 ? round((double)run->lines / seconds * 1000) / 1000 : 0.0,
		"connections", (int)run->options->connections, "errors", (json_int_t)run->errors,
		"first_error", run->errors > 0 ? run->first_error : NULL, "lost",
		(json_int_t)run->lost, "late", (json_int_t)run->late, "latency_us",
		summary_of(&run->latency), "histogram", buckets_of(&run->latency), "unfinished",
		"lines", (json_int_t)run->unfinished.lines, "oldest_us", us(run->oldest_ns),
		"server", server_of(run), "client", client_of(run));
}

int report_print(const struct run *run, struct error *err)
{
	json_t *result = result_of(run);
	int failed = -1;

	if (result == NULL)
		return error_set(err, EXIT_FAILED, "no memory for the result");
	if (json_dumpf(result, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15)) == 0 &&
	    putchar('\n') != EOF && fflush(stdout) == 0)
		failed = 0;
	if (failed != 0)
		error_errno(err, "cannot write the result");
	json_decref(result);
	return failed;
}
