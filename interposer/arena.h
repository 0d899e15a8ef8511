/* SPDX-License-Identifier: MIT
 *
 * The arenas: the main one on the break (unless the policy is mmap), others in mapped heaps; which
 * thread uses which; their locks, and what fork does to them. Called by heap.c; what lies inside an
 * arena is carve.c's and grow.c's business.
 *
 * Fork, told once. The prepare handler takes every arena's lock; each holder leaves soon, because
 * nothing waits inside one. But after our handler glibc takes the locks of stdio, and a thread that
 * holds such a lock may be waiting for an arena. So while a fork is pending no thread waits without
 * bound: after LOCK_FORK_WAIT_NS arena_enter gives up, an allocation is served by a mapping of its
 * own and a freed chunk goes to the arena's list of deferred frees, which needs no lock and is
 * emptied by the next thread that enters. The parent drops the locks; the child resets them, and
 * arenas whose threads did not come along go to the free list. A signal handler that interrupts an
 * allocator call of its own thread uses the same two ways round the lock; when it forks, its own
 * thread may hold a lock, and the prepare handler's waits are bounded, too.
 */
#ifndef HEAPLEDGER_ARENA_H
#define HEAPLEDGER_ARENA_H

#include "bins.h"
#include "lock.h"

struct cache;
struct thread;

struct arena {
	struct lock lock;
	unsigned number; /* 0 = the main arena */
	bool scattered;  /* main arena: the break was refused once, top may lie anywhere */
	struct chunk *top;
	struct bins bins;
	_Atomic(struct chunk *) deferred; /* freed without the lock; linked by link.next */
	size_t system_bytes;              /* taken from the kernel and not given back */
	size_t system_bytes_max;
	size_t foreign_bytes;                /* main arena: moved over by somebody else's sbrk */
	char *base;                          /* main arena: the first break */
	_Atomic(struct arena *) next;        /* all arenas, in a ring that only grows */
	struct arena *next_free;             /* guarded by the list lock */
	size_t threads;                      /* that use it; guarded by the list lock */
	bool fork_held;                      /* by the fork under way */
	bool read_held;                      /* by a reading under way (others.c) */
	_Atomic(const struct thread *) home; /* home.h; NULL = none */
	const struct thread *taker; /* the last who took from it; NULL = others came since */

	bool in_segments;                  /* grows by segments (grow.h), not by the break */
	uint64_t entered_tick, entered_ms; /* purge.c: the last call ... */
	uint64_t sweep_ms;                 /* ... and when to look again */
};

extern struct arena arena_main;

/* thread.h; here only its address matters. */
extern __thread struct thread thread_self __attribute__((tls_model("initial-exec")));

/* Of the chunk's owner, from its address. */
struct arena *arena_of(const struct chunk *chunk);

/* Takes the lock; false while a fork is pending and it could not be had. The caller then goes
 * round it (see above). */
static inline bool arena_enter(struct arena *arena)
{
	if (!lock_take(&arena->lock))
		return false;
	if (__builtin_expect(arena->taker != &thread_self, 0))
		arena->taker = NULL;
	return true;
}

static inline void arena_leave(struct arena *arena)
{
	lock_drop(&arena->lock);
}

/* Frees a chunk without the lock: the next thread that enters does it. */
void arena_defer(struct arena *arena, struct chunk *chunk);
struct chunk *arena_take_deferred(struct arena *arena);

static inline bool arena_has_deferred(const struct arena *arena)
{
	return atomic_load_explicit(&arena->deferred, memory_order_relaxed) != NULL;
}

/* Arenas for threads. arena_attach finds one for a thread that has none, arena_attach_other one
 * beside `avoid`, whose memory is exhausted; need: bytes of the chunk that is wanted. NULL = none
 * could be had without waiting. arena_detach: the thread ends. */
struct arena *arena_attach(size_t need);
struct arena *arena_attach_other(struct arena *avoid, size_t need);
void arena_attach_main(void);
void arena_detach(struct arena *arena);
unsigned arena_count(void);

void arena_start(void);
void arena_fork_prepare(bool interrupted); /* an allocator call of this thread */
void arena_fork_parent(void);
void arena_fork_child(struct arena *mine);

#endif
