/* What the loops, and the supervisor's log, are made of. */
#include "run/loop.h"

#include <event2/event.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/logtarget.h"
#include "run/supervisor.h"

struct log_settings supervisor_log_settings(const struct conf *conf)
{
	return (struct log_settings){conf->log.target, conf->log.facility, conf->log.socket};
}

int supervisor_check_log(const struct conf *conf, struct error *err)
{
	struct log_settings settings = supervisor_log_settings(conf);

	return logtarget_check(&settings, err);
}

int supervisor_open_log(const struct launch *launch, const struct conf *conf, struct error *err)
{
	struct log_settings settings = supervisor_log_settings(conf);
	int configured = log_level_parse(conf->log.level);
	int level = configured + launch->verbosity;

	/* -v stops at debug; -q never hides errors that the configuration wants to see. */
	if (level > LOG_LEVEL_DEBUG)
		level = LOG_LEVEL_DEBUG;
	else if (level < LOG_LEVEL_ERROR)
		level = configured < LOG_LEVEL_ERROR ? configured : LOG_LEVEL_ERROR;
	log_set_level((enum log_level)level);
	return logtarget_open(&settings, err);
}

static void on_libevent_log(int severity, const char *text)
{
	if (severity >= EVENT_LOG_WARN)
		log_warning("libevent: %s", text);
}

static void on_libevent_fatal(int error)
{
	log_error("libevent cannot go on (%d)", error);
	abort(); /* a fatal signal: recorded, and the pidfile goes */
}

struct event_base *loop_new(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base = NULL;

	event_set_log_callback(on_libevent_log);
	event_set_fatal_callback(on_libevent_fatal);
	if (config != NULL && event_config_set_flag(config, EVENT_BASE_FLAG_NO_CACHE_TIME) == 0)
		base = event_base_new_with_config(config);
	if (config != NULL)
		event_config_free(config);
	return base;
}
