/* SPDX-License-Identifier: MIT
 *
 * What the caches of a process hold at one moment (heapledger/caches.h), read from outside while it
 * runs: the records `kept` of a trace. Called by resident.c and the collector; writes nothing.
 */
#ifndef HEAPLEDGER_RECORD_CACHES_H
#define HEAPLEDGER_RECORD_CACHES_H

#include "session.h"

#include "heapledger/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct caches_source {
	const struct session *session; /* of its log; NULL: it has none */
	pid_t pid;
	uint32_t serial;  /* of the process */
	uint64_t address; /* hl_process.caches */
	/* As process_vm_readv, of the process; and what has every thread of it read the time anew
	 * at its next call, and returns the time. */
	ssize_t (*read)(const struct caches_source *source, const struct iovec *local,
		const struct iovec *remote, size_t count);
	uint64_t (*divide)(const struct caches_source *source);
	void *context; /* of both */
};

/* All zero before the first time; its memory is used again by the next. */
struct caches_held {
	struct hl_mark_record *record; /* a list's head and its blocks ... */
	size_t count;                  /* ... all of them */
	size_t capacity;
	uint64_t tick;   /* what was done by the process before, had been done; nothing else had */
	bool all;        /* of all caches and fast lists */
	uint32_t unread; /* lists that could not be read */
	unsigned tries;
	struct caches_scratch *scratch;
};

/* A process of a recording. */
struct caches_source caches_source(
	const struct session *session, pid_t pid, uint32_t serial, uint64_t address);

/* 0; -ESRCH if there is nothing to be read, or -errno. Then `count` is 0. */
int caches_take(struct caches_held *held, const struct caches_source *source);
void caches_free(struct caches_held *held);

#endif
