/* Where a service listens: finding and binding its sockets, and listening on them. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "os/listen.h"
#include "os/local_socket.h"
#include "run/generation.h"
#include "run/service.h"
#include "run/settings.h"
#include "run/supervisor.h"
#include "serve/proto.h"

#define ADDRESSES_MAX 32   /* of one name */
#define PORT_ATTEMPTS 16   /* until one port is free for all addresses */
#define OPEN_MODE     0666 /* of a Unix socket's file: for everybody, as other addresses are */

/* One line of `listen` while it is being bound. */
struct binding {
	struct service *service;
	const struct conf_listen *listen;
	struct local_socket_rights rights;
	int64_t retry_ms;
	struct socket_key keys[ADDRESSES_MAX];
	int count;
	size_t before; /* how many sockets the service had */
	uint16_t port; /* that the kernel chose; 0: it has not chosen yet */
	enum listen_failure failure;
};

static struct socket_table *table_of(const struct service *service)
{
	return &service->generation->supervisor->sockets;
}

static bool asks_for_any_port(const struct conf_listen *listen)
{
	return listen->endpoint.port == 0 && !transport_is_local(listen->endpoint.transport);
}

/* ---- What is asked for ---------------------------------------------------------------------- */

/* Of "[::]:7", however it is written; "*" is a socket of its own for each family. */
static bool is_both_families(const struct conf_service *conf, const struct conf_listen *listen,
			     const struct address *address)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;

	return !conf->v6only && in6->sin6_family == AF_INET6 &&
	       IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr) && strcmp(listen->endpoint.host, "*") != 0;
}

static void make_key(const struct service *service, const struct conf_listen *listen,
		     const struct address *address, struct socket_key *key)
{
	const struct conf_service *conf = service->conf;
	const struct endpoint *endpoint = &listen->endpoint;

	*key = (struct socket_key){
		.place =
			{
				.transport = endpoint->transport,
				.address = *address,
				.both_families = is_both_families(conf, listen, address),
				.mptcp = conf->mptcp && endpoint->transport == TRANSPORT_TCP,
			},
	};
	memcpy(key->place.device, endpoint->device, sizeof(key->place.device));
	if (asks_for_any_port(listen))
		memcpy(key->service, conf->name, strnlen(conf->name, sizeof(key->service) - 1));
}

static int find_rights(const struct conf_service *conf, struct local_socket_rights *rights,
		       struct error *err)
{
	mode_t mode = conf->socket_mode != 0 ? (mode_t)conf->socket_mode : OPEN_MODE;

	return local_socket_find_rights(rights, mode, conf->socket_user, conf->socket_group, err);
}

static int begin(struct binding *binding, struct error *err)
{
	const struct service *service = binding->service;
	struct address addresses[ADDRESSES_MAX];

	if (transport_is_local(binding->listen->endpoint.transport) &&
	    find_rights(service->conf, &binding->rights, err) < 0)
		return -1;
	binding->before = service->socket_count;
	binding->count =
		endpoint_resolve(&binding->listen->endpoint, addresses, ADDRESSES_MAX, err);
	for (int i = 0; i < binding->count; i++)
		make_key(service, binding->listen, &addresses[i], &binding->keys[i]);
	return binding->count < 0 ? -1 : 0;
}

/* ---- Who has it already --------------------------------------------------------------------- */

static bool has_address(const struct socket_entry *entry, const struct listen_place *place)
{
	return entry->key.place.transport == place->transport &&
	       strcmp(entry->key.place.device, place->device) == 0 &&
	       address_equal(&entry->address, &place->address);
}

static bool needs(const struct service *service, const struct socket_key *key,
		  const struct listen_place *place)
{
	for (size_t i = 0; i < service->socket_count; i++) {
		const struct socket_entry *entry = service->sockets[i].entry;

		if (socket_key_equal(&entry->key, key) || has_address(entry, place))
			return true;
	}
	return false;
}

static int check_unused(const struct binding *binding, const struct socket_key *key,
			struct error *err)
{
	struct listen_place place = key->place;
	char text[ADDR_TEXT_MAX];
	const struct service *other;

	/* Of any port, the one that it keeps: somebody may ask for that one by its number. */
	if (address_port(&place.address) == 0)
		address_set_port(&place.address, binding->port);
	TAILQ_FOREACH (other, &binding->service->generation->services, link) {
		if (!needs(other, key, &place))
			continue;
		address_format_listening(text, sizeof(text), &place.address, place.transport,
					 place.device);
		if (strcmp(text, binding->listen->text) == 0)
			return error_set(err, EXIT_CONFIG,
					 "the address %s is used already by service %s (%s)", text,
					 other->conf->name, other->conf->where);
		return error_set(
			err, EXIT_CONFIG, "the address %s (%s) is used already by service %s (%s)",
			binding->listen->text, text, other->conf->name, other->conf->where);
	}
	return 0;
}

/* Some service asks for this very port, and may only just not have got it yet. */
static bool is_wanted(const struct generation *generation, enum transport transport, uint16_t port)
{
	const struct service *service;

	TAILQ_FOREACH (service, &generation->services, link)
		for (size_t i = 0; i < service->conf->listen_count; i++) {
			const struct endpoint *endpoint = &service->conf->listen[i].endpoint;

			if (endpoint->transport == transport && endpoint->port == port)
				return true;
		}
	return false;
}

/* ---- Binding -------------------------------------------------------------------------------- */

/* Its socket of this number: one that there is, or a new one. */
static int bind_one(struct binding *binding, const struct socket_key *key, unsigned number,
		    struct error *err)
{
	struct socket_table *table = table_of(binding->service);
	struct socket_wish wish = {
		.port = binding->port,
		/* Of any port, another one is tried. */
		.retry_ms = asks_for_any_port(binding->listen) ? 0 : binding->retry_ms,
		.rights = &binding->rights,
	};
	struct socket_entry *entry = sockets_find(table, key, number);

	if (entry == NULL)
		entry = sockets_open(table, key, &wish, &binding->failure, err);
	if (entry == NULL)
		return -1;
	if (service_add_socket(binding->service, entry, err) < 0) {
		if (entry->users == 0)
			sockets_drop(table, entry);
		return -1;
	}
	if (asks_for_any_port(binding->listen))
		binding->port = address_port(&entry->address);
	return 0;
}

/*
 * As many sockets as workers; more where more are there already: closing one would reset its queue.
 * Unix sockets know no SO_REUSEPORT: all workers accept on one.
 */
static int bind_address(struct binding *binding, const struct socket_key *key, struct error *err)
{
	const struct service *service = binding->service;
	unsigned there = sockets_group_size(table_of(service), key);
	unsigned wanted = service->slot_count > there ? service->slot_count : there;

	if (transport_is_local(key->place.transport))
		wanted = 1;
	for (unsigned number = 0; number < wanted; number++)
		if (bind_one(binding, key, number, err) < 0)
			return -1;
	return 0;
}

/* "*" and names mean all addresses that the machine can serve; none at all is an error. */
static int bind_all(struct binding *binding, struct error *err)
{
	int bound = 0;

	for (int i = 0; i < binding->count; i++) {
		binding->failure = LISTEN_FAILED;
		if (check_unused(binding, &binding->keys[i], err) < 0)
			return -1;
		if (bind_address(binding, &binding->keys[i], err) == 0)
			bound++;
		else if (binding->failure != LISTEN_UNSUPPORTED)
			return -1;
	}
	return bound > 0 ? 0 : -1;
}

static void undo(struct binding *binding)
{
	struct service *service = binding->service;

	while (service->socket_count > binding->before)
		sockets_release(table_of(service), service->sockets[--service->socket_count].entry);
}

/* The port of those sockets that there are already; 0: there are none. */
static uint16_t port_there(const struct binding *binding)
{
	for (int i = 0; i < binding->count; i++) {
		const struct socket_entry *entry =
			sockets_find(table_of(binding->service), &binding->keys[i], 0);

		if (entry != NULL)
			return address_port(&entry->address);
	}
	return 0;
}

/* All addresses get the same port; where there is no such port, each gets its own. */
static int bind_any_port(struct binding *binding, struct error *err)
{
	const struct generation *generation = binding->service->generation;
	enum transport transport = binding->listen->endpoint.transport;
	uint16_t there = port_there(binding);

	for (int i = 0; i < (there == 0 ? PORT_ATTEMPTS : 1); i++) {
		binding->port = there;
		if (bind_all(binding, err) == 0) {
			if (there != 0 || !is_wanted(generation, transport, binding->port))
				return 0;
		} else if (binding->failure != LISTEN_IN_USE) {
			return -1;
		}
		undo(binding);
	}
	for (int i = 0; i < binding->count; i++) {
		binding->port = 0;
		if (bind_address(binding, &binding->keys[i], err) < 0 &&
		    binding->failure != LISTEN_UNSUPPORTED)
			return -1;
	}
	return binding->service->socket_count > binding->before ? 0 : -1;
}

static int bind_listen(struct service *service, const struct conf_listen *listen, int64_t retry_ms,
		       struct error *err)
{
	struct binding binding = {.service = service, .listen = listen, .retry_ms = retry_ms};

	if (begin(&binding, err) < 0)
		return -1;
	return asks_for_any_port(listen) ? bind_any_port(&binding, err) : bind_all(&binding, err);
}

int service_bind(struct service *service, int64_t retry_ms, struct error *err)
{
	const struct conf_service *conf = service->conf;
	int passed = service_take_passed(service, err);

	if (passed != 0)
		return passed < 0 ? -1 : 0;
	for (size_t i = 0; i < conf->listen_count; i++)
		if (bind_listen(service, &conf->listen[i], retry_ms, err) < 0)
			return error_prefix(err, "service %s (%s): ", conf->name, conf->where);
	return 0;
}

/* ---- Listening ------------------------------------------------------------------------------ */

static struct listen_options options_of(const struct conf_service *conf,
					const struct socket_entry *entry)
{
	return (struct listen_options){
		.nodelay = conf->nodelay,
		.keepalive_ms = conf->keepalive,
		.defer_accept_ms = settings_client_speaks_first(conf) ? conf->defer_accept : 0,
		.user_timeout_ms = conf->user_timeout,
		.fastopen = conf->fastopen,
		.mss = conf->mss,
		.receive_buffer = conf->receive_buffer,
		.send_buffer = conf->send_buffer,
		.tos = conf->tos,
		.ttl = conf->ttl,
		.backlog = (int)conf->backlog,
		.passed = entry->passed,
	};
}

int service_listen_on(const struct service *service, struct socket_entry *entry, struct error *err)
{
	struct listen_options options = options_of(service->conf, entry);

	if (listen_set(entry->fd, &options, err) < 0 || listen_start(entry->fd, &options, err) < 0)
		return -1;
	entry->listening = true;
	return 0;
}

/* A restart in place may have brought another mode or owner for a file that stays. */
static int set_rights(const struct service *service, const struct socket_entry *entry,
		      struct error *err)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&entry->address.storage;
	struct local_socket_rights rights;

	if (entry->file.inode == 0)
		return 0;
	if (find_rights(service->conf, &rights, err) < 0)
		return -1;
	return local_socket_set_rights(un->sun_path, entry->file, &rights, err);
}

int service_listen(struct service *service, bool listening, struct error *err)
{
	for (size_t i = 0; i < service->socket_count; i++) {
		struct socket_entry *entry = service->sockets[i].entry;

		if (entry->listening == listening && (set_rights(service, entry, err) < 0 ||
						      service_listen_on(service, entry, err) < 0))
			return -1;
	}
	return 0;
}
