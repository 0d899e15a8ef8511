/* SPDX-License-Identifier: MIT
 *
 * What the heap knows of the calling thread: its cache and its arena, from its first call to its
 * end. Called by heap.c.
 */
#ifndef HEAPLEDGER_THREAD_H
#define HEAPLEDGER_THREAD_H

#include "arena.h"
#include "cache.h"

enum thread_state { THREAD_NEW, THREAD_LIVE, THREAD_ENDING };

struct thread {
	struct cache *hot;    /* guard.h: the cache, while the thread is in no call; or NULL */
	struct cache *cache;  /* NULL: none yet, none any more, or no memory for one */
	struct arena *arena;  /* NULL: not chosen yet */
	struct cache *resume; /* guard.h: what `hot` was before the call under way */
	enum thread_state state;
	bool has_hot;         /* guard.h: `hot` is NULL only within a call */
	bool hot_interrupted; /* guard.h: depth 1 is above a call of the hot path */
	bool armed;           /* the destructor will run */
	uint8_t number;       /* home.h: of the living threads; 0: none */
};

/* The calling thread's is thread_self, which arena.h declares: an arena has to know who comes. */

void thread_begin(void);

/* Before anything but a hit in the cache. */
static inline void thread_ready(void)
{
	if (__builtin_expect(thread_self.state == THREAD_NEW, 0))
		thread_begin();
}

/* NULL if none could be had without waiting for a fork. */
struct arena *thread_choose_arena(size_t need);

static inline struct arena *thread_arena(size_t need)
{
	return __builtin_expect(thread_self.arena != NULL, 1) ? thread_self.arena
							      : thread_choose_arena(need);
}

#endif
