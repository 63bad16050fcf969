#include "run/program.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "run/channel.h"
#include "run/child_process.h"
#include "run/family.h"
#include "run/leader.h"
#include "run/loop.h"
#include "run/output.h"
#include "run/signals.h"

/* Between two rounds of SIGKILL, and between two looks at /proc when one has failed. */
#define ROUND_MS 20

/* Who is alive so long after the first SIGKILL cannot be ended by us. */
#define GIVE_UP_MS 3000

/* How far the leader is. */
enum phase {
	PREPARING, /* it becomes what it shall be */
	WAITING,   /* for "go" */
	EXECUTING, /* "go" was passed on; how it went is not known yet */
	EXECUTED,
};

enum ending {
	NOT_ENDING,
	ASKED, /* stop_signal was sent; SIGKILL follows at `deadline_at` */
	KILLING,
};

struct keeper {
	struct program_start *start;
	struct event_base *base;
	struct counters *counters;
	struct leader leader; /* its channel is -1 once it was executed */
	struct family family;
	struct output output;
	enum phase phase;
	enum ending ending;
	int64_t deadline_at; /* clock_ms; while ASKED */
	int64_t give_up_at;  /* clock_ms; while KILLING */
	struct event *on_channel;
	struct event *on_leader;
	struct event *on_output;
	struct event *on_signal;
	struct event *on_deadline;
	struct event *on_round;
};

static void add_timer(struct event *timer, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	evtimer_add(timer, &tv);
}

/*
 * Orders that cross our end would reset the channel and what is still to be read from it
 * (unix(7), ECONNRESET): no more of them are taken, and those that came are read.
 */
static void refuse_orders(int channel)
{
	struct channel_message message;

	shutdown(channel, SHUT_RD);
	while (channel_receive(channel, &message) > 0)
		;
}

/* It was never executed, or not as it should have been. */
_Noreturn static void fail(struct keeper *keeper, const struct error *err)
{
	if (keeper->family.leader > 0) {
		kill(keeper->family.leader, SIGKILL);
		waitpid(keeper->family.leader, NULL, 0);
	}
	refuse_orders(keeper->start->channel);
	child_process_fail(err);
}

/* ---- The end -------------------------------------------------------------------------------- */

static void finish(struct keeper *keeper)
{
	event_base_loopbreak(keeper->base);
}

static void give_up(struct keeper *keeper)
{
	char pids[256];

	family_list(&keeper->family, pids, sizeof(pids));
	log_warning("these processes of the program cannot be ended and are left: %s",
		    pids[0] != '\0' ? pids : "unknown");
	family_reap_all(&keeper->family);
	finish(keeper);
}

/* One round: is anybody left? While KILLING, with another SIGKILL for all. */
static void check_family(struct keeper *keeper)
{
	bool killing = keeper->ending == KILLING;
	int alive = killing ? family_kill(&keeper->family) : family_alive(&keeper->family);

	/* Without a look at /proc the kernel alone must say it, once there is nothing to lose. */
	bool maybe_gone = alive == 0 || (alive < 0 && killing && keeper->family.leader_ended);

	if (maybe_gone && family_reap_all(&keeper->family)) {
		finish(keeper);
		return;
	}
	if (killing && clock_ms() >= keeper->give_up_at) {
		give_up(keeper);
		return;
	}
	/* Otherwise the next SIGCHLD is soon enough. */
	if (killing || alive <= 0)
		add_timer(keeper->on_round, ROUND_MS);
}

static void kill_family(struct keeper *keeper)
{
	if (keeper->ending == KILLING)
		return;
	keeper->ending = KILLING;
	keeper->give_up_at = clock_ms() + GIVE_UP_MS;
	evtimer_del(keeper->on_deadline);
	check_family(keeper);
}

/* The earliest of several limits holds. */
static void end_within(struct keeper *keeper, int64_t ms)
{
	int64_t at = clock_ms() + (ms > 0 ? ms : 0);

	if (keeper->ending == KILLING || (keeper->ending == ASKED && at >= keeper->deadline_at))
		return;
	keeper->ending = ASKED;
	keeper->deadline_at = at;
	add_timer(keeper->on_deadline, ms > 0 ? ms : 0);
}

static void stop(struct keeper *keeper, int64_t ms)
{
	if (keeper->phase < EXECUTING) {
		/* The command never ran: there is nothing to be polite to. */
		kill_family(keeper);
		return;
	}
	if (keeper->ending == NOT_ENDING)
		family_signal_group(&keeper->family, (int)keeper->start->service->stop_signal);
	end_within(keeper, ms);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct keeper *keeper = arg;
	int alive = family_alive(&keeper->family);

	(void)fd;
	(void)what;
	if (alive > 0)
		log_notice("%d of the program's processes did not end in time and are killed",
			   alive);
	kill_family(keeper);
}

static void on_round(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	check_family(arg);
}

/* ---- The leader ----------------------------------------------------------------------------- */

static void leader_failed(struct keeper *keeper, const struct channel_message *message)
{
	struct error err = {.code = (int)message->value};
	size_t len = message->len < sizeof(err.text) ? message->len : sizeof(err.text) - 1;

	memcpy(err.text, message->text, len);
	fail(keeper, &err);
}

/* It was executed, or it has ended. */
static void leader_closed(struct keeper *keeper)
{
	event_del(keeper->on_leader);
	close(keeper->leader.channel);
	keeper->leader.channel = -1;
	if (keeper->phase != EXECUTING)
		return; /* its end is told by SIGCHLD */
	keeper->phase = EXECUTED;
	channel_send(keeper->start->channel, CHANNEL_PROGRAM, keeper->leader.pid, NULL, 0);
}

static void read_leader(struct keeper *keeper)
{
	struct channel_message message;
	int result;

	if (keeper->leader.channel < 0)
		return;
	while ((result = channel_receive(keeper->leader.channel, &message)) > 0) {
		if (message.type == CHANNEL_FAILED)
			leader_failed(keeper, &message);
		if (message.type == CHANNEL_READY && keeper->ending == NOT_ENDING) {
			keeper->phase = WAITING;
			channel_send(keeper->start->channel, CHANNEL_READY, 0, NULL, 0);
		}
	}
	if (result < 0)
		leader_closed(keeper);
}

static void on_leader(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	read_leader(arg);
}

static void fail_for_dead_leader(struct keeper *keeper)
{
	struct error err = {0};

	error_set(&err, EXIT_FAILED, "the process that was to execute %s has ended",
		  keeper->start->service->command[0]);
	fail(keeper, &err);
}

static void tell_left_behind(struct keeper *keeper)
{
	int alive = family_alive(&keeper->family);

	if (alive > 0)
		log_notice("the program ended and left %d process%s behind, which shall end, too",
			   alive, alive == 1 ? "" : "es");
}

static void leader_ended(struct keeper *keeper)
{
	int sig = (int)keeper->start->service->stop_signal;

	/* Its last words come first: why it could not be executed, or that it was. */
	read_leader(keeper);
	if (keeper->phase < EXECUTING && keeper->ending == NOT_ENDING)
		fail_for_dead_leader(keeper);
	if (keeper->ending == NOT_ENDING) {
		tell_left_behind(keeper);
		family_signal_group(&keeper->family, sig);
		end_within(keeper, keeper->start->service->stop_timeout);
	}
	if (keeper->ending == ASKED)
		family_signal_strays(&keeper->family, sig);
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
	struct keeper *keeper = arg;
	bool had_ended = keeper->family.leader_ended;

	(void)fd;
	(void)what;
	signals_clear_wakeup();
	signals_take(SIGCHLD);
	if (family_reap_strays(&keeper->family))
		event_active(keeper->on_signal, EV_READ, 0);
	if (keeper->family.leader_ended && !had_ended)
		leader_ended(keeper);
	if (keeper->family.leader_ended || keeper->ending == KILLING)
		check_family(keeper);
}

static void on_output(evutil_socket_t fd, short what, void *arg)
{
	struct keeper *keeper = arg;

	(void)fd;
	(void)what;
	/* That it was executed is told before what it prints. */
	read_leader(keeper);
	if (output_read(&keeper->output) < 0)
		event_del(keeper->on_output);
}

static void log_line(const char *text, size_t len)
{
	child_process_log(LOG_LEVEL_NOTICE, text, len);
}

/* ---- Orders --------------------------------------------------------------------------------- */

static void go(struct keeper *keeper)
{
	if (keeper->phase != WAITING || keeper->ending != NOT_ENDING)
		return;
	/* A leader that cannot be told has ended: SIGCHLD tells. */
	if (channel_send(keeper->leader.channel, CHANNEL_GO, 0, NULL, 0) == 0)
		keeper->phase = EXECUTING;
}

static void signal_leader(struct keeper *keeper, int64_t sig)
{
	if (keeper->phase < EXECUTING || keeper->family.leader <= 1)
		return;
	if (sig <= 0 || sig > SIGRTMAX || kill(keeper->family.leader, (int)sig) < 0)
		log_warning("cannot send signal %" PRId64 " to the program: %s", sig,
			    sig <= 0 || sig > SIGRTMAX ? "there is none" : strerror(errno));
}

static void obey(struct keeper *keeper, const struct channel_message *message)
{
	switch ((enum channel_type)message->type) {
	case CHANNEL_GO:
		go(keeper);
		break;
	case CHANNEL_SIGNAL:
		signal_leader(keeper, message->value);
		break;
	case CHANNEL_DRAIN:
	case CHANNEL_QUIT:
		stop(keeper, message->value);
		break;
	case CHANNEL_PING:
		counter_add(&keeper->counters->heartbeat, 1);
		break;
	default:
		break; /* what only a server can do */
	}
}

static void on_channel(evutil_socket_t fd, short what, void *arg)
{
	struct keeper *keeper = arg;
	struct channel_message message;
	int result;

	(void)what;
	while ((result = channel_receive(fd, &message)) > 0)
		obey(keeper, &message);
	if (result == 0)
		return;
	/* The supervisor is gone: nobody would ever stop the program, or start its next one. */
	event_del(keeper->on_channel);
	stop(keeper, keeper->start->service->stop_timeout);
}

/* ---- The start ------------------------------------------------------------------------------ */

/* One pipe for stdout and stderr keeps what is printed in order; only our end must never block.
 * Returns the other end, or -1. */
static int make_output(struct keeper *keeper, struct error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, "cannot make the pipe for what the program prints");
	keeper->output = (struct output){.fd = ends[0], .line = log_line};
	if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0)
		return error_errno(err, "cannot set up the pipe for what the program prints");
	return ends[1];
}

static int fork_leader(struct keeper *keeper, struct error *err)
{
	int writing = make_output(keeper, err);
	int result;

	if (writing < 0 || family_start(&keeper->family, err) < 0)
		return -1;
	result = leader_fork(&keeper->leader, keeper->start, writing, err);
	/* Else the end of what is printed would never come. */
	close(writing);
	if (result == 0)
		family_set_leader(&keeper->family, keeper->leader.pid);
	return result;
}

static int add_events(struct keeper *keeper, int signals, struct error *err)
{
	const struct {
		struct event **event;
		int fd;
		event_callback_fn function;
	} events[] = {
		{&keeper->on_channel, keeper->start->channel, on_channel},
		{&keeper->on_leader, keeper->leader.channel, on_leader},
		{&keeper->on_output, keeper->output.fd, on_output},
		{&keeper->on_signal, signals, on_signal},
	};

	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		*events[i].event = event_new(keeper->base, events[i].fd, EV_READ | EV_PERSIST,
					     events[i].function, keeper);
		if (*events[i].event == NULL || event_add(*events[i].event, NULL) < 0)
			return error_set(err, EXIT_FAILED, "cannot set up the event loop");
	}
	keeper->on_deadline = evtimer_new(keeper->base, on_deadline, keeper);
	keeper->on_round = evtimer_new(keeper->base, on_round, keeper);
	if (keeper->on_deadline == NULL || keeper->on_round == NULL)
		return error_set(err, EXIT_FAILED, "cannot set up the event loop");
	return 0;
}

static int set_up(struct keeper *keeper, struct error *err)
{
	struct program_start *start = keeper->start;
	int keep[] = {start->channel};
	int signals;

	keeper->counters = child_process_map_counters(start->counters, err);
	if (keeper->counters == NULL || child_process_keep(start->null, keep, 1, err) < 0)
		return -1;
	signals = signals_keeper(start->name, err);
	/* The leader comes before the loop, of which it must not hold anything. */
	if (signals < 0 || fork_leader(keeper, err) < 0)
		return -1;
	/* The loop of the supervisor is left alone: freeing it here would end its epoll
	 * registrations. */
	keeper->base = loop_new();
	if (keeper->base == NULL)
		return error_set(err, EXIT_FAILED, "cannot make an event loop");
	return add_events(keeper, signals, err);
}

/* ---- The whole ------------------------------------------------------------------------------ */

/* Unlike a record of the log, this must not get lost, and there is nothing else to do any more. */
static void tell_status(int channel, int status)
{
	struct pollfd writable = {.fd = channel, .events = POLLOUT};

	while (channel_send(channel, CHANNEL_ENDED, status, NULL, 0) < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
			return; /* nobody is there to be told */
		poll(&writable, 1, -1);
	}
}

static void conclude(struct keeper *keeper)
{
	/* It may have been executed and killed within one turn of the loop. */
	read_leader(keeper);
	output_finish(&keeper->output);
	if (keeper->phase == EXECUTED && keeper->family.leader == 0)
		tell_status(keeper->start->channel, keeper->family.status);
	refuse_orders(keeper->start->channel);
}

static void tear_down(struct keeper *keeper)
{
	event_free(keeper->on_channel);
	event_free(keeper->on_leader);
	event_free(keeper->on_output);
	event_free(keeper->on_signal);
	event_free(keeper->on_deadline);
	event_free(keeper->on_round);
	event_base_free(keeper->base);
	libevent_global_shutdown();
	child_process_unmap_counters(keeper->counters);
}

_Noreturn void program_main(struct program_start *start)
{
	struct keeper keeper = {.start = start, .leader.channel = -1};
	struct error err = {0};

	child_process_begin(start->channel, start->name);
	if (set_up(&keeper, &err) < 0)
		fail(&keeper, &err);
	signals_unblock();
	event_base_dispatch(keeper.base);
	conclude(&keeper);
	tear_down(&keeper);
	exit(EXIT_DONE);
}
