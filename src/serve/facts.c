#include "serve/facts.h"

#include <stdio.h>
#include <string.h>
#include <sys/un.h>

size_t facts_unix_name(char out[FACTS_UNIX_MAX], const struct sockaddr *address)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)address;
	size_t len = sizeof(un->sun_path);

	if (un->sun_path[0] != '\0') {
		len = strnlen(un->sun_path, len);
		memcpy(out, un->sun_path, len);
		return len;
	}
	while (len > 0 && un->sun_path[len - 1] == '\0')
		len--;
	if (len > 0) {
		memcpy(out, un->sun_path, len);
		out[0] = '@';
	}
	return len;
}

void facts_format_time(char out[FACTS_TIME_MAX], const struct timespec *time, bool microseconds)
{
	struct tm tm = {.tm_mday = 1};
	size_t len;

	gmtime_r(&time->tv_sec, &tm);
	len = strftime(out, FACTS_TIME_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	if (microseconds)
		snprintf(out + len, FACTS_TIME_MAX - len, ".%06ldZ", time->tv_nsec / 1000);
	else
		snprintf(out + len, FACTS_TIME_MAX - len, "Z");
}
