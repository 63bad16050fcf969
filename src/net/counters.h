/*
 * What a worker counts: one page of shared memory a worker, in a memory file that outlives a
 * restart. Each number has a single writer, the worker; the supervisor only reads. It never takes a
 * pid, an index or a length from here: a worker that was taken over can lie about its own numbers
 * and nothing else.
 */
#ifndef ECHOD_NET_COUNTERS_H
#define ECHOD_NET_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * X(name, what it counts): the page, the totals and `echod status --json` are made from this list.
 */
#define COUNTERS(X)                                                                                \
	X(accepted, "connections accepted")                                                        \
	X(closed, "connections ended, for whatever reason")                                        \
	X(requests, "lines answered")                                                              \
	X(bytes_in, "bytes received")                                                              \
	X(bytes_out, "bytes sent")                                                                 \
	X(too_long, "connections ended for a line longer than max_line")                           \
	X(idle_timeouts, "connections ended by idle_timeout")                                      \
	X(write_timeouts, "connections ended by write_timeout")                                    \
	X(resets, "connections ended by an error of the client's side")                            \
	X(no_memory, "connections ended for want of memory")                                       \
	X(cut_off, "connections ended by a stop or a retirement that ran out of time")             \
	X(first_byte_timeouts, "connections ended by first_byte_timeout")                          \
	X(lifetimes, "connections ended by lifetime")                                              \
	X(refused_access, "connections and datagrams refused by access")                           \
	X(refused_times, "connections and datagrams refused by access_times")                      \
	X(refused_load, "connections and datagrams refused by max_load")                           \
	X(refused_connections, "connections refused by max_connections")                           \
	X(refused_source, "connections refused by max_connections_per_source")                     \
	X(refused_prefix, "connections refused by max_connections_per_prefix")                     \
	X(refused_rate, "connections refused by max_connection_rate")                              \
	X(refused_source_rate, "connections refused by max_connection_rate_per_source")            \
	X(refused_proxy, "connections and datagrams without the PROXY header that is required")    \
	X(proxy_errors, "connections and datagrams with a malformed PROXY header")                 \
	X(sources_full, "connections that could not be counted by source")                         \
	X(throttled, "pauses in reading for a limit of bytes or requests")                         \
	X(datagrams, "datagrams received")                                                         \
	X(datagram_replies, "datagrams answered")                                                  \
	X(datagrams_not_for_us, "datagrams to or from multicast or broadcast, not answered")       \
	X(datagrams_port, "datagrams from a source port that is not answered")                     \
	X(datagrams_looping, "datagrams that came back and were not answered")                     \
	X(datagrams_rate, "datagrams over max_datagram_rate, not answered")                        \
	X(datagrams_nameless, "datagrams of Unix sockets without an address to answer to")         \
	X(datagrams_unsent, "replies that the kernel did not take")                                \
	X(accept_pauses, "pauses for want of descriptors or memory")                               \
	X(log_dropped, "log messages that nobody could take in time")

/*
 * The size of the page never changes with the list, so that the next version can read this one's.
 */
#define COUNTERS_SIZE 4096

struct counters {
	_Atomic uint64_t heartbeat; /* signs of life that were asked for */
	_Atomic uint64_t paused;    /* 1: does not accept for want of descriptors or memory */
#define COUNTERS_FIELD(name, text) _Atomic uint64_t name;
	COUNTERS(COUNTERS_FIELD)
#undef COUNTERS_FIELD
};

_Static_assert(sizeof(struct counters) <= COUNTERS_SIZE, "the counters fit into their page");

/* The same as plain numbers. */
struct counters_total {
#define COUNTERS_FIELD(name, text) uint64_t name;
	COUNTERS(COUNTERS_FIELD)
#undef COUNTERS_FIELD
};

/* For a number that is no count. */
static inline void counter_set(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, n, memory_order_relaxed);
}

/* A single writer needs no locked instruction: a relaxed load and store are plain moves. */
static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline uint64_t counter_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit((_Atomic uint64_t *)counter, memory_order_relaxed);
}

/* Add a worker's numbers to a total. */
static inline void counters_sum(struct counters_total *total, const struct counters *counters)
{
#define COUNTERS_FIELD(name, text) total->name += counter_get(&counters->name);
	COUNTERS(COUNTERS_FIELD)
#undef COUNTERS_FIELD
}

#endif
