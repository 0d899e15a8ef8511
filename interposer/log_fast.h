/* SPDX-License-Identifier: MIT
 *
 * The log's hot path: one packed record of a call that the thread's cache serves. Used by preload.c
 * within the short guard (guard.h); whatever is not plain is left to log.c.
 *
 * Budget: six tests, two words, one release of `used`; about 20 instructions.
 */
#ifndef HEAPLEDGER_LOG_FAST_H
#define HEAPLEDGER_LOG_FAST_H

#include "attach.h"
#include "log.h"

/* The page was last in the collector's core's cache: its lines are asked for this far ahead. */
#define LOG_AHEAD_SLOTS 32

/* What the hot path knows of its thread. */
struct log_hot {
	struct hl_page *page; /* of depth 0; a full one if there is none */
	uint32_t limit;       /* slots used when the time is read or the page is full; 0 = now */
	uint32_t taken_limit; /* the same for allocations; 0 if they want their stacks */
	uint32_t token;       /* *attach_token when the time was last read ... */
	uint32_t round;       /* ... and *attach_round */
	uintptr_t home;       /* blocks from here on, home_bytes long, are the thread's (home.h) */
	uintptr_t home_bytes;
};

extern __thread struct log_hot log_hot __attribute__((tls_model("initial-exec")));

/* A record has just been made, which may have come after another thread's fork. Or a handler has
 * forked in the middle of it, and this is the copy: false if it must be made again. */
bool log_token_changed(struct hl_page *page, unsigned level);

static inline struct hl_packed *log_slots(struct hl_page *page)
{
	return (struct hl_packed *)(page + 1);
}

static inline void log_prefetch(const struct hl_packed *slot)
{
	__asm__ volatile("prefetchw %0" : : "m"(slot[LOG_AHEAD_SLOTS]));
}

/* Whether the record is written; if not, a full bracket must do it. The block is one that the thread
 * has from its cache, or that it took itself (home.h); the size is one that a cache holds, and the
 * chunk that of the size. The limit leaves two slots, so that log_tick_back has one. */
static inline bool log_fast_own(
	enum hl_kind kind, const void *block, size_t size, const void *caller)
{
	struct hl_page *page = log_hot.page;
	uint32_t used = atomic_load_explicit(&page->used, memory_order_relaxed);
	uint32_t token = __atomic_load_n(attach_token, __ATOMIC_RELAXED);
	struct hl_packed *slot = log_slots(page) + used;
	uint32_t limit = kind == HL_KIND_free ? log_hot.limit : log_hot.taken_limit;

	if (__builtin_expect(used >= limit || token != log_hot.token ||
				     atomic_load_explicit(attach_round, memory_order_relaxed) !=
					     log_hot.round,
		    0))
		return false;
	log_prefetch(slot);
	slot->word[0] = hl_packed_head(kind, 0, (uintptr_t)block);
	slot->word[1] = (uint64_t)size << HL_PACKED_ADDRESS_BITS |
			((uintptr_t)caller & HL_PACKED_ADDRESS_MASK);
	/* From here on it survives the process. */
	atomic_store_explicit(&page->used, used + 1, memory_order_release);
	if (__builtin_expect(__atomic_load_n(attach_token, __ATOMIC_RELAXED) != token, 0))
		return log_token_changed(page, 0);
	return true;
}

/* The same for any block, where it lies in the home range. */
static inline bool log_fast(enum hl_kind kind, const void *block, size_t size, const void *caller)
{
	bool home = (uintptr_t)block - log_hot.home < log_hot.home_bytes || block == NULL;

	return __builtin_expect(home, 1) && log_fast_own(kind, block, size, caller);
}

#endif
