/* What the verbs that act on one service have in common: they ask the daemon, and wait. */
#ifndef ECHOD_CLI_SERVICE_H
#define ECHOD_CLI_SERVICE_H

#include <jansson.h>
#include <stdint.h>

#include "cli/cli.h"

/* How long a reply takes that needs no service to start or to stop, in milliseconds. */
#define SERVICE_ANSWER_MS 5000

/* How long the start of a service may take, and the end of the slowest, with a reserve. */
int64_t service_start_limit(const struct conf *conf);
int64_t service_stop_limit(const struct conf *conf);

/*
 * Find the daemon and ask it. `limit` says how many milliseconds the reply may take when there is
 * no -T. Returns EXIT_DONE with the reply, to be freed with json_decref, or an exit code after
 * printing why there is none. Takes the request; when that is NULL, `err` says why and is printed.
 */
int service_ask(const struct options *options, json_t *request, struct error *err,
		int64_t (*limit)(const struct conf *conf), json_t **reply);

/* The same, and print what the daemon says about the outcome. Returns an exit code. */
int service_tell(const struct options *options, json_t *request, struct error *err,
		 int64_t (*limit)(const struct conf *conf));

/* service_tell with the verb and the words that were typed, for verbs that need nothing else. */
int service_tell_words(const struct options *options, int64_t (*limit)(const struct conf *conf));

/* As a `limit` above: SERVICE_ANSWER_MS. */
int64_t service_answer_limit(const struct conf *conf);

#endif
