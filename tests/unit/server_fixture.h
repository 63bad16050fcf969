/*
 * A server of a worker, whole, over loopback: its clients live in the same process and on the same
 * event base, so that nothing here waits for anything but an event.
 */
#ifndef ECHOD_TESTS_UNIT_SERVER_FIXTURE_H
#define ECHOD_TESTS_UNIT_SERVER_FIXTURE_H

#include "support.h"

#include <netinet/in.h>
#include <sys/types.h>

#include "net/server.h"

#define KIB 1024
#define MIB (1024 * 1024)

struct event_base;
struct event;

struct fixture {
	struct event_base *base;
	struct counters counters;
	struct server *server;
	struct sockaddr_in address;
	int listener; /* owned by the server */
	unsigned idle_calls;
	bool time_is_up;
	bool speaks; /* the server says what did not come */
};

#define COUNT(f, name) counter_get(&(f)->counters.name)

/* Of each test. The end checks that all that was accepted was closed, and nothing made up. */
int setup(void **state);
int teardown(void **state);

/* ---- The server ----------------------------------------------------------------------------- */

/* Long-lived lines, no time-outs. */
struct server_settings lines(void);
struct server_settings echo(void);

/* Without listeners. */
void make_server(struct fixture *f, const struct server_settings *settings);

/* On a bound socket, which the server owns from now on. */
void serve_at(struct fixture *f, const struct server_settings *settings, int listener);

/* On one of its own; with a send buffer of that many bytes for each connection; 0: the kernel's
 * own. */
void serve_with_buffer(struct fixture *f, const struct server_settings *settings, int buffer);
void serve(struct fixture *f, struct server_settings settings);

/* A bound socket, whose address `f` takes note of. */
int bound_listener(struct fixture *f);

void start_draining(struct fixture *f);

/* ---- Passing time --------------------------------------------------------------------------- */

/* Sets `time_is_up`. */
struct event *start_timer(struct fixture *f, int ms);

/* Serve until the counter has reached `n`. */
void run_until(struct fixture *f, const _Atomic uint64_t *counter, uint64_t n);

/* Serve as long as there is anything to do without waiting. */
void run_all(struct fixture *f);
void run_for(struct fixture *f, int ms);

/* Serve until the client's socket is ready. */
void run_until_ready(struct fixture *f, int fd, short what);

/* ---- Clients -------------------------------------------------------------------------------- */

/* With a receive buffer of that many bytes; 0: the kernel's own. */
int client_with_buffer(struct fixture *f, int buffer);
int client(struct fixture *f);

/* From an address of 127.0.0.0/8. */
int client_from(struct fixture *f, const char *source);
void client_send(struct fixture *f, int fd, const void *data, size_t len);
void client_say(struct fixture *f, int fd, const char *text);

/* Read `want` bytes, or less up to the end. A reset is a failure. */
size_t client_read(struct fixture *f, int fd, void *data, size_t want);
void assert_hears(struct fixture *f, int fd, const char *text);
void assert_end(struct fixture *f, int fd);

/* Close it by a reset. */
void client_reset(int fd);

void assert_reset(struct fixture *f, int fd); /* as the first that comes */

/* Nothing has come, not even the end. */
void assert_hears_nothing(struct fixture *f, int fd);

/* Send and read at once, in pieces of at most `piece` bytes, and compare. */
void client_exchange(struct fixture *f, int fd, const char *data, size_t len, size_t piece);

/* Send until neither the kernel nor the server takes more. */
size_t client_stuff(struct fixture *f, int fd, const char *data, size_t len);

/* Random bytes with an LF here and there, and one at the end. */
char *random_lines(struct support_random *random, size_t len);
char *letters(size_t len);

#endif
