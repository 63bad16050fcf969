#include "run/inetd.h"

#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/logtarget.h"
#include "net/server.h"
#include "os/environment.h"
#include "os/fds.h"
#include "os/listen.h"
#include "os/memory_file.h"
#include "os/privileges.h"
#include "run/loop.h"
#include "run/signals.h"
#include "run/settings.h"
#include "run/supervisor.h"
#include "run/tables.h"

#define LONELY_MS 60000
#define TURN_MS	  1000

struct inetd {
	int fd; /* what was on 0; -1: the server has it */
	struct conf *conf;
	const struct conf_service *service;
	struct event_base *base;
	struct server *server;
	struct event *timer;
	struct counters counters;
	struct limits *limits[SERVER_SCOPES];
	struct port_set silent_ports;
	char host[HOST_NAME_MAX + 1];
	uint64_t came; /* clients, when it was last looked */
	int64_t since; /* clock_ms of the last time that there was one */
	int64_t lonely_ms;
};

/* ---- The log -------------------------------------------------------------------------------- */

static void log_to_system(void)
{
	const struct log_settings settings = {"syslog", "daemon", "/dev/log"};

	logtarget_open(&settings, &(struct error){0});
}

int inetd_fail(const struct error *err)
{
	if (logtarget_fd() < 0)
		log_to_system();
	log_error("%s", err->text);
	return err->code;
}

/* ---- Becoming it ---------------------------------------------------------------------------- */

/* Of others, nobody could be served. One that is no socket has no family. */
static bool is_usable(int fd)
{
	int family = -1, type = -1;
	socklen_t len = sizeof(int);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	return (family == AF_INET || family == AF_INET6 || family == AF_UNIX) &&
	       (type == SOCK_STREAM || type == SOCK_DGRAM);
}

/*
 * The client's descriptor moves away from 0, so that nothing that a library prints reaches the
 * client, and no copy of it outlives the connection.
 */
static int take_descriptor(struct error *err)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

	if (null < 0 || fd < 0 || fds_redirect_standard(null) < 0)
		return error_errno(err, "cannot take over descriptor 0");
	fds_close_except(&(int){fd}, 1);
	if (!is_usable(fd))
		return error_set(
			err, EXIT_FAILED,
			"descriptor 0 is no socket of connections or datagrams: --inetd is "
			"for inetd and the like to start");
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return error_errno(err, "cannot make descriptor 0 non-blocking");
	return fd;
}

static const struct conf_service *only_service(const struct conf *conf, struct error *err)
{
	const struct conf_service *found = NULL;

	for (size_t i = 0; i < conf->service_count; i++) {
		if (conf_is_program(&conf->services[i]))
			continue;
		if (found != NULL) {
			error_set(err, EXIT_CONFIG,
				  "there are several services: say which with --inetd=NAME");
			return NULL;
		}
		found = &conf->services[i];
	}
	if (found == NULL)
		error_set(err, EXIT_CONFIG, "there is no service with a protocol");
	return found;
}

static const struct conf_service *find_service(const struct conf *conf, const char *name,
					       struct error *err)
{
	if (name == NULL)
		return only_service(conf, err);
	for (size_t i = 0; i < conf->service_count; i++)
		if (strcmp(conf->services[i].name, name) == 0 &&
		    !conf_is_program(&conf->services[i]))
			return &conf->services[i];
	error_set(err, EXIT_CONFIG, "there is no service '%s' with a protocol", name);
	return NULL;
}

/* Opens the log as well: where it goes is known even if there is a mistake elsewhere. */
static int read_conf(struct inetd *inetd, const struct launch *launch, struct error *err)
{
	struct conf_errors errors = {0};
	struct conf_source *source = conf_source_load(launch->config, &errors);
	struct conf_overrides overrides = launch->overrides;

	overrides.foreground = false; /* its stderr would be a place for the log */
	if (source != NULL)
		inetd->conf = conf_parse(source, &overrides, &errors);
	if (inetd->conf != NULL)
		settings_check(inetd->conf, &errors);
	conf_source_free(source);
	if (inetd->conf == NULL || supervisor_open_log(launch, inetd->conf, err) < 0)
		log_to_system();
	for (size_t i = 0; i + 1 < errors.count; i++)
		log_error("%s", errors.lines[i]);
	if (errors.count > 0)
		error_set(err, errors.unreadable ? EXIT_PERMISSION : EXIT_CONFIG, "%s",
			  errors.lines[errors.count - 1]);
	else if (inetd->conf == NULL)
		error_set(err, EXIT_FAILED, "no memory for the configuration");
	conf_errors_free(&errors);
	return err->code == 0 ? 0 : -1;
}

static int become(const struct inetd *inetd, struct error *err)
{
	const struct conf_service *service = inetd->service;
	bool own = service->user != NULL || service->group != NULL;
	const char *user = service->user != NULL ? service->user : inetd->conf->user;
	const char *group = own ? service->group : inetd->conf->group;
	struct privileges privileges;

	environment_clean();
	if (chdir("/") < 0)
		return error_errno(err, "cannot change the directory to /");
	if (privileges_resolve(&privileges, user, group, err) < 0)
		return -1;
	return privileges_drop(&privileges, err);
}

/* ---- Serving -------------------------------------------------------------------------------- */

static void on_idle(void *arg)
{
	struct inetd *inetd = arg;

	event_base_loopexit(inetd->base, NULL);
}

/* The socket is shared with who started us: what comes from now on is seen there. */
static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	struct inetd *inetd = arg;
	uint64_t came = inetd->counters.accepted + inetd->counters.datagrams;

	(void)fd;
	(void)what;
	if (came != inetd->came || server_connections(inetd->server) > 0)
		inetd->since = clock_ms();
	inetd->came = came;
	if (clock_ms() - inetd->since < inetd->lonely_ms)
		return;
	evtimer_del(inetd->timer);
	server_stop_accepting(inetd->server, false); /* and on_idle ends the loop */
}

static int await_clients(struct inetd *inetd, struct error *err)
{
	int64_t idle = inetd->service->limits.idle_timeout, turn;
	struct timeval tv;

	inetd->lonely_ms = idle > 0 && idle < LONELY_MS ? idle : LONELY_MS;
	inetd->since = clock_ms();
	turn = inetd->lonely_ms / 4 < TURN_MS ? inetd->lonely_ms / 4 + 1 : TURN_MS;
	tv = (struct timeval){turn / 1000, turn % 1000 * 1000};
	inetd->timer = event_new(inetd->base, -1, EV_PERSIST, on_turn, inetd);
	if (inetd->timer == NULL || evtimer_add(inetd->timer, &tv) < 0)
		return error_set(err, EXIT_FAILED, "no memory for a timer");
	if (server_add_socket(inetd->server, inetd->fd, err) < 0)
		return -1;
	inetd->fd = -1;
	return server_accept_on(inetd->server, 0, true, err);
}

static bool is_connection(int fd)
{
	int type = 0, listens = 0;
	socklen_t len = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM &&
	       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && !listens;
}

/* What the service asks of its sockets. That inetd has set others is no reason to refuse. */
static void set_options(const struct inetd *inetd)
{
	const struct conf_service *service = inetd->service;
	const struct listen_options options = {
		.nodelay = service->nodelay,
		.keepalive_ms = service->keepalive,
		.user_timeout_ms = service->user_timeout,
		.receive_buffer = service->receive_buffer,
		.send_buffer = service->send_buffer,
		.tos = service->tos,
		.ttl = service->ttl,
		.passed = true,
	};
	struct error err = {0};

	if (listen_set(inetd->fd, &options, &err) < 0)
		log_warning("%s", err.text);
}

/* There is one process: what all processes would share is its own. */
static int open_limits(struct inetd *inetd, struct error *err)
{
	const struct conf_limits *limits[SERVER_SCOPES] = {&inetd->conf->limits,
							   &inetd->service->limits};

	for (int i = 0; i < SERVER_SCOPES; i++) {
		struct limits_rules rules = limits_rules_of(limits[i]);
		int fd;

		if (!limits_needed(&rules))
			continue;
		fd = memory_file_shared("echod-limits", limits_size(1), err);
		if (fd < 0)
			return -1;
		inetd->limits[i] = limits_open(fd, 1, 0, &rules, err);
		close(fd);
		if (inetd->limits[i] == NULL)
			return -1;
	}
	return 0;
}

static int make_server(struct inetd *inetd, struct error *err)
{
	struct server_settings settings;

	if (settings_of_service(&settings, inetd->conf, inetd->service, err) < 0 ||
	    open_limits(inetd, err) < 0)
		return -1;
	if (gethostname(inetd->host, sizeof(inetd->host) - 1) < 0)
		return error_errno(err, "cannot read the host's name");
	settings_silent_ports(inetd->service, &inetd->silent_ports);
	settings.service = settings.worker = inetd->service->name;
	settings.host = inetd->host;
	settings.silent_ports = &inetd->silent_ports;
	settings.read_at_accept = false;
	for (int i = 0; i < SERVER_SCOPES; i++)
		settings.limits[i] = inetd->limits[i];
	inetd->base = loop_new();
	if (inetd->base != NULL)
		inetd->server =
			server_new(inetd->base, &settings, &inetd->counters, on_idle, inetd);
	return inetd->server == NULL ? error_errno(err, "cannot serve") : 0;
}

static int serve(struct inetd *inetd, struct error *err)
{
	int fd = inetd->fd;

	if (make_server(inetd, err) < 0)
		return -1;
	set_options(inetd);
	if (!is_connection(fd)) {
		if (await_clients(inetd, err) < 0)
			return -1;
	} else {
		inetd->fd = -1;
		if (server_add_connection(inetd->server, fd, err) < 0)
			return -1;
	}
	if (event_base_dispatch(inetd->base) < 0)
		return error_set(err, EXIT_FAILED, "the event loop failed");
	return 0;
}

static void tear_down(struct inetd *inetd)
{
	server_free(inetd->server);
	for (int i = 0; i < SERVER_SCOPES; i++)
		limits_close(inetd->limits[i]);
	if (inetd->timer != NULL)
		event_free(inetd->timer);
	if (inetd->base != NULL)
		event_base_free(inetd->base);
	libevent_global_shutdown();
	if (inetd->fd >= 0)
		close(inetd->fd);
	conf_free(inetd->conf);
	logtarget_close();
}

int inetd_run(const struct launch *launch, const char *name)
{
	static struct inetd inetd; /* too large for a stack */
	struct error err = {0};
	int code = EXIT_DONE;

	signals_default();
	signal(SIGPIPE, SIG_IGN);
	inetd.fd = take_descriptor(&err);
	if (inetd.fd >= 0 && read_conf(&inetd, launch, &err) == 0)
		inetd.service = find_service(inetd.conf, name, &err);
	if (inetd.service == NULL || become(&inetd, &err) < 0 || serve(&inetd, &err) < 0)
		code = inetd_fail(&err);
	tear_down(&inetd);
	return code;
}
