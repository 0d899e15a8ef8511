/* SPDX-License-Identifier: MIT
 *
 * The guard around every call of the heap. It tells how deep the call is: 0, or more when a signal
 * handler has interrupted one of these calls in its own thread, whose locks and cache may be half
 * changed. Called by preload.c, stats.c and the fork handlers; takes no lock, makes no system call.
 *
 * Calls that the thread's cache serves have a guard of one load and two stores: thread_self.hot is
 * the cache while the thread is in no call at all, and NULL otherwise.
 */
#ifndef HEAPLEDGER_GUARD_H
#define HEAPLEDGER_GUARD_H

#include "log.h"
#include "thread.h"

/* The thread's cache, which guard_end_hot wants back; NULL if the call needs the whole guard. */
static inline struct cache *guard_begin_hot(void)
{
	struct cache *cache = thread_self.hot;

	if (__builtin_expect(cache == NULL, 0))
		return NULL;
	thread_self.hot = NULL;
	atomic_signal_fence(memory_order_seq_cst);
	return cache;
}

static inline void guard_end_hot(struct cache *cache)
{
	atomic_signal_fence(memory_order_seq_cst);
	thread_self.hot = cache;
}

/* How deep a call would be that begins now. Neither in a bracket nor out of one: a handler has
 * interrupted the hot path. */
static inline unsigned guard_depth(void)
{
	unsigned depth = log_depth;

	return depth == 0 && thread_self.has_hot && thread_self.hot == NULL ? 1 : depth;
}

/* Returns the depth. `kind`, `size` and `caller` are the cause of the system calls within. */
static inline unsigned guard_enter(enum hl_kind kind, size_t size, const void *caller)
{
	unsigned depth = guard_depth();

	if (__builtin_expect(depth != log_depth, 0))
		thread_self.hot_interrupted = true;
	log_depth = depth + 1;
	/* From here on a signal handler is deeper. */
	atomic_signal_fence(memory_order_seq_cst);
	if (depth == 0) {
		thread_self.resume = thread_self.hot;
		thread_self.hot = NULL;
	}
	if (!log_is_off())
		log_enter(kind, size, caller);
	return depth;
}

static inline void guard_leave(void)
{
	if (!log_is_off())
		log_leave();
	if (log_depth == 1) {
		if (__builtin_expect(!thread_self.has_hot && thread_self.cache != NULL, 0)) {
			thread_self.has_hot = true;
			thread_self.resume = thread_self.cache;
		}
		thread_self.hot = thread_self.resume;
	}
	atomic_signal_fence(memory_order_seq_cst);
	if (__builtin_expect(log_depth == 2 && thread_self.hot_interrupted, 0)) {
		thread_self.hot_interrupted = false;
		log_depth = 0;
		return;
	}
	log_depth--;
}

/* A call of the hot path that needs a bracket after all: its depth is 0, and handlers see it by the
 * cache that is away. Returns what guard_end_late wants back: not always 0, as a handler finds the
 * cache there when it interrupts another call that has just entered the whole guard, or has all but
 * left it. That one has no record under way. */
static inline uint32_t guard_begin_late(enum hl_kind kind, size_t size, const void *caller)
{
	uint32_t depth = log_depth;

	log_depth = 1;
	atomic_signal_fence(memory_order_seq_cst);
	log_enter(kind, size, caller);
	return depth;
}

static inline void guard_end_late(uint32_t depth)
{
	log_leave();
	atomic_signal_fence(memory_order_seq_cst);
	log_depth = depth;
}

#endif
