/*
 * Configurations: a text from a memory file goes through the reader and the parser; what was read
 * survives a hand-over. Lines "-o KEY=VALUE" in front of it are overrides of the command line.
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/conf.h"
#include "conf/source.h"

const char fuzz_name[] = "conf";

/* libconfig 1.5 forgets the strings that stand before a mistake in the syntax. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:strbuf_append\nleak:libconfig_yylex\n";
}

#define OVERRIDES_MAX 4
#define TEXT_MAX      16384 /* bytes: the parser's time grows with its nested lists */

/* Where the parser finds the text: includes are looked for beside it, where only descriptors are.
 */
static const char *put_text(const void *text, size_t len)
{
	static char path[64];
	static int fd = -1;

	if (fd < 0) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		/* root obeys no file that others could write. */
		FUZZ_CHECK(fd >= 0 && fchmod(fd, 0600) == 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	FUZZ_CHECK(ftruncate(fd, 0) == 0);
	FUZZ_CHECK(pwrite(fd, text, len, 0) == (ssize_t)len);
	return path;
}

/* Other files would make the result depend on the machine. */
static bool reads_others(const char *text)
{
	const char *include = text;

	while ((include = strstr(include, "@include")) != NULL) {
		size_t line = strcspn(include, "\n");

		if (memchr(include, '/', line) != NULL || memchr(include, '.', line) != NULL)
			return true;
		include += line;
	}
	return false;
}

static size_t take_overrides(struct fuzz_input *input, struct conf_override *settings, char **lines)
{
	size_t n = 0;

	while (n < OVERRIDES_MAX && input->size > 3 && memcmp(input->data, "-o ", 3) == 0) {
		char *equals;

		lines[n] = fuzz_line(input);
		equals = strchr(lines[n], '=');
		if (equals != NULL)
			*equals = '\0';
		settings[n] =
			(struct conf_override){lines[n] + 3, equals == NULL ? "" : equals + 1};
		n++;
	}
	return n;
}

static void check_errors(const struct conf_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		FUZZ_CHECK(errors->lines[i] != NULL && strstr(errors->lines[i], ": ") != NULL);
}

/* Without a mistake it may be served. */
static void check_conf(const struct conf *conf)
{
	FUZZ_CHECK(conf->pidfile != NULL || conf->control == NULL || conf->control[0] == '/');
	FUZZ_CHECK(conf->log.target != NULL && conf->log.level != NULL);
	for (size_t i = 0; i < conf->service_count; i++) {
		const struct conf_service *service = &conf->services[i];

		FUZZ_CHECK(service->name != NULL && service->where != NULL);
		FUZZ_CHECK(service->workers >= 0 && service->max_lines >= 0);
		FUZZ_CHECK(conf_is_program(service) || service->protocol != NULL);
		FUZZ_CHECK(!conf_is_program(service) || conf_program_equal(service, service));
	}
}

/* Returns how many mistakes it has. */
static size_t parse(const struct conf_source *source, const struct conf_overrides *overrides)
{
	struct conf_errors errors = {0};
	struct conf *conf = conf_parse(source, overrides, &errors);
	size_t count = errors.count;

	FUZZ_CHECK(conf != NULL);
	if (errors.count == 0)
		check_conf(conf);
	check_errors(&errors);
	conf_free(conf);
	conf_errors_free(&errors);
	return count;
}

/* The image that a restart executes must understand the very same. */
static void check_hand_over(const struct conf_source *source,
			    const struct conf_overrides *overrides, size_t mistakes)
{
	struct blob_writer writer = {0};
	struct blob_reader reader = {0};
	struct conf_source *again;

	conf_source_pack(source, &writer);
	reader.data = writer.data;
	reader.len = writer.len;
	again = conf_source_unpack(&reader);
	FUZZ_CHECK(again != NULL && !reader.failed);
	FUZZ_CHECK(strcmp(conf_source_text(again), conf_source_text(source)) == 0);
	FUZZ_CHECK(parse(again, overrides) == mistakes);
	conf_source_free(again);
	blob_writer_free(&writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct conf_override settings[OVERRIDES_MAX];
	char *lines[OVERRIDES_MAX], *text;
	struct conf_overrides overrides = {.settings = settings};
	struct conf_errors errors = {0};
	struct conf_source *source = NULL;

	overrides.setting_count = take_overrides(&input, settings, lines);
	text = fuzz_alloc(input.size + 1);
	memcpy(text, input.data, input.size);
	if (input.size <= TEXT_MAX && !reads_others(text)) {
		source = conf_source_load(put_text(text, input.size), &errors);
		FUZZ_CHECK(source != NULL || errors.count > 0);
	}
	check_errors(&errors);
	if (source != NULL)
		check_hand_over(source, &overrides, parse(source, &overrides));
	conf_source_free(source);
	conf_errors_free(&errors);
	free(text);
	for (size_t i = 0; i < overrides.setting_count; i++)
		free(lines[i]);
	return 0;
}
