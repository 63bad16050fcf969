/* Telling a service manager how we are: the protocol of sd_notify(3), without its library. */
#ifndef ECHOD_OS_NOTIFY_H
#define ECHOD_OS_NOTIFY_H

/*
 * Send one message ("READY=1\nSTATUS=…") to the socket that NOTIFY_SOCKET names; nothing happens
 * when no manager listens. Never blocks. Returns 1 when it was sent, 0 when there is no manager, -1
 * with errno.
 */
int notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
