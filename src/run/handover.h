/*
 * What the image of the supervisor that ends hands to the one that begins (a restart in place):
 * numbers of descriptors, and what each of them is. This part only writes and reads it;
 * run/restart.c fills it in and run/resume.c takes it over, checking each descriptor.
 */
#ifndef ECHOD_RUN_HANDOVER_H
#define ECHOD_RUN_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "base/addr.h"
#include "base/blob.h"
#include "base/error.h"
#include "conf/conf.h"
#include "net/counters.h"
#include "os/pidfile.h"
#include "os/privileges.h"
#include "run/sockets.h"

/* What a service knows beyond its configuration. */
struct handover_service {
	char *name;
	unsigned places;
	bool stopped;
	struct privileges privileges;
	struct counters_total ended;
	uint64_t restarts;
	int limits; /* the descriptor of its table; -1: none */
	bool added; /* at run time: then what it was added with follows */
	char **command;
	char *user;    /* NULL: not said */
	char *restart; /* NULL: not said */
};

/* The same fields as in struct socket_entry. */
struct handover_socket {
	int fd;
	char *service;	 /* that serves there; "": none, it was passed and is kept */
	unsigned number; /* in the group of its key */
	struct address address;
	struct socket_key key;
	bool shared;
	bool passed;
	struct local_socket_file file;
};

/* The same fields as in struct child. */
struct handover_child {
	int64_t pid; /* 0: no process */
	int64_t program;
	int channel;  /* -1 without a process */
	int counters; /* the same */
	char *service;
	unsigned index;
	unsigned kind; /* enum child_kind */
	uint64_t generation;
	unsigned state; /* enum child_state */
	bool in_place;	/* of the service with its name */
	bool ready;
	int killed;
	int64_t killed_at;
	bool condemned;
	bool start_again;
	bool ended;
	int status;
	int failure_code;
	int64_t since;
	int64_t due;
	unsigned failures;
	uint64_t restarts;
	int64_t stop_timeout;
	char *text;
};

/* A client of the control socket, in the middle of something. */
struct handover_client {
	int fd;
	uint64_t waits_for;   /* the number of the restart whose outcome it waits for; 0: none */
	unsigned awaits;      /* enum await: what shall become of a service; 0: nothing */
	char *service;	      /* which one */
	unsigned char *input; /* received and not yet understood */
	size_t input_len;
	unsigned char *output; /* not yet sent */
	size_t output_len;
};

struct handover {
	int64_t pid;
	int64_t since;
	struct pidfile pidfile; /* its path is owned by a hand-over that was read */
	int log;		/* -1: none that would have to be kept */
	int control;		/* -1: none */
	dev_t control_device;
	ino_t control_inode;
	char *control_path;
	uint64_t generation;
	int limits;	      /* the table of limits of all services; -1: none */
	struct rlimit nofile; /* of the launch */
	uint64_t restarts_begun;
	uint64_t restarts_ended;
	uint64_t restarts_failed;
	bool again;
	bool had_terminal;
	bool has_orphans;
	struct counters_total ended;
	struct conf_source *source;
	struct handover_service *services;
	size_t service_count;
	struct handover_socket *sockets;
	size_t socket_count;
	struct handover_child *children;
	size_t child_count;
	struct handover_client *clients;
	size_t client_count;
};

/* Write it; writer->failed tells when memory ran out. */
void handover_pack(const struct handover *handover, struct blob_writer *writer);

/*
 * Read it into a zeroed struct that owns what it points to. Returns -1 for anything that is not
 * exactly a hand-over of this version, of this very process.
 */
int handover_unpack(struct handover *handover, const void *data, size_t len, struct error *err);

void handover_free(struct handover *handover);

#endif
