#include "cli/service.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/client.h"

/* Beyond the time that the daemon allows itself. */
#define START_GRACE_MS 10000
#define STOP_GRACE_MS  5000

/* The stop_timeout of programs that `echod add` has started: no file tells it. */
#define ADDED_STOP_MS 10000

int64_t service_start_limit(const struct conf *conf)
{
	return conf->start_timeout + START_GRACE_MS;
}

int64_t service_stop_limit(const struct conf *conf)
{
	int64_t longest = conf->drain_timeout > ADDED_STOP_MS ? conf->drain_timeout : ADDED_STOP_MS;

	for (size_t i = 0; i < conf->service_count; i++) {
		const struct conf_service *service = &conf->services[i];

		if (service->command != NULL && service->stop_timeout > longest)
			longest = service->stop_timeout;
	}
	return longest + STOP_GRACE_MS;
}

int64_t service_answer_limit(const struct conf *conf)
{
	(void)conf;
	return SERVICE_ANSWER_MS;
}

static json_t *ask(const struct target *target, json_t *request, int64_t patience,
		   struct error *err)
{
	int fd = client_connect(target->conf->control, target->holder.pid, patience, err);

	if (fd >= 0)
		return client_ask(fd, request, patience, err);
	json_decref(request);
	return NULL;
}

int service_ask(const struct options *options, json_t *request, struct error *err,
		int64_t (*limit)(const struct conf *conf), json_t **reply)
{
	struct target target;
	int64_t patience;
	int code;

	*reply = NULL;
	if (request == NULL)
		return cli_fail(err);
	code = target_find(options, &target);
	if (code != EXIT_DONE) {
		json_decref(request);
	} else {
		patience = options->timeout_ms >= 0 ? options->timeout_ms : limit(target.conf);
		*reply = ask(&target, request, patience, err);
		code = *reply == NULL ? cli_fail(err) : EXIT_DONE;
	}
	target_free(&target);
	return code;
}

int service_tell(const struct options *options, json_t *request, struct error *err,
		 int64_t (*limit)(const struct conf *conf))
{
	json_t *reply;
	int code = service_ask(options, request, err, limit, &reply);
	const char *text = json_string_value(json_object_get(reply, "text"));
	char escaped[4 * ERROR_TEXT_MAX];

	if (text != NULL && !options->quiet) {
		text_escape(escaped, sizeof(escaped), text, strlen(text));
		printf("echod: %s\n", escaped);
	}
	json_decref(reply);
	return code;
}

int service_tell_words(const struct options *options, int64_t (*limit)(const struct conf *conf))
{
	struct error err = {0};
	json_t *request = client_request(options->command->name, options->words,
					 (size_t)options->word_count, &err);

	return service_tell(options, request, &err, limit);
}
