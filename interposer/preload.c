/* SPDX-License-Identifier: MIT
 *
 * The exports: the names of libc's malloc interface, nothing else. Each is guard -> heap -> log ->
 * return. An allocation is logged after it is made and a free before it is done, so that in the
 * merged order of all threads an address never appears twice without its free between.
 *
 * malloc and free try the thread's cache first, with the small guard (guard.h); whatever the cache
 * cannot serve goes the whole way. In a call that has interrupted another one the heap's _aside
 * functions serve.
 */
#include "attach.h"
#include "fatal.h"
#include "guard.h"
#include "heap.h"
#include "home.h"
#include "log_fast.h"
#include "stats.h"
#include "thread.h"
#include "tunables.h"
#include "watch.h"

#include "heapledger/mark.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

const uint8_t attach_mode = HL_MODE_ALLOCATOR;
const struct hl_caches *const attach_caches = &caches;

#define PHASES_TOLD 100 /* a report shows the ends of so many */
static _Atomic unsigned phases;

static inline unsigned enter(enum hl_kind kind, size_t size, const void *caller)
{
	if (__builtin_expect(!thread_self.armed, 0))
		heap_thread_begin();
	fatal_set_caller(caller);
	return guard_enter(kind, size, caller);
}

/* Whether the log's hot path has made a record that is beyond the thread's cache, but just as
 * plain. Its block is in the home range, so that it has no mapping of its own. */
static inline bool log_plain(enum hl_kind kind, const void *block, size_t size, const void *caller)
{
	return log_depth == 1 && block != NULL && size < HL_PACKED_SIZE_LIMIT &&
	       log_fast(kind, block, size, caller);
}

static __attribute__((noinline)) void log_taken_full(
	enum hl_kind kind, void *block, size_t size, size_t alignment)
{
	struct log_call call = {.kind = kind, .addr = block, .size = size, .alignment = alignment};
	bool mapped;

	call.chunk = heap_taken(block, &mapped);
	call.flags = mapped ? HL_CHUNK_MMAPPED : 0;
	call.handed = mapped;
	if (block != NULL)
		home_take(block);
	log_call(&call);
}

/* The record of an allocation that was served beyond the thread's cache. */
static inline void log_taken(
	enum hl_kind kind, void *block, size_t size, size_t alignment, const void *caller)
{
	bool mapped;

	if (alignment != 0 || heap_taken(block, &mapped) != hl_packed_chunk(size) || mapped ||
		!log_plain(kind, block, size, caller))
		log_taken_full(kind, block, size, alignment);
}

static inline void *done(
	enum hl_kind kind, void *block, size_t size, size_t alignment, const void *caller)
{
	if (!log_is_off())
		log_taken(kind, block, size, alignment, caller);
	guard_leave();
	return block;
}

static __attribute__((noinline)) void *malloc_full(size_t size, const void *caller)
{
	unsigned depth = enter(HL_KIND_malloc, size, caller);

	return done(HL_KIND_malloc, depth == 0 ? heap_alloc(size) : heap_alloc_aside(size), size, 0,
		caller);
}

/* The short guard serves here, too, unless system calls want a cause. */
static __attribute__((noinline)) void *malloc_missed(
	struct cache *cache, size_t size, const void *caller)
{
	void *block;

	if (!log_is_off()) {
		guard_end_hot(cache);
		return malloc_full(size, caller);
	}
	fatal_set_caller(caller);
	block = heap_alloc(size);
	guard_end_hot(cache);
	return block;
}

/* A block from the cache that the log's hot path did not take, of another arena often. */
static __attribute__((noinline)) void log_taken_late(
	enum hl_kind kind, void *block, size_t size, const void *caller)
{
	struct log_call call = {.kind = kind, .addr = block, .size = size};
	uint32_t depth;

	home_take(block);
	if (log_fast_own(kind, block, size, caller))
		return;
	depth = guard_begin_late(kind, size, caller);
	call.chunk = hl_packed_chunk(size);
	log_call(&call);
	guard_end_late(depth);
}

static inline void log_taken_hot(enum hl_kind kind, void *block, size_t size, const void *caller)
{
	if (!log_is_off() && !log_fast(kind, block, size, caller))
		log_taken_late(kind, block, size, caller);
}

EXPORT void *malloc(size_t size)
{
	struct cache *cache = guard_begin_hot();
	void *block;

	if (__builtin_expect(cache == NULL, 0))
		return malloc_full(size, CALLER);
	block = cache_alloc_hot(cache, size);
	if (__builtin_expect(block == NULL, 0))
		return malloc_missed(cache, size, CALLER);
	log_taken_hot(HL_KIND_malloc, block, size, CALLER);
	guard_end_hot(cache);
	return block;
}

static __attribute__((noinline)) void *calloc_full(size_t total, const void *caller)
{
	unsigned depth = enter(HL_KIND_calloc, total, caller);

	return done(HL_KIND_calloc, depth == 0 ? heap_calloc(total) : heap_calloc_aside(total),
		total, 0, caller);
}

EXPORT void *calloc(size_t count, size_t size)
{
	struct cache *cache = guard_begin_hot();
	size_t total;
	void *block;

	if (__builtin_mul_overflow(count, size, &total))
		total = SIZE_MAX; /* refused as too large */
	if (__builtin_expect(cache == NULL, 0))
		return calloc_full(total, CALLER);
	block = cache_alloc_hot(cache, total);
	if (__builtin_expect(block != NULL, 1))
		log_taken_hot(HL_KIND_calloc, block, total, CALLER);
	guard_end_hot(cache);
	if (__builtin_expect(block == NULL, 0))
		return calloc_full(total, CALLER);
	return memset(block, 0, heap_usable(block)); /* all of it, as glibc does */
}

static __attribute__((noinline)) void log_given_full(enum hl_kind kind, void *block, size_t size)
{
	/* A pointer that is none of ours has no chunk to look at; heap_free says so. */
	bool sound = block != NULL && chunk_is_aligned(block);
	struct log_call call = {.kind = kind, .addr = block, .size = size};

	call.handed = block != NULL && !(sound && home_has(block));
	log_call(&call);
	if (sound)
		home_unmark(block);
}

/* The record of a block that is about to be given back or resized. */
static inline void log_given(enum hl_kind kind, void *block, size_t size, const void *caller)
{
	/* While there is one thread, no block has another one's mark. */
	if (__libc_single_threaded && chunk_is_aligned(block) &&
		log_plain(kind, block, size, caller))
		home_unmark(block);
	else
		log_given_full(kind, block, size);
}

EXPORT void *realloc(void *old, size_t size)
{
	unsigned depth = enter(HL_KIND_realloc, size, CALLER);
	bool recorded = !log_is_off();
	void *block;

	if (recorded)
		log_given(HL_KIND_realloc_begin, old, 0, CALLER);
	block = depth == 0 ? heap_realloc(old, size) : heap_realloc_aside(old, size);
	if (recorded && block == NULL && old != NULL && size != 0)
		home_take(old); /* it failed: the old block stays */
	return done(HL_KIND_realloc, block, size, 0, CALLER);
}

static __attribute__((noinline)) void free_as(
	enum hl_kind kind, void *block, size_t size, const void *caller)
{
	unsigned depth = enter(kind, size, caller);

	if (!log_is_off())
		log_given(kind, block, size, caller);
	if (depth == 0)
		heap_free(block);
	else
		heap_free_aside(block);
	guard_leave();
}

/* The cache takes the block, but the log's hot path did not: NULL or another thread's, usually. */
static __attribute__((noinline)) void log_given_late(void *block, const void *caller)
{
	struct log_call call = {.kind = HL_KIND_free, .addr = block};
	uint32_t depth;

	call.handed = block != NULL && !home_has(block);
	if (!call.handed && log_fast_own(HL_KIND_free, block, 0, caller))
		return;
	depth = guard_begin_late(HL_KIND_free, 0, caller);
	log_call(&call);
	guard_end_late(depth);
}

/* Whether the cache takes a block with a mark (home.h), which the hot path has refused for that. */
static bool free_marked(struct cache *cache, void *block, const void *caller)
{
	size_t head, bin;

	if (!chunk_is_aligned(block) || chunk_taker(chunk_of(block)) == 0)
		return false;
	head = chunk_head(chunk_of(block)) & (CHUNK_SIZE_MASK | CHUNK_FLAGS);
	if (!cache_takes_head(cache, block, head, &bin))
		return false;
	log_given_late(block, caller);
	home_unmark(block);
	cache_put_at(cache, block, bin);
	return true;
}

static __attribute__((noinline)) void free_missed(
	struct cache *cache, void *block, const void *caller)
{
	if (!log_is_off()) {
		bool freed = free_marked(cache, block, caller);

		guard_end_hot(cache);
		if (!freed)
			free_as(HL_KIND_free, block, 0, caller);
		return;
	}
	fatal_set_caller(caller);
	heap_free(block);
	guard_end_hot(cache);
}

EXPORT void free(void *block)
{
	struct cache *cache = guard_begin_hot();
	size_t bin = 0;

	if (__builtin_expect(cache == NULL, 0)) {
		free_as(HL_KIND_free, block, 0, CALLER);
		return;
	}
	if (__builtin_expect(block != NULL && !cache_takes_hot(cache, block, &bin), 0)) {
		free_missed(cache, block, CALLER);
		return;
	}
	if (!log_is_off() && !log_fast(HL_KIND_free, block, 0, CALLER))
		log_given_late(block, CALLER);
	if (__builtin_expect(block != NULL, 1))
		cache_put_at(cache, block, bin);
	guard_end_hot(cache);
}

EXPORT void cfree(void *block);
EXPORT void cfree(void *block)
{
	free_as(HL_KIND_cfree, block, 0, CALLER);
}

EXPORT void free_sized(void *block, size_t size);
EXPORT void free_sized(void *block, size_t size)
{
	free_as(HL_KIND_free_sized, block, size, CALLER);
}

EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size);
EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size)
{
	(void)alignment;
	free_as(HL_KIND_free_aligned_sized, block, size, CALLER);
}

/* `size` is what the program asked for, `bytes` what it shall get. */
static void *aligned_as(
	enum hl_kind kind, size_t alignment, size_t size, size_t bytes, const void *caller)
{
	unsigned depth = enter(kind, size, caller);

	return done(kind,
		depth == 0 ? heap_aligned(alignment, bytes) : heap_aligned_aside(alignment, bytes),
		size, alignment, caller);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	return aligned_as(HL_KIND_aligned_alloc, alignment, size, size, CALLER);
}

EXPORT void *memalign(size_t alignment, size_t size)
{
	return aligned_as(HL_KIND_memalign, alignment, size, size, CALLER);
}

/* A bad alignment is refused before anything happens, but it is a call and so logged as failed. */
EXPORT int posix_memalign(void **result, size_t alignment, size_t size)
{
	int saved = errno;
	void *block;

	if (alignment % sizeof(void *) != 0 || alignment == 0 ||
		(alignment & (alignment - 1)) != 0) {
		enter(HL_KIND_posix_memalign, size, CALLER);
		done(HL_KIND_posix_memalign, NULL, size, alignment, CALLER);
		return EINVAL;
	}
	block = aligned_as(HL_KIND_posix_memalign, alignment, size, size, CALLER);
	errno = saved;
	if (block == NULL)
		return ENOMEM;
	*result = block;
	return 0;
}

EXPORT void *valloc(size_t size)
{
	size_t page = (size_t)getpagesize();

	return aligned_as(HL_KIND_valloc, page, size, size, CALLER);
}

EXPORT void *pvalloc(size_t size)
{
	size_t page = (size_t)getpagesize();
	size_t rounded = (size + page - 1) & ~(page - 1);

	if (rounded < size)
		rounded = SIZE_MAX; /* refused as too large */
	return aligned_as(HL_KIND_pvalloc, page, size, rounded, CALLER);
}

EXPORT size_t malloc_usable_size(void *block)
{
	return heap_usable(block);
}

static int control_done(enum hl_kind kind, size_t size, int result)
{
	if (!log_is_off())
		log_call(&(struct log_call){.kind = kind, .size = size, .chunk = (size_t)result});
	guard_leave();
	return result;
}

EXPORT int mallopt(int parameter, int value)
{
	size_t packed = (uint32_t)parameter | (uint64_t)(uint32_t)value << 32;
	unsigned depth = enter(HL_KIND_mallopt, packed, CALLER);

	return control_done(
		HL_KIND_mallopt, packed, depth == 0 ? heap_option(parameter, value) : 0);
}

EXPORT int malloc_trim(size_t pad)
{
	unsigned depth = enter(HL_KIND_malloc_trim, pad, CALLER);

	return control_done(HL_KIND_malloc_trim, pad, depth == 0 ? heap_trim(pad) : 0);
}

/* The figures: not events of the heap, but their locks want the guard. */

EXPORT struct mallinfo2 mallinfo2(void)
{
	struct mallinfo2 info = {0};

	if (enter(HL_KIND_FILLER, 0, CALLER) == 0)
		info = stats_mallinfo();
	guard_leave();
	return info;
}

EXPORT struct mallinfo mallinfo(void)
{
	struct mallinfo2 wide = mallinfo2();

	return (struct mallinfo){
		.arena = (int)wide.arena,
		.ordblks = (int)wide.ordblks,
		.smblks = (int)wide.smblks,
		.hblks = (int)wide.hblks,
		.hblkhd = (int)wide.hblkhd,
		.usmblks = (int)wide.usmblks,
		.fsmblks = (int)wide.fsmblks,
		.uordblks = (int)wide.uordblks,
		.fordblks = (int)wide.fordblks,
		.keepcost = (int)wide.keepcost,
	};
}

EXPORT void malloc_stats(void)
{
	if (enter(HL_KIND_FILLER, 0, CALLER) == 0)
		stats_print();
	guard_leave();
}

/* heapledger/mark.h: the stream is a name. What the caches hold belongs to the phase that ends. */
static int mark_phase(const char *name)
{
	if (name != NULL && !log_is_off()) {
		if (enter(HL_KIND_FILLER, 0, CALLER) == 0 &&
			atomic_fetch_add(&phases, 1) < PHASES_TOLD)
			heap_log_kept(true);
		log_phase(name);
		guard_leave();
	}
	return EINVAL;
}

/* Only its counting is guarded: the stream is the caller's, and fprintf may allocate. */
EXPORT int malloc_info(int options, FILE *stream)
{
	if (options == HEAPLEDGER_PHASE_OPTION)
		return mark_phase((const char *)stream);
	if (options != 0)
		return EINVAL;
	stats_print_xml(stream);
	return 0;
}

static void preload_end(void);

/* Runs before main and before the program's own constructors, when one thread exists: the moment
 * to register what could not be at the dynamic linker's first call. */
static __attribute__((constructor)) void preload_start(void)
{
	guard_enter(HL_KIND_FILLER, 0, NULL);
	guard_leave();
	log_process_start();
	heap_start();
	at_quick_exit(preload_end); /* runs no destructors; as the first one it is called last */
	tunables_report();
}

static __attribute__((destructor)) void preload_end(void)
{
	if (enter(HL_KIND_FILLER, 0, NULL) == 0) {
		watch_check();
		heap_log_kept(false);
	}
	guard_leave();
	log_process_exit();
}
