/* SPDX-License-Identifier: MIT
 *
 * The log inside the target: records go to a page of the session's pool (session.h) owned by the
 * calling thread. Called by preload.c (calls) and os.c (system calls). Makes no system call but
 * the few of log_attach, takes no lock, never allocates, keeps errno.
 *
 * Every allocator call is bracketed by log_enter and log_leave. log_enter makes room for
 * LOG_ROOM_SLOTS, waiting for the collector if it must (no lock is held there), so that the puts
 * inside neither wait nor fail; a call that needs more asks with log_has_room and log_make_room
 * while it holds no lock. A signal handler that interrupts a call and allocates gets a bracket of
 * its own at the next depth, with a page of its own.
 */
#ifndef HEAPLEDGER_LOG_H
#define HEAPLEDGER_LOG_H

#include "heapledger/record.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_ROOM_SLOTS 32

/* Begins a call: its kind and size become the cause of the system calls within. Returns the depth,
 * 0 for a plain call, more when a signal handler interrupted one in this thread. */
unsigned log_enter(enum hl_kind kind, size_t size);
void log_leave(void);

/* For guard.h: a process that is not recorded only needs the depth. */
extern __thread uint32_t log_depth __attribute__((tls_model("initial-exec")));
extern _Atomic bool log_off; /* not recorded, or not any more */

static inline bool log_is_off(void)
{
	return __builtin_expect(atomic_load_explicit(&log_off, memory_order_relaxed), 1);
}

/* The records. No-ops when the process is not recorded. log_call stamps the time itself; for an
 * allocation call it after the block is taken, for a free before it is given back. */
void log_call(enum hl_kind kind, const void *addr, size_t size, size_t chunk, unsigned flags);
void log_aligned(enum hl_kind kind, const void *addr, size_t size, size_t chunk, unsigned flags,
	size_t alignment);

/* os.c fills everything but tick, duration and cause's kind and size. */
uint64_t log_tick(void);
void log_syscall(struct hl_syscall_record *record, uint64_t start_tick);

bool log_has_room(void);
void log_make_room(void);

/* Process and thread life. */
void log_thread_exit(void);  /* from the thread's destructor: give the pages back */
void log_fork_hold(void);    /* before that: other threads' next calls wait, for a while */
void log_fork_prepare(void); /* in the forking thread, heap locks held: writes the fork mark */
void log_fork_parent(void);  /* first, while the heap's locks are still held */
void log_fork_child(void);   /* in the child: a new stream */
void log_process_exit(void); /* from the library's destructor: final sample and exit mark */

#endif
