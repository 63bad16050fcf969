#include "run/settings.h"

#include <string.h>

void settings_check(const struct conf *conf, struct conf_errors *errors)
{
	for (size_t i = 0; i < conf->service_count; i++) {
		const struct conf_service *service = &conf->services[i];
		struct error err = {0};

		if (service->greeting != NULL &&
		    greeting_write(service->greeting, NULL, NULL, &err) < 0)
			conf_errors_add(errors, service->where, "greeting: %s", err.text);
	}
}

bool settings_client_speaks_first(const struct conf_service *service)
{
	const struct proto *proto = proto_find(service->protocol);

	return proto != NULL && !proto->speaks_first && proto->produce == NULL &&
	       service->greeting == NULL;
}

/* The choice's place in a list that is in the order of its enum; the configuration knows no other.
 */
static int choice(const char *value, const char *const *choices)
{
	for (int i = 0; choices[i] != NULL; i++)
		if (value != NULL && strcmp(value, choices[i]) == 0)
			return i;
	return 0;
}

static struct proto_settings says_of(const struct conf_service *service)
{
	static const char *const delimiters[] = {"lf", "crlf", "nul", NULL};
	static const char *const transforms[] = {"none", "upper", "lower", "reverse", "hex", NULL};

	return (struct proto_settings){
		.max_requests =
			service->max_lines == 0 ? PROTO_NO_LIMIT : (uint64_t)service->max_lines,
		.max_line = (size_t)service->max_line,
		.delimiter = (enum proto_delimiter)choice(service->delimiter, delimiters),
		.transform = (enum proto_transform)choice(service->transform, transforms),
		.split = service->on_long_line != NULL &&
			 strcmp(service->on_long_line, "split") == 0,
		.greeting = service->greeting,
	};
}

/* 0 is no limit. */
static int64_t stricter(int64_t a, int64_t b)
{
	if (a == 0 || b == 0)
		return a + b;
	return a < b ? a : b;
}

int settings_of_service(struct server_settings *settings, const struct conf *all,
			const struct conf_service *service, struct error *err)
{
	static const char *const refusals[] = {"close", "reset", "message", NULL};
	static const char *const proxies[] = {"off", "optional", "required", NULL};
	const struct conf_limits *a = &all->limits, *b = &service->limits;

	*settings = (struct server_settings){
		.proto = proto_find(service->protocol),
		.says = says_of(service),
		.read_at_accept =
			service->defer_accept > 0 && settings_client_speaks_first(service),
		.max_pending = (size_t)stricter(a->max_pending, b->max_pending),
		.busy_poll_us = (unsigned)service->busy_poll,
		.idle_timeout_ms = stricter(a->idle_timeout, b->idle_timeout),
		.write_timeout_ms = stricter(a->write_timeout, b->write_timeout),
		.first_byte_timeout_ms = stricter(a->first_byte_timeout, b->first_byte_timeout),
		.lifetime_ms = stricter(a->lifetime, b->lifetime),
		.access = {&a->access, &b->access},
		.times = {&a->access_times, &b->access_times},
		.max_load = (unsigned)stricter(a->max_load, b->max_load),
		.byte_rate = (uint64_t)stricter(a->max_byte_rate, b->max_byte_rate),
		.request_rate = (uint64_t)stricter(a->max_request_rate, b->max_request_rate),
		.refusal = (enum server_refusal)choice(service->on_refuse, refusals),
		.proxy = (enum server_proxy)choice(service->proxy_protocol, proxies),
		.proxy_from = service->proxy_from,
		.proxy_from_count = service->proxy_from_count,
	};
	if (settings->proto == NULL)
		return error_set(err, EXIT_CONFIG, "there is no protocol '%s'", service->protocol);
	return 0;
}

void settings_silent_ports(const struct conf_service *service, struct port_set *ports)
{
	for (size_t i = 0; i < service->deny_source_port_count; i++)
		for (unsigned port = service->deny_source_ports[i].from;
		     port <= service->deny_source_ports[i].until; port++)
			port_set_add(ports, (uint16_t)port);
}
