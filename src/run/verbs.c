#include "run/verbs.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/signame.h"
#include "base/text.h"
#include "run/lifecycle.h"
#include "run/ps.h"
#include "run/signals.h"
#include "run/status.h"
#include "run/supervisor.h"

#define WORDS_MAX 1024 /* of a command */

/* What a verb's function works with. */
struct order {
	struct supervisor *supervisor;
	const json_t *request;
	const char *name; /* the first word of args; NULL: there is none */
	struct verb_answer *answer;
};

static void refuse(struct order *order, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void refuse(struct order *order, int code, const char *format, ...)
{
	va_list args;

	order->answer->error.code = code;
	va_start(args, format);
	vsnprintf(order->answer->error.text, sizeof(order->answer->error.text), format, args);
	va_end(args);
}

static void say(struct verb_answer *answer, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void say(struct verb_answer *answer, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	answer->reply =
		json_pack("{s:b, s:i, s:o}", "ok", 1, "schema", 1, "text", status_text(text));
	if (answer->reply == NULL)
		error_set(&answer->error, EXIT_FAILED, "no memory for the answer");
}

static void await(struct order *order, enum await what)
{
	order->answer->await = what;
	snprintf(order->answer->service, sizeof(order->answer->service), "%s", order->name);
	verbs_known(order->supervisor, order->answer);
}

/* ---- Names ---------------------------------------------------------------------------------- */

/* `kind` is what was looked for. */
static void unknown_name(struct order *order, const char *kind)
{
	const struct service *service;
	const char *nearest = NULL;
	unsigned best = TEXT_FAR;

	TAILQ_FOREACH (service, &order->supervisor->current->services, link)
		if (text_is_nearer(order->name, service->conf->name, &best))
			nearest = service->conf->name;
	refuse(order, EXIT_FAILED, "there is no %s '%.64s'%s%s%s", kind, order->name,
	       nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
	       nearest != NULL ? "'?" : "");
}

static struct service *find(struct order *order)
{
	struct service *service = generation_service(order->supervisor->current, order->name);

	if (service == NULL)
		unknown_name(order, "service");
	return service;
}

/* ---- What is awaited ------------------------------------------------------------------------- */

/* A process of this service that is still there, in whatever generation. */
static bool has_process(const struct supervisor *supervisor, const char *name)
{
	const struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->pid != 0 && strcmp(child->service_name, name) == 0)
			return true;
	return false;
}

/* It ended, and is not started again by itself. */
static void tell_rest(const struct service *service, const struct child *child,
		      struct verb_answer *answer)
{
	if (service->stopped)
		error_set(&answer->error, EXIT_FAILED, "%s has been stopped", service->conf->name);
	else if (child->failure_code != 0)
		error_set(&answer->error, child->failure_code,
			  "%s %.800s; it is not tried again (restart = \"%s\")", child->name,
			  child->text, service->conf->restart);
	else
		say(answer, "%s %.800s", child->name, child->text);
}

static void tell_failure(const struct service *service, const struct child *child,
			 struct verb_answer *answer)
{
	error_set(&answer->error, child->failure_code != 0 ? child->failure_code : EXIT_FAILED,
		  "%s %.800s; it is there, and tried again and again until 'echod %s %s'",
		  child->name, child->text, service->added != NULL ? "remove" : "stop",
		  service->conf->name);
}

enum outcome { OPEN, RUNS, TOLD };

/* OPEN: wait for what comes; TOLD: the answer says why it does not run. */
static enum outcome look_at_start(const struct service *service, const struct child *child,
				  struct verb_answer *answer)
{
	/* Without a child it is just being taken over by the next generation, or removed. */
	if (child == NULL || child->state == CHILD_STARTING)
		return OPEN;
	switch (child->state) {
	case CHILD_RUNNING:
		/* "go" is not yet the execve of a program. */
		return child->kind == CHILD_PROGRAM && child->program == 0 ? OPEN : RUNS;
	case CHILD_BACKING_OFF:
		/* After a first failure the next one starts at once. */
		if (child->failures <= 1)
			return OPEN;
		tell_failure(service, child, answer);
		return TOLD;
	case CHILD_STOPPED:
		tell_rest(service, child, answer);
		return TOLD;
	default:
		/* A restart has brought other settings: it comes back by itself. */
		if (child->start_again)
			return OPEN;
		error_set(&answer->error, EXIT_FAILED, "%s is being stopped", service->conf->name);
		return TOLD;
	}
}

static bool known_started(const struct service *service, struct verb_answer *answer)
{
	for (unsigned i = 0; i < service->slot_count; i++) {
		enum outcome outcome = look_at_start(service, service->slots[i], answer);

		if (outcome != RUNS)
			return outcome == TOLD;
	}
	if (service_is_program(service))
		say(answer, "%s runs (pid %d)", service->conf->name,
		    (int)service->slots[0]->program);
	else
		say(answer, "%s runs (%u %s)", service->conf->name, service->slot_count,
		    service->slot_count == 1 ? "worker" : "workers");
	return true;
}

static bool known_stopped(struct supervisor *supervisor, const struct service *service,
			  struct verb_answer *answer)
{
	if (!service->stopped) {
		error_set(&answer->error, EXIT_FAILED, "%s has been started again",
			  service->conf->name);
		return true;
	}
	if (has_process(supervisor, service->conf->name))
		return false;
	say(answer, "%s is stopped", service->conf->name);
	return true;
}

bool verbs_known(struct supervisor *supervisor, struct verb_answer *answer)
{
	const struct service *service = generation_service(supervisor->current, answer->service);
	bool known = true;

	if (answer->await == AWAIT_REMOVED) {
		/* A restart may have brought one of that name, which is to stay. */
		known = service != NULL || !has_process(supervisor, answer->service);
		if (known)
			say(answer, "%s is removed%s", answer->service,
			    service != NULL ? "; the configuration has a service of that name now"
					    : "");
	} else if (service == NULL) {
		error_set(&answer->error, EXIT_FAILED, "the service %s is gone", answer->service);
	} else if (answer->await == AWAIT_STARTED) {
		known = known_started(service, answer);
	} else {
		known = known_stopped(supervisor, service, answer);
	}
	if (known)
		answer->await = AWAIT_NOTHING;
	return known;
}

/* ---- The verbs ------------------------------------------------------------------------------- */

static void obey_ps(struct order *order)
{
	order->answer->reply = ps_json(order->supervisor);
	if (order->answer->reply == NULL)
		refuse(order, EXIT_FAILED, "no memory for the answer");
}

static void obey_start(struct order *order)
{
	struct service *service = find(order);

	if (service == NULL || service_start(service, &order->answer->error) < 0)
		return;
	log_notice("service %s is started by order", service->conf->name);
	supervisor_remember_stopped(order->supervisor);
	await(order, AWAIT_STARTED);
}

static void obey_stop(struct order *order)
{
	struct service *service = find(order);

	if (service == NULL)
		return;
	log_notice("service %s is stopped by order", service->conf->name);
	service_stop(service);
	supervisor_remember_stopped(order->supervisor);
	await(order, AWAIT_STOPPED);
}

/* Signals that a process may well survive: an end that comes later is its own affair. */
static bool may_be_survived(int sig)
{
	return sig == SIGSTOP || sig == SIGCONT || sig == SIGHUP || sig == SIGUSR1 ||
	       sig == SIGUSR2 || sig == SIGWINCH || sig == SIGCHLD || sig == SIGURG;
}

static void signal_child(struct child *child, int sig)
{
	if (!may_be_survived(sig)) {
		child->killed = sig;
		child->killed_at = clock_ms();
	}
	if (child->kind == CHILD_PROGRAM)
		child_order(child, CHANNEL_SIGNAL, sig);
	else
		child_kill(child, sig);
}

/* A text that may be missing: then NULL. Returns false after a refusal: it is something else. */
static bool optional_text(struct order *order, const char *key, const char **text)
{
	const json_t *value = json_object_get(order->request, key);

	*text = json_string_value(value);
	if (value == NULL || json_is_null(value) || json_is_string(value))
		return true;
	refuse(order, EXIT_USAGE, "%s must be a text", key);
	return false;
}

/* Without a signal: SIGKILL. -1: the request names none that there is. */
static int signal_of(struct order *order)
{
	const char *text;
	int sig;

	if (!optional_text(order, "signal", &text))
		return -1;
	sig = text == NULL ? SIGKILL : signame_parse(text);
	if (sig <= 0)
		refuse(order, EXIT_USAGE, "there is no signal '%.32s'", text);
	return sig;
}

/*
 * The processes that serve: not those that still serve old clients, nor those of a generation that
 * gets ready. Of a program, only the command itself can be signalled.
 */
static bool is_meant(const struct order *order, const struct child *child)
{
	if (child->pid == 0 || child->service == NULL ||
	    child->service->generation != order->supervisor->current ||
	    (child->kind == CHILD_PROGRAM && child->program == 0))
		return false;
	return strcmp(child->name, order->name) == 0 ||
	       strcmp(child->service_name, order->name) == 0;
}

/* What would have to be signalled is not there: why? */
static void refuse_absent(struct order *order)
{
	const struct service *service = generation_service(order->supervisor->current, order->name);
	const struct child *child;

	TAILQ_FOREACH (child, &order->supervisor->children, link)
		if (service == NULL && strcmp(child->name, order->name) == 0)
			service = child->service;
	if (service == NULL)
		refuse(order, EXIT_FAILED, "%s is being ended: its service is gone", order->name);
	else if (service->stopped)
		refuse(order, EXIT_FAILED, "%s is stopped: 'echod start %s' starts it",
		       service->conf->name, service->conf->name);
	else
		refuse(order, EXIT_FAILED, "%s has no process now: its service is %s", order->name,
		       service_state(service));
}

static void send_signal(struct order *order, int sig)
{
	struct child *child, *last = NULL;
	unsigned sent = 0;

	TAILQ_FOREACH (child, &order->supervisor->children, link)
		if (is_meant(order, child) && child->kind == CHILD_WORKER &&
		    signals_worker_ignores(sig)) {
			refuse(order, EXIT_USAGE,
			       "workers ignore %s; without -s, kill sends SIGKILL", signame(sig));
			return;
		}
	TAILQ_FOREACH (child, &order->supervisor->children, link)
		if (is_meant(order, child)) {
			signal_child(child, sig);
			last = child;
			sent++;
		}
	if (sent == 0)
		refuse_absent(order);
	else if (sent == 1)
		say(order->answer, "%s was sent to %s (pid %d)", signame(sig), last->name,
		    (int)child_shown_pid(last));
	else
		say(order->answer, "%s was sent to %u processes of %s", signame(sig), sent,
		    order->name);
	if (sent > 0)
		log_notice("%s was sent to %s by order", signame(sig), order->name);
}

static void obey_kill(struct order *order)
{
	const struct child *child;
	bool known = generation_service(order->supervisor->current, order->name) != NULL;
	int sig = signal_of(order);

	if (sig <= 0)
		return;
	TAILQ_FOREACH (child, &order->supervisor->children, link)
		known = known || strcmp(child->name, order->name) == 0 ||
			strcmp(child->service_name, order->name) == 0;
	if (known)
		send_signal(order, sig);
	else
		unknown_name(order, "service or process");
}

/* The words of args behind the name, NULL at the end; they stay the request's. */
static char **command_of(struct order *order)
{
	const json_t *args = json_object_get(order->request, "args");
	size_t n = json_array_size(args);
	char **words = n < 2 || n > WORDS_MAX ? NULL : calloc(n, sizeof(*words));

	for (size_t i = 1; i < n && words != NULL; i++) {
		words[i - 1] = (char *)json_string_value(json_array_get(args, i));
		if (words[i - 1] == NULL) {
			free(words);
			words = NULL;
		}
	}
	if (words == NULL)
		refuse(order, EXIT_USAGE, "add needs a name and a command: 1 to %d words",
		       WORDS_MAX - 1);
	return words;
}

static int begin_added(struct order *order, struct conf_service *added)
{
	struct error *err = &order->answer->error;
	struct service *service = service_new(order->supervisor->current, NULL, added, err);

	if (service == NULL)
		return -1;
	if (service_resolve_user(service, err) < 0 || service_start(service, err) < 0) {
		service_free(service);
		return -1;
	}
	return 0;
}

static void obey_add(struct order *order)
{
	const char *user, *restart;
	struct conf_service *added;
	char **command;

	if (!optional_text(order, "user", &user) || !optional_text(order, "restart", &restart))
		return;
	if (generation_service(order->supervisor->current, order->name) != NULL) {
		refuse(order, EXIT_FAILED, "there is a service '%.64s' already", order->name);
		return;
	}
	if (has_process(order->supervisor, order->name)) {
		refuse(order, EXIT_FAILED, "the former %.64s has not ended yet: try again",
		       order->name);
		return;
	}
	command = command_of(order);
	if (command == NULL)
		return;
	added = conf_program_new(order->name, command, user, restart, true, &order->answer->error);
	free(command);
	if (added == NULL || begin_added(order, added) < 0)
		return;
	log_notice("service %s is added by order", order->name);
	await(order, AWAIT_STARTED);
}

static void obey_remove(struct order *order)
{
	struct service *service = find(order);

	if (service == NULL)
		return;
	if (service->added == NULL) {
		refuse(order, EXIT_FAILED,
		       "%s is part of the configuration: take it out there and 'echod restart', or "
		       "'echod stop %s'",
		       order->name, order->name);
		return;
	}
	log_notice("service %s is removed by order", order->name);
	service_retire(service);
	service_free(service);
	supervisor_remember_stopped(order->supervisor);
	await(order, AWAIT_REMOVED);
}

static const struct verb {
	const char *name;
	void (*obey)(struct order *order);
	bool names;   /* args begin with a name */
	bool words;   /* which is followed by others */
	bool changes; /* what a generation that is getting ready is made from */
} verbs[] = {
	{"ps", obey_ps, false, false, false},	{"start", obey_start, true, false, true},
	{"stop", obey_stop, true, false, true}, {"kill", obey_kill, true, false, false},
	{"add", obey_add, true, true, true},	{"remove", obey_remove, true, false, true},
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

bool verbs_obey(struct supervisor *supervisor, const char *name, const json_t *request,
		struct verb_answer *answer, bool *later)
{
	const json_t *args = json_object_get(request, "args");
	const struct verb *verb = find_verb(name);
	struct order order = {
		.supervisor = supervisor,
		.request = request,
		.name = json_string_value(json_array_get(args, 0)),
		.answer = answer,
	};

	*later = false;
	if (verb == NULL)
		return false;
	if (verb->names && (order.name == NULL || order.name[0] == '\0'))
		refuse(&order, EXIT_USAGE,
		       "%s needs a name, as in {\"verb\":\"%s\",\"args\":[\"line\"]}", name, name);
	else if (verb->names && !verb->words && json_array_size(args) > 1)
		refuse(&order, EXIT_USAGE, "%s takes one name", name);
	else if (verb->changes &&
		 (supervisor->phase == PHASE_DRAINING || supervisor->phase == PHASE_QUITTING))
		refuse(&order, EXIT_FAILED, "the daemon is stopping");
	else if (supervisor->current == NULL || (verb->changes && supervisor->next != NULL))
		*later = true;
	else
		verb->obey(&order);
	return true;
}
