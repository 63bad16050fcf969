#include "run/sockets.h"

#include <stdlib.h>
#include <unistd.h>

#include "os/listen.h"

struct socket_entry *sockets_find(struct socket_table *table, const struct address *address,
				  unsigned number)
{
	struct socket_entry *entry;

	TAILQ_FOREACH (entry, table, link)
		if (entry->number == number && address_equal(&entry->address, address))
			return entry;
	return NULL;
}

unsigned sockets_group_size(struct socket_table *table, const struct address *address)
{
	unsigned n = 0;

	while (sockets_find(table, address, n) != NULL)
		n++;
	return n;
}

/* A socket of ours on the same port would fail the probe; it also proves that the port is ours. */
static bool ours_in_the_way(struct socket_table *table, const struct address *address)
{
	struct socket_entry *entry;

	TAILQ_FOREACH (entry, table, link)
		if (address_overlaps(&entry->address, address))
			return true;
	return false;
}

static struct socket_entry *add(struct socket_table *table, const struct address *address,
				unsigned number, int fd, struct error *err)
{
	struct socket_entry *entry = calloc(1, sizeof(*entry));

	if (entry == NULL) {
		error_errno(err, "cannot keep a listening socket");
		close(fd);
		return NULL;
	}
	entry->address = *address;
	entry->number = number;
	entry->fd = fd;
	TAILQ_INSERT_TAIL(table, entry, link);
	return entry;
}

struct socket_entry *sockets_open(struct socket_table *table, const struct address *address,
				  int64_t retry_ms, bool *unsupported, struct error *err)
{
	unsigned number = sockets_group_size(table, address);
	int fd;

	*unsupported = false;
	if (!ours_in_the_way(table, address) && listen_probe(address, retry_ms, err) < 0)
		return NULL;
	fd = listen_open(address, unsupported, err);
	return fd < 0 ? NULL : add(table, address, number, fd, err);
}

struct socket_entry *sockets_adopt(struct socket_table *table, const struct address *address,
				   unsigned number, int fd, struct error *err)
{
	struct socket_entry *entry;
	bool listening;

	if (!listen_verify(fd, address, &listening)) {
		char text[ADDR_TEXT_MAX];

		address_format(text, sizeof(text), (const struct sockaddr *)&address->storage);
		error_set(err, EXIT_FAILED, "the handed-over descriptor %d is no socket of %s", fd,
			  text);
		return NULL;
	}
	entry = add(table, address, number, fd, err);
	if (entry != NULL)
		entry->listening = listening;
	return entry;
}

void sockets_drop(struct socket_table *table, struct socket_entry *entry)
{
	TAILQ_REMOVE(table, entry, link);
	close(entry->fd);
	free(entry);
}

void sockets_release(struct socket_table *table, struct socket_entry *entry)
{
	if (--entry->users == 0)
		sockets_drop(table, entry);
}

void sockets_close(struct socket_table *table)
{
	while (!TAILQ_EMPTY(table))
		sockets_drop(table, TAILQ_FIRST(table)); /* NOLINT: it leaves the list first */
}
