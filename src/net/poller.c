#include "net/poller.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <unistd.h>

/* The most in one turn of the loop, however many connections there are. */
#define BATCHES_TURN 64

#define CACHE_LINE 64

static uint16_t to_epoll(short what)
{
	return (uint16_t)(((what & EV_READ) != 0 ? EPOLLIN : 0U) |
			  ((what & EV_WRITE) != 0 ? EPOLLOUT : 0U));
}

/* EPOLLERR and EPOLLHUP come unasked: whatever is tried next finds out what they are about. */
static short from_epoll(uint32_t events, uint32_t watched)
{
	if ((events & (EPOLLERR | EPOLLHUP)) != 0)
		events = EPOLLIN | EPOLLOUT;
	events &= watched;
	return (short)(((events & EPOLLIN) != 0 ? EV_READ : 0) |
		       ((events & EPOLLOUT) != 0 ? EV_WRITE : 0));
}

/* ---- What is watched ------------------------------------------------------------------------ */

static int control(const struct poller *poller, int op, struct poller_entry *entry,
		   uint32_t watched)
{
	struct epoll_event event = {.events = watched, .data.ptr = entry};

	return epoll_ctl(poller->fd, op, entry->fd, &event);
}

int poller_watch(struct poller *poller, struct poller_entry *entry, short what)
{
	uint16_t watched = to_epoll(what);

	if (watched == entry->watched)
		return 0;
	if (control(poller, entry->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, entry, watched) <
	    0)
		return -1;
	entry->watched = watched;
	return 0;
}

void poller_forget(struct poller *poller, struct poller_entry *entry)
{
	if (entry->watched == 0)
		return;
	/* Its errors are those of wrong arguments: then it is in no set, as it should be. */
	control(poller, EPOLL_CTL_DEL, entry, 0);
	entry->watched = 0;
	for (unsigned i = poller->next; i < poller->end; i++)
		if (poller->batch[i].data.ptr == entry)
			poller->batch[i].data.ptr = NULL;
}

/* ---- What is reported ----------------------------------------------------------------------- */

static void fetch(const char *entry)
{
	__builtin_prefetch(entry);
	__builtin_prefetch(entry + CACHE_LINE);
}

unsigned poller_take(struct poller *poller)
{
	int n = epoll_wait(poller->fd, poller->batch, POLLER_BATCH, 0);
	uint16_t turn = poller->turn;
	bool again = false;

	if (n < 0 && errno != EINTR)
		abort(); /* wrong arguments: a fatal signal tells more than a loop that spins */
	if (n <= 0)
		return 0;
	for (int i = 0; i < n; i++)
		fetch(poller->batch[i].data.ptr);
	poller->end = (unsigned)n;
	for (poller->next = 0; poller->next < poller->end;) {
		const struct epoll_event *report = &poller->batch[poller->next++];
		struct poller_entry *entry = report->data.ptr;
		short what;

		if (entry == NULL)
			continue;
		again |= entry->turn == turn;
		entry->turn = turn;
		what = from_epoll(report->events, entry->watched);
		if (what != 0)
			poller->ready(entry, what);
	}
	poller->again = again;
	return (unsigned)n;
}

/*
 * Each once: who was reported is put behind all others, so when anybody comes again, all have come.
 * Then accepting, timers and orders have their turn, however much some have to say.
 */
static void on_reports(evutil_socket_t fd, short what, void *arg)
{
	struct poller *poller = arg;

	(void)fd;
	(void)what;
	poller->turn++;
	for (int i = 0; i < BATCHES_TURN; i++)
		if (poller_take(poller) < POLLER_BATCH || poller->again)
			return;
}

/* ---- Begin and end -------------------------------------------------------------------------- */

int poller_init(struct poller *poller, struct event_base *base,
		void (*ready)(struct poller_entry *entry, short what))
{
	poller->ready = ready;
	poller->next = poller->end = 0;
	poller->turn = 0;
	poller->again = false;
	poller->fd = epoll_create1(EPOLL_CLOEXEC);
	if (poller->fd < 0)
		return -1;
	if (event_assign(&poller->event, base, poller->fd, EV_READ | EV_PERSIST, on_reports,
			 poller) == 0 &&
	    event_add(&poller->event, NULL) == 0)
		return 0;
	close(poller->fd);
	poller->fd = -1;
	errno = ENOMEM;
	return -1;
}

void poller_free(struct poller *poller)
{
	if (poller->fd < 0)
		return;
	event_del(&poller->event);
	close(poller->fd);
	poller->fd = -1;
}
