/* From the configuration to what a server of connections and datagrams is told. */
#ifndef ECHOD_RUN_SETTINGS_H
#define ECHOD_RUN_SETTINGS_H

#include "conf/conf.h"
#include "net/limits.h"
#include "net/server.h"

/*
 * What only the layers above the configuration know to be wrong, as a field that no greeting has:
 * adds each to `errors`.
 */
void settings_check(const struct conf *conf, struct conf_errors *errors);

/*
 * Does the client speak first? Then the kernel may keep a connection until its first bytes are
 * there (TCP_DEFER_ACCEPT).
 */
bool settings_client_speaks_first(const struct conf_service *service);

/*
 * The settings of a service, those of all services together included: of two limits, the stricter.
 * Names, limits and silent ports are left empty. Returns -1 when there is no such protocol.
 */
int settings_of_service(struct server_settings *settings, const struct conf *all,
			const struct conf_service *service, struct error *err);

/* Add its deny_source_ports: datagrams from there are not answered. */
void settings_silent_ports(const struct conf_service *service, struct port_set *ports);

#endif
