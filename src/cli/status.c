/* echod status: does it run, since when, and what does it do? Exit codes after LSB. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/client.h"

/* Without -T; then the lock alone has to do. */
#define ANSWER_MS 5000

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "none";
}

/* Names of files must not steer the terminal. */
static void print_row(const char *label, const char *value)
{
	char escaped[4 * PATH_MAX];

	text_escape(escaped, sizeof(escaped), value, strlen(value));
	printf("  %-18s %s\n", label, escaped);
}

static long long number_of(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

static void print_escaped(const char *text)
{
	char escaped[4 * PATH_MAX];

	text_escape(escaped, sizeof(escaped), text, strlen(text));
	fputs(escaped, stdout);
}

/* "INTRO one, two, three"; nothing for an empty or absent list. */
static void print_list(const char *intro, const char *separator, const json_t *list)
{
	size_t i;
	json_t *word;

	json_array_foreach (list, i, word) {
		fputs(i == 0 ? intro : separator, stdout);
		if (json_is_string(word))
			print_escaped(json_string_value(word));
	}
}

/* What it is, its state, how much of it runs, and where or what: as far as the daemon tells. */
static void print_service(const json_t *service)
{
	const json_t *command = json_object_get(service, "command");
	const char *state = json_string_value(json_object_get(service, "state"));
	bool program = strcmp(text_of(service, "kind"), "program") == 0;
	char name[256];

	text_escape(name, sizeof(name), text_of(service, "name"), strlen(text_of(service, "name")));
	printf("  service %-10s ", name);
	print_escaped(program ? "program" : text_of(service, "protocol"));
	if (state != NULL) {
		fputs(", ", stdout);
		print_escaped(state);
	}
	if (!program && json_is_integer(json_object_get(service, "processes")))
		printf(", %lld of %lld workers", number_of(service, "running"),
		       number_of(service, "processes"));
	print_list(", on ", ", ", json_object_get(service, "addresses"));
	print_list(": ", " ", command);
	printf("\n");
}

static void print_services(const json_t *services)
{
	size_t i;
	json_t *service;

	json_array_foreach (services, i, service)
		print_service(service);
}

/*
 * "LABEL SUM (this 3, that 4)": the counters whose names begin so and that are not 0; nothing when
 * all are.
 */
static void print_reasons(const char *label, const json_t *counters, const char *prefix)
{
	size_t len = strlen(prefix);
	long long sum = 0;
	const char *key, *separator = " (";
	json_t *value;

	json_object_foreach((json_t *)counters, key, value) if (strncmp(key, prefix, len) == 0)
		sum += (long long)json_integer_value(value);
	if (sum == 0)
		return;
	printf("  %-18s %lld", label, sum);
	json_object_foreach((json_t *)counters, key, value)
	{
		if (strncmp(key, prefix, len) != 0 || json_integer_value(value) == 0)
			continue;
		fputs(separator, stdout);
		print_escaped(key + len);
		printf(" %lld", (long long)json_integer_value(value));
		separator = ", ";
	}
	printf(")\n");
}

/* What there was of it; most daemons have none. */
static void print_number(const char *label, const json_t *counters, const char *key)
{
	if (number_of(counters, key) > 0)
		printf("  %-18s %lld\n", label, number_of(counters, key));
}

static void print_counters(const json_t *counters)
{
	printf("  lines answered     %lld\n", number_of(counters, "requests"));
	if (number_of(counters, "datagrams") > 0)
		printf("  datagrams          %lld received, %lld answered\n",
		       number_of(counters, "datagrams"), number_of(counters, "datagram_replies"));
	print_reasons("not answered", counters, "datagrams_");
	print_reasons("refused", counters, "refused_");
	print_number("PROXY errors", counters, "proxy_errors");
	print_number("throttled", counters, "throttled");
	print_number("log lines dropped", counters, "log_dropped");
}

static void print_text(const json_t *reply)
{
	const json_t *connections = json_object_get(reply, "connections");
	const json_t *restarts = json_object_get(reply, "restarts");
	const json_t *last = json_object_get(restarts, "last");
	const char *config = json_string_value(json_object_get(reply, "config"));
	bool stopping = strcmp(text_of(reply, "state"), "stopping") == 0;

	printf("echod %s %s (pid %lld), %s %s\n", text_of(reply, "version"),
	       stopping ? "is stopping" : "runs", number_of(reply, "pid"),
	       stopping ? "started" : "serving since", text_of(reply, "since"));
	print_row("configuration", config != NULL ? config : "built-in (no file)");
	print_row("pidfile", text_of(reply, "pidfile"));
	print_row("control socket", text_of(reply, "control"));
	print_services(json_object_get(reply, "services"));
	printf("  connections        %lld now, %lld so far\n", number_of(connections, "now"),
	       number_of(connections, "total"));
	print_counters(json_object_get(reply, "counters"));
	printf("  restarts           %lld, of which %lld refused\n", number_of(restarts, "ended"),
	       number_of(restarts, "failed"));
	if (json_is_object(last) && !json_is_true(json_object_get(last, "ok")))
		print_row("last refusal", text_of(last, "text"));
}

/* Without a running daemon there is only the lock to tell. */
static int say_absent(const struct options *options, enum status_code code, const char *text)
{
	char escaped[4 * ERROR_TEXT_MAX];

	text_escape_ascii(escaped, sizeof(escaped), text, strlen(text));
	if (options->json) {
		json_t *reply = json_pack("{s:b, s:i, s:s, s:i}", "ok", 0, "schema", 1, "error",
					  escaped, "code", (int)code);

		json_dumpf(reply, stdout, JSON_COMPACT);
		printf("\n");
		json_decref(reply);
	} else if (!options->quiet) {
		printf("echod: %s\n", escaped);
	}
	return code;
}

static int say_running(const struct options *options, const struct target *target)
{
	int64_t patience = options->timeout_ms >= 0 ? options->timeout_ms : ANSWER_MS;
	struct error err = {0};
	int fd;
	json_t *reply;

	if (options->quiet && !options->json)
		return STATUS_RUNS;
	fd = client_connect(target->conf->control, target->holder.pid, patience, &err);
	reply = fd < 0 ? NULL
		       : client_ask(fd, client_request("status", NULL, 0, &err), patience, &err);

	if (reply == NULL) {
		/* The lock alone proves that it runs. */
		if (options->json)
			printf("{\"ok\":true,\"schema\":1,\"pid\":%d}\n", (int)target->holder.pid);
		else
			printf("echod runs (pid %d)\n", (int)target->holder.pid);
		fprintf(stderr, "echod: nothing more is known: %s\n", err.text);
		return STATUS_RUNS;
	}
	if (options->json) {
		json_dumpf(reply, stdout, JSON_COMPACT);
		printf("\n");
	} else {
		print_text(reply);
	}
	json_decref(reply);
	return STATUS_RUNS;
}

static int run(const struct options *options)
{
	struct target target;
	struct error err = {0};
	char text[ERROR_TEXT_MAX + 64];
	int code;

	if (target_look(options, &target, &err) < 0) {
		snprintf(text, sizeof(text), "it is not known whether echod runs: %s", err.text);
		code = say_absent(options, STATUS_UNKNOWN, text);
	} else if (target.holder.pid > 0) {
		code = say_running(options, &target);
	} else if (target.holder.foreign) {
		snprintf(text, sizeof(text),
			 "it is not known whether echod runs: %s holds something other than a pid",
			 target.conf->pidfile);
		code = say_absent(options, STATUS_UNKNOWN, text);
	} else if (target.holder.file_exists) {
		snprintf(text, sizeof(text), "not running, but its pidfile %s remains: it died",
			 target.conf->pidfile);
		code = say_absent(options, STATUS_DEAD_PIDFILE, text);
	} else {
		snprintf(text, sizeof(text), "not running (no pidfile %s)", target.conf->pidfile);
		code = say_absent(options, STATUS_STOPPED, text);
	}
	target_free(&target);
	return code;
}

const struct command command_status = {
	.name = "status",
	.summary = "say whether it runs, and what it does",
	.takes = TAKES_JSON | TAKES_TIMEOUT,
	.run = run,
};
