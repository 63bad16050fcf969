/*
 * The supervisor: the daemon's first process. It owns the pid lock, the listening sockets, the
 * control socket and the counters, starts and restarts the workers, and never reads a byte that a
 * client sent.
 */
#ifndef ECHOD_RUN_SUPERVISOR_H
#define ECHOD_RUN_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

#include "base/logtarget.h"
#include "net/counters.h"
#include "os/pidfile.h"
#include "run/child.h"
#include "run/generation.h"
#include "run/launch.h"
#include "run/sockets.h"
#include "run/watchdog.h"

struct control;
struct event_base;
struct event;

enum phase {
	PHASE_STARTING, /* the first generation is not ready yet: every failure ends the start */
	PHASE_SERVING,
	PHASE_DRAINING, /* a polite stop waits for clients */
	PHASE_QUITTING, /* a quick stop */
};

enum restart_step {
	RESTART_NONE,
	RESTART_TRIAL,	  /* `echod check` of the new executable is running */
	RESTART_WORKERS,  /* in the new image: its workers are getting ready */
	RESTART_RETIRING, /* they serve; those of the former generation may still accept */
};

/* What a restart in place is doing, and how the last one ended. */
struct restart {
	enum restart_step step;
	bool again;	/* SIGHUP came meanwhile: one more after this one */
	uint64_t begun; /* how many have begun and ended since the daemon was started */
	uint64_t ended;
	uint64_t failed;
	int last_code;			/* exit code of the last one; 0: it succeeded */
	char last_text[ERROR_TEXT_MAX]; /* "" before the first */
	pid_t trial;			/* 0: none */
	int trial_output;		/* -1: none */
	struct event *trial_event;
	struct event *timer; /* of the step */
	bool trial_late;
	size_t trial_len;
	char trial_text[ERROR_TEXT_MAX];
};

struct supervisor {
	const struct launch *launch;
	struct event_base *base;
	enum phase phase;
	bool served; /* it got as far as PHASE_SERVING */
	struct pidfile pidfile;
	struct control *control;
	int null;      /* /dev/null, for workers */
	int report_fd; /* to the launching command, until ready; -1: none */
	time_t since;  /* when the daemon was started */
	bool had_terminal;
	bool has_orphans;	    /* a keeper was killed: what it kept became ours */
	struct generation *current; /* serves; NULL before the first commit */
	struct generation *next;    /* getting ready */
	struct child_list children; /* of all generations */
	struct socket_table sockets;
	struct counters_total ended; /* of the children that are gone */
	struct restart restart;
	struct event *wakeup;
	struct event *start_timer; /* for a generation that begins, and the one that it follows */
	struct watchdog watchdog;
	struct rlimit nofile; /* RLIMIT_NOFILE of the launch: programs get it */
	int exit_code;
};

/*
 * Start and serve until a stop; the process has been daemonized unless launch->foreground. Takes
 * source and conf. Returns the exit code; failures were reported through `report_fd` (-1: to
 * stderr).
 */
int supervisor_run(const struct launch *launch, struct conf_source *source, struct conf *conf,
		   int report_fd);

/*
 * True when `handover_fd` is a hand-over for this very process, and not a stray number in the
 * environment.
 */
bool supervisor_can_resume(int handover_fd);

/*
 * The same in the image that a restart has executed; `handover_fd` as HANDOVER_VARIABLE names it.
 */
int supervisor_resume(const struct launch *launch, int handover_fd);

/* ---- For the other parts of src/run ---------------------------------------------------------- */

/* All workers of the next generation are ready, or it has failed for this reason (NULL: ready). */
void supervisor_next_done(struct supervisor *supervisor, const struct error *failure);

/* A child has changed its state, or is gone: those who wait for that are told. */
void supervisor_children_changed(struct supervisor *supervisor);

/* A service was stopped or started by order: that outlives a crash of the daemon. */
void supervisor_remember_stopped(struct supervisor *supervisor);

/* An empty supervisor. */
void supervisor_set_up(struct supervisor *supervisor, const struct launch *launch);

/*
 * Make this process a supervisor: undo what was inherited but for `keep`, set the signal handlers,
 * unblock. Returns the descriptor that wakes the loop, or -1.
 */
int supervisor_become(const int *keep, size_t keep_count, struct error *err);

/* The start ends here: say why, to the log and to who waits, and end what was begun. */
void supervisor_start_failed(struct supervisor *supervisor, const struct error *failure);

/* The event loop's own events. */
int supervisor_make_loop(struct supervisor *supervisor, int wakeup, struct error *err);

/* Open supervisor->null. */
int supervisor_open_null(struct supervisor *supervisor, struct error *err);

/* Start the workers of the next generation, with a limit to their time. */
int supervisor_start_workers(struct supervisor *supervisor, struct error *err);

/* Live until a stop. */
void supervisor_loop(struct supervisor *supervisor);

/* Wait for every child that has ended. */
void supervisor_reap(struct supervisor *supervisor);

/* Let go of everything. Returns the exit code. */
int supervisor_tear_down(struct supervisor *supervisor);

/* Where the log goes by this configuration, which must outlive the result. */
struct log_settings supervisor_log_settings(const struct conf *conf);

/* Whether the log could be opened as this configuration says. Returns 0 or -1. */
int supervisor_check_log(const struct conf *conf, struct error *err);

/*
 * The settings of the log, as this configuration and the options say. Opens a target that changed.
 */
int supervisor_open_log(const struct launch *launch, const struct conf *conf, struct error *err);

#endif
