/*
 * The loop of a server: when it looks on, and when it sleeps. Clients live on the same loop, and
 * epoll_wait(2) stands here in place of the C library's, so that both can be counted, and so does
 * getrusage(2), so that nobody takes the processor from us but when a test says so.
 */
#include "server_fixture.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "net/server_private.h"

#define PATIENCE_MS 20000
#define LONG_US	    (60 * 1000 * 1000)
#define EXCHANGES   1000

static struct {
	unsigned looks;	 /* of the loop, that would not have waited */
	unsigned takes;	 /* of the poller, that never waits */
	unsigned sleeps; /* that might have */
	unsigned removed, added;
	unsigned receives; /* of datagrams */
} calls;

static bool others_wait;

/* NOLINTNEXTLINE: the loop calls it */
int epoll_wait(int epoll, struct epoll_event *events, int max, int timeout)
{
	if (max == POLLER_BATCH)
		calls.takes++;
	else if (timeout == 0)
		calls.looks++;
	else
		calls.sleeps++;
	return (int)syscall(SYS_epoll_pwait, epoll, events, max, timeout, NULL, _NSIG / 8);
}

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	calls.removed += op == EPOLL_CTL_DEL;
	calls.added += op == EPOLL_CTL_ADD;
	return (int)syscall(SYS_epoll_ctl, epoll, op, fd, event);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned len, int flags, struct timespec *timeout)
{
	calls.receives++;
	return (int)syscall(SYS_recvmmsg, fd, messages, len, flags, timeout);
}

#ifdef __GLIBC__
typedef __rusage_who_t rusage_who; /* an enum */
#else
typedef int rusage_who;
#endif

int getrusage(rusage_who who, struct rusage *usage)
{
	static long preemptions;

	assert_int_equal(who, RUSAGE_SELF);
	memset(usage, 0, sizeof(*usage));
	preemptions += others_wait;
	usage->ru_nivcsw = preemptions;
	return 0;
}

/* A client that sends again as soon as it is answered. */
struct talker {
	struct fixture *f;
	struct event *event;
	int fd;
	unsigned left;
	long after_us; /* from the last reply to the end of the loop */
	void (*halfway)(struct fixture *f);
};

static void on_reply(evutil_socket_t fd, short what, void *arg)
{
	struct talker *talker = arg;
	char reply[16];
	ssize_t n = recv(fd, reply, sizeof(reply), 0);

	(void)what;
	if (n < 0 && errno == ECONNREFUSED && talker->halfway != NULL) {
		event_del(talker->event); /* the server has closed its socket */
		return;
	}
	assert_int_equal(n, 6);
	assert_memory_equal(reply, "hello\n", 6);
	if (--talker->left == EXCHANGES / 2 && talker->halfway != NULL)
		talker->halfway(talker->f);
	if (talker->left > 0) {
		assert_int_equal(send(fd, "hello\n", 6, 0), 6);
		return;
	}
	event_del(talker->event);
	if (talker->after_us == 0)
		event_base_loopbreak(talker->f->base);
	else
		event_base_loopexit(talker->f->base, &(struct timeval){0, talker->after_us});
}

static void start(struct talker *talker, struct fixture *f, int fd, long after_us)
{
	*talker = (struct talker){.f = f, .fd = fd, .left = EXCHANGES, .after_us = after_us};
	talker->event = event_new(f->base, fd, EV_READ | EV_PERSIST, on_reply, talker);
	assert_int_equal(event_add(talker->event, NULL), 0);
	assert_int_equal(send(fd, "hello\n", 6, 0), 6);
}

static void stop(struct talker *talker)
{
	event_free(talker->event);
	close(talker->fd);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
	struct fixture *f = arg;

	(void)fd;
	(void)what;
	f->time_is_up = true;
	event_base_loopbreak(f->base);
}

/* Until the loop is told to end, at last by a timer. */
static void run(struct fixture *f, int most_ms)
{
	struct timeval tv = {most_ms / 1000, most_ms % 1000 * 1000};
	struct event *timer = evtimer_new(f->base, on_end, f);

	f->time_is_up = false;
	memset(&calls, 0, sizeof(calls));
	assert_int_equal(evtimer_add(timer, &tv), 0);
	server_run(f->server);
	event_free(timer);
}

static struct server_settings busy_lines(unsigned us)
{
	struct server_settings settings = lines();

	settings.busy_poll_us = us;
	return settings;
}

/* Connected, and greeted once: nobody has just come. */
static int old_client(struct fixture *f)
{
	int fd = client(f);

	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	return fd;
}

/* All that one client says and hears, until the loop ends. */
static void converse(struct fixture *f, int fd, long after_us)
{
	struct talker talker;

	start(&talker, f, fd, after_us);
	run(f, PATIENCE_MS);
	assert_false(f->time_is_up);
	assert_int_equal(talker.left, 0);
	stop(&talker);
}

static void who_answers_at_once_is_looked_out_for(void **state)
{
	struct fixture *f = *state;

	serve(f, busy_lines(LONG_US));
	converse(f, old_client(f), 0);
	assert_int_equal(calls.sleeps, 1);
	assert_true(calls.looks >= EXCHANGES);
	/* Mostly the poller alone is asked. */
	assert_true(calls.takes >= 4 * calls.looks - 3);
}

static void without_it_nobody_is_looked_out_for(void **state)
{
	struct fixture *f = *state;

	serve(f, busy_lines(0));
	converse(f, old_client(f), 0);
	assert_int_equal(calls.looks, 0);
}

static void when_nothing_comes_it_sleeps(void **state)
{
	struct fixture *f = *state;

	serve(f, busy_lines(1));
	converse(f, old_client(f), 300000);
	/* The first, and at the end; more of them where the kernel took its time. */
	assert_true(calls.sleeps >= 2);
}

static void timers_run_while_it_looks(void **state)
{
	struct fixture *f = *state;

	serve(f, busy_lines(LONG_US));
	converse(f, old_client(f), 20000);
	assert_int_equal(calls.sleeps, 1);
}

/* One of them may be the client, who gets no processor as long as we look out for him. */
static void where_others_wait_it_sleeps(void **state)
{
	struct fixture *f = *state;

	serve(f, busy_lines(LONG_US));
	others_wait = true;
	converse(f, old_client(f), 20000);
	others_wait = false;
	assert_true(calls.sleeps >= 2);
}

static void who_just_comes_is_no_reason(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = busy_lines(LONG_US);
	int fds[20];

	settings.says.max_requests = 1;
	settings.read_at_accept = true;
	serve(f, settings);
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		fds[i] = client(f);
		client_say(f, fds[i], "hello\n");
	}
	run(f, 50);
	assert_int_equal(calls.looks, 0);
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		assert_hears(f, fds[i], "hello\n");
		close(fds[i]);
	}
}

/* Comes, speaks a millisecond later, is answered a millisecond later, goes; the next one comes. */
struct visitors {
	struct fixture *f;
	struct event *timer;
	int fd;
	unsigned steps;
};

static void on_step(evutil_socket_t fd, short what, void *arg)
{
	struct visitors *visitors = arg;
	struct timeval tv = {0, 1000};
	char reply[16];

	(void)fd;
	(void)what;
	switch (visitors->steps++ % 3) {
	case 0:
		visitors->fd = client(visitors->f);
		break;
	case 1:
		client_say(visitors->f, visitors->fd, "hello\n");
		break;
	default:
		assert_int_equal(recv(visitors->fd, reply, sizeof(reply), 0), 6);
		close(visitors->fd);
	}
	if (visitors->steps < 3 * 60)
		evtimer_add(visitors->timer, &tv);
	else
		event_base_loopbreak(visitors->f->base);
}

/* To wait for them, too, would cost more than to sleep. */
static void first_words_are_no_reason_either(void **state)
{
	struct fixture *f = *state;
	struct visitors visitors = {.f = f};

	serve(f, busy_lines(20000));
	visitors.timer = evtimer_new(f->base, on_step, &visitors);
	on_step(-1, 0, &visitors);
	run(f, PATIENCE_MS);
	assert_false(f->time_is_up);
	assert_int_equal(visitors.steps, 180);
	assert_true(calls.sleeps >= 32);
	event_free(visitors.timer);
}

static void say_many(struct fixture *f, int fd)
{
	char many[100 * 6];

	for (size_t at = 0; at < sizeof(many); at += 6)
		memcpy(many + at, "hello\n", 6);
	client_send(f, fd, many, sizeof(many));
}

/* Nobody waits any longer after so many: one who is woken for many lines loses little. */
static void after_many_it_sleeps_at_once(void **state)
{
	struct fixture *f = *state;
	int fd;

	serve(f, busy_lines(LONG_US));
	fd = old_client(f);
	say_many(f, fd);
	run(f, 50);
	assert_int_equal(calls.looks, 1);
	assert_true(calls.sleeps >= 2);
	for (int i = 0; i < 100; i++)
		assert_hears(f, fd, "hello\n");
	close(fd);
}

static struct fixture *shouter;

static void on_shout(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	say_many(shouter, *(const int *)arg);
}

static void after_many_that_were_waited_for_it_sleeps_too(void **state)
{
	struct fixture *f = *state;
	struct timeval soon = {0, 20000};
	struct event *timer;
	int fd;

	serve(f, busy_lines(LONG_US));
	fd = old_client(f);
	client_say(f, fd, "hello\n");
	shouter = f;
	timer = evtimer_new(f->base, on_shout, &fd);
	assert_int_equal(evtimer_add(timer, &soon), 0);
	run(f, 100);
	assert_true(calls.sleeps >= 2);
	event_free(timer);
	close(fd);
}

static void an_end_is_obeyed_at_once(void **state)
{
	struct fixture *f = *state;

	serve(f, busy_lines(LONG_US));
	assert_int_equal(event_base_loopexit(f->base, NULL), 0);
	run(f, PATIENCE_MS);
	assert_false(f->time_is_up);
}

/* ---- Datagrams ------------------------------------------------------------------------------ */

static int bound(struct sockaddr_in *address)
{
	socklen_t len = sizeof(*address);
	int on = 1, room = 200 * KIB,
	    fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	*address = (struct sockaddr_in){.sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)address, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)address, &len), 0);
	return fd;
}

static struct datagram *serve_datagrams(struct fixture *f, unsigned us)
{
	struct server_settings settings = echo();
	struct error err = {0};

	settings.busy_poll_us = us;
	make_server(f, &settings);
	assert_int_equal(server_add_socket(f->server, bound(&f->address), &err), 0);
	assert_int_equal(server_accept_on(f->server, 0, true, &err), 0);
	return f->server->listeners->datagram;
}

static int datagram_client(struct fixture *f)
{
	struct sockaddr_in any;
	int fd = bound(&any);

	assert_int_equal(connect(fd, (struct sockaddr *)&f->address, sizeof(f->address)), 0);
	return fd;
}

static void a_busy_socket_leaves_the_loop(void **state)
{
	struct fixture *f = *state;

	serve_datagrams(f, LONG_US);
	converse(f, datagram_client(f), 0);
	assert_int_equal(calls.sleeps, 1);
	assert_int_equal(calls.removed, 2); /* the talker's own is the other */
}

/* And the next one after the silence is answered. */
static void before_it_sleeps_the_socket_is_back(void **state)
{
	struct fixture *f = *state;

	serve_datagrams(f, 1000);
	for (int i = 0; i < 2; i++) {
		converse(f, datagram_client(f), 300000);
		assert_true(calls.sleeps >= 2);
		assert_int_equal(calls.added + 1, calls.removed);
	}
}

/* Lines alone are spoken: nobody asks for datagrams. */
static void a_silent_socket_is_not_looked_at(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_in elsewhere;
	struct error err = {0};

	serve(f, busy_lines(LONG_US));
	assert_int_equal(server_add_socket(f->server, bound(&elsewhere), &err), 0);
	assert_int_equal(server_accept_on(f->server, 1, true, &err), 0);
	converse(f, old_client(f), 0);
	assert_int_equal(calls.receives, 0);
}

static void stop_accepting(struct fixture *f)
{
	struct timeval tv = {0, 20000};

	server_stop_accepting(f->server, true);
	event_base_loopexit(f->base, &tv);
}

/* An order that comes while it is looked at. */
static void a_polled_socket_can_be_closed(void **state)
{
	struct fixture *f = *state;
	struct talker talker;

	serve_datagrams(f, LONG_US);
	start(&talker, f, datagram_client(f), 0);
	talker.halfway = stop_accepting;
	run(f, PATIENCE_MS);
	assert_false(f->time_is_up);
	assert_in_range(talker.left, EXCHANGES / 2 - 1, EXCHANGES / 2);
	assert_int_equal(f->idle_calls, 1);
	stop(&talker);
}

static void what_is_polled_is_answered_by_a_look_alone(void **state)
{
	struct fixture *f = *state;
	struct datagram *datagram = serve_datagrams(f, 0);
	int fd = datagram_client(f);

	datagram_look(datagram); /* not polled: nothing happens */
	datagram_poll(datagram, true);
	datagram_poll(datagram, true);
	client_say(f, fd, "hello\n");
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(COUNT(f, datagrams), 0);
	datagram_look(datagram);
	assert_int_equal(COUNT(f, datagram_replies), 1);
	client_say(f, fd, "hello\n");
	datagram_poll(datagram, false);
	datagram_look(datagram);
	assert_int_equal(COUNT(f, datagram_replies), 1);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(COUNT(f, datagram_replies), 2);
	close(fd);
}

/* Its orders come while it is polled. */
static void a_polled_socket_can_stop_receiving(void **state)
{
	struct fixture *f = *state;
	struct datagram *datagram = serve_datagrams(f, 0);
	int fd = datagram_client(f);

	datagram_poll(datagram, true);
	assert_int_equal(datagram_receive(datagram, false), 0);
	datagram_poll(datagram, true);
	client_say(f, fd, "hello\n");
	datagram_look(datagram);
	datagram_poll(datagram, false);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(COUNT(f, datagrams), 0);
	assert_int_equal(datagram_receive(datagram, true), 0);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(COUNT(f, datagram_replies), 1);
	datagram_poll(datagram, true);
	server_stop_accepting(f->server, true);
	close(fd);
}

/* A flood leaves time for connections and timers. */
static void a_flood_ends_a_look(void **state)
{
	struct fixture *f = *state;
	struct datagram *datagram = serve_datagrams(f, 0);
	int fds[4];

	datagram_poll(datagram, true);
	for (size_t i = 0; i < COUNT_OF(fds); i++) {
		fds[i] = datagram_client(f);
		for (int k = 0; k < 75; k++)
			assert_int_equal(send(fds[i], "x", 1, 0), 1);
	}
	datagram_look(datagram);
	assert_in_range(COUNT(f, datagrams), 256, 299);
	datagram_look(datagram);
	assert_int_equal(COUNT(f, datagrams), 300);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		close(fds[i]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(who_answers_at_once_is_looked_out_for),
		TEST(without_it_nobody_is_looked_out_for),
		TEST(when_nothing_comes_it_sleeps),
		TEST(timers_run_while_it_looks),
		TEST(where_others_wait_it_sleeps),
		TEST(who_just_comes_is_no_reason),
		TEST(first_words_are_no_reason_either),
		TEST(after_many_it_sleeps_at_once),
		TEST(after_many_that_were_waited_for_it_sleeps_too),
		TEST(an_end_is_obeyed_at_once),
		TEST(a_busy_socket_leaves_the_loop),
		TEST(before_it_sleeps_the_socket_is_back),
		TEST(a_silent_socket_is_not_looked_at),
		TEST(a_polled_socket_can_be_closed),
		TEST(what_is_polled_is_answered_by_a_look_alone),
		TEST(a_polled_socket_can_stop_receiving),
		TEST(a_flood_ends_a_look),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
