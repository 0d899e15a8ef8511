/* SPDX-License-Identifier: MIT
 *
 * The guard around every call of the heap. It tells how deep the call is: 0, or more when a signal
 * handler has interrupted one of these calls in its own thread, whose locks and cache may be half
 * changed. Called by preload.c, stats.c and the fork handlers; takes no lock, makes no system call.
 *
 * A process that is not recorded has a guard of one load and two stores, for calls that the
 * thread's cache serves: thread_self.hot is the cache while the thread is in no call at all, and
 * NULL otherwise. In one that is recorded it is always NULL.
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

/* Returns the depth. `kind` and `size` are the cause of the system calls within. */
static inline unsigned guard_enter(enum hl_kind kind, size_t size)
{
	unsigned depth;

	if (!log_is_off())
		return log_enter(kind, size);
	depth = log_depth;
	log_depth = depth + 1;
	atomic_signal_fence(memory_order_seq_cst);
	if (depth != 0)
		return depth;
	thread_self.resume = thread_self.hot;
	thread_self.hot = NULL;
	/* Neither in a call nor out of one: a handler has interrupted the hot path. */
	return thread_self.has_hot && thread_self.resume == NULL ? 1 : 0;
}

static inline void guard_leave(void)
{
	if (!log_is_off()) {
		log_leave();
		return;
	}
	if (log_depth == 1) {
		if (__builtin_expect(!thread_self.has_hot && thread_self.cache != NULL, 0)) {
			thread_self.has_hot = true;
			thread_self.resume = thread_self.cache;
		}
		thread_self.hot = thread_self.resume;
	}
	atomic_signal_fence(memory_order_seq_cst);
	log_depth--;
}

#endif
