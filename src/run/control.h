/*
 * The control socket: a Unix stream socket that only root and the supervisor's own user may use
 * (SO_PEERCRED, unix(7)). One request a connection, one line of JSON; one reply, one line of JSON:
 *
 *   {"verb":"status"}                  the reply of run/status.h
 *   {"verb":"ps"}                      the reply of run/ps.h
 *   {"verb":"await-restart"}           answered when the restart that was asked for has ended; at
 *                                      once when none is under way
 *   {"verb":"start","args":["line"]}   answered when the service runs, or cannot
 *   {"verb":"stop","args":["line"]}    answered when all of its processes are gone
 *   {"verb":"kill","args":["line"],"signal":"SIGKILL"}
 *   {"verb":"add","args":["name","/command","word"],"user":"u","restart":"always"}
 *   {"verb":"remove","args":["name"]}
 *
 * A reply is {"ok":true,"schema":1,…}, mostly with a sentence in "text", or
 * {"ok":false,"schema":1,"error":"…","code":…} with an exit code of the command.
 */
#ifndef ECHOD_RUN_CONTROL_H
#define ECHOD_RUN_CONTROL_H

#include "base/error.h"

struct supervisor;
struct control;
struct handover;

/*
 * Bind and listen at `path`, with mode 0600 from the first instant. A socket that a dead daemon
 * left is replaced; one that answers, or anything that is no socket, is an error. Returns NULL with
 * the reason.
 */
struct control *control_open(struct supervisor *supervisor, const char *path, struct error *err);

/*
 * After execve: go on with the socket and its clients; a socket whose file is gone is bound anew.
 * Returns NULL with the reason.
 */
struct control *control_adopt(struct supervisor *supervisor, const char *path,
			      const struct handover *handover, struct error *err);

/* Close everything; the socket's file goes if it is still ours. NULL is allowed. */
void control_close(struct control *control);

/* A restart has ended: answer those who wait for it. NULL is allowed. */
void control_restart_ended(struct control *control);

/* Processes have come or gone: answer those whose service is now what they wait for. NULL is
 * allowed. */
void control_children_changed(struct control *control);

/* No restart will come any more: tell those who wait for one. NULL is allowed. */
void control_stopping(struct control *control);

/* Put the socket and the clients into a hand-over; control_uncollect frees the memory that this
 * takes. */
int control_collect(struct control *control, struct handover *handover, struct error *err);
void control_uncollect(struct handover *handover);

#endif
