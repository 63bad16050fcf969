#include "run/control.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "os/local_socket.h"
#include "run/handover.h"
#include "run/restart.h"
#include "run/status.h"
#include "run/supervisor.h"
#include "run/verbs.h"

#define REQUEST_MAX   16384 /* bytes */
#define REQUEST_TIME  5	    /* seconds for a whole request, and for taking its reply */
#define CLIENTS_MAX   16    /* that ask, or take their reply */
#define WAITING_MAX   128   /* with those that wait for something to happen */
#define PAUSE_MS      100
#define DISCARDED_MAX 1048576 /* bytes */
#define CONTROL_MODE  0600

struct client {
	TAILQ_ENTRY(client) link;
	struct control *control;
	struct bufferevent *bev;
	struct event *deadline;
	uint64_t waits_for;	   /* the number of a restart; 0: none */
	struct verb_answer awaits; /* what a service shall become; its await 0: nothing */
	json_t *later;		   /* owned: a request for when no generation is getting ready */
	bool answered;		   /* the connection ends when the reply is out */
};

struct control {
	struct supervisor *supervisor;
	char *path;
	int fd;
	dev_t device;
	ino_t inode;
	struct event *event;
	struct event *resume; /* accepting again after a pause */
	unsigned client_count;
	TAILQ_HEAD(, client) clients;
};

/* ---- Clients -------------------------------------------------------------------------------- */

static void client_free(struct client *client)
{
	TAILQ_REMOVE(&client->control->clients, client, link);
	client->control->client_count--;
	event_free(client->deadline);
	bufferevent_free(client->bev); /* closes the socket */
	json_decref(client->later);
	free(client);
}

/* Its answer comes when something has happened: that has limits of its own. */
static bool is_waiting(const struct client *client)
{
	return client->waits_for != 0 || client->awaits.await != AWAIT_NOTHING ||
	       client->later != NULL;
}

static void answer(struct client *client, json_t *reply)
{
	char *text =
		reply == NULL ? NULL : json_dumps(reply, JSON_COMPACT | JSON_REAL_PRECISION(9));
	struct evbuffer *output = bufferevent_get_output(client->bev);
	struct timeval limit = {REQUEST_TIME, 0};

	json_decref(reply);
	client->waits_for = 0;
	client->awaits.await = AWAIT_NOTHING;
	json_decref(client->later);
	client->later = NULL;
	client->answered = true;
	bufferevent_disable(client->bev, EV_READ);
	evtimer_add(client->deadline, &limit);
	if (text == NULL || evbuffer_add_printf(output, "%s\n", text) < 0)
		log_error("no memory to answer a control request");
	free(text);
}

static void answer_error(struct client *client, int code, const char *text)
{
	answer(client, json_pack("{s:b, s:i, s:o, s:i}", "ok", 0, "schema", 1, "error",
				 status_text(text), "code", code));
}

/* With the outcome of the last restart. */
static void answer_restart(struct client *client)
{
	const struct restart *restart = &client->control->supervisor->restart;
	const char *text = restart->last_text[0] != '\0' ? restart->last_text
							 : "no restart has been asked for";

	if (restart->last_code != 0)
		answer_error(client, restart->last_code, text);
	else
		answer(client, json_pack("{s:b, s:i, s:o}", "ok", 1, "schema", 1, "text",
					 status_text(text)));
}

static void await_restart(struct client *client)
{
	struct supervisor *supervisor = client->control->supervisor;

	if (supervisor->phase == PHASE_DRAINING || supervisor->phase == PHASE_QUITTING) {
		answer_error(client, EXIT_FAILED, "the daemon is stopping");
		return;
	}
	/*
	 * The signal was sent before this request, so it is in the flags, or its restart has ended.
	 */
	client->waits_for = restart_awaited(supervisor);
	if (client->waits_for == 0)
		answer_restart(client);
	else
		evtimer_del(client->deadline); /* a restart has its own limits */
}

/* The outcome of an order about a service, now or later. */
static void answer_verb(struct client *client, struct verb_answer *given)
{
	if (given->await != AWAIT_NOTHING) {
		client->awaits = *given;
		evtimer_del(client->deadline);
	} else if (given->reply != NULL) {
		answer(client, given->reply);
	} else {
		answer_error(client, given->error.code, given->error.text);
	}
}

/* Returns false when there is no such verb. */
static bool obey_verb(struct client *client, const char *verb, json_t *request)
{
	struct verb_answer given = {0};
	bool later;

	if (!verbs_obey(client->control->supervisor, verb, request, &given, &later))
		return false;
	if (later) {
		client->later = json_incref(request);
		evtimer_del(client->deadline);
	} else {
		answer_verb(client, &given);
	}
	return true;
}

static void obey_request(struct client *client, json_t *request)
{
	const char *verb = json_string_value(json_object_get(request, "verb"));
	char text[256];

	if (verb == NULL) {
		answer_error(client, EXIT_USAGE,
			     "the request names no verb, as in {\"verb\":\"status\"}");
	} else if (strcmp(verb, "status") == 0) {
		answer(client, status_json(client->control->supervisor));
	} else if (strcmp(verb, "await-restart") == 0) {
		await_restart(client);
	} else if (!obey_verb(client, verb, request)) {
		snprintf(
			text, sizeof(text),
			"there is no verb '%.64s'; known are status, ps, await-restart, start, stop, "
			"kill, add and remove",
			verb);
		answer_error(client, EXIT_USAGE, text);
	}
}

static void obey(struct client *client, const char *line, size_t len)
{
	json_error_t error;
	json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	char text[256];

	if (request == NULL) {
		snprintf(text, sizeof(text), "the request is not JSON: %s", error.text);
		answer_error(client, EXIT_USAGE, text);
	} else {
		obey_request(client, request);
	}
	json_decref(request);
}

static void on_read(struct bufferevent *bev, void *arg)
{
	struct client *client = arg;
	struct evbuffer *input = bufferevent_get_input(bev);
	size_t len;
	char *line;

	if (client->answered || is_waiting(client))
		return;
	line = evbuffer_readln(input, &len, EVBUFFER_EOL_LF);
	if (line != NULL)
		obey(client, line, len);
	else if (evbuffer_get_length(input) >= REQUEST_MAX)
		answer_error(client, EXIT_USAGE, "the request is longer than 16384 bytes");
	free(line);
}

/*
 * What a client has sent beyond its answer: a close with unread bytes would end its reading with
 * ECONNRESET in place of the end of file. Bounded: one that goes on sending has itself to blame.
 */
static void discard_input(int fd)
{
	char rest[4096];

	for (int i = 0; i < DISCARDED_MAX / (int)sizeof(rest); i++)
		if (recv(fd, rest, sizeof(rest), MSG_DONTWAIT) <= 0)
			return;
}

static void on_written(struct bufferevent *bev, void *arg)
{
	struct client *client = arg;

	if (!client->answered)
		return;
	discard_input(bufferevent_getfd(bev));
	client_free(client);
}

/* A Unix socket whose other end is closed says so; one that was only shut down does not. */
static bool has_gone(int fd)
{
	struct pollfd state = {.fd = fd};

	return poll(&state, 1, 0) > 0 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

static void on_end(struct bufferevent *bev, short what, void *arg)
{
	struct client *client = arg;

	/* A client that only shut down its sending side still wants its reply. */
	if ((what & BEV_EVENT_EOF) && !(what & BEV_EVENT_ERROR) &&
	    (client->answered || is_waiting(client)) && !has_gone(bufferevent_getfd(bev))) {
		bufferevent_disable(bev, EV_READ);
		return;
	}
	client_free(client);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct client *client = arg;

	(void)fd;
	(void)what;
	if (client->answered)
		client_free(client);
	else
		answer_error(client, EXIT_FAILED, "the request did not come within 5 seconds");
}

static struct client *client_new(struct control *control, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	struct timeval limit = {REQUEST_TIME, 0};

	if (client == NULL) {
		close(fd);
		return NULL;
	}
	client->control = control;
	client->bev = bufferevent_socket_new(control->supervisor->base, fd, BEV_OPT_CLOSE_ON_FREE);
	client->deadline = evtimer_new(control->supervisor->base, on_deadline, client);
	if (client->bev == NULL || client->deadline == NULL) {
		if (client->bev != NULL)
			bufferevent_free(client->bev);
		else
			close(fd);
		if (client->deadline != NULL)
			event_free(client->deadline);
		free(client);
		return NULL;
	}
	bufferevent_setcb(client->bev, on_read, on_written, on_end, client);
	bufferevent_setwatermark(client->bev, EV_READ, 0, REQUEST_MAX);
	evtimer_add(client->deadline, &limit);
	TAILQ_INSERT_TAIL(&control->clients, client, link);
	control->client_count++;
	return client;
}

/* ---- The listening socket ------------------------------------------------------------------- */

static bool may_ask(int fd, struct ucred *peer)
{
	socklen_t len = sizeof(*peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &len) == 0 &&
	       (peer->uid == 0 || peer->uid == geteuid());
}

/* The socket stays readable: without a pause, want of descriptors would burn the processor. */
static void pause_accepting(struct control *control)
{
	struct timeval tv = {0, PAUSE_MS * 1000};

	event_del(control->event);
	evtimer_add(control->resume, &tv);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct control *control = arg;

	(void)fd;
	(void)what;
	if (event_add(control->event, NULL) < 0)
		pause_accepting(control);
}

static bool is_full(const struct control *control)
{
	const struct client *client;
	unsigned busy = 0;

	TAILQ_FOREACH (client, &control->clients, link)
		busy += !is_waiting(client);
	return busy > CLIENTS_MAX || control->client_count > WAITING_MAX;
}

/*
 * Who has to go when there are too many: the oldest that has not sent a whole request yet.
 * Otherwise a few connections that say nothing would keep everybody out. Who waits for an outcome
 * stays. The newest, which is in the list, is one of them at least.
 */
static struct client *oldest_unasked(const struct control *control)
{
	struct client *client;

	TAILQ_FOREACH (client, &control->clients, link)
		if (!client->answered && !is_waiting(client))
			return client;
	return NULL;
}

static void on_accept(evutil_socket_t listener, short what, void *arg)
{
	struct control *control = arg;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct ucred peer = {0};
	struct client *client;

	(void)what;
	if (fd < 0) {
		/* Otherwise the client has gone. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			pause_accepting(control);
		return;
	}
	if (!may_ask(fd, &peer)) {
		log_warning("control: refused the user %u (pid %d)", (unsigned)peer.uid,
			    (int)peer.pid);
		dprintf(fd,
			"{\"ok\":false,\"schema\":1,\"error\":\"only root and the daemon's own user may "
			"ask\",\"code\":%d}\n",
			EXIT_PERMISSION);
		close(fd);
		return;
	}
	client = client_new(control, fd);
	if (client == NULL)
		return;
	bufferevent_enable(client->bev, EV_READ);
	if (is_full(control) && (client = oldest_unasked(control)) != NULL)
		answer_error(client, EXIT_FAILED, "too many control clients at once; try again");
}

/* Takes the descriptor in any case. */
static struct control *control_new(struct supervisor *supervisor, const char *path, int fd,
				   struct error *err)
{
	struct control *control = calloc(1, sizeof(*control));
	struct stat st;

	if (control == NULL || (control->path = strdup(path)) == NULL) {
		error_errno(err, "cannot keep the control socket");
		free(control);
		close(fd);
		return NULL;
	}
	control->supervisor = supervisor;
	control->fd = fd;
	TAILQ_INIT(&control->clients);
	if (lstat(path, &st) == 0) {
		control->device = st.st_dev;
		control->inode = st.st_ino;
	}
	control->event = event_new(supervisor->base, fd, EV_READ | EV_PERSIST, on_accept, control);
	control->resume = evtimer_new(supervisor->base, on_resume, control);
	if (control->event != NULL && control->resume != NULL &&
	    event_add(control->event, NULL) == 0)
		return control;
	error_set(err, EXIT_FAILED, "no memory to watch the control socket");
	control_close(control);
	return NULL;
}

struct control *control_open(struct supervisor *supervisor, const char *path, struct error *err)
{
	int fd = local_socket_listen(path, CONTROL_MODE, CLIENTS_MAX, err);

	if (fd < 0) {
		error_prefix(err, "control: ");
		return NULL;
	}
	return control_new(supervisor, path, fd, err);
}

void control_close(struct control *control)
{
	struct client *client;

	if (control == NULL)
		return;
	/* Answers that stand in a buffer go out now or never. */
	TAILQ_FOREACH (client, &control->clients, link) {
		struct evbuffer *output = bufferevent_get_output(client->bev);

		evbuffer_unfreeze(output, 1);
		evbuffer_write(output, bufferevent_getfd(client->bev));
	}
	while (!TAILQ_EMPTY(&control->clients))
		client_free(TAILQ_FIRST(&control->clients)); /* NOLINT: it leaves the list first */
	if (local_socket_is_at(control->path, control->device, control->inode))
		unlink(control->path);
	if (control->event != NULL)
		event_free(control->event);
	if (control->resume != NULL)
		event_free(control->resume);
	close(control->fd);
	free(control->path);
	free(control);
}

/* No generation is getting ready any more: obey what had to wait for that. */
static void obey_later(struct client *client)
{
	json_t *request = client->later;

	client->later = NULL;
	obey_request(client, request);
	json_decref(request);
}

void control_restart_ended(struct control *control)
{
	struct client *client;

	if (control == NULL)
		return;
	TAILQ_FOREACH (client, &control->clients, link) {
		if (client->waits_for != 0 &&
		    client->waits_for <= control->supervisor->restart.ended)
			answer_restart(client);
		if (client->later != NULL)
			obey_later(client);
	}
}

void control_children_changed(struct control *control)
{
	struct client *client;

	if (control == NULL || control->supervisor->current == NULL)
		return;
	TAILQ_FOREACH (client, &control->clients, link) {
		struct verb_answer given = client->awaits;

		if (given.await != AWAIT_NOTHING && verbs_known(control->supervisor, &given))
			answer_verb(client, &given);
	}
}

void control_stopping(struct control *control)
{
	struct client *client;

	if (control == NULL)
		return;
	TAILQ_FOREACH (client, &control->clients, link)
		if (is_waiting(client))
			answer_error(client, EXIT_FAILED, "the daemon is stopping");
}

/* ---- Over a restart ------------------------------------------------------------------------- */

int control_collect(struct control *control, struct handover *handover, struct error *err)
{
	struct client *client;

	if (control == NULL)
		return 0;
	handover->control = control->fd;
	handover->control_device = control->device;
	handover->control_inode = control->inode;
	handover->clients = calloc(control->client_count + 1, sizeof(*handover->clients));
	if (handover->clients == NULL)
		return error_errno(err, "cannot prepare the hand-over");
	TAILQ_FOREACH (client, &control->clients, link) {
		struct evbuffer *input = bufferevent_get_input(client->bev);
		struct evbuffer *output = bufferevent_get_output(client->bev);
		struct handover_client *to = &handover->clients[handover->client_count];

		*to = (struct handover_client){
			.fd = bufferevent_getfd(client->bev),
			.waits_for = client->waits_for,
			.awaits = client->awaits.await,
			.service = client->awaits.service,
			.input_len = evbuffer_get_length(input),
			.output_len = evbuffer_get_length(output),
		};
		/* Copies: the buffers must be whole should the restart not happen. */
		to->input = malloc(to->input_len + 1);
		to->output = malloc(to->output_len + 1);
		handover->client_count++;
		if (to->input == NULL || to->output == NULL)
			return error_errno(err, "cannot prepare the hand-over");
		evbuffer_copyout(input, to->input, to->input_len);
		/* A bufferevent keeps the front of its output for itself, and copyout is refused
		 * there. */
		evbuffer_unfreeze(output, 1);
		evbuffer_copyout(output, to->output, to->output_len);
		evbuffer_freeze(output, 1);
	}
	return 0;
}

void control_uncollect(struct handover *handover)
{
	for (size_t i = 0; i < handover->client_count; i++) {
		free(handover->clients[i].input);
		free(handover->clients[i].output);
	}
	free(handover->clients);
	handover->clients = NULL;
	handover->client_count = 0;
}

static void adopt_client(struct control *control, const struct handover_client *from)
{
	struct client *client = client_new(control, from->fd);

	if (client == NULL)
		return;
	client->waits_for = from->waits_for;
	if (from->awaits < AWAITS && from->service != NULL) {
		client->awaits.await = (enum await)from->awaits;
		snprintf(client->awaits.service, sizeof(client->awaits.service), "%s",
			 from->service);
	}
	if (is_waiting(client))
		evtimer_del(client->deadline);
	/* A bufferevent lets only itself add to its input. */
	evbuffer_unfreeze(bufferevent_get_input(client->bev), 0);
	evbuffer_add(bufferevent_get_input(client->bev), from->input, from->input_len);
	evbuffer_freeze(bufferevent_get_input(client->bev), 0);
	bufferevent_enable(client->bev, EV_READ);
	if (from->output_len > 0) {
		client->answered = true;
		bufferevent_write(client->bev, from->output, from->output_len);
	}
	on_read(client->bev, client); /* a whole request may have been waiting */
}

static void close_clients(const struct handover *handover)
{
	for (size_t i = 0; i < handover->client_count; i++)
		close(handover->clients[i].fd);
}

struct control *control_adopt(struct supervisor *supervisor, const char *path,
			      const struct handover *handover, struct error *err)
{
	struct sockaddr_un name = {0};
	socklen_t len = sizeof(name), size = sizeof(int);
	struct control *control;
	int listens = 0;

	if (getsockname(handover->control, (struct sockaddr *)&name, &len) < 0 ||
	    name.sun_family != AF_UNIX || strcmp(name.sun_path, path) != 0 ||
	    getsockopt(handover->control, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 ||
	    !listens) {
		error_set(err, EXIT_FAILED, "the handed-over control socket is not the one of %s",
			  path);
		close(handover->control);
		close_clients(handover);
		return NULL;
	}
	if (local_socket_is_at(path, handover->control_device, handover->control_inode)) {
		control = control_new(supervisor, path, handover->control, err);
	} else {
		close(handover->control);
		log_warning("the control socket %s has been removed: a new one is bound", path);
		control = control_open(supervisor, path, err);
	}
	if (control == NULL)
		close_clients(handover);
	for (size_t i = 0; control != NULL && i < handover->client_count; i++)
		adopt_client(control, &handover->clients[i]);
	control_children_changed(control);
	return control;
}
