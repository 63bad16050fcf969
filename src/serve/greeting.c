/* The greeting of a service: what is said before the client says anything. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/error.h"
#include "base/text.h"
#include "serve/proto.h"
#include "serve/proxy.h"

#define FIELD_MAX 512 /* room for any of them: the longest is a path with each byte escaped */

static const struct sockaddr *peer_of(const struct proto_facts *facts)
{
	if (facts->proxy != NULL && !facts->proxy->local)
		return (const struct sockaddr *)&facts->proxy->source.storage;
	return facts->peer;
}

static const struct sockaddr *local_of(const struct proto_facts *facts)
{
	if (facts->proxy != NULL && !facts->proxy->local)
		return (const struct sockaddr *)&facts->proxy->destination.storage;
	return facts->local;
}

static void write_text(char *out, const char *text)
{
	text_escape_ascii(out, FIELD_MAX, text, strlen(text));
}

static void write_address(char *out, const struct sockaddr *address)
{
	char name[FACTS_UNIX_MAX];
	size_t len;

	if (address->sa_family != AF_UNIX) {
		address_format(out, FIELD_MAX, address);
		return;
	}
	len = facts_unix_name(name, address);
	if (len > 0)
		text_escape_ascii(out, FIELD_MAX, name, len);
	else
		write_text(out, "unnamed");
}

static void write_host(char *out, const struct proto_facts *facts)
{
	write_text(out, facts->host);
}

static void write_peer(char *out, const struct proto_facts *facts)
{
	write_address(out, peer_of(facts));
}

static void write_local(char *out, const struct proto_facts *facts)
{
	write_address(out, local_of(facts));
}

static void write_port(char *out, const struct proto_facts *facts)
{
	const struct sockaddr *local = local_of(facts);
	char host[ADDR_TEXT_MAX];

	if (local->sa_family == AF_UNIX)
		write_text(out, "-");
	else
		snprintf(out, FIELD_MAX, "%u", address_format_host(host, sizeof(host), local));
}

static void write_service(char *out, const struct proto_facts *facts)
{
	write_text(out, facts->service);
}

static void write_worker(char *out, const struct proto_facts *facts)
{
	write_text(out, facts->worker);
}

static void write_time(char *out, const struct proto_facts *facts)
{
	facts_format_time(out, &facts->now, false);
}

static void write_pid(char *out, const struct proto_facts *facts)
{
	(void)facts;
	snprintf(out, FIELD_MAX, "%d", (int)getpid());
}

static const struct field {
	const char *name;
	void (*write)(char *out, const struct proto_facts *facts);
} fields[] = {
	{"host", write_host}, {"peer", write_peer},	  {"local", write_local},
	{"port", write_port}, {"service", write_service}, {"worker", write_worker},
	{"time", write_time}, {"pid", write_pid},
};

/* Takes a field's name off the text, which stands behind the "%". */
static int field(const char **text, const struct proto_facts *facts, struct proto_out *out,
		 struct error *err)
{
	size_t len = strspn(*text, "abcdefghijklmnopqrstuvwxyz");
	const char *name = *text;
	char value[FIELD_MAX];

	if (*name == '%') {
		if (facts != NULL)
			out->write(out, name, 1);
		++*text;
		return 0;
	}
	*text += len;
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strlen(fields[i].name) != len || memcmp(fields[i].name, name, len) != 0)
			continue;
		if (facts != NULL) {
			fields[i].write(value, facts);
			out->write(out, value, strlen(value));
		}
		return 0;
	}
	if (len == 0)
		return error_set(err, EXIT_CONFIG,
				 "no field stands behind a %%; write %%%% for a percent sign");
	return error_set(err, EXIT_CONFIG,
			 "there is no field %%%.*s; there are %%host, %%peer, %%local, %%port, "
			 "%%service, %%worker, %%time and %%pid, and %%%% for a percent sign",
			 len < 64 ? (int)len : 64, name);
}

/* Takes an escape off the text, which stands behind the backslash. */
static int escape(const char **text, bool write, struct proto_out *out, struct error *err)
{
	static const char letters[] = "rnt\\", meant[] = "\r\n\t\\";
	const char *letter = **text == '\0' ? NULL : strchr(letters, **text);

	if (letter == NULL)
		return error_set(err, EXIT_CONFIG,
				 "a backslash must stand before r, n, t or \\; write \\\\ for a "
				 "backslash (in a file \\\\\\\\)");
	++*text;
	if (write)
		out->write(out, &meant[letter - letters], 1);
	return 0;
}

int greeting_write(const char *greeting, const struct proto_facts *facts, struct proto_out *out,
		   struct error *err)
{
	while (*greeting != '\0') {
		size_t plain = strcspn(greeting, "%\\");
		int result;

		if (plain > 0) {
			if (facts != NULL)
				out->write(out, greeting, plain);
			greeting += plain;
			continue;
		}
		if (*greeting++ == '%')
			result = field(&greeting, facts, out, err);
		else
			result = escape(&greeting, facts != NULL, out, err);
		if (result < 0)
			return -1;
	}
	return 0;
}
