/* echod ps: the processes of all services, one a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/service.h"

#define CELL_MAX      256
#define NOTE_LEAST    16 /* columns; less room is no use */
#define TERMINAL_WIDE 80 /* a terminal that does not tell */

/* ---- Cells: what is null or absent is "-" ---------------------------------------------------- */

static void put_text(char *out, size_t cap, const json_t *value)
{
	const char *text = json_string_value(value);

	if (text == NULL)
		text = "-";
	text_escape(out, cap, text, strlen(text));
}

static void put_integer(char *out, size_t cap, const json_t *value)
{
	if (json_is_integer(value))
		snprintf(out, cap, "%lld", (long long)json_integer_value(value));
	else
		snprintf(out, cap, "-");
}

static void put_rate(char *out, size_t cap, const json_t *value)
{
	double rate = json_number_value(value);

	if (json_is_number(value))
		snprintf(out, cap, rate < 100 ? "%.1f" : "%.0f", rate);
	else
		snprintf(out, cap, "-");
}

/* The two largest units: "3s", "2m10s", "4h05m", "12d03h". */
static void format_age(char *out, size_t cap, double seconds)
{
	long long s = seconds > 0 && seconds < 1e15 ? (long long)seconds : 0;

	if (s < 60)
		snprintf(out, cap, "%llds", s);
	else if (s < 3600)
		snprintf(out, cap, "%lldm%02llds", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, cap, "%lldh%02lldm", s / 3600, s / 60 % 60);
	else
		snprintf(out, cap, "%lldd%02lldh", s / 86400, s / 3600 % 24);
}

static void put_age(char *out, size_t cap, const json_t *value)
{
	if (json_is_number(value))
		format_age(out, cap, json_number_value(value));
	else
		snprintf(out, cap, "-");
}

static void put_cpu(char *out, size_t cap, const json_t *value)
{
	double seconds = json_number_value(value);

	/* What would be rounded up to 60.00 is a minute. */
	if (!json_is_number(value))
		snprintf(out, cap, "-");
	else if (seconds < 59.995)
		snprintf(out, cap, "%.2fs", seconds);
	else
		format_age(out, cap, seconds + 0.005);
}

static void put_size(char *out, size_t cap, const json_t *value)
{
	const char *unit = "kMGTPE";
	double size = json_number_value(value) / 1024;

	for (; size >= 1023.95 && unit[1] != '\0'; unit++)
		size /= 1024;
	if (json_is_number(value))
		snprintf(out, cap, "%.1f%c", size, *unit);
	else
		snprintf(out, cap, "-");
}

static const struct column {
	const char *title;
	const char *key;
	bool number; /* right-aligned */
	void (*put)(char *out, size_t cap, const json_t *value);
} columns[] = {
	{"NAME", "name", false, put_text},
	{"PID", "pid", true, put_integer},
	{"KIND", "kind", false, put_text},
	{"STATE", "state", false, put_text},
	{"SINCE", "seconds", true, put_age},
	{"RESTARTS", "restarts", true, put_integer},
	{"CONNS", "connections", true, put_integer},
	{"REQ/S", "requests_per_second", true, put_rate},
	{"CPU", "cpu_seconds", true, put_cpu},
	{"MEMORY", "memory", true, put_size},
};

#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* ---- The table ------------------------------------------------------------------------------ */

/* Characters of UTF-8 text; that some are two columns wide is left to those who use them. */
static int width_of(const char *text)
{
	int width = 0;

	for (; *text != '\0'; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static void measure(const json_t *rows, int *widths)
{
	char cell[CELL_MAX];
	size_t i;
	json_t *row;

	for (size_t c = 0; c < COLUMNS; c++)
		widths[c] = width_of(columns[c].title);
	json_array_foreach (rows, i, row) {
		for (size_t c = 0; c < COLUMNS; c++) {
			columns[c].put(cell, sizeof(cell), json_object_get(row, columns[c].key));
			if (width_of(cell) > widths[c])
				widths[c] = width_of(cell);
		}
	}
}

static void print_cell(const struct column *column, const char *text, int width)
{
	int padding = width - width_of(text);

	if (column->number)
		printf("%*s%s", padding, "", text);
	else
		printf("%s%*s", text, padding, "");
}

/* How many columns there are for the notes; -1: any number. */
static int room_for_notes(const int *widths)
{
	const char *text = getenv("COLUMNS");
	struct winsize size = {0};
	int64_t room = TERMINAL_WIDE;

	if (!isatty(STDOUT_FILENO))
		return -1;
	if (text == NULL || text_parse_int(text, &room) < 0 || room <= 0 || room > 100000)
		room = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0
			       ? size.ws_col
			       : TERMINAL_WIDE;
	for (size_t c = 0; c < COLUMNS; c++)
		room -= widths[c] + 2;
	return room < NOTE_LEAST ? 0 : (int)room;
}

/* A note that is too long ends in "...", and never in the middle of a character. */
static void print_note(const char *text, int room)
{
	char note[4 * ERROR_TEXT_MAX];
	size_t len = 0;
	int width = 0;

	text_escape(note, sizeof(note), text, strlen(text));
	if (room < 0 || width_of(note) <= room) {
		printf("  %s", note);
		return;
	}
	while (note[len] != '\0' && width < room - 2)
		width += ((unsigned char)note[len++] & 0xc0) != 0x80;
	printf("  %.*s...", (int)len - 1, note);
}

static bool has_notes(const json_t *rows)
{
	size_t i;
	json_t *row;

	json_array_foreach (rows, i, row)
		if (json_is_string(json_object_get(row, "text")))
			return true;
	return false;
}

static bool wants_bold(void)
{
	const char *term = getenv("TERM"), *none = getenv("NO_COLOR");

	return isatty(STDOUT_FILENO) && (none == NULL || none[0] == '\0') && term != NULL &&
	       strcmp(term, "dumb") != 0;
}

static void print_header(const int *widths, bool notes)
{
	bool bold = wants_bold();

	if (bold)
		fputs("\033[1m", stdout);
	for (size_t c = 0; c < COLUMNS; c++) {
		fputs(c > 0 ? "  " : "", stdout);
		print_cell(&columns[c], columns[c].title, widths[c]);
	}
	fputs(notes ? "  NOTE" : "", stdout);
	puts(bold ? "\033[0m" : "");
}

static void print_row(const json_t *row, const int *widths, int room)
{
	const char *note = json_string_value(json_object_get(row, "text"));
	char cell[CELL_MAX];

	for (size_t c = 0; c < COLUMNS; c++) {
		columns[c].put(cell, sizeof(cell), json_object_get(row, columns[c].key));
		fputs(c > 0 ? "  " : "", stdout);
		print_cell(&columns[c], cell, widths[c]);
	}
	if (note != NULL && room != 0)
		print_note(note, room);
	puts("");
}

static void print_table(const json_t *rows)
{
	int widths[COLUMNS], room;
	size_t i;
	json_t *row;

	if (json_array_size(rows) == 0) {
		puts("echod: there are no services");
		return;
	}
	measure(rows, widths);
	room = room_for_notes(widths);
	print_header(widths, room != 0 && has_notes(rows));
	json_array_foreach (rows, i, row)
		print_row(row, widths, room);
}

/* ---- The verb ------------------------------------------------------------------------------- */

/* Each once, in the daemon's order: for scripts, and for the completion of command lines. */
static void print_names(const json_t *rows)
{
	json_t *seen = json_object(), *row;
	size_t i;

	json_array_foreach (rows, i, row) {
		const char *name = json_string_value(json_object_get(row, "service"));
		char escaped[CELL_MAX];

		if (name == NULL || json_object_get(seen, name) != NULL)
			continue;
		json_object_set_new(seen, name, json_true());
		text_escape(escaped, sizeof(escaped), name, strlen(name));
		puts(escaped);
	}
	json_decref(seen);
}

static int print_reply(const struct options *options, const json_t *reply)
{
	const json_t *rows = json_object_get(reply, "services");
	struct error err = {0};

	if (!json_is_array(rows)) {
		error_set(&err, EXIT_FAILED, "the daemon's answer cannot be understood");
		return cli_fail(&err);
	}
	if (options->json) {
		json_dumpf(reply, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		puts("");
	} else if (options->quiet) {
		print_names(rows);
	} else {
		print_table(rows);
	}
	return EXIT_DONE;
}

static int run(const struct options *options)
{
	struct error err = {0};
	json_t *request = client_request("ps", NULL, 0, &err), *reply;
	int code = service_ask(options, request, &err, service_answer_limit, &reply);

	if (code == EXIT_DONE)
		code = print_reply(options, reply);
	json_decref(reply);
	return code;
}

const struct command command_ps = {
	.name = "ps",
	.summary = "list the processes of all services",
	.takes = TAKES_JSON | TAKES_TIMEOUT,
	.run = run,
};
