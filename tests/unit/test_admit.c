/* Who may come to a server, how he is told that he may not, and how long he may stay. */
#include "server_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "os/memory_file.h"

static void add_rules(struct access_list *list, const char *const *rules)
{
	struct error err = {0};

	for (int i = 0; rules[i] != NULL; i++) {
		char where[32];

		snprintf(where, sizeof(where), "echod.conf:%d", i + 1);
		assert_int_equal(access_add(list, rules[i], where, &err), 0);
	}
}

#define RULES(list, ...) add_rules(&(list), (const char *const[]){__VA_ARGS__, NULL})

static void assert_served(struct fixture *f, int fd)
{
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	close(fd);
}

static void assert_refused(struct fixture *f, int fd)
{
	assert_end(f, fd);
	close(fd);
}

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

/* ---- Access --------------------------------------------------------------------------------- */

static void an_empty_list_allows_everybody(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct access_list none = {0};

	settings.access[0] = settings.access[1] = &none;
	serve(f, settings);
	assert_served(f, client(f));
	assert_int_equal(COUNT(f, refused_access), 0);
}

static void the_first_rule_that_matches_decides(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct access_list list = {0};

	RULES(list, "allow 127.0.0.2", "deny 127.0.0.0/29", "allow 127.0.0.3", "allow *");
	settings.access[1] = &list;
	serve(f, settings);
	assert_served(f, client_from(f, "127.0.0.2"));
	assert_refused(f, client_from(f, "127.0.0.3"));
	assert_refused(f, client_from(f, "127.0.0.7"));
	assert_served(f, client_from(f, "127.0.0.8"));
	assert_int_equal(COUNT(f, refused_access), 2);
	run_until(f, &f->counters.closed, 4);
	assert_contains(support_log_text(), "connection from 127.0.0.3:");
	assert_int_equal(support_log_count("refused: access: 'deny 127.0.0.0/29' at echod.conf:2"),
			 2);
	access_clear(&list);
}

static void whom_no_rule_matches_gets_the_opposite_of_the_last(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct access_list list = {0};

	RULES(list, "deny 127.0.0.4", "allow 127.0.0.2");
	settings.access[1] = &list;
	serve(f, settings);
	assert_served(f, client_from(f, "127.0.0.2"));
	assert_refused(f, client_from(f, "127.0.0.3"));
	assert_refused(f, client_from(f, "127.0.0.4"));
	assert_contains(support_log_text(), "refused: access: no rule allows it");
	assert_contains(support_log_text(), "refused: access: 'deny 127.0.0.4' at echod.conf:1");
	access_clear(&list);
}

static void both_the_daemon_and_the_service_must_allow(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct access_list all = {0}, own = {0};

	RULES(all, "deny 127.0.0.2", "allow *");
	RULES(own, "allow 127.0.0.2", "allow 127.0.0.3");
	settings.access[0] = &all;
	settings.access[1] = &own;
	serve(f, settings);
	assert_refused(f, client_from(f, "127.0.0.2"));
	assert_served(f, client_from(f, "127.0.0.3"));
	assert_refused(f, client_from(f, "127.0.0.4"));
	assert_int_equal(COUNT(f, refused_access), 2);
	access_clear(&all);
	access_clear(&own);
}

/* A Unix socket without a place in the file system: unix(7), "autobind". */
static int unix_listener(struct sockaddr_un *address, socklen_t *len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	address->sun_family = AF_UNIX;
	*len = sizeof(*address);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)address, sizeof(sa_family_t)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)address, len), 0);
	return fd;
}

static int unix_client(const struct sockaddr_un *address, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)address, len), 0);
	return fd;
}

/* Serve this process's own user by a Unix socket under one rule, and the opposite for all others.
 */
static bool unix_client_is_served(struct fixture *f, const char *rule, const char *others)
{
	struct server_settings settings = lines();
	struct access_list list = {0};
	struct sockaddr_un address;
	socklen_t len;
	uint64_t refused = COUNT(f, refused_access), closed = COUNT(f, closed);
	int fd;

	RULES(list, rule, others);
	settings.access[1] = &list;
	serve_at(f, &settings, unix_listener(&address, &len));
	fd = unix_client(&address, len);
	run_until(f, &f->counters.accepted, closed + 1);
	if (COUNT(f, refused_access) == refused)
		assert_served(f, fd);
	else
		assert_refused(f, fd);
	run_until(f, &f->counters.closed, closed + 1);
	server_free(f->server);
	f->server = NULL;
	access_clear(&list);
	return COUNT(f, refused_access) == refused;
}

static bool own_id_is_served(struct fixture *f, const char *verdict, const char *what, unsigned id)
{
	char rule[64];

	snprintf(rule, sizeof(rule), "%s %s:%u", verdict, what, id);
	return unix_client_is_served(f, rule, verdict[0] == 'a' ? "deny *" : "allow *");
}

static void a_unix_client_is_known_by_its_user_and_its_groups(void **state)
{
	struct fixture *f = *state;
	gid_t groups[64];
	int n = getgroups(COUNT_OF(groups), groups);

	assert_true(own_id_is_served(f, "allow", "uid", getuid()));
	assert_false(own_id_is_served(f, "deny", "uid", getuid()));
	assert_false(own_id_is_served(f, "allow", "uid", getuid() + 1));
	assert_true(own_id_is_served(f, "deny", "uid", getuid() + 1));
	assert_true(own_id_is_served(f, "allow", "gid", getgid()));
	assert_false(own_id_is_served(f, "deny", "gid", getgid()));
	assert_false(own_id_is_served(f, "allow", "gid", 4000000));
	for (int i = 0; i < n; i++)
		assert_true(own_id_is_served(f, "allow", "gid", groups[i]));
	assert_contains(support_log_text(), "connection from unix (pid ");
}

static void networks_are_not_for_unix_clients_and_the_word_unix_is(void **state)
{
	struct fixture *f = *state;

	assert_true(unix_client_is_served(f, "allow unix", "deny *"));
	assert_false(unix_client_is_served(f, "deny unix", "allow *"));
	assert_false(unix_client_is_served(f, "allow 0.0.0.0/0", "deny *"));
	assert_false(unix_client_is_served(f, "allow ::/0", "deny *"));
}

/* ---- Times of the week ---------------------------------------------------------------------- */

/* A window that begins so many hours from now and ends an hour later, every day. */
static void window_from_now(struct schedule *times, int hours)
{
	time_t now = time(NULL);
	struct tm local;
	struct error err = {0};
	char text[32];
	int from;

	assert_non_null(localtime_r(&now, &local));
	from = (local.tm_hour + 24 + hours) % 24;
	snprintf(text, sizeof(text), "%02d:00-%02d:00", from, (from + 3) % 24);
	assert_int_equal(schedule_add(times, text, &err), 0);
}

static void outside_its_times_a_service_refuses(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct schedule times = {0};

	window_from_now(&times, 10);
	settings.times[1] = &times;
	serve(f, settings);
	assert_refused(f, client(f));
	assert_int_equal(COUNT(f, refused_times), 1);
	assert_contains(support_log_text(), "refused: access_times: closed now");
	schedule_clear(&times);
}

static void within_its_times_a_service_serves(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct schedule times = {0}, none = {0};

	/* Two hours on both sides: neither the hour nor the clock's change does any harm. */
	window_from_now(&times, 10);
	window_from_now(&times, -1);
	window_from_now(&times, -2);
	settings.times[0] = &none;
	settings.times[1] = &times;
	serve(f, settings);
	assert_served(f, client(f));
	assert_int_equal(COUNT(f, refused_times), 0);
	schedule_clear(&times);
}

static void the_times_of_all_services_hold_too(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct schedule open = {0}, closed = {0};

	window_from_now(&open, -1);
	window_from_now(&closed, 10);
	settings.times[0] = &closed;
	settings.times[1] = &open;
	serve(f, settings);
	assert_refused(f, client(f));
	assert_int_equal(COUNT(f, refused_times), 1);
	schedule_clear(&open);
	schedule_clear(&closed);
}

/* ---- The machine's load --------------------------------------------------------------------- */

static unsigned load_now(void)
{
	struct sysinfo info;

	assert_int_equal(sysinfo(&info), 0);
	return (unsigned)(info.loads[0] * 100 >> SI_LOAD_SHIFT);
}

static void a_machine_below_max_load_serves(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();

	settings.max_load = 100000 * 100;
	serve(f, settings);
	assert_served(f, client(f));
	assert_int_equal(COUNT(f, refused_load), 0);
}

/* The load falls by a twelfth in 5 s at most. */
static void a_machine_over_max_load_refuses(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	unsigned load = load_now();

	settings.max_load = load / 2;
	if (settings.max_load == 0)
		skip(); /* nothing runs here: there is no load to be over */
	serve(f, settings);
	assert_refused(f, client(f));
	assert_int_equal(COUNT(f, refused_load), 1);
	assert_contains(support_log_text(), "refused: max_load: the machine is busy");
}

/* ---- How a refused client learns of it ------------------------------------------------------ */

/* A server that allows nobody. */
static void serve_nobody(struct fixture *f, struct access_list *list, enum server_refusal refusal)
{
	struct server_settings settings = lines();

	RULES(*list, "deny *");
	settings.access[1] = list;
	settings.refusal = refusal;
	settings.read_at_accept = true;
	serve(f, settings);
	f->speaks = true;
}

static void a_refusal_by_close_is_a_fin_whatever_the_client_has_sent(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};
	int silent, talker;

	serve_nobody(f, &list, SERVER_CLOSE);
	silent = client(f);
	talker = client(f);
	client_say(f, talker, "this was here before anybody accepted me\n");
	assert_end(f, silent);
	assert_end(f, talker);
	assert_int_equal(COUNT(f, refused_access), 2);
	assert_int_equal(COUNT(f, closed), 2);
	assert_int_equal(COUNT(f, resets), 0);
	close(silent);
	close(talker);
	access_clear(&list);
}

static void a_refusal_by_reset_is_a_reset(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};
	int silent, talker;

	serve_nobody(f, &list, SERVER_RESET);
	silent = client(f);
	talker = client(f);
	client_say(f, talker, "hello\n");
	assert_reset(f, silent);
	assert_reset(f, talker);
	assert_int_equal(COUNT(f, closed), 2);
	close(silent);
	close(talker);
	access_clear(&list);
}

static void a_refusal_by_message_is_a_line_and_a_fin(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};
	int silent, talker;

	serve_nobody(f, &list, SERVER_MESSAGE);
	silent = client(f);
	talker = client(f);
	client_say(f, talker, "hello\n");
	assert_hears(f, silent, "echod: refused: your address is not allowed\r\n");
	assert_end(f, silent);
	assert_hears(f, talker, "echod: refused: your address is not allowed\r\n");
	/* What still comes does not destroy it. */
	client_say(f, talker, "but\n");
	assert_end(f, talker);
	close(silent);
	close(talker);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(COUNT(f, requests), 0);
	access_clear(&list);
}

static void a_refused_unix_client_gets_an_end_of_file_or_the_line(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};

	RULES(list, "deny *");
	f->speaks = true;
	for (enum server_refusal how = SERVER_CLOSE; how <= SERVER_MESSAGE; how++) {
		struct server_settings settings = lines();
		struct sockaddr_un address;
		socklen_t len;
		int fd;

		settings.access[1] = &list;
		settings.refusal = how;
		serve_at(f, &settings, unix_listener(&address, &len));
		fd = unix_client(&address, len);
		if (how == SERVER_CLOSE)
			client_say(f, fd, "hello\n");
		if (how == SERVER_MESSAGE)
			assert_hears(f, fd, "echod: refused: your address is not allowed\r\n");
		assert_end(f, fd);
		close(fd);
		run_until(f, &f->counters.closed, (uint64_t)how + 1);
		server_free(f->server);
		f->server = NULL;
	}
	access_clear(&list);
}

static void a_client_that_stays_after_its_refusal_is_closed_soon(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};
	int64_t begun = clock_ms();
	int fd;

	serve_nobody(f, &list, SERVER_MESSAGE);
	fd = client(f);
	run_until(f, &f->counters.closed, 1);
	assert_true(clock_ms() - begun >= 1900);
	assert_true(clock_ms() - begun < 10000);
	close(fd);
	access_clear(&list);
}

static void of_a_flood_of_refused_clients_only_some_are_told_why(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};
	int fds[400];
	char byte;
	size_t told = 0;

	serve_nobody(f, &list, SERVER_MESSAGE);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, COUNT_OF(fds));
	/* Those who were told hold a descriptor until they close; the others do not. */
	assert_int_equal(server_connections(f->server), 256);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		told += client_read(f, fds[i], &byte, 1);
	assert_int_equal(told, 256);
	close_all(fds, COUNT_OF(fds));
	run_until(f, &f->counters.closed, COUNT_OF(fds));
	/* And then the next one is told again. */
	fds[0] = client(f);
	assert_hears(f, fds[0], "echod: refused: ");
	close(fds[0]);
	assert_int_equal(COUNT(f, refused_access), COUNT_OF(fds) + 1);
	access_clear(&list);
}

static void a_drain_ends_though_refused_clients_stay(void **state)
{
	struct fixture *f = *state;
	struct access_list list = {0};
	int fd;

	serve_nobody(f, &list, SERVER_MESSAGE);
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	start_draining(f);
	assert_int_equal(f->idle_calls, 0);
	assert_hears(f, fd, "echod: refused: your address is not allowed\r\n");
	run_until(f, &f->counters.closed, 1);
	assert_true(f->idle_calls > 0);
	assert_int_equal(COUNT(f, cut_off), 0);
	close(fd);
	access_clear(&list);
}

/* ---- How long ------------------------------------------------------------------------------- */

static void a_client_that_says_nothing_is_closed_after_first_byte_timeout(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int silent, talker, late;

	log_set_level(LOG_LEVEL_INFO);
	settings.first_byte_timeout_ms = 300;
	serve(f, settings);
	silent = client(f);
	talker = client(f);
	client_say(f, talker, "h"); /* a byte is enough */
	assert_end(f, silent);
	assert_int_equal(COUNT(f, first_byte_timeouts), 1);
	late = client(f);
	assert_end(f, late);
	assert_int_equal(COUNT(f, first_byte_timeouts), 2);
	client_say(f, talker, "ello\n");
	assert_hears(f, talker, "hello\n");
	assert_contains(support_log_text(), "ended: first_byte_timeout;");
	assert_int_equal(COUNT(f, idle_timeouts), 0);
	close(silent);
	close(late);
	close(talker);
}

static void after_its_first_byte_a_client_has_idle_timeout(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int64_t begun;
	int fd;

	settings.first_byte_timeout_ms = 60 * 1000;
	settings.idle_timeout_ms = 300;
	serve(f, settings);
	fd = client(f);
	run_for(f, 600);
	begun = clock_ms();
	client_say(f, fd, "hello\n");
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	assert_true(clock_ms() - begun >= 280);
	assert_int_equal(COUNT(f, idle_timeouts), 1);
	assert_int_equal(COUNT(f, first_byte_timeouts), 0);
	close(fd);
}

static void a_greeting_does_not_count_as_the_clients_first_byte(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.first_byte_timeout_ms = 300;
	settings.says.greeting = "hello %peer\\r\\n";
	settings.service = "line";
	settings.worker = "line/0";
	settings.host = "here";
	f->speaks = true;
	serve(f, settings);
	fd = client(f);
	assert_hears(f, fd, "hello 127.0.0.1:");
	run_until(f, &f->counters.closed, 1);
	assert_int_equal(COUNT(f, first_byte_timeouts), 1);
	close(fd);
}

static void a_connection_lives_no_longer_than_lifetime(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int64_t begun = clock_ms();
	int idle, busy;
	char got[8];

	log_set_level(LOG_LEVEL_INFO);
	settings.lifetime_ms = 400;
	serve(f, settings);
	idle = client(f);
	busy = client(f);
	/* What it says is answered up to the end, and the end is a FIN between two lines. */
	do
		client_say(f, busy, "hello\n");
	while (client_read(f, busy, got, 6) == 6);
	assert_true(clock_ms() - begun >= 380);
	assert_end(f, idle);
	close(idle);
	close(busy);
	run_until(f, &f->counters.closed, 2);
	assert_int_equal(COUNT(f, lifetimes), 2);
	assert_int_equal(COUNT(f, bytes_out) % 6, 0);
	assert_int_equal(COUNT(f, resets), 0);
	assert_int_equal(support_log_count("ended: lifetime;"), 2);
}

static void what_was_received_before_the_end_of_its_life_goes_out(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = echo();
	char *data = letters(MIB);
	size_t got = 0, n;
	char *room = malloc(MIB);
	int fd;

	settings.lifetime_ms = 500;
	serve_with_buffer(f, &settings, 4 * KIB);
	fd = client_with_buffer(f, 4 * KIB);
	client_stuff(f, fd, data, MIB / 8);
	run_until(f, &f->counters.lifetimes, 1);
	assert_int_equal(COUNT(f, closed), 0);
	while ((n = client_read(f, fd, room, MIB)) > 0)
		got += n;
	assert_int_equal(got, COUNT(f, bytes_in));
	close(fd);
	run_until(f, &f->counters.closed, 1);
	free(room);
	free(data);
}

static void the_end_of_life_of_a_connection_that_is_ending_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	int fd;

	settings.says.max_requests = 1;
	settings.lifetime_ms = 300;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\nand more\n"); /* so it lingers */
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	run_for(f, 600);
	assert_int_equal(COUNT(f, closed), 0);
	assert_int_equal(COUNT(f, lifetimes), 0);
	run_until(f, &f->counters.closed, 1);
	close(fd);
}

/* ---- Limits that clients share -------------------------------------------------------------- */

struct table {
	int fd;
	struct limits *limits;
};

#define PLACES 2

static struct table table_of(struct limits_rules rules)
{
	struct error err = {0};
	struct table table = {.fd = memory_file_shared("limits", limits_size(PLACES), &err)};

	assert_true(table.fd >= 0);
	table.limits = limits_open(table.fd, PLACES, 0, &rules, &err);
	assert_non_null(table.limits);
	return table;
}

/* Everything was given back, while the server still serves. */
static void end_of_table(struct fixture *f, struct table *table)
{
	run_until(f, &f->counters.closed, COUNT(f, accepted));
	assert_int_equal(limits_connections(table->limits), 0);
	server_free(f->server);
	f->server = NULL;
	limits_close(table->limits);
	close(table->fd);
}

static void a_service_has_no_more_than_max_connections(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections = 3});
	int fds[3], fd;

	settings.limits[1] = table.limits;
	serve(f, settings);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, 3);
	assert_refused(f, client(f));
	assert_int_equal(COUNT(f, refused_connections), 1);
	assert_int_equal(limits_connections(table.limits), 3);
	assert_contains(support_log_text(), "refused: max_connections\n");
	close(fds[1]);
	run_until(f, &f->counters.closed, 2);
	fd = client(f);
	client_say(f, fd, "now\n");
	assert_hears(f, fd, "now\n");
	assert_refused(f, client(f));
	assert_served(f, fds[0]);
	assert_served(f, fds[2]);
	close(fd);
	end_of_table(f, &table);
}

static void a_connection_that_lingers_still_counts(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections = 1});
	int fd;

	settings.says.max_requests = 1;
	settings.limits[1] = table.limits;
	serve(f, settings);
	fd = client(f);
	client_say(f, fd, "hello\nmore\n");
	assert_hears(f, fd, "hello\n");
	assert_end(f, fd);
	assert_refused(f, client(f));
	close(fd);
	run_until(f, &f->counters.closed, 2);
	assert_served(f, client(f));
	end_of_table(f, &table);
}

static void one_source_has_no_more_than_its_own(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections_per_source = 1});
	int one;

	settings.limits[1] = table.limits;
	settings.refusal = SERVER_MESSAGE;
	f->speaks = true;
	serve(f, settings);
	one = client_from(f, "127.0.0.2");
	run_until(f, &f->counters.accepted, 1);
	for (int i = 0; i < 3; i++) {
		int fd = client_from(f, "127.0.0.2");

		assert_hears(f, fd, "echod: refused: too many connections from your address\r\n");
		assert_refused(f, fd);
	}
	assert_served(f, client_from(f, "127.0.0.3"));
	assert_served(f, one);
	assert_int_equal(COUNT(f, refused_source), 3);
	assert_contains(support_log_text(), "refused: max_connections_per_source\n");
	end_of_table(f, &table);
}

static void one_network_has_no_more_than_its_own(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections_per_prefix = 2});
	int one, two;

	settings.limits[1] = table.limits;
	serve(f, settings);
	one = client_from(f, "127.0.0.2");
	two = client_from(f, "127.0.0.200");
	run_until(f, &f->counters.accepted, 2);
	assert_refused(f, client_from(f, "127.0.0.3"));
	assert_served(f, client_from(f, "127.0.1.3"));
	assert_int_equal(COUNT(f, refused_prefix), 1);
	assert_served(f, one);
	run_until(f, &f->counters.closed, 3);
	assert_served(f, client_from(f, "127.0.0.3"));
	assert_served(f, two);
	assert_contains(support_log_text(), "refused: max_connections_per_prefix\n");
	end_of_table(f, &table);
}

/* Until it is served; each try is a connection. Returns the tries. */
static unsigned tries_until_served(struct fixture *f, const char *source)
{
	int64_t begun = clock_ms();
	char got[6];

	for (unsigned i = 1; clock_ms() - begun < 20000; i++) {
		uint64_t closed = COUNT(f, closed);
		int fd = client_from(f, source);
		size_t n;

		client_say(f, fd, "hello\n");
		n = client_read(f, fd, got, sizeof(got));
		close(fd);
		run_until(f, &f->counters.closed, closed + 1);
		if (n == sizeof(got))
			return i;
		run_for(f, 50);
	}
	fail_msg("it is never served again");
	return 0;
}

static void new_connections_over_the_rate_are_refused_and_later_ones_are_not(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connection_rate = 5});
	int64_t begun = clock_ms();
	int fds[20];
	uint64_t allowed;

	settings.limits[1] = table.limits;
	serve(f, settings);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, COUNT_OF(fds));
	allowed = COUNT_OF(fds) - COUNT(f, refused_rate);
	assert_true(allowed >= 5);
	assert_true(allowed <= 5 + 5 * (uint64_t)(clock_ms() - begun + 1000) / 1000);
	close_all(fds, COUNT_OF(fds));
	run_until(f, &f->counters.closed, COUNT_OF(fds));
	tries_until_served(f, "127.0.0.1");
	assert_contains(support_log_text(), "refused: max_connection_rate\n");
	end_of_table(f, &table);
}

static void a_source_that_comes_too_often_takes_nothing_from_others(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){
		.connection_rate = 3,
		.connection_rate_per_source = 1,
	});

	settings.limits[1] = table.limits;
	serve(f, settings);
	assert_served(f, client_from(f, "127.0.0.2"));
	for (int i = 0; i < 10; i++)
		close(client_from(f, "127.0.0.2"));
	run_until(f, &f->counters.accepted, 11);
	assert_true(COUNT(f, refused_source_rate) >= 9);
	assert_served(f, client_from(f, "127.0.0.3"));
	assert_served(f, client_from(f, "127.0.0.4"));
	assert_int_equal(COUNT(f, refused_rate), 0);
	assert_contains(support_log_text(), "refused: max_connection_rate_per_source\n");
	end_of_table(f, &table);
}

static void whom_the_service_refuses_takes_nothing_from_the_other_services(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table all = table_of((struct limits_rules){.connection_rate = 1000000000});
	struct table own = table_of((struct limits_rules){.connections = 1});
	struct limits_source source;
	struct limits_hold hold;
	bool full;
	int fds[20];

	settings.limits[0] = all.limits;
	settings.limits[1] = own.limits;
	serve(f, settings);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, COUNT_OF(fds));
	assert_int_equal(COUNT(f, refused_connections), COUNT_OF(fds) - 1);
	assert_int_equal(support_log_count("of all services"), 0);
	/* Of all services together there is one connection. */
	assert_int_equal(limits_connections(all.limits), 1);
	limits_source_of(&source, (struct sockaddr *)&f->address, 0);
	assert_int_equal(limits_enter(all.limits, &source, clock_us(), &hold, &full),
			 LIMITS_ALLOWED);
	limits_leave(all.limits, &hold);
	close_all(fds, COUNT_OF(fds));
	end_of_table(f, &own);
	assert_int_equal(limits_connections(all.limits), 0);
	limits_close(all.limits);
	close(all.fd);
}

static void the_rate_of_all_services_is_not_used_up_by_refused_clients_of_one(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	/* One in 1000 s would be better, but a bucket holds a second's worth: 2. */
	struct table all = table_of((struct limits_rules){.connection_rate = 2});
	struct table own = table_of((struct limits_rules){.connections = 1});
	int64_t begun = clock_ms();
	int fds[20];

	settings.limits[0] = all.limits;
	settings.limits[1] = own.limits;
	serve(f, settings);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, COUNT_OF(fds));
	assert_int_equal(COUNT(f, refused_rate), 0);
	assert_int_equal(COUNT(f, refused_connections), COUNT_OF(fds) - 1);
	assert_true(clock_ms() - begun < 20000);
	close_all(fds, COUNT_OF(fds));
	end_of_table(f, &own);
	limits_close(all.limits);
	close(all.fd);
}

static void a_limit_of_all_services_is_named_as_such(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table all = table_of((struct limits_rules){.connections = 1});
	struct table own = table_of((struct limits_rules){.connections = 5});
	int fd;

	settings.limits[0] = all.limits;
	settings.limits[1] = own.limits;
	serve(f, settings);
	fd = client(f);
	run_until(f, &f->counters.accepted, 1);
	assert_refused(f, client(f));
	assert_contains(support_log_text(), "refused: max_connections of all services\n");
	/* What the service's own table had given was given back. */
	assert_int_equal(limits_connections(own.limits), 1);
	assert_served(f, fd);
	end_of_table(f, &all);
	assert_int_equal(limits_connections(own.limits), 0);
	limits_close(own.limits);
	close(own.fd);
}

static void unix_clients_count_by_their_user(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections_per_source = 1});
	struct sockaddr_un address;
	socklen_t len;
	int fd;

	settings.limits[1] = table.limits;
	serve_at(f, &settings, unix_listener(&address, &len));
	fd = unix_client(&address, len);
	run_until(f, &f->counters.accepted, 1);
	assert_refused(f, unix_client(&address, len));
	assert_served(f, fd);
	end_of_table(f, &table);
}

static void every_end_of_a_connection_gives_back_what_it_held(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections_per_source = 100,
							    .connections_per_prefix = 100});
	int fds[6];

	settings.limits[1] = table.limits;
	settings.idle_timeout_ms = 500;
	settings.lifetime_ms = 60000;
	serve(f, settings);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client(f);
	run_until(f, &f->counters.accepted, COUNT_OF(fds));
	assert_int_equal(limits_connections(table.limits), COUNT_OF(fds));
	close(fds[0]);
	client_reset(fds[1]);
	shutdown(fds[2], SHUT_WR);
	run_until(f, &f->counters.closed, 3);
	assert_int_equal(limits_connections(table.limits), 3);
	run_until(f, &f->counters.idle_timeouts, 3);
	assert_int_equal(limits_connections(table.limits), 0);
	close_all(fds + 2, 4);
	fds[0] = client(f);
	run_until(f, &f->counters.accepted, 7);
	server_cut_off(f->server);
	close(fds[0]);
	end_of_table(f, &table);
}

static void a_refused_client_costs_no_descriptor(void **state)
{
	struct fixture *f = *state;
	struct server_settings settings = lines();
	struct table table = table_of((struct limits_rules){.connections = 1});
	int keeper, before, after;

	settings.limits[1] = table.limits;
	serve(f, settings);
	keeper = client(f);
	run_until(f, &f->counters.accepted, 1);
	before = dup(keeper);
	close(before);
	for (int i = 0; i < 100; i++)
		assert_refused(f, client(f));
	after = dup(keeper);
	close(after);
	assert_int_equal(after, before);
	close(keeper);
	end_of_table(f, &table);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_empty_list_allows_everybody),
		TEST(the_first_rule_that_matches_decides),
		TEST(whom_no_rule_matches_gets_the_opposite_of_the_last),
		TEST(both_the_daemon_and_the_service_must_allow),
		TEST(a_unix_client_is_known_by_its_user_and_its_groups),
		TEST(networks_are_not_for_unix_clients_and_the_word_unix_is),
		TEST(outside_its_times_a_service_refuses),
		TEST(within_its_times_a_service_serves),
		TEST(the_times_of_all_services_hold_too),
		TEST(a_machine_below_max_load_serves),
		TEST(a_machine_over_max_load_refuses),
		TEST(a_refusal_by_close_is_a_fin_whatever_the_client_has_sent),
		TEST(a_refusal_by_reset_is_a_reset),
		TEST(a_refusal_by_message_is_a_line_and_a_fin),
		TEST(a_refused_unix_client_gets_an_end_of_file_or_the_line),
		TEST(a_client_that_stays_after_its_refusal_is_closed_soon),
		TEST(of_a_flood_of_refused_clients_only_some_are_told_why),
		TEST(a_drain_ends_though_refused_clients_stay),
		TEST(a_client_that_says_nothing_is_closed_after_first_byte_timeout),
		TEST(after_its_first_byte_a_client_has_idle_timeout),
		TEST(a_greeting_does_not_count_as_the_clients_first_byte),
		TEST(a_connection_lives_no_longer_than_lifetime),
		TEST(what_was_received_before_the_end_of_its_life_goes_out),
		TEST(the_end_of_life_of_a_connection_that_is_ending_changes_nothing),
		TEST(a_service_has_no_more_than_max_connections),
		TEST(a_connection_that_lingers_still_counts),
		TEST(one_source_has_no_more_than_its_own),
		TEST(one_network_has_no_more_than_its_own),
		TEST(new_connections_over_the_rate_are_refused_and_later_ones_are_not),
		TEST(a_source_that_comes_too_often_takes_nothing_from_others),
		TEST(whom_the_service_refuses_takes_nothing_from_the_other_services),
		TEST(the_rate_of_all_services_is_not_used_up_by_refused_clients_of_one),
		TEST(a_limit_of_all_services_is_named_as_such),
		TEST(unix_clients_count_by_their_user),
		TEST(every_end_of_a_connection_gives_back_what_it_held),
		TEST(a_refused_client_costs_no_descriptor),
	};

	support_limit_time(180);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
