/*
 * Holds many connections open from many addresses of 127.0.0.0/8, talks on some of them, checks
 * every byte that comes back, and tells when one ends. tests/bench/million.py steers a number of
 * these.
 *
 *   hold [--first N] [--per-source N] [--patience SECONDS] ADDRESS PORT
 *
 *   --first N           the number of its first connection; each process has numbers of its own
 *   --per-source N      so many connections come from one address, 127.1.0.0 + number / N
 *   --patience SECONDS  so long a connect, and the last replies, may take
 *
 * Orders come in on stdin, a line each; its end is the end of the process, and all connections are
 * reset, so that none stays in TIME_WAIT.
 *
 *   open N              hold N connections
 *   talk K RATE COUNT   on each connection whose number can be divided by K: RATE lines a second,
 *                       COUNT of them, or with 0 until "hush". A line is sent at its time, whether
 *                       or not earlier ones were answered
 *   hush                no more lines
 *   count
 *
 * What it says on stdout, a line each:
 *
 *   opening N           so far; then "opened N"
 *   sample TIME DELAY   of each line that was answered, once all were: when it was to be sent
 *                       (CLOCK_MONOTONIC), and how much later it was back; nanoseconds
 *   talked SENT ANSWERED
 *   count OPEN ENDED    ENDED: not by us
 *   ended NUMBER WHY    of the first few
 *   failed WHY          and it ends
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define LINE	   32 /* bytes, with the LF */
#define OPENS_TURN 32 /* connections, until there is a look at orders again */
#define OPENS_SAID 500
#define ENDS_SAID  20
#define EVENTS	   256
#define SECOND	   INT64_C(1000000000)

#define FIRST_SOURCE UINT32_C(0x7f010000) /* 127.1.0.0 */
#define LAST_SOURCE  UINT32_C(0x7ffffffe)

/* What an event of epoll is about; other numbers are indices of connections. */
#define ABOUT_ORDERS UINT32_MAX
#define ABOUT_TIMER  (UINT32_MAX - 1)

struct connection {
	int fd; /* -1: it has ended */
	uint32_t sent;
	uint32_t sent_before; /* this talk */
	uint64_t received;    /* bytes */
};

struct sample {
	int64_t at;
	int64_t delay;
};

struct talk {
	bool on;
	uint32_t first; /* index of the first connection that talks */
	uint32_t every;
	uint32_t talkers;
	uint64_t count; /* lines in all; UINT64_MAX: until "hush" */
	uint64_t sent;
	uint64_t answered;
	uint64_t lost; /* their connection has ended */
	int64_t begun;
	double interval; /* ns */
	struct sample *samples;
	size_t room;
};

static struct {
	struct sockaddr_in server;
	uint32_t first;
	uint32_t per_source;
	int64_t patience; /* ns */
	int epoll;
	int timer;
	struct connection *connections;
	uint32_t count, wanted, ended;
	struct talk talk;
	char orders[256];
	size_t orders_len;
} hold = {.per_source = 500, .patience = 30 * SECOND};

/* ---- Ends ----------------------------------------------------------------------------------- */

static _Noreturn __attribute__((format(printf, 1, 2))) void fail(const char *format, ...)
{
	va_list args;

	printf("failed ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	exit(EXIT_FAILURE);
}

static _Noreturn void usage(void)
{
	fprintf(stderr, "Usage: hold [--first N] [--per-source N] [--patience SECONDS] "
			"ADDRESS PORT\n");
	exit(2);
}

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* ---- Opening -------------------------------------------------------------------------------- */

static void watch(int fd, uint32_t about)
{
	struct epoll_event event = {.events = EPOLLIN, .data = {.u32 = about}};

	if (epoll_ctl(hold.epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		fail("cannot watch a descriptor: %s", strerror(errno));
}

static void set(int fd, int level, int option, const void *value, socklen_t len)
{
	if (setsockopt(fd, level, option, value, len) < 0)
		fail("cannot set option %d of a socket: %s", option, strerror(errno));
}

static void set_options(int fd)
{
	struct linger reset = {.l_onoff = 1};
	struct timeval patience = {.tv_sec = hold.patience / SECOND};
	int on = 1;

	set(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	set(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	set(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* The port is chosen by connect, which knows what else must differ. */
	set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
}

static int open_one(uint32_t number)
{
	struct sockaddr_in source = {.sin_family = AF_INET};
	uint32_t address = FIRST_SOURCE + number / hold.per_source;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (address > LAST_SOURCE)
		fail("there is no source address for connection %" PRIu32, number);
	if (fd < 0)
		fail("cannot make connection %" PRIu32 ": %s", number, strerror(errno));
	set_options(fd);
	source.sin_addr.s_addr = htonl(address);
	if (bind(fd, (struct sockaddr *)&source, sizeof(source)) < 0)
		fail("cannot use the source address of connection %" PRIu32 ": %s", number,
		     strerror(errno));
	if (connect(fd, (struct sockaddr *)&hold.server, sizeof(hold.server)) < 0)
		fail("cannot connect number %" PRIu32 ": %s", number,
		     errno == EINPROGRESS ? "no answer in time" : strerror(errno));
	return fd;
}

static void open_some(void)
{
	for (int i = 0; i < OPENS_TURN && hold.count < hold.wanted; i++) {
		uint32_t index = hold.count;
		int fd = open_one(hold.first + index);

		hold.connections[index] = (struct connection){.fd = fd};
		hold.count++;
		watch(fd, index);
		if (hold.count == hold.wanted || hold.count % OPENS_SAID == 0)
			printf("%s %" PRIu32 "\n", hold.count == hold.wanted ? "opened" : "opening",
			       hold.count);
	}
}

static void begin_opening(unsigned long wanted)
{
	if (wanted < hold.count || wanted > ABOUT_TIMER)
		fail("it holds %" PRIu32 ", and %lu are to be open", hold.count, wanted);
	hold.wanted = (uint32_t)wanted;
	hold.connections = reallocarray(hold.connections, wanted + 1, sizeof(*hold.connections));
	if (hold.connections == NULL)
		fail("no memory for %lu connections", wanted);
	if (hold.count == hold.wanted)
		printf("opened %" PRIu32 "\n", hold.count);
}

/* ---- Talking -------------------------------------------------------------------------------- */

/* Of each line every byte is known: which connection, which line, and a hash of both. */
static void make_line(char line[LINE + 1], uint32_t number, uint32_t sequence)
{
	uint64_t hash = ((uint64_t)number << 32 | sequence) + UINT64_C(0x9e3779b97f4a7c15);

	hash = (hash ^ hash >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	hash = (hash ^ hash >> 27) * UINT64_C(0x94d049bb133111eb);
	snprintf(line, LINE + 1, "%08" PRIx32 "%08" PRIx32 "%015" PRIx64 "\n", number, sequence,
		 (hash ^ hash >> 31) >> 4);
}

static int64_t time_of(uint64_t line)
{
	return hold.talk.begun + (int64_t)((double)line * hold.talk.interval);
}

static void set_timer(int64_t at)
{
	struct itimerspec spec = {.it_value = {at / SECOND, at % SECOND}};

	if (timerfd_settime(hold.timer, TFD_TIMER_ABSTIME, &spec, NULL) < 0)
		fail("cannot set the timer: %s", strerror(errno));
}

static void end_talk(void)
{
	struct talk *talk = &hold.talk;

	for (uint64_t i = 0; i < talk->answered; i++)
		printf("sample %" PRId64 " %" PRId64 "\n", talk->samples[i].at,
		       talk->samples[i].delay);
	printf("talked %" PRIu64 " %" PRIu64 "\n", talk->sent, talk->answered);
	free(talk->samples);
	*talk = (struct talk){0};
	set_timer(0);
}

/* Sent is what was to be sent; the timer then stands for our patience. */
static void check_talk(void)
{
	struct talk *talk = &hold.talk;

	if (!talk->on || talk->sent < talk->count)
		return;
	if (talk->answered + talk->lost == talk->sent)
		end_talk();
}

static void begin_talk(unsigned long every, double rate, unsigned long count)
{
	struct talk *talk = &hold.talk;

	if (talk->on || every == 0 || !(rate > 0))
		fail("this talk cannot be: every %lu, rate %g", every, rate);
	*talk = (struct talk){.on = true, .every = (uint32_t)every};
	talk->first = (uint32_t)((every - hold.first % every) % every);
	if (talk->first < hold.count)
		talk->talkers = (hold.count - talk->first - 1) / talk->every + 1;
	talk->count = count == 0 ? UINT64_MAX : (uint64_t)talk->talkers * count;
	if (talk->talkers == 0)
		talk->count = 0;
	for (uint32_t i = 0; i < talk->talkers; i++) {
		struct connection *one = &hold.connections[talk->first + i * talk->every];

		one->sent_before = one->sent;
	}
	talk->interval = (double)SECOND / rate / (talk->talkers > 0 ? talk->talkers : 1);
	talk->begun = now();
	set_timer(talk->begun + 1);
}

/* What an earlier talk gave up waiting for is no loss of this one. */
static uint32_t first_unanswered(const struct connection *one)
{
	uint32_t answered = (uint32_t)(one->received / LINE);

	return answered > one->sent_before ? answered : one->sent_before;
}

static void end_connection(uint32_t index, const char *why)
{
	struct connection *one = &hold.connections[index];

	if (hold.talk.on)
		hold.talk.lost += one->sent - first_unanswered(one);
	close(one->fd);
	one->fd = -1;
	if (hold.ended++ < ENDS_SAID)
		printf("ended %" PRIu32 " %s\n", hold.first + index, why);
}

static void send_line(uint32_t index)
{
	struct connection *one = &hold.connections[index];
	char line[LINE + 1];
	ssize_t n;

	hold.talk.sent++;
	if (one->fd < 0) {
		hold.talk.lost++;
		return;
	}
	make_line(line, hold.first + index, one->sent++);
	n = send(one->fd, line, LINE, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n == LINE)
		return;
	/* A line is small, and replies are read: only a server that reads no more lets it wait. */
	end_connection(index, n < 0 ? strerror(errno) : "a line was sent in part");
}

static void on_timer(void)
{
	struct talk *talk = &hold.talk;
	uint64_t times;

	if (read(hold.timer, &times, sizeof(times)) < 0 || !talk->on)
		return; /* it was set anew meanwhile */
	if (talk->sent >= talk->count) {
		end_talk(); /* our patience is at its end: SENT is more than ANSWERED */
		return;
	}
	while (talk->sent < talk->count && time_of(talk->sent) <= now())
		send_line(talk->first + (uint32_t)(talk->sent % talk->talkers) * talk->every);
	set_timer(talk->sent < talk->count ? time_of(talk->sent) : now() + hold.patience);
}

static void hush(void)
{
	if (!hold.talk.on)
		return; /* none of its connections had to talk */
	hold.talk.count = hold.talk.sent;
	set_timer(now() + hold.patience);
}

/* ---- Listening ------------------------------------------------------------------------------ */

static void take_sample(uint32_t index, uint32_t sequence)
{
	const struct connection *one = &hold.connections[index];
	struct talk *talk = &hold.talk;
	uint64_t line;
	int64_t at;

	if (!talk->on || sequence < one->sent_before)
		return; /* too late for the talk that it belongs to */
	if (talk->answered == talk->room) {
		talk->room = talk->room * 2 + 1024;
		talk->samples = reallocarray(talk->samples, talk->room, sizeof(*talk->samples));
		if (talk->samples == NULL)
			fail("no memory for %zu samples", talk->room);
	}
	line = (uint64_t)(sequence - one->sent_before) * talk->talkers +
	       (index - talk->first) / talk->every;
	at = time_of(line);
	talk->samples[talk->answered++] = (struct sample){at, now() - at};
}

/* Returns false after a wrong byte. */
static bool check_bytes(uint32_t index, const char *data, size_t len)
{
	struct connection *one = &hold.connections[index];
	char line[LINE + 1];

	while (len > 0) {
		uint32_t sequence = (uint32_t)(one->received / LINE);
		size_t at = one->received % LINE;
		size_t part = len < LINE - at ? len : LINE - at;

		make_line(line, hold.first + index, sequence);
		if (sequence >= one->sent || memcmp(line + at, data, part) != 0)
			return false;
		one->received += part;
		data += part;
		len -= part;
		if (at + part == LINE)
			take_sample(index, sequence);
	}
	return true;
}

static void on_readable(uint32_t index)
{
	struct connection *one = &hold.connections[index];
	char data[16 * 1024];
	ssize_t n = recv(one->fd, data, sizeof(data), MSG_DONTWAIT);

	if (n == 0)
		end_connection(index, "end of file");
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		end_connection(index, strerror(errno));
	else if (n > 0 && !check_bytes(index, data, (size_t)n))
		end_connection(index, "it got other bytes than it had sent");
}

/* ---- Orders --------------------------------------------------------------------------------- */

static void obey(const char *order)
{
	unsigned long number, count;
	double rate;

	if (sscanf(order, "open %lu", &number) == 1)
		begin_opening(number);
	else if (sscanf(order, "talk %lu %lf %lu", &number, &rate, &count) == 3)
		begin_talk(number, rate, count);
	else if (strcmp(order, "hush") == 0)
		hush();
	else if (strcmp(order, "count") == 0)
		printf("count %" PRIu32 " %" PRIu32 "\n", hold.count - hold.ended, hold.ended);
	else
		fail("there is no such order: %s", order);
}

static void on_orders(void)
{
	size_t room = sizeof(hold.orders) - 1 - hold.orders_len;
	ssize_t n = read(STDIN_FILENO, hold.orders + hold.orders_len, room);
	char *end;

	if (n == 0)
		exit(EXIT_SUCCESS);
	if (n < 0)
		fail("cannot read orders: %s", strerror(errno));
	hold.orders_len += (size_t)n;
	while ((end = memchr(hold.orders, '\n', hold.orders_len)) != NULL) {
		size_t len = (size_t)(end + 1 - hold.orders);

		*end = '\0';
		obey(hold.orders);
		hold.orders_len -= len;
		memmove(hold.orders, end + 1, hold.orders_len);
	}
	if (hold.orders_len == sizeof(hold.orders) - 1)
		fail("an order is too long");
}

static void turn(void)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(hold.epoll, events, EVENTS, hold.count < hold.wanted ? 0 : -1);

	if (n < 0 && errno != EINTR)
		fail("cannot wait: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		uint32_t about = events[i].data.u32;

		if (about == ABOUT_ORDERS)
			on_orders();
		else if (about == ABOUT_TIMER)
			on_timer();
		else if (hold.connections[about].fd >= 0)
			on_readable(about);
	}
	open_some();
	check_talk();
	if (fflush(stdout) != 0)
		exit(EXIT_FAILURE); /* nobody listens any more */
}

/* ---- The start ------------------------------------------------------------------------------ */

static unsigned long number_of(const char *text, unsigned long most)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || number > most)
		usage();
	return number;
}

static void read_options(int argc, char **argv)
{
	static const struct option options[] = {{"first", required_argument, NULL, 'f'},
						{"per-source", required_argument, NULL, 's'},
						{"patience", required_argument, NULL, 'p'},
						{0}};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'f')
			hold.first = (uint32_t)number_of(optarg, INT32_MAX);
		else if (option == 's')
			hold.per_source = (uint32_t)number_of(optarg, INT32_MAX);
		else if (option == 'p')
			hold.patience = (int64_t)number_of(optarg, 3600) * SECOND;
		else
			usage();
	}
	hold.server.sin_family = AF_INET;
	if (argc - optind != 2 || hold.per_source == 0 || hold.patience == 0 ||
	    inet_pton(AF_INET, argv[optind], &hold.server.sin_addr) != 1)
		usage();
	hold.server.sin_port = htons((uint16_t)number_of(argv[optind + 1], 65535));
}

int main(int argc, char **argv)
{
	struct rlimit limit;

	read_options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit); /* else opening says what is missing */
	}
	hold.epoll = epoll_create1(EPOLL_CLOEXEC);
	hold.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (hold.epoll < 0 || hold.timer < 0)
		fail("cannot begin: %s", strerror(errno));
	watch(STDIN_FILENO, ABOUT_ORDERS);
	watch(hold.timer, ABOUT_TIMER);
	for (;;)
		turn();
}
