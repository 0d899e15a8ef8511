/* SPDX-License-Identifier: MIT
 *
 * What the kernel's record says of pages that come and go, if `record --faults` made it: page
 * faults, and the system calls that take memory away, of each process image in the order of time.
 * Read by residence.c.
 */
#ifndef HEAPLEDGER_FAULTS_H
#define HEAPLEDGER_FAULTS_H

#include "trace.h"

enum faults_what {
	FAULTS_TOUCHED, /* in memory from now on */
	FAULTS_READ,    /* a fault that only read: the page of zeros, or one that was there */
	FAULTS_GONE,    /* not in memory any more */
	FAULTS_MOVED,   /* to where the next one, which is FAULTS_MOVED_TO, says */
	FAULTS_MOVED_TO
};

struct faults_event {
	uint64_t ns; /* CLOCK_MONOTONIC */
	uint64_t start;
	uint64_t bytes;
	uint32_t tid;
	uint8_t what;  /* enum faults_what */
	uint8_t flags; /* HL_FAULT_*, of a fault */
	bool fault;
};

/* Of one process, from its beginning or its fork on. */
struct faults_share {
	const struct faults_event *next, *end;
	uint32_t image;
	bool found;
};

struct faults;

/* 0 with *out NULL: none were recorded, or, with a sentence in `why`, not all. -errno, then
 * trace->error says why. */
int faults_read(struct faults **out, struct trace *trace, char *why, size_t why_bytes);
void faults_free(struct faults *faults);
struct faults_share faults_of(const struct faults *faults, size_t stream);

#endif
