#include "os/environment.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

/* What is kept, each for a reason. */
static const char *const kept[] = {
	"PATH",		   /* a restart finds the executable again; programs find theirs */
	"TZ",		   /* the log's local time */
	"LANG",		   /* error messages of the C library */
	"XDG_RUNTIME_DIR", /* the default pidfile of an ordinary user, also after a restart */
	"NOTIFY_SOCKET",   /* the service manager that waits for READY=1 (sd_notify(3)) */
	"JOURNAL_STREAM",  /* whether journald reads stderr (systemd.exec(5)) */
	"ECHOD_HANDOVER",  /* a restart in place, from the former image to the next one */
#ifdef ECHOD_SANITIZERS
	"ASAN_OPTIONS",
	"LSAN_OPTIONS",
	"UBSAN_OPTIONS",
#endif
};

#define KEPT_COUNT (sizeof(kept) / sizeof(kept[0]))

/*
 * clearenv only forgets the variables; their text stays in the memory that /proc/PID/environ shows,
 * with whatever secret the launcher had there.
 */
static void wipe(void)
{
	for (char **variable = environ; variable != NULL && *variable != NULL; variable++)
		memset(*variable, 0, strlen(*variable));
}

void environment_clean(void)
{
	char *values[KEPT_COUNT];

	for (size_t i = 0; i < KEPT_COUNT; i++) {
		const char *value = getenv(kept[i]);

		/* Without memory the name is lost as if it had not been set. */
		values[i] = value == NULL ? NULL : strdup(value);
	}
	wipe();
	clearenv();
	for (size_t i = 0; i < KEPT_COUNT; i++) {
		if (values[i] != NULL)
			setenv(kept[i], values[i], 1);
		free(values[i]);
	}
	if (getenv("PATH") == NULL)
		setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
}
