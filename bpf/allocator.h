/* SPDX-License-Identifier: MIT
 *
 * Probes on the allocator of a running process: each call of it, from all its threads, and what the
 * probes cost it. Called by record/follow.c beside the kernel probe (probe.h), whose place it
 * needs. Built without libbpf it still links, and allocator_open says why there is none.
 */
#ifndef HEAPLEDGER_BPF_ALLOCATOR_H
#define HEAPLEDGER_BPF_ALLOCATOR_H

#include <linux/types.h>

#include "bpf/event.h"
#include "bpf/probe.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Where a probe goes: into the file that holds the allocator, not before the function's arguments
 * are there and not after they are gone. */
struct allocator_point {
	const char *path; /* NULL: the allocator's */
	uint64_t offset;
	uint64_t address; /* in the process */
	uint8_t kind;     /* enum hl_kind, or of event.h from EVENT_REALLOCARRAY on */
	bool throws;      /* and returns by points of their own, EVENT_RETURNING */
	bool stepped; /* the kernel cannot do the instruction's work itself (EVENT_HIT_STEPPED) */
	uint8_t skipped; /* bytes of the function before it */
	bool shared; /* in a library, which others call by its table of addresses: a direct call is
			the library's own */
};

#define ALLOCATOR_POINTS 80

struct allocator_cost {
	double hit_ns[EVENT_HITS]; /* measured before the probes were set, in this process */
	uint64_t hits[EVENT_HITS];
};

struct allocator_account {
	uint64_t made; /* records, of which ... */
	uint64_t lost; /* ... these are not there */
	struct allocator_cost cost;
};

struct allocator;

typedef void allocator_sink(void *context, const struct event_allocation *event);

/* Sets probes at `points` of `path` in the process `pid` alone. 0, or -errno with one line in
 * `why`, and then there is none left. */
int allocator_open(struct allocator **out, struct probe *probe, pid_t pid, const char *path,
	const struct allocator_point *points, size_t count, allocator_sink *sink, void *context,
	char *why, size_t why_bytes);

/* The record begins: with the next call that each thread makes. */
void allocator_start(struct allocator *allocator);

/* Takes what has gathered, without waiting; the ring holds 260,000 records. Returns how many. */
int allocator_poll(struct allocator *allocator);

/* Takes the rest and counts, so far: when the process ends. */
void allocator_count(struct allocator *allocator, struct allocator_account *account);

/* Ends the record, removes the probes, takes the rest. */
void allocator_close(struct allocator *allocator, struct allocator_account *account);

/* Seconds that the probes have taken from the process, by what a hit cost when it was measured. */
double allocator_seconds(const struct allocator_cost *cost);

#endif
