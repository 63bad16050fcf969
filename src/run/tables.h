/*
 * The tables of limits (net/limits.h) of a generation: one for all of its services that speak a
 * protocol, where each of their places has a number, and one for each of those services.
 */
#ifndef ECHOD_RUN_TABLES_H
#define ECHOD_RUN_TABLES_H

#include "conf/conf.h"
#include "net/limits.h"

struct child;
struct generation;

struct limits_rules limits_rules_of(const struct conf_limits *limits);

/*
 * When the sockets are known: number the places, which stay as many from now on, and see to it that
 * there is a table wherever the configuration needs one. One that was handed over goes on when it
 * fits; any other is closed. Returns -1 when one cannot be made; the others are there all the same.
 */
int tables_open(struct generation *generation, struct error *err);

/* A process has ended, maybe without a word: what it held in the tables is given back. */
void tables_give_back(const struct child *child);

#endif
