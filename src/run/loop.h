/* The event loop of every process. */
#ifndef ECHOD_RUN_LOOP_H
#define ECHOD_RUN_LOOP_H

struct event_base;

/*
 * A loop whose messages go to our log, and whose timers count from the true time: what took long in
 * one turn, a name that had to be looked up, must not shorten the time that others are given after
 * it. Without a cached time a turn without timers reads no clock, either. NULL without memory.
 */
struct event_base *loop_new(void);

#endif
