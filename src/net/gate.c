#include "net/gate.h"

#include <stdio.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "net/server.h"

#define LOOK_EVERY_MS 1000

/* sysinfo(2) gives load averages in fixed point; unlike /proc/loadavg it opens nothing. */
static bool is_loaded(unsigned max_load)
{
	struct sysinfo info;

	return sysinfo(&info) == 0 && info.loads[0] * 100 > (unsigned long)max_load
								    << SI_LOAD_SHIFT;
}

static bool is_closed(const struct server_settings *settings)
{
	time_t now = time(NULL);
	struct tm local;

	if (localtime_r(&now, &local) == NULL)
		return false;
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (settings->times[i] != NULL && !schedule_is_open(settings->times[i], &local))
			return true;
	return false;
}

static bool has_times(const struct server_settings *settings)
{
	for (int i = 0; i < SERVER_SCOPES; i++)
		if (settings->times[i] != NULL && settings->times[i]->count > 0)
			return true;
	return false;
}

static void look(struct gate *gate, const struct server_settings *settings, int64_t now)
{
	if (now - gate->looked_at < LOOK_EVERY_MS)
		return;
	gate->looked_at = now;
	gate->loaded = settings->max_load > 0 && is_loaded(settings->max_load);
	gate->closed = has_times(settings) && is_closed(settings);
}

void gate_init(struct gate *gate)
{
	*gate = (struct gate){.looked_at = INT64_MIN / 2};
	/* A worker opens nothing later: without its file, the time zone would silently be UTC. */
	tzset();
}

static bool refuse_access(const struct access_rule *rule, struct counters *counters,
			  struct refusal *refusal)
{
	refusal->counter = &counters->refused_access;
	refusal->said = "your address is not allowed";
	if (rule != NULL)
		snprintf(refusal->why, sizeof(refusal->why), "access: '%s' at %s", rule->text,
			 rule->where);
	else
		snprintf(refusal->why, sizeof(refusal->why), "access: no rule allows it");
	return false;
}

bool gate_admits(struct gate *gate, const struct server_settings *settings,
		 struct counters *counters, const struct access_client *client, int64_t now,
		 struct refusal *refusal)
{
	for (int i = 0; i < SERVER_SCOPES; i++) {
		const struct access_rule *rule;

		if (settings->access[i] != NULL && settings->access[i]->count > 0 &&
		    !access_allows(settings->access[i], client, &rule))
			return refuse_access(rule, counters, refusal);
	}
	if (settings->max_load == 0 && !has_times(settings))
		return true;
	look(gate, settings, now);
	if (gate->closed) {
		refusal->counter = &counters->refused_times;
		refusal->said = "closed at this time";
		snprintf(refusal->why, sizeof(refusal->why), "access_times: closed now");
		return false;
	}
	if (gate->loaded) {
		refusal->counter = &counters->refused_load;
		refusal->said = "too busy, try again later";
		snprintf(refusal->why, sizeof(refusal->why), "max_load: the machine is busy");
		return false;
	}
	return true;
}

bool gate_trusts_proxy(const struct server_settings *settings, const struct sockaddr *peer)
{
	for (size_t i = 0; i < settings->proxy_from_count; i++)
		if (network_contains(&settings->proxy_from[i], peer))
			return true;
	return false;
}
