/*
 * The Daytime Protocol, RFC 867: date and time as a line of text. The RFC leaves its form open;
 * this is that of xinetd, "22 NOV 2026 16:40:46 UTC", in local time.
 */
#include <stdio.h>

#include "serve/proto.h"

#define ANSWER_MAX 64 /* bytes; 28 for the largest year, 2 for the end of the line */
#define ZONE_MAX   32

/* strftime(3) would name them in the language of the locale. */
static const char *const months[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
				     "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};

/* TZ may name any file, and that file any zone: none ends the line, or a word of it. */
static void name_zone(char *out, const char *zone)
{
	size_t i;

	for (i = 0; i < ZONE_MAX && zone[i] != '\0'; i++)
		out[i] = zone[i] > ' ' && zone[i] <= '~' ? zone[i] : '?';
	out[i] = '\0';
}

static size_t format(char *out, const struct proto_facts *facts)
{
	struct tm tm = {.tm_mday = 1, .tm_zone = "UTC"}; /* it stays for a year that is no int */
	char zone[ZONE_MAX + 1];

	localtime_r(&facts->now.tv_sec, &tm);
	name_zone(zone, tm.tm_zone);
	return (size_t)snprintf(out, ANSWER_MAX + 1, "%02d %s %lld %02d:%02d:%02d %s\r\n",
				tm.tm_mday, months[tm.tm_mon], 1900LL + tm.tm_year, tm.tm_hour,
				tm.tm_min, tm.tm_sec, zone);
}

static enum proto_next daytime_open(const struct proto_settings *settings,
				    const struct proto_facts *facts, struct proto_out *out)
{
	char answer[ANSWER_MAX + 1];
	size_t len = format(answer, facts);

	(void)settings;
	out->write(out, answer, len);
	return PROTO_CLOSE;
}

/* A datagram of any length asks for it, an empty one, too. */
static const unsigned char *daytime_datagram(const struct proto_settings *settings,
					     const struct proto_facts *facts, unsigned char *data,
					     size_t len, unsigned char *room, size_t *reply)
{
	(void)settings;
	(void)data;
	(void)len;
	*reply = format((char *)room, facts);
	return room;
}

const struct proto proto_daytime = {
	.name = "daytime",
	.speaks_first = true,
	.open = daytime_open,
	.datagram = daytime_datagram,
	.heeds_facts = true,
};
