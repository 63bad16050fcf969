#include "run/output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

/* One portion: a program that prints without end must not hold up orders. */
#define PORTION 4096

/* The most that is read at the end, in portions. A pipe holds 64 KiB, or 1 MiB for the asking. */
#define PORTIONS_AT_END 1024

static void pass_on(struct output *output)
{
	if (output->len > 0)
		output->line(output->text, output->len);
	output->len = 0;
}

/* `text` has no line feed in it. */
static void gather(struct output *output, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char byte[8]; /* \xHH at most */
		size_t width = text_escape(byte, sizeof(byte), &text[i], 1);

		/* Not sooner: a line of just that length has its line feed still to come. */
		if (output->len + width > sizeof(output->text))
			pass_on(output);
		memcpy(output->text + output->len, byte, width);
		output->len += width;
	}
}

static void split(struct output *output, const char *text, size_t len)
{
	const char *end;

	while ((end = memchr(text, '\n', len)) != NULL) {
		gather(output, text, (size_t)(end - text));
		pass_on(output);
		len -= (size_t)(end + 1 - text);
		text = end + 1;
	}
	gather(output, text, len);
}

int output_read(struct output *output)
{
	char portion[PORTION];
	ssize_t n = read(output->fd, portion, sizeof(portion));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0) {
		pass_on(output);
		return -1;
	}
	split(output, portion, (size_t)n);
	return 1;
}

void output_finish(struct output *output)
{
	/* Bounded: what could not be ended may still print. */
	for (int i = 0; i < PORTIONS_AT_END && output_read(output) > 0; i++)
		;
	pass_on(output);
}
