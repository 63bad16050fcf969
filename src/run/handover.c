#include "run/handover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run/child.h"
#include "run/launch.h"

#define MAGIC	      UINT64_C(0x6563686f64484f31) /* "echodHO1" */
#define MAX_ENTRIES   1000000
#define MAX_TEXTS     100000
#define MAX_SIGNAL    64
#define MAX_EXIT_CODE 255

static void put_fd(struct blob_writer *writer, int fd)
{
	blob_put_u64(writer, (uint64_t)(int64_t)fd);
}

/* -1 is allowed: none. */
static int get_fd(struct blob_reader *reader)
{
	int64_t fd = (int64_t)blob_get_u64(reader);

	if (fd < -1 || fd > INT32_MAX)
		reader->failed = true;
	return reader->failed ? -1 : (int)fd;
}

static void put_privileges(struct blob_writer *writer, const struct privileges *privileges)
{
	blob_put_u64(writer, privileges->change);
	blob_put_u64(writer, privileges->uid);
	blob_put_u64(writer, privileges->gid);
	blob_put_text(writer, privileges->user);
}

static void get_privileges(struct blob_reader *reader, struct privileges *privileges)
{
	char *user;

	privileges->change = blob_get_count(reader, 1) != 0;
	privileges->uid = (uid_t)blob_get_count(reader, UINT32_MAX);
	privileges->gid = (gid_t)blob_get_count(reader, UINT32_MAX);
	user = blob_get_text(reader);
	snprintf(privileges->user, sizeof(privileges->user), "%s", user != NULL ? user : "");
	free(user);
}

static void put_texts(struct blob_writer *writer, char *const *texts)
{
	size_t n = 0;

	while (texts != NULL && texts[n] != NULL)
		n++;
	blob_put_u64(writer, n);
	for (size_t i = 0; i < n; i++)
		blob_put_text(writer, texts[i]);
}

/* NULL at the end; NULL for none. */
static char **get_texts(struct blob_reader *reader)
{
	size_t n = blob_get_count(reader, MAX_TEXTS);
	char **texts = n == 0 ? NULL : calloc(n + 1, sizeof(*texts));

	if (n > 0 && texts == NULL)
		reader->failed = true;
	for (size_t i = 0; i < n && !reader->failed; i++)
		texts[i] = blob_get_text(reader);
	return texts;
}

static void free_texts(char **texts)
{
	for (size_t i = 0; texts != NULL && texts[i] != NULL; i++)
		free(texts[i]);
	free(texts);
}

/* A text that may be missing. */
static void put_optional(struct blob_writer *writer, const char *text)
{
	blob_put_u64(writer, text != NULL);
	if (text != NULL)
		blob_put_text(writer, text);
}

static char *get_optional(struct blob_reader *reader)
{
	return blob_get_count(reader, 1) != 0 ? blob_get_text(reader) : NULL;
}

static void put_total(struct blob_writer *writer, const struct counters_total *total)
{
	blob_put_bytes(writer, total, sizeof(*total));
}

/* A version that counts more, or less, reads what both know. */
static void get_total(struct blob_reader *reader, struct counters_total *total)
{
	size_t len;
	const void *bytes = blob_get_bytes(reader, &len);

	if (bytes != NULL)
		memcpy(total, bytes, len < sizeof(*total) ? len : sizeof(*total));
}

static bool get_bool(struct blob_reader *reader)
{
	return blob_get_count(reader, 1) != 0;
}

static void put_service(struct blob_writer *writer, const struct handover_service *service)
{
	blob_put_text(writer, service->name);
	blob_put_u64(writer, service->places);
	blob_put_u64(writer, service->stopped);
	put_privileges(writer, &service->privileges);
	put_total(writer, &service->ended);
	blob_put_u64(writer, service->restarts);
	put_fd(writer, service->limits);
	blob_put_u64(writer, service->added);
	put_texts(writer, service->command);
	put_optional(writer, service->user);
	put_optional(writer, service->restart);
}

static void get_service(struct blob_reader *reader, struct handover_service *service)
{
	service->name = blob_get_text(reader);
	service->places = (unsigned)blob_get_count(reader, MAX_ENTRIES);
	service->stopped = get_bool(reader);
	get_privileges(reader, &service->privileges);
	get_total(reader, &service->ended);
	service->restarts = blob_get_u64(reader);
	service->limits = get_fd(reader);
	service->added = get_bool(reader);
	service->command = get_texts(reader);
	service->user = get_optional(reader);
	service->restart = get_optional(reader);
	if (service->places == 0 || (service->added && service->command == NULL))
		reader->failed = true;
}

static void put_address(struct blob_writer *writer, const struct address *address)
{
	blob_put_bytes(writer, &address->storage, address->len);
}

static void put_key(struct blob_writer *writer, const struct socket_key *key)
{
	blob_put_u64(writer, key->place.transport);
	put_address(writer, &key->place.address);
	blob_put_text(writer, key->place.device);
	blob_put_u64(writer, key->place.both_families);
	blob_put_u64(writer, key->place.mptcp);
	blob_put_text(writer, key->service);
}

static void put_socket(struct blob_writer *writer, const struct handover_socket *socket)
{
	put_fd(writer, socket->fd);
	blob_put_text(writer, socket->service);
	blob_put_u64(writer, socket->number);
	put_address(writer, &socket->address);
	put_key(writer, &socket->key);
	blob_put_u64(writer, socket->shared);
	blob_put_u64(writer, socket->passed);
	blob_put_u64(writer, socket->file.device);
	blob_put_u64(writer, socket->file.inode);
}

static void put_child(struct blob_writer *writer, const struct handover_child *child)
{
	blob_put_u64(writer, (uint64_t)child->pid);
	blob_put_u64(writer, (uint64_t)child->program);
	put_fd(writer, child->channel);
	put_fd(writer, child->counters);
	blob_put_text(writer, child->service);
	blob_put_u64(writer, child->index);
	blob_put_u64(writer, child->kind);
	blob_put_u64(writer, child->generation);
	blob_put_u64(writer, child->state);
	blob_put_u64(writer, child->in_place);
	blob_put_u64(writer, child->ready);
	blob_put_u64(writer, (uint64_t)child->killed);
	blob_put_u64(writer, (uint64_t)child->killed_at);
	blob_put_u64(writer, child->condemned);
	blob_put_u64(writer, child->start_again);
	blob_put_u64(writer, child->ended);
	blob_put_u64(writer, (uint32_t)child->status);
	blob_put_u64(writer, (uint64_t)child->failure_code);
	blob_put_u64(writer, (uint64_t)child->since);
	blob_put_u64(writer, (uint64_t)child->due);
	blob_put_u64(writer, child->failures);
	blob_put_u64(writer, child->restarts);
	blob_put_u64(writer, (uint64_t)child->stop_timeout);
	blob_put_text(writer, child->text);
}

static void put_client(struct blob_writer *writer, const struct handover_client *client)
{
	put_fd(writer, client->fd);
	blob_put_u64(writer, client->waits_for);
	blob_put_u64(writer, client->awaits);
	put_optional(writer, client->service);
	blob_put_bytes(writer, client->input, client->input_len);
	blob_put_bytes(writer, client->output, client->output_len);
}

static void put_files(struct blob_writer *writer, const struct handover *handover)
{
	put_fd(writer, handover->pidfile.fd);
	blob_put_u64(writer, handover->pidfile.device);
	blob_put_u64(writer, handover->pidfile.inode);
	blob_put_text(writer, handover->pidfile.path);
	put_fd(writer, handover->log);
	put_fd(writer, handover->control);
	blob_put_u64(writer, handover->control_device);
	blob_put_u64(writer, handover->control_inode);
	blob_put_text(writer, handover->control_path);
}

/* The order here is that of handover_unpack; a change of it needs a new HANDOVER_VERSION. */
void handover_pack(const struct handover *handover, struct blob_writer *writer)
{
	blob_put_u64(writer, MAGIC);
	blob_put_u64(writer, HANDOVER_VERSION);
	blob_put_u64(writer, (uint64_t)handover->pid);
	blob_put_u64(writer, (uint64_t)handover->since);
	put_files(writer, handover);
	blob_put_u64(writer, handover->generation);
	put_fd(writer, handover->limits);
	blob_put_u64(writer, handover->nofile.rlim_cur);
	blob_put_u64(writer, handover->nofile.rlim_max);
	blob_put_u64(writer, handover->restarts_begun);
	blob_put_u64(writer, handover->restarts_ended);
	blob_put_u64(writer, handover->restarts_failed);
	blob_put_u64(writer, handover->again);
	blob_put_u64(writer, handover->had_terminal);
	blob_put_u64(writer, handover->has_orphans);
	put_total(writer, &handover->ended);
	conf_source_pack(handover->source, writer);
	blob_put_u64(writer, handover->service_count);
	for (size_t i = 0; i < handover->service_count; i++)
		put_service(writer, &handover->services[i]);
	blob_put_u64(writer, handover->socket_count);
	for (size_t i = 0; i < handover->socket_count; i++)
		put_socket(writer, &handover->sockets[i]);
	blob_put_u64(writer, handover->child_count);
	for (size_t i = 0; i < handover->child_count; i++)
		put_child(writer, &handover->children[i]);
	blob_put_u64(writer, handover->client_count);
	for (size_t i = 0; i < handover->client_count; i++)
		put_client(writer, &handover->clients[i]);
}

static void get_address(struct blob_reader *reader, struct address *address)
{
	size_t len;
	const void *bytes = blob_get_bytes(reader, &len);

	if (bytes == NULL || len > sizeof(address->storage) || len < sizeof(sa_family_t)) {
		reader->failed = true;
		return;
	}
	memcpy(&address->storage, bytes, len);
	address->len = (socklen_t)len;
}

/* A text that must fit. */
static void get_short(struct blob_reader *reader, char *out, size_t cap)
{
	char *text = blob_get_text(reader);

	if (text == NULL || strlen(text) >= cap)
		reader->failed = true;
	else
		memcpy(out, text, strlen(text) + 1);
	free(text);
}

static void get_key(struct blob_reader *reader, struct socket_key *key)
{
	key->place.transport = (enum transport)blob_get_count(reader, TRANSPORTS - 1);
	get_address(reader, &key->place.address);
	get_short(reader, key->place.device, sizeof(key->place.device));
	key->place.both_families = get_bool(reader);
	key->place.mptcp = get_bool(reader);
	get_short(reader, key->service, sizeof(key->service));
}

static void get_socket(struct blob_reader *reader, struct handover_socket *socket)
{
	socket->fd = get_fd(reader);
	socket->service = blob_get_text(reader);
	socket->number = (unsigned)blob_get_count(reader, MAX_ENTRIES);
	get_address(reader, &socket->address);
	get_key(reader, &socket->key);
	socket->shared = get_bool(reader);
	socket->passed = get_bool(reader);
	socket->file.device = (dev_t)blob_get_u64(reader);
	socket->file.inode = (ino_t)blob_get_u64(reader);
}

/* What both images may not doubt: a process has its descriptors, and no other record has any. */
static bool is_consistent(const struct handover_child *child)
{
	bool process = child->pid > 1;

	return (process || child->pid == 0) && (child->channel >= 0) == process &&
	       (child->counters >= 0) == process && child->program >= 0 &&
	       child->program <= INT32_MAX && child->pid <= INT32_MAX;
}

static void get_child(struct blob_reader *reader, struct handover_child *child)
{
	child->pid = (int64_t)blob_get_u64(reader);
	child->program = (int64_t)blob_get_u64(reader);
	child->channel = get_fd(reader);
	child->counters = get_fd(reader);
	child->service = blob_get_text(reader);
	child->index = (unsigned)blob_get_count(reader, MAX_ENTRIES);
	child->kind = (unsigned)blob_get_count(reader, CHILD_PROGRAM);
	child->generation = blob_get_u64(reader);
	child->state = (unsigned)blob_get_count(reader, CHILD_STATES - 1);
	child->in_place = get_bool(reader);
	child->ready = get_bool(reader);
	child->killed = (int)blob_get_count(reader, MAX_SIGNAL);
	child->killed_at = (int64_t)blob_get_u64(reader);
	child->condemned = get_bool(reader);
	child->start_again = get_bool(reader);
	child->ended = get_bool(reader);
	child->status = (int)(uint32_t)blob_get_count(reader, UINT32_MAX);
	child->failure_code = (int)blob_get_count(reader, MAX_EXIT_CODE);
	child->since = (int64_t)blob_get_u64(reader);
	child->due = (int64_t)blob_get_u64(reader);
	child->failures = (unsigned)blob_get_count(reader, UINT32_MAX);
	child->restarts = blob_get_u64(reader);
	child->stop_timeout = (int64_t)blob_get_u64(reader);
	child->text = blob_get_text(reader);
	if (!is_consistent(child))
		reader->failed = true;
}

static unsigned char *get_copy(struct blob_reader *reader, size_t *len)
{
	const void *here = blob_get_bytes(reader, len);
	unsigned char *copy = malloc(*len + 1);

	if (copy == NULL || here == NULL) {
		reader->failed = true;
		*len = 0;
		return copy;
	}
	memcpy(copy, here, *len);
	return copy;
}

static void get_client(struct blob_reader *reader, struct handover_client *client)
{
	client->fd = get_fd(reader);
	client->waits_for = blob_get_u64(reader);
	client->awaits = (unsigned)blob_get_count(reader, UINT32_MAX);
	client->service = get_optional(reader);
	client->input = get_copy(reader, &client->input_len);
	client->output = get_copy(reader, &client->output_len);
}

/* A list's memory, for as many entries as the blob says, each of which takes at least 32 bytes
 * there. */
static void *get_list(struct blob_reader *reader, size_t size, size_t *count)
{
	size_t n = blob_get_count(reader, MAX_ENTRIES);
	void *list;

	if (n > reader->len / 32)
		reader->failed = true;
	list = calloc(n + 1, size);
	if (list == NULL || reader->failed) {
		reader->failed = true;
		free(list);
		return NULL;
	}
	*count = n;
	return list;
}

static void get_body(struct blob_reader *reader, struct handover *handover)
{
	handover->since = (int64_t)blob_get_u64(reader);
	handover->pidfile.fd = get_fd(reader);
	handover->pidfile.device = (dev_t)blob_get_u64(reader);
	handover->pidfile.inode = (ino_t)blob_get_u64(reader);
	handover->pidfile.path = blob_get_text(reader);
	handover->log = get_fd(reader);
	handover->control = get_fd(reader);
	handover->control_device = (dev_t)blob_get_u64(reader);
	handover->control_inode = (ino_t)blob_get_u64(reader);
	handover->control_path = blob_get_text(reader);
	handover->generation = blob_get_u64(reader);
	handover->limits = get_fd(reader);
	handover->nofile.rlim_cur = blob_get_u64(reader);
	handover->nofile.rlim_max = blob_get_u64(reader);
	handover->restarts_begun = blob_get_u64(reader);
	handover->restarts_ended = blob_get_u64(reader);
	handover->restarts_failed = blob_get_u64(reader);
	handover->again = get_bool(reader);
	handover->had_terminal = get_bool(reader);
	handover->has_orphans = get_bool(reader);
	get_total(reader, &handover->ended);
	handover->source = conf_source_unpack(reader);
	handover->services =
		get_list(reader, sizeof(*handover->services), &handover->service_count);
	for (size_t i = 0; i < handover->service_count; i++)
		get_service(reader, &handover->services[i]);
	handover->sockets = get_list(reader, sizeof(*handover->sockets), &handover->socket_count);
	for (size_t i = 0; i < handover->socket_count; i++)
		get_socket(reader, &handover->sockets[i]);
	handover->children = get_list(reader, sizeof(*handover->children), &handover->child_count);
	for (size_t i = 0; i < handover->child_count; i++)
		get_child(reader, &handover->children[i]);
	handover->clients = get_list(reader, sizeof(*handover->clients), &handover->client_count);
	for (size_t i = 0; i < handover->client_count; i++)
		get_client(reader, &handover->clients[i]);
}

int handover_unpack(struct handover *handover, const void *data, size_t len, struct error *err)
{
	struct blob_reader reader = {data, len, 0, false};

	*handover =
		(struct handover){.pidfile = PIDFILE_NONE, .log = -1, .control = -1, .limits = -1};
	if (blob_get_u64(&reader) != MAGIC)
		return error_set(err, EXIT_FAILED, "this is no hand-over of echod");
	if (blob_get_u64(&reader) != HANDOVER_VERSION)
		return error_set(err, EXIT_FAILED, "the hand-over is not of version %d",
				 HANDOVER_VERSION);
	handover->pid = (int64_t)blob_get_u64(&reader);
	if (handover->pid != getpid())
		return error_set(err, EXIT_FAILED, "the hand-over is not for this process");
	get_body(&reader, handover);
	if (blob_reader_done(&reader))
		return 0;
	handover_free(handover);
	return error_set(err, EXIT_FAILED, "the hand-over is damaged");
}

void handover_free(struct handover *handover)
{
	for (size_t i = 0; i < handover->service_count; i++) {
		free(handover->services[i].name);
		free_texts(handover->services[i].command);
		free(handover->services[i].user);
		free(handover->services[i].restart);
	}
	for (size_t i = 0; i < handover->socket_count; i++)
		free(handover->sockets[i].service);
	for (size_t i = 0; i < handover->child_count; i++) {
		free(handover->children[i].service);
		free(handover->children[i].text);
	}
	for (size_t i = 0; i < handover->client_count; i++) {
		free(handover->clients[i].service);
		free(handover->clients[i].input);
		free(handover->clients[i].output);
	}
	free(handover->services);
	free(handover->sockets);
	free(handover->children);
	free(handover->clients);
	free(handover->pidfile.path);
	free(handover->control_path);
	conf_source_free(handover->source);
	*handover =
		(struct handover){.pidfile = PIDFILE_NONE, .log = -1, .control = -1, .limits = -1};
}
