/* The loop of a server: turns, and looking on between them. */
#include <event2/event.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "net/busy.h"
#include "net/datagram.h"
#include "net/server_private.h"

#define LOOKS_A_CLOCK 8	 /* empty looks for each time the clock is read */
#define POLLS_AFTER   16 /* turns; then busy datagram sockets are taken out of the loop */
#define MANY	      64 /* requests in a row: to be woken for them costs each next to nothing */
#define LOOKS_A_TURN  4	 /* looks for clients for each turn of the whole loop */

enum turn {
	TURN_EMPTY, /* nobody had said anything */
	TURN_CAME,  /* somebody has just come */
	TURN_HEARD, /* somebody else has spoken, who may soon say more */
	TURN_LAST,  /* the loop was told to end, or failed */
};

/* What the server has heard so far. */
struct mark {
	uint64_t requests;
	uint64_t bytes;
	uint64_t accepted;
};

static struct mark mark(const struct server *server)
{
	const struct counters *counters = server->counters;

	return (struct mark){
		counter_get(&counters->requests) + counter_get(&counters->datagrams),
		counter_get(&counters->bytes_in),
		counter_get(&counters->accepted),
	};
}

/*
 * Whoever has just come is no reason to expect more: connections of one line cost least when
 * several of them have come by the time we wake.
 */
static enum turn turn_since(const struct server *server, const struct mark *before)
{
	struct mark now = mark(server);

	if (now.accepted != before->accepted)
		return TURN_CAME;
	return now.requests != before->requests || now.bytes != before->bytes ? TURN_HEARD
									      : TURN_EMPTY;
}

static bool goes_on(struct event_base *base)
{
	return !event_base_got_exit(base) && !event_base_got_break(base);
}

/* All that the loop knows: new clients, timers, orders; and what the poller reports to it. */
static bool take_turn(struct event_base *base, int flags)
{
	return event_base_loop(base, flags) == 0 && goes_on(base);
}

/* ---- Looking on ----------------------------------------------------------------------------- */

/*
 * A socket that a loop watches costs each datagram a look into the loop's list of events, in the
 * sender's system call and in ours. One that we look at anyway need not be watched; one that
 * nothing comes to need not be looked at.
 */
static void for_each_datagram(struct server *server, void (*act)(struct datagram *datagram))
{
	for (struct listener *l = server->listeners; l != NULL; l = l->next)
		if (l->datagram != NULL)
			act(l->datagram);
}

static void give_back(struct datagram *datagram)
{
	datagram_poll(datagram, false);
}

/* Clients first: what else the loop knows is looked at now and then. */
static enum turn look(struct server *server, unsigned looks, const struct mark *before)
{
	for_each_datagram(server, datagram_look);
	if (poller_take(&server->poller) > 0 && !goes_on(server->base))
		return TURN_LAST;
	/* Without ONCE it would take turns until one is empty. */
	if (looks % LOOKS_A_TURN == 0 && !take_turn(server->base, EVLOOP_ONCE | EVLOOP_NONBLOCK))
		return TURN_LAST;
	return turn_since(server, before);
}

/* How often somebody else took the processor from us (getrusage(2)). */
static long preemptions(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_nivcsw : 0;
}

/* While nothing comes. */
struct wait {
	unsigned empty; /* looks */
	uint64_t until; /* clock_us; set after some of them */
	long preempted; /* when we began to look on */
};

/*
 * After an empty look. The client that we look out for may need our processor: where others have
 * taken it since we began to look on, we sleep.
 */
static bool has_waited(struct wait *wait, unsigned us)
{
	uint64_t now;

	if (++wait->empty % LOOKS_A_CLOCK != 0)
		return false;
	now = clock_us();
	if (wait->empty == LOOKS_A_CLOCK)
		wait->until = now + us;
	return now >= wait->until || preemptions() != wait->preempted;
}

/*
 * When something has come, `since` then. No clock is read as long as requests come. Returns false
 * when the loop was told to end.
 */
static bool look_on(struct server *server, struct busy *busy, struct mark since)
{
	struct wait wait = {.preempted = preemptions()};
	struct mark before = mark(server);
	unsigned looks = 0, turns = 0, saved = 0;
	bool came = false, first_words;
	enum turn turn;

	for (; (turn = look(server, looks++, &before)) != TURN_LAST; before = mark(server)) {
		first_words = came;
		came = turn == TURN_CAME || (came && turn == TURN_EMPTY);
		if (turn == TURN_HEARD && !first_words) {
			if (wait.empty > 0) { /* what was there already saves no sleep */
				saved++;
				since = before;
			}
			wait.empty = 0;
			if (++turns % POLLS_AFTER == 0)
				for_each_datagram(server, datagram_poll_if_busy);
		} else if (before.requests - since.requests > MANY ||
			   has_waited(&wait, server->settings.busy_poll_us)) {
			break;
		}
	}
	for_each_datagram(server, give_back);
	busy_learn(busy, saved, preemptions() != wait.preempted);
	return turn != TURN_LAST;
}

static void run_busily(struct server *server)
{
	struct busy busy = {0};
	bool on = true;

	while (on) {
		struct mark before = mark(server);

		on = take_turn(server->base, EVLOOP_ONCE);
		if (on && turn_since(server, &before) == TURN_HEARD && busy_tries(&busy))
			on = look_on(server, &busy, before);
	}
}

void server_run(struct server *server)
{
	if (server->settings.busy_poll_us > 0)
		run_busily(server);
	else
		event_base_dispatch(server->base);
}
