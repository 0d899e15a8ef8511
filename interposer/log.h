/* SPDX-License-Identifier: MIT
 *
 * The log inside the target: packed records (packed.h) go to a page of the session's pool
 * (session.h) owned by the calling thread. Called by preload.c (calls) and os.c (system calls).
 * Makes no system call but the few of attach.c, takes no lock, never allocates, keeps errno.
 *
 * Every allocator call is bracketed by guard.h, which calls log_enter and log_leave. log_enter
 * makes room for LOG_ROOM_SLOTS, waiting for the collector if it must (no lock is held there), so
 * that the puts inside neither wait nor fail; a call that needs more asks with log_has_room and
 * log_make_room while it holds no lock. A signal handler that interrupts a call and allocates gets
 * a bracket of its own at the next depth, with a page of its own. Calls that the thread's cache
 * serves are logged without all that, by log_fast.h.
 *
 * When the time is read, told once. A record's tick says "not before", and reading the time costs
 * more than malloc. So a thread reads it only where it matters for the order of all threads'
 * events, which must have each block allocated before it is freed, and freed before it is handed
 * out again:
 *
 *   - Between what one thread does with a block, its own order is enough.
 *   - A tick that is too early does no harm to an allocation that another thread's free follows,
 *     nor to a free that another thread's allocation follows. So the second one reads the time:
 *     the free (or realloc) of a block that another thread may have allocated, and the allocation
 *     of a block that another thread may have freed: the first that is taken from an arena after
 *     somebody else was in there (arena.taker), after the arena has grown, and any with a mapping
 *     of its own. What is in the thread's cache it has freed itself, or it came along from the
 *     arena in such a call or a later one.
 *   - Which thread allocated a block is told by its arena: each has at most one home thread
 *     (home.h); what another thread takes from the arena bears its number until it is freed.
 *
 * For the axis of time, it is also read after each round of the collector and with each page; and
 * after a fork, so that nothing that followed it seems to have come before.
 */
#ifndef HEAPLEDGER_LOG_H
#define HEAPLEDGER_LOG_H

#include "heapledger/record.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_ROOM_SLOTS 64
#define LOG_SYSCALL_SLOTS 6

/* How deep the call under way is, for guard.h and the records within: 1 for a plain call, more when
 * a signal handler interrupted one in this thread; 0 between calls. */
extern __thread uint32_t log_depth __attribute__((tls_model("initial-exec")));
extern _Atomic bool log_off; /* not recorded, or not any more */

static inline bool log_is_off(void)
{
	return __builtin_expect(atomic_load_explicit(&log_off, memory_order_relaxed), 1);
}

/* A call begins, whose log_depth has been set: its kind, size and caller become the cause of the
 * system calls within. */
void log_enter(enum hl_kind kind, size_t size, const void *caller);
void log_leave(void);

/* The record of the call under way, no-op when the process is not recorded. `handed`: its block may
 * come from another thread. Call it after a block is taken and before one is given back. */
struct log_call {
	enum hl_kind kind;
	bool handed;
	uint8_t flags; /* HL_CHUNK_... */
	const void *addr;
	size_t size, chunk, alignment;
};
void log_call(const struct log_call *call);

/* Mode observe, when the kernel's record of system calls is there: the call of the real allocator
 * begins and ends. Whatever takes so short that no system call fits in is not logged. */
void log_call_begin(void);
void log_call_end(void);

/* os.c fills everything but tick, duration, caller and cause's kind and size. */
uint64_t log_tick(void);
void log_syscall(struct hl_syscall_record *record, uint64_t start_tick);

bool log_has_room(void);
void log_make_room(void);

/* A phase begins, within a bracket. What any thread logs after this bears a later time. */
void log_phase(const char *name);

/* This thread's next record reads the time; or that of every thread, and all home ranges end. */
void log_restamp(void);
void log_restamp_all(void);

/* Process and thread life. */
void log_thread_exit(void);  /* from the thread's destructor: give the pages back */
void log_fork_hold(void);    /* before that: other threads' next calls wait, for a while */
void log_fork_prepare(void); /* in the forking thread, heap locks held: writes the fork mark */
void log_fork_parent(void);  /* first, while the heap's locks are still held */
void log_fork_child(bool interrupted); /* in the child: a new stream; as arena_fork_prepare */
/* What caches still hold, one by one, with the tick at which that was so; within a bracket, without
 * any lock, before log_process_exit or log_phase. First for address 0 how many follow, as record.h
 * says it. False if there was no room. */
bool log_kept(uint64_t tick, uint64_t block, uint64_t bytes, uint64_t chunk);

/* The calling thread as struct hl_cache_place has it. */
uint64_t log_thread(void);

/* Memory of the recorder's own, and back; the two calls are logged as such. NULL: there is none. */
void *log_borrow(size_t bytes);
void log_give_back(void *memory, size_t bytes);

void log_process_start(void); /* from its constructor, the first of all */
void log_process_exit(void); /* from the library's destructor: final sample and exit mark */

#endif
