/*
 * Orders about services that come over the control socket: what `echod ps`, `start NAME`, `stop
 * NAME`, `kill`, `add` and `remove` ask for.
 */
#ifndef ECHOD_RUN_VERBS_H
#define ECHOD_RUN_VERBS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

struct supervisor;

/* What shall become of a service before its order is answered. */
enum await { AWAIT_NOTHING, AWAIT_STARTED, AWAIT_STOPPED, AWAIT_REMOVED, AWAITS };

/* What is to be said to who gave an order. */
struct verb_answer {
	json_t *reply;	    /* owned: to be sent now */
	struct error error; /* else, when its code is not 0: the refusal */
	enum await await;   /* else: later, when verbs_known says so */
	char service[40];   /* which one is awaited */
};

/*
 * Obey {"verb":verb,"args":[…]}. Returns false when there is no such verb here. `*later` (with
 * true) means: not now, because a generation is getting ready; ask again when it serves, or is
 * given up.
 */
bool verbs_obey(struct supervisor *supervisor, const char *verb, const json_t *request,
		struct verb_answer *answer, bool *later);

/* Whether what answer->await waits for has come about, or cannot any more: then it is answered. */
bool verbs_known(struct supervisor *supervisor, struct verb_answer *answer);

#endif
