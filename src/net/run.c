/* The loop of a server: turns, and looking on between them. */
#include <event2/event.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "net/busy.h"
#include "net/datagram.h"
#include "net/server_private.h"

#define LOOKS_A_CLOCK 8	 /* empty looks for each time the clock is read */
#define POLLS_AFTER   16 /* turns; then busy datagram sockets are taken out of the loop */
#define MANY	      64 /* requests in one turn: to be woken for them costs each next to nothing */

enum turn {
	TURN_EMPTY, /* nobody had said anything */
	TURN_CAME,  /* somebody has just come */
	TURN_HEARD, /* somebody else has spoken, who may soon say more */
	TURN_MANY,
	TURN_LAST, /* the loop was told to end, or failed */
};

/* What the server had heard before a turn. */
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
	if (now.requests - before->requests > MANY)
		return TURN_MANY;
	return now.requests != before->requests || now.bytes != before->bytes ? TURN_HEARD
									      : TURN_EMPTY;
}

static enum turn take_turn(struct server *server, int flags, const struct mark *before)
{
	if (event_base_loop(server->base, flags) != 0 || event_base_got_exit(server->base) ||
	    event_base_got_break(server->base))
		return TURN_LAST;
	return turn_since(server, before);
}

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

static enum turn look(struct server *server)
{
	struct mark before = mark(server);

	for_each_datagram(server, datagram_look);
	/* Without ONCE it would take turns until one is empty. */
	return take_turn(server, EVLOOP_ONCE | EVLOOP_NONBLOCK, &before);
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
	if (++wait->empty % LOOKS_A_CLOCK != 0)
		return false;
	if (wait->empty > LOOKS_A_CLOCK)
		return clock_us() >= wait->until;
	wait->until = clock_us() + us;
	return preemptions() != wait->preempted;
}

/*
 * After `turn`. No clock is read as long as requests come. Returns TURN_LAST when the loop was told
 * to end.
 */
static enum turn look_on(struct server *server, struct busy *busy, enum turn turn)
{
	struct wait wait = {.preempted = preemptions()};
	bool many = turn == TURN_MANY, came = false, first_words;
	unsigned turns = 0, saved = 0;

	while ((turn = look(server)) != TURN_LAST) {
		first_words = came;
		came = turn == TURN_CAME || (came && turn == TURN_EMPTY);
		if ((turn == TURN_HEARD || turn == TURN_MANY) && !first_words) {
			many = turn == TURN_MANY;
			saved += wait.empty > 0; /* what was there already saves no sleep */
			wait.empty = 0;
			if (++turns % POLLS_AFTER == 0)
				for_each_datagram(server, datagram_poll_if_busy);
		} else if (many || has_waited(&wait, server->settings.busy_poll_us)) {
			break;
		}
	}
	for_each_datagram(server, give_back);
	busy_learn(busy, saved, preemptions() != wait.preempted);
	return turn;
}

static void run_busily(struct server *server)
{
	struct busy busy = {0};
	enum turn turn = TURN_EMPTY;

	while (turn != TURN_LAST) {
		struct mark before = mark(server);

		turn = take_turn(server, EVLOOP_ONCE, &before);
		if ((turn == TURN_HEARD || turn == TURN_MANY) && busy_tries(&busy))
			turn = look_on(server, &busy, turn);
	}
}

void server_run(struct server *server)
{
	if (server->settings.busy_poll_us > 0)
		run_busily(server);
	else
		event_base_dispatch(server->base); /* 150 instructions a turn less */
}
