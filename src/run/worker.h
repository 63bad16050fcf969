/*
 * A worker: a process that the supervisor forked to serve one service. It drops every privilege and
 * every descriptor that it does not need before it looks at the first client, and opens nothing
 * afterwards.
 */
#ifndef ECHOD_RUN_WORKER_H
#define ECHOD_RUN_WORKER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/addr.h"
#include "conf/conf.h"
#include "net/server.h"
#include "os/privileges.h"

struct worker_socket {
	int fd;
	enum transport transport;
	bool own; /* "go" means it; the others are accepted on only when their worker is missing */
};

/* A table of limits (net/limits.h), and which place in it is the worker's. */
struct worker_table {
	int fd; /* -1: none */
	unsigned places;
	unsigned place;
};

struct worker_start {
	const char *name;	 /* "line/0" */
	const struct conf *conf; /* for what is set for all services */
	const struct conf_service *service;
	const struct privileges *privileges;
	bool set_nice; /* to the value below; still as root */
	int nice;
	bool nice_written;	       /* a failure is an error only then */
	int64_t drain_timeout_ms;      /* how long it lives on without a supervisor */
	int channel;		       /* its end */
	int counters;		       /* a memory file of struct counters */
	int null;		       /* /dev/null, for 0 to 2 */
	struct worker_socket *sockets; /* of the whole service; numbered so in orders */
	size_t socket_count;
	const struct port_set *silent_ports;	   /* datagrams from there are not answered */
	struct worker_table tables[SERVER_SCOPES]; /* of all services, and of this one */
};

/*
 * Runs in the child of fork, with every signal blocked, and ends with the process: exit status 0
 * after an ordered end, 1 when it could not serve (the channel has said why).
 */
_Noreturn void worker_main(struct worker_start *start);

#endif
