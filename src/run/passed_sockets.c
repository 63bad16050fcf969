/* Which service gets the sockets that a service manager has passed (sd_listen_fds(3)). */
#include <string.h>

#include "run/generation.h"
#include "run/service.h"
#include "run/supervisor.h"

/* The only one that speaks a protocol; NULL: there is none, or there are more. */
static const struct service *only_one(const struct generation *generation)
{
	const struct service *service, *found = NULL;

	TAILQ_FOREACH (service, &generation->services, link) {
		if (service_is_program(service))
			continue;
		if (found != NULL)
			return NULL;
		found = service;
	}
	return found;
}

/* Whose it is; NULL: nobody's. */
static const struct service *owner_of(const struct generation *generation,
				      const struct socket_entry *entry)
{
	const struct service *service;

	if (entry->key.service[0] == '\0')
		return only_one(generation);
	service = generation_service(generation, entry->key.service);
	return service == NULL || service_is_program(service) ? NULL : service;
}

static int nobodys(const struct socket_entry *entry, struct error *err)
{
	char text[ADDR_TEXT_MAX];

	socket_entry_format(entry, text);
	if (entry->key.service[0] != '\0')
		return error_set(err, EXIT_CONFIG,
				 "the service manager has passed the socket %s for '%s', and no "
				 "service with a protocol has that name: set FileDescriptorName= "
				 "in its socket unit to the name of a service",
				 text, entry->key.service);
	return error_set(err, EXIT_CONFIG,
			 "the service manager has passed the socket %s and not said for which "
			 "service: set FileDescriptorName= in its socket unit to the name of one",
			 text);
}

int service_check_passed(const struct generation *generation, struct error *err)
{
	const struct socket_entry *entry;

	TAILQ_FOREACH (entry, &generation->supervisor->sockets, link)
		if (entry->passed && owner_of(generation, entry) == NULL)
			return nobodys(entry, err);
	return 0;
}

int service_take_passed(struct service *service, struct error *err)
{
	struct socket_entry *entry;
	int n = 0;

	TAILQ_FOREACH (entry, &service->generation->supervisor->sockets, link) {
		if (!entry->passed || owner_of(service->generation, entry) != service)
			continue;
		if (service_add_socket(service, entry, err) < 0)
			return -1;
		n++;
	}
	return n;
}
