/*
 * The control socket: lines of the input are requests, each on a connection of its own, to a
 * supervisor whose processes are made up. Lines that begin with ! are what happens meanwhile:
 *
 *   !go N              process N does its work
 *   !end N STATUS      it ends (waitpid(2))
 *   !say N TYPE VALUE  it sends this message over its channel, with the rest of the line as text
 *   !raw N BYTES       it sends these bytes
 *   !next              a restart begins, or ends
 *   !leave             the oldest client goes away
 *   !stop              a polite stop
 */
#include "fuzz.h"

#include <errno.h>
#include <event2/event.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "os/memory_file.h"
#include "run/control.h"
#include "run/lifecycle.h"
#include "run/orphans.h"
#include "run/restart.h"
#include "run/spawn.h"
#include "run/stoplist.h"
#include "run/supervisor.h"

const char fuzz_name[] = "control";

#define CLIENTS_MAX   24
#define PROCESSES_MAX 32
#define LINES_MAX     64
#define REPLY_MAX     (1024 * 1024)
#define FIRST_PID     0x40000000 /* larger than any that Linux gives: signals reach nobody */

static struct fixture {
	struct supervisor supervisor;
	struct conf conf;
	struct conf_service line;
	struct generation generation;
	struct generation next;
	int clients[CLIENTS_MAX];
	size_t client_count;
	int processes[PROCESSES_MAX]; /* their ends of the channels; -1: it has ended */
	size_t process_count;
} fixture;

static char directory[64];
static char pidfile[96];
static struct sockaddr_un address = {.sun_family = AF_UNIX};

/* ---- In place of processes: the linker puts these before the daemon's own -------------------- */

int __wrap_child_spawn(struct child *child, struct error *err);
int __wrap_kill(pid_t pid, int sig);
unsigned __wrap_orphans_kill(struct supervisor *supervisor, pid_t program);

int __wrap_child_spawn(struct child *child, struct error *err)
{
	size_t n = fixture.process_count;
	int ends[2], counters;

	if (n == PROCESSES_MAX)
		return error_set(err, EXIT_FAILED, "too many processes");
	counters = memory_file_shared("fuzz", COUNTERS_SIZE, err);
	FUZZ_CHECK(counters >= 0 && channel_pair(ends, err) == 0);
	fixture.processes[n] = ends[1];
	fixture.process_count++;
	child->generation = child->service->generation->number;
	child->stop_timeout = child->service->conf->stop_timeout;
	return child_attach(child, FIRST_PID + (pid_t)n, ends[0], counters, err);
}

int __wrap_kill(pid_t pid, int sig)
{
	FUZZ_CHECK(pid >= FIRST_PID && pid < FIRST_PID + (pid_t)fixture.process_count);
	FUZZ_CHECK(sig >= 0 && sig <= SIGRTMAX);
	return 0;
}

unsigned __wrap_orphans_kill(struct supervisor *supervisor, pid_t program)
{
	(void)supervisor;
	(void)program;
	return 0;
}

/* ---- A supervisor ---------------------------------------------------------------------------- */

static void remove_directory(void)
{
	unlink(address.sun_path);
	rmdir(directory);
}

static void make_directory(void)
{
	const char *parent = getenv("TMPDIR");

	snprintf(directory, sizeof(directory), "%s/echod-fuzz-XXXXXX",
		 parent != NULL && strlen(parent) < 40 ? parent : "/tmp");
	FUZZ_CHECK(mkdtemp(directory) != NULL);
	snprintf(pidfile, sizeof(pidfile), "%s/echod.pid", directory);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/sock", directory);
	atexit(remove_directory);
}

static void begin_generation(struct generation *generation, uint64_t number)
{
	struct conf_errors errors = {0};

	*generation = (struct generation){.supervisor = &fixture.supervisor,
					  .number = number,
					  .conf = &fixture.conf,
					  .source = conf_source_load(NULL, &errors),
					  .committed = true};
	TAILQ_INIT(&generation->services);
}

static void add_services(void)
{
	static char *const words[] = {(char *)"/bin/sleep", (char *)"1000", NULL};
	struct error err = {0};
	struct conf_service *sensor =
		conf_program_new("sensor", words, NULL, "on-failure", false, &err);

	fixture.line = (struct conf_service){.name = (char *)"line",
					     .protocol = (char *)"line",
					     .where = (char *)"built in",
					     .workers = 2};
	FUZZ_CHECK(service_new(&fixture.generation, &fixture.line, NULL, &err) != NULL);
	FUZZ_CHECK(service_new(&fixture.generation, NULL, sensor, &err) != NULL);
}

static void set_up(void)
{
	struct supervisor *supervisor = &fixture.supervisor;
	struct error err = {0};
	struct service *service;

	memset(&fixture, 0, sizeof(fixture));
	fixture.conf = (struct conf){.drain_timeout = 1000, .start_timeout = 10000};
	supervisor_set_up(supervisor, NULL);
	supervisor->base = event_base_new();
	supervisor->phase = PHASE_SERVING;
	supervisor->pidfile.path = pidfile;
	begin_generation(&fixture.generation, 1);
	begin_generation(&fixture.next, 2);
	supervisor->current = &fixture.generation;
	supervisor->control = control_open(supervisor, address.sun_path, &err);
	FUZZ_CHECK(supervisor->control != NULL);
	add_services();
	TAILQ_FOREACH (service, &fixture.generation.services, link)
		FUZZ_CHECK(service_fill_places(service, &err) == 0);
}

static void tear_down(void)
{
	struct supervisor *supervisor = &fixture.supervisor;
	struct service *service;
	struct child *child;

	TAILQ_FOREACH (child, &supervisor->children, link)
		if (child->pid != 0)
			child_detach(child);
	while ((service = TAILQ_FIRST(&fixture.generation.services)) != NULL)
		service_free(service);
	while ((child = TAILQ_FIRST(&supervisor->children)) != NULL)
		child_free(child);
	control_close(supervisor->control);
	event_base_free(supervisor->base);
	conf_source_free(fixture.generation.source);
	conf_source_free(fixture.next.source);
	stoplist_remove(pidfile);
	for (size_t i = 0; i < fixture.process_count; i++)
		if (fixture.processes[i] >= 0)
			close(fixture.processes[i]);
}

static void run(void)
{
	for (int i = 0; i < 6; i++)
		event_base_loop(fixture.supervisor.base, EVLOOP_NONBLOCK);
}

/* ---- Clients --------------------------------------------------------------------------------- */

/* One line of JSON that says whether it went well, and if not, why. */
static void check_reply(const char *reply, size_t len)
{
	json_error_t error;
	json_t *json;

	FUZZ_CHECK(reply[len - 1] == '\n' && memchr(reply, '\n', len - 1) == NULL);
	json = json_loadb(reply, len, JSON_REJECT_DUPLICATES, &error);
	FUZZ_CHECK(json != NULL);
	FUZZ_CHECK(json_integer_value(json_object_get(json, "schema")) == 1);
	if (json_is_true(json_object_get(json, "ok"))) {
		FUZZ_CHECK(json_object_get(json, "error") == NULL);
	} else {
		const char *text = json_string_value(json_object_get(json, "error"));
		json_int_t code = json_integer_value(json_object_get(json, "code"));

		FUZZ_CHECK(json_is_false(json_object_get(json, "ok")));
		FUZZ_CHECK(text != NULL && text[0] != '\0' && code >= 1 && code <= 7);
	}
	json_decref(json);
}

/* What the daemon has answered; all of it is read before the connection ends. */
static void leave(int client)
{
	static char reply[REPLY_MAX];
	size_t len = 0;
	ssize_t n;

	while ((n = recv(client, reply + len, sizeof(reply) - len, MSG_DONTWAIT)) > 0) {
		len += (size_t)n;
		run();
	}
	if (len > 0)
		check_reply(reply, len);
	close(client);
}

static void leave_oldest(void)
{
	if (fixture.client_count == 0)
		return;
	leave(fixture.clients[0]);
	fixture.client_count--;
	memmove(fixture.clients, fixture.clients + 1, fixture.client_count * sizeof(int));
}

static void ask(const char *request, size_t len, bool whole)
{
	int client;

	if (fixture.client_count == CLIENTS_MAX)
		leave_oldest();
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	FUZZ_CHECK(client >= 0 &&
		   connect(client, (struct sockaddr *)&address, sizeof(address)) == 0);
	fixture.clients[fixture.client_count++] = client;
	/* It may be refused while it is still sending. */
	if (send(client, request, len, MSG_NOSIGNAL) >= 0 && whole)
		send(client, "\n", 1, MSG_NOSIGNAL);
}

/* ---- What happens meanwhile ------------------------------------------------------------------ */

/* The Nth of those that have a process; NULL: there is none. */
static struct child *find(unsigned n)
{
	struct child *child;
	unsigned count = 0;

	TAILQ_FOREACH (child, &fixture.supervisor.children, link)
		count += child->pid != 0;
	TAILQ_FOREACH (child, &fixture.supervisor.children, link)
		if (child->pid != 0 && n-- % (count == 0 ? 1 : count) == 0)
			return child;
	return NULL;
}

static int channel_of(const struct child *child)
{
	return fixture.processes[child->pid - FIRST_PID];
}

static void end(struct child *child, int status)
{
	int *channel = &fixture.processes[child->pid - FIRST_PID];

	close(*channel);
	*channel = -1;
	generation_child_ended(child, status);
}

static void go(struct child *child)
{
	if (child->kind == CHILD_PROGRAM)
		child->program = child->pid;
	if (child->state == CHILD_STARTING)
		lifecycle_event(child, EVENT_GO);
}

static void say(const struct child *child, const char *line)
{
	unsigned n, type;
	int text = 0;
	long long value;

	if (sscanf(line, "!say %u %u %lld %n", &n, &type, &value, &text) < 3)
		return;
	/* A text that is too long is refused by the sender already; !raw is for those. */
	(void)channel_send(channel_of(child), (enum channel_type)type, value, line + text,
			   strlen(line + text));
}

static void send_raw(const struct child *child, const char *line, size_t len)
{
	const char *space = memchr(line + 5, ' ', len - 5);

	if (space != NULL)
		send(channel_of(child), space + 1, len - (size_t)(space + 1 - line), MSG_NOSIGNAL);
}

static void toggle_next(void)
{
	struct supervisor *supervisor = &fixture.supervisor;

	if (supervisor->next == NULL) {
		supervisor->next = &fixture.next;
		supervisor->restart.step = RESTART_WORKERS;
		supervisor->restart.begun++;
		return;
	}
	supervisor->next = NULL;
	supervisor->restart.step = RESTART_NONE;
	supervisor->restart.ended++;
	control_restart_ended(supervisor->control);
}

static void happen(const char *line, size_t len)
{
	struct child *child;
	unsigned n = 0;
	int status = 0;

	if (strcmp(line, "!next") == 0) {
		toggle_next();
	} else if (strcmp(line, "!leave") == 0) {
		leave_oldest();
	} else if (strcmp(line, "!stop") == 0) {
		fixture.supervisor.phase = PHASE_DRAINING;
		control_stopping(fixture.supervisor.control);
	} else if (sscanf(line, "!%*3s %u %d", &n, &status) >= 1 && (child = find(n)) != NULL) {
		if (strncmp(line, "!go ", 4) == 0)
			go(child);
		else if (strncmp(line, "!end ", 5) == 0)
			end(child, status & 0xffff);
		else if (strncmp(line, "!say ", 5) == 0)
			say(child, line);
		else if (strncmp(line, "!raw ", 5) == 0)
			send_raw(child, line, len);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};

	if (directory[0] == '\0')
		make_directory();
	set_up();
	for (int i = 0; i < LINES_MAX && input.size > 0; i++) {
		const uint8_t *start = input.data;
		char *line = fuzz_line(&input);
		size_t len = (size_t)(input.data - start);
		bool whole = len > 0 && start[len - 1] == '\n';

		len -= whole;
		if (line[0] == '!')
			happen(line, len);
		else
			ask((const char *)start, len, whole);
		run();
		free(line);
	}
	while (fixture.client_count > 0)
		leave_oldest();
	run();
	tear_down();
	return 0;
}
