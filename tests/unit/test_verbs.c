/*
 * Orders that meet: what one client waits for, while another's order, or a restart, changes it. All
 * in one process: clients of the control socket, and children whose processes do nothing.
 */
#include "support.h"

#include <event2/event.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/memory_file.h"
#include "run/control.h"
#include "run/lifecycle.h"
#include "run/supervisor.h"

struct fixture {
	char *directory;
	char pidfile[SUPPORT_PATH_MAX];
	struct sockaddr_un address;
	struct supervisor supervisor;
	struct conf conf;
	struct generation former;
	struct generation next;
};

static char *const words[] = {(char *)"/bin/sleep", (char *)"1000", NULL};

static void begin_generation(struct fixture *f, struct generation *generation, uint64_t number)
{
	*generation = (struct generation){.supervisor = &f->supervisor,
					  .number = number,
					  .conf = &f->conf,
					  .committed = true};
	TAILQ_INIT(&generation->services);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = {0};

	if (f == NULL || support_make_directory((void **)&f->directory) < 0)
		return -1;
	*state = f;
	support_log_capture();
	support_join(f->pidfile, f->directory, "echod.pid");
	f->address.sun_family = AF_UNIX;
	snprintf(f->address.sun_path, sizeof(f->address.sun_path), "%s/sock", f->directory);
	f->conf = (struct conf){.drain_timeout = 1000, .start_timeout = 10000};
	supervisor_set_up(&f->supervisor, NULL);
	f->supervisor.base = event_base_new();
	f->supervisor.phase = PHASE_SERVING;
	f->supervisor.pidfile.path = f->pidfile;
	begin_generation(f, &f->former, 1);
	begin_generation(f, &f->next, 2);
	f->supervisor.current = &f->former;
	f->supervisor.control = control_open(&f->supervisor, f->address.sun_path, &err);
	return f->supervisor.control == NULL ? -1 : 0;
}

static void free_services(struct generation *generation)
{
	struct service *service;

	while ((service = TAILQ_FIRST(&generation->services)) != NULL)
		service_free(service); /* NOLINT: it leaves the list first */
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct child *child;
	int result;

	TAILQ_FOREACH (child, &f->supervisor.children, link) {
		if (child->pid == 0)
			continue;
		child_kill(child, SIGKILL);
		waitpid(child->pid, NULL, 0);
		child_detach(child);
	}
	free_services(&f->former);
	free_services(&f->next);
	while ((child = TAILQ_FIRST(&f->supervisor.children)) != NULL)
		child_free(child); /* NOLINT: it leaves the list first */
	control_close(f->supervisor.control);
	event_base_free(f->supervisor.base);
	result = support_remove_directory((void **)&f->directory);
	free(f);
	return result;
}

/* ---- Services ------------------------------------------------------------------------------- */

static int do_nothing(void *arg)
{
	(void)arg;
	while (pause() < 0)
		;
	return 0;
}

/* A program that was added, its keeper not ready yet. */
static struct service *starting(struct generation *generation, const char *name)
{
	struct error err = {0};
	struct conf_service *added = conf_program_new(name, words, NULL, NULL, false, &err);
	struct service *service = service_new(generation, NULL, added, &err);
	int ends[2], counters = memory_file_shared("test", COUNTERS_SIZE, &err);
	struct child *child;

	assert_true(service != NULL && counters >= 0);
	assert_int_equal(service_fill_places(service, &err), 0);
	child = service->slots[0];
	assert_int_equal(channel_pair(ends, &err), 0);
	/* The process has its own copy of the other end. */
	assert_int_equal(
		child_attach(child, support_fork(do_nothing, NULL), ends[0], counters, &err), 0);
	close(ends[1]);
	child->state = CHILD_STARTING;
	return service;
}

/* The same in the next generation, which has not taken it over yet. */
static struct service *planned(struct generation *generation, const char *name, const char *restart)
{
	struct error err = {0};
	struct conf_service *added = conf_program_new(name, words, NULL, restart, false, &err);
	struct service *service = service_new(generation, NULL, added, &err);

	assert_non_null(service);
	return service;
}

static void end(struct child *child)
{
	pid_t pid = child->pid;
	int status;

	child_kill(child, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	generation_child_ended(child, status);
}

/* ---- Clients -------------------------------------------------------------------------------- */

static void run(struct fixture *f)
{
	for (int i = 0; i < 20; i++)
		event_base_loop(f->supervisor.base, EVLOOP_NONBLOCK);
}

static int ask(struct fixture *f, const char *request)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&f->address, sizeof(f->address)), 0);
	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
	run(f);
	return fd;
}

static void assert_waits(struct fixture *f, int fd)
{
	char byte;

	run(f);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static void assert_answered(struct fixture *f, int fd, const char *part)
{
	char reply[2048];
	ssize_t len;

	run(f);
	len = recv(fd, reply, sizeof(reply) - 1, MSG_DONTWAIT);
	assert_true(len > 0);
	reply[len] = '\0';
	assert_contains(reply, part);
	close(fd);
}

/* ---- What meets ----------------------------------------------------------------------------- */

static void one_may_remove_what_another_waits_for_to_start(void **state)
{
	struct fixture *f = *state;
	struct child *child = starting(&f->former, "sensor")->slots[0];
	int one, other;

	one = ask(f, "{\"verb\":\"start\",\"args\":[\"sensor\"]}\n");
	assert_waits(f, one);
	other = ask(f, "{\"verb\":\"remove\",\"args\":[\"sensor\"]}\n");
	assert_waits(f, other);
	end(child);
	assert_answered(f, one, "the service sensor is gone");
	assert_answered(f, other, "sensor is removed");
}

static void a_restart_may_take_over_what_a_client_waits_for_to_start(void **state)
{
	struct fixture *f = *state;
	struct service *taken;
	struct child *child;
	int fd;

	starting(&f->former, "changed");
	child = starting(&f->former, "same")->slots[0];
	planned(&f->next, "changed", "never");
	taken = planned(&f->next, "same", NULL);
	fd = ask(f, "{\"verb\":\"start\",\"args\":[\"same\"]}\n");
	assert_waits(f, fd);
	/* "changed" ends, and those who wait are asked about, before "same" has moved. */
	f->supervisor.current = &f->next;
	generation_take_over(&f->next, &f->former);
	assert_ptr_equal(taken->slots[0], child);
	assert_waits(f, fd);
	child->program = child->pid;
	lifecycle_event(child, EVENT_GO);
	assert_answered(f, fd, "same runs (pid ");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_may_remove_what_another_waits_for_to_start),
		TEST(a_restart_may_take_over_what_a_client_waits_for_to_start),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
