/* The environment of the daemon: a short list of names, nothing else of the launcher's. */
#ifndef ECHOD_OS_ENVIRONMENT_H
#define ECHOD_OS_ENVIRONMENT_H

/*
 * Drop every variable that is not on the list, and wipe the memory that held them; without a PATH,
 * a sane one is set. Pointers that getenv gave before are no longer good.
 */
void environment_clean(void);

#endif
