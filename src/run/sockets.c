#include "run/sockets.h"

#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- Keys ----------------------------------------------------------------------------------- */

bool socket_key_equal(const struct socket_key *a, const struct socket_key *b)
{
	return a->place.transport == b->place.transport && a->place.mptcp == b->place.mptcp &&
	       a->place.both_families == b->place.both_families &&
	       strcmp(a->place.device, b->place.device) == 0 &&
	       strcmp(a->service, b->service) == 0 &&
	       address_equal(&a->place.address, &b->place.address);
}

void socket_entry_format(const struct socket_entry *entry, char *out)
{
	address_format_listening(out, ADDR_TEXT_MAX, &entry->address, entry->key.place.transport,
				 entry->key.place.device);
}

static const char *path_of(const struct address *address)
{
	return ((const struct sockaddr_un *)&address->storage)->sun_path;
}

static bool has_file(const struct address *address)
{
	return address->storage.ss_family == AF_UNIX && path_of(address)[0] != '\0';
}

/* Somebody may have removed the file of a Unix socket, or put another in its place. */
static bool is_reachable(const struct socket_entry *entry)
{
	return entry->file.inode == 0 ||
	       local_socket_is_at(path_of(&entry->address), entry->file.device, entry->file.inode);
}

struct socket_entry *sockets_find(struct socket_table *table, const struct socket_key *key,
				  unsigned number)
{
	struct socket_entry *entry;

	TAILQ_FOREACH (entry, table, link)
		if (entry->number == number && !entry->passed &&
		    socket_key_equal(&entry->key, key) && is_reachable(entry))
			return entry;
	return NULL;
}

unsigned sockets_group_size(struct socket_table *table, const struct socket_key *key)
{
	unsigned n = 0;

	while (sockets_find(table, key, n) != NULL)
		n++;
	return n;
}

/* ---- Opening -------------------------------------------------------------------------------- */

static bool same_port_of_both_families(const struct listen_place *a, const struct listen_place *b)
{
	return a->address.storage.ss_family != b->address.storage.ss_family &&
	       !transport_is_local(a->transport) && (a->both_families || b->both_families) &&
	       address_port(&a->address) == address_port(&b->address);
}

static bool is_in_the_way(const struct socket_entry *entry, const struct listen_place *place)
{
	struct listen_place own = entry->key.place;

	own.address = entry->address;
	if (own.transport != place->transport)
		return false;
	/* Sockets of two interfaces do not compete. */
	if (own.device[0] != '\0' && place->device[0] != '\0' &&
	    strcmp(own.device, place->device) != 0)
		return false;
	return address_overlaps(&own.address, &place->address) ||
	       same_port_of_both_families(&own, place);
}

/*
 * A socket of ours on the same port would fail the probe; it also proves that the port is ours. The
 * files of Unix sockets are never shared.
 */
static bool ours_in_the_way(struct socket_table *table, const struct listen_place *place)
{
	struct socket_entry *entry;

	if (transport_is_local(place->transport))
		return false;
	TAILQ_FOREACH (entry, table, link)
		if (is_in_the_way(entry, place))
			return true;
	return false;
}

/*
 * A file of ours that its key does not find: it was asked for by another path, through a link, or
 * as the other kind of socket. A probe would take it for a stranger's, or, before we listen, for a
 * stale one.
 */
static int check_not_our_file(struct socket_table *table, const struct listen_place *place,
			      struct error *err)
{
	char wanted[ADDR_TEXT_MAX], there[ADDR_TEXT_MAX];
	struct socket_entry *entry;

	if (!has_file(&place->address))
		return 0;
	TAILQ_FOREACH (entry, table, link) {
		if (entry->file.inode == 0 ||
		    !local_socket_is_at(path_of(&place->address), entry->file.device,
					entry->file.inode))
			continue;
		address_format_listening(wanted, sizeof(wanted), &place->address, place->transport,
					 "");
		socket_entry_format(entry, there);
		return error_set(err, EXIT_CONFIG,
				 "%s is the same file as %s, where this daemon listens: name "
				 "another path, or stop and start",
				 wanted, there);
	}
	return 0;
}

/* Takes like->fd in any case. */
static struct socket_entry *add(struct socket_table *table, const struct socket_entry *like,
				struct error *err)
{
	struct socket_entry *entry = calloc(1, sizeof(*entry));

	if (entry == NULL) {
		error_errno(err, "cannot keep a listening socket");
		local_socket_remove(path_of(&like->address), like->file);
		close(like->fd);
		return NULL;
	}
	*entry = *like;
	entry->users = 0;
	TAILQ_INSERT_TAIL(table, entry, link);
	return entry;
}

struct socket_entry *sockets_open(struct socket_table *table, const struct socket_key *key,
				  const struct socket_wish *wish, enum listen_failure *failure,
				  struct error *err)
{
	struct socket_entry like = {.key = *key, .number = sockets_group_size(table, key)};
	struct listen_place place = key->place;

	if (address_port(&place.address) == 0)
		address_set_port(&place.address, wish->port);
	*failure = LISTEN_FAILED;
	if (check_not_our_file(table, &place, err) < 0)
		return NULL;
	/* A port that the kernel chooses is free. */
	if ((transport_is_local(place.transport) || address_port(&place.address) != 0) &&
	    !ours_in_the_way(table, &place) &&
	    listen_probe(&place, wish->retry_ms, failure, err) < 0)
		return NULL;
	like.fd = listen_open(&place, wish->rights, failure, err);
	if (like.fd < 0)
		return NULL;
	*failure = LISTEN_FAILED;
	if (listen_address(like.fd, &like.address, err) < 0) {
		close(like.fd);
		return NULL;
	}
	like.shared = transport_is_local(place.transport);
	if (has_file(&like.address))
		like.file = local_socket_look(path_of(&like.address));
	return add(table, &like, err);
}

struct socket_entry *sockets_adopt(struct socket_table *table, const struct socket_entry *like,
				   struct error *err)
{
	struct socket_entry *entry;
	bool listening;

	if (!listen_verify(like->fd, like->key.place.transport, &like->address, &listening)) {
		char text[ADDR_TEXT_MAX];

		socket_entry_format(like, text);
		error_set(err, EXIT_FAILED, "the handed-over descriptor %d is no socket of %s",
			  like->fd, text);
		close(like->fd);
		return NULL;
	}
	entry = add(table, like, err);
	if (entry != NULL)
		entry->listening = listening;
	return entry;
}

int sockets_take_passed(struct socket_table *table, int fd, const char *service, struct error *err)
{
	struct socket_entry like = {.fd = fd, .shared = true, .passed = true};

	if (listen_identify(fd, &like.key.place, err) < 0)
		return -1;
	if (strlen(service) >= sizeof(like.key.service))
		return error_set(err, EXIT_FAILED, "there can be no service '%s'", service);
	memcpy(like.key.service, service, strlen(service) + 1);
	like.address = like.key.place.address;
	return sockets_adopt(table, &like, err) == NULL ? -1 : 0;
}

/* ---- Closing -------------------------------------------------------------------------------- */

void sockets_drop(struct socket_table *table, struct socket_entry *entry)
{
	TAILQ_REMOVE(table, entry, link);
	/* The file first: nobody comes any more, and who has come is still served. */
	if (entry->file.inode != 0)
		local_socket_remove(path_of(&entry->address), entry->file);
	close(entry->fd);
	free(entry);
}

void sockets_release(struct socket_table *table, struct socket_entry *entry)
{
	if (--entry->users == 0 && !entry->passed)
		sockets_drop(table, entry);
}

void sockets_close(struct socket_table *table)
{
	while (!TAILQ_EMPTY(table))
		sockets_drop(table, TAILQ_FIRST(table)); /* NOLINT: it leaves the list first */
}

void socket_entry_add_udp_port(const struct socket_entry *entry, struct port_set *ports)
{
	if (entry->key.place.transport == TRANSPORT_UDP)
		port_set_add(ports, address_port(&entry->address));
}
