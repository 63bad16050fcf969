#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
	const char *name;
	int64_t factor;
};

static const struct unit time_units[] = {
	{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0},
};

static const struct unit size_units[] = {
	{"G", 1 << 30}, {"M", 1 << 20}, {"k", 1 << 10}, {"K", 1 << 10}, {"", 1}, {NULL, 0},
};

int text_parse_int(const char *text, int64_t *value)
{
	char *end;
	long long n;

	/* strtoll takes leading space and a plus sign; a configuration should not. */
	if (!isdigit((unsigned char)text[0]) && text[0] != '-')
		return -1;
	errno = 0;
	n = strtoll(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0')
		return -1;
	*value = n;
	return 0;
}

/* Digits, at most three digits behind a point, then one of the units. */
static int parse_with_unit(const char *text, const struct unit *units, int64_t bare_factor,
			   bool fraction_allowed, int64_t *value)
{
	char *end;
	long long whole, thousandths = 0;
	int64_t factor = bare_factor;

	if (!isdigit((unsigned char)text[0]))
		return -1;
	errno = 0;
	whole = strtoll(text, &end, 10);
	if (errno != 0)
		return -1;
	if (*end == '.' && fraction_allowed) {
		int scale = 100;

		for (end++; isdigit((unsigned char)*end) && scale > 0; end++, scale /= 10)
			thousandths += (*end - '0') * scale;
		if (isdigit((unsigned char)*end))
			return -1;
	}
	if (*end != '\0') {
		while (units->name != NULL && strcmp(units->name, end) != 0)
			units++;
		if (units->name == NULL)
			return -1;
		factor = units->factor;
	}
	/* A part of the smallest unit would be lost, and 0 means "never" in many places. */
	if (thousandths * factor % 1000 != 0)
		return -1;
	if (whole > INT64_MAX / factor - 1)
		return -1;
	*value = whole * factor + thousandths * factor / 1000;
	return 0;
}

int text_parse_time(const char *text, int64_t *ms)
{
	return parse_with_unit(text, time_units, 1000, true, ms);
}

int text_parse_size(const char *text, int64_t *bytes)
{
	return parse_with_unit(text, size_units, 1, false, bytes);
}

static void format_with_unit(char *out, size_t cap, int64_t value, const struct unit *units)
{
	while (units->factor > 1 && (value == 0 || value % units->factor != 0))
		units++;
	snprintf(out, cap, "%" PRId64 "%s", value / units->factor, units->name);
}

void text_format_time(char *out, size_t cap, int64_t ms)
{
	if (ms % 1000 == 0 && ms < 300000)
		snprintf(out, cap, "%" PRId64, ms / 1000);
	else
		format_with_unit(out, cap, ms, time_units);
}

void text_format_size(char *out, size_t cap, int64_t bytes)
{
	format_with_unit(out, cap, bytes, size_units);
}

/* C0, DEL, and the two bytes that are one of C1 in UTF-8: terminals obey them all (ECMA-48). */
static bool is_control(const char *text, size_t len, size_t i)
{
	unsigned char c = (unsigned char)text[i];
	unsigned char before = i > 0 ? (unsigned char)text[i - 1] : 0;
	unsigned char after = i + 1 < len ? (unsigned char)text[i + 1] : 0;

	return c < 0x20 || c == 0x7f || (c == 0xc2 && after >= 0x80 && after <= 0x9f) ||
	       (before == 0xc2 && c >= 0x80 && c <= 0x9f);
}

static size_t escape(char *out, size_t cap, const char *text, size_t len, unsigned char highest)
{
	static const char hex[] = "0123456789abcdef";
	size_t used = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		bool plain = c <= highest && !is_control(text, len, i);

		if (used + (plain ? 1 : 4) + 1 > cap)
			break;
		if (plain) {
			out[used++] = (char)c;
		} else {
			out[used++] = '\\';
			out[used++] = 'x';
			out[used++] = hex[c >> 4];
			out[used++] = hex[c & 15];
		}
	}
	if (cap > 0)
		out[used] = '\0';
	return used;
}

size_t text_escape(char *out, size_t cap, const char *text, size_t len)
{
	return escape(out, cap, text, len, 0xff);
}

size_t text_escape_ascii(char *out, size_t cap, const char *text, size_t len)
{
	return escape(out, cap, text, len, 0x7e);
}

static unsigned least_of(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

unsigned text_distance(const char *a, const char *b)
{
	unsigned rows[3][64]; /* the row of a[i - 1], the one before, and the one before that */
	size_t la = strlen(a), lb = strlen(b);

	if (la > 63 || lb > 63)
		return TEXT_FAR;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned *row = rows[i % 3];
		const unsigned *before = rows[(i + 2) % 3], *long_before = rows[(i + 1) % 3];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			row[j] = before[j - 1] + (a[i - 1] != b[j - 1]);
			row[j] = least_of(row[j], least_of(before[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = least_of(row[j], long_before[j - 2] + 1);
		}
	}
	return rows[la % 3][lb];
}

bool text_is_nearer(const char *word, const char *candidate, unsigned *best)
{
	unsigned distance = text_distance(word, candidate);
	size_t len = strlen(word);

	/*
	 * A third of the letters, at least one: "max_line" for "maxlines", never "user" for "port".
	 */
	if (distance > (len < 3 ? 1 : (len + 2) / 3) || distance >= *best)
		return false;
	*best = distance;
	return true;
}
