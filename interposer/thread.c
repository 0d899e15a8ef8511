/* SPDX-License-Identifier: MIT
 *
 * thread.h, and heap.h's "process and thread life". The start: the dynamic linker's first call
 * finds everything zero and thread_begin sets up the process. The fork handlers and the key are
 * registered by a constructor (preload.c calls heap_start), not at the first call: registering may
 * allocate, and libc is not relocated then. It is the first constructor of all (-z initfirst), so
 * that no second thread and no fork exists before.
 */
#include "thread.h"

#include "carve.h"
#include "guard.h"
#include "heap.h"
#include "home.h"
#include "large.h"
#include "log.h"
#include "os.h"
#include "others.h"
#include "tunables.h"
#include "watch.h"

#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define THREAD_CACHE_TRIES 8

__thread struct thread thread_self __attribute__((tls_model("initial-exec")));

static bool process_begun;
static bool key_made;
static pthread_key_t key;

/* What the collector needs to find its way; the key last. */
static void publish_caches(void)
{
	caches.arena = (uintptr_t)&arena_main;
	caches.arena_next = offsetof(struct arena, next);
	caches.arena_deferred = offsetof(struct arena, deferred);
	caches.arena_fast = offsetof(struct arena, bins.fast);
	caches.bins = (uint32_t)tunable(&tunables.cache_bins);
	caches.entries = (uint32_t)tunable(&tunables.cache_count);
	__atomic_store_n(&caches.key, cache_key, __ATOMIC_RELEASE);
}

static void process_begin(void)
{
	process_begun = true;
	tunables_load();
	if (tunables.hugetlb)
		tunables.huge_bytes = os_huge_page_bytes();
	cache_make_key();
	arena_start();
	publish_caches();
	arena_attach_main();
	thread_self.arena = &arena_main;
	home_enter(&arena_main);
}

__attribute__((noinline)) struct arena *thread_choose_arena(size_t need)
{
	if (thread_self.state == THREAD_ENDING)
		return &arena_main; /* a last call after the end; nothing would detach it again */
	thread_self.arena = arena_attach(need);
	if (thread_self.arena != NULL)
		home_enter(thread_self.arena);
	return thread_self.arena;
}

static struct cache *cache_new(void)
{
	size_t bytes = chunk_bytes_for(sizeof(struct cache));
	struct arena *arena = thread_arena(bytes);
	struct chunk *chunk;

	if (arena == NULL || !arena_enter(arena))
		return NULL;
	chunk = carve_take(arena, bytes, NULL);
	if (chunk == NULL)
		chunk = carve_take_grown(arena, bytes);
	arena_leave(arena);
	if (chunk == NULL)
		return NULL;
	cache_init(chunk_block(chunk));
	return chunk_block(chunk);
}

__attribute__((noinline)) void thread_begin(void)
{
	if (!process_begun)
		process_begin();
	thread_self.state = THREAD_LIVE;
	home_begin();
	thread_self.cache = cache_new();
}

static void give_one(struct chunk *chunk)
{
	struct arena *arena = arena_of(chunk);

	if (!log_has_room())
		log_make_room();
	if (!watch_enter(arena)) {
		arena_defer(arena, chunk);
		return;
	}
	carve_check_free(chunk);
	carve_give(arena, chunk, NULL);
	arena_leave(arena);
}

static void cache_flush(struct cache *cache)
{
	struct chunk *chunk;

	for (size_t i = 0; i < CACHE_BINS; i++)
		while ((chunk = cache_get(cache, i)) != NULL)
			give_one(chunk);
	cache_leave(cache);
	give_one(chunk_of(cache));
}

static void thread_end(void)
{
	struct cache *cache = thread_self.cache;
	struct arena *arena = thread_self.arena;

	thread_self.hot = NULL;
	thread_self.has_hot = false;
	guard_enter(HL_KIND_FILLER, 0, NULL);
	thread_self.state = THREAD_ENDING;
	thread_self.cache = NULL;
	thread_self.arena = NULL;
	if (cache != NULL)
		cache_flush(cache);
	if (arena != NULL) {
		home_leave(arena);
		arena_detach(arena);
	}
	home_end();
	guard_leave();
	log_thread_exit();
}

/* Other destructors may still free and allocate after this one, so it asks to be called again until
 * the last round, and ends the thread there. What comes even later does without cache and arena. */
static void thread_destroy(void *round)
{
	uintptr_t next = (uintptr_t)round + 1;

	if (next > PTHREAD_DESTRUCTOR_ITERATIONS || pthread_setspecific(key, (void *)next) != 0)
		thread_end();
}

static void fork_prepare(void)
{
	bool interrupted;

	guard_enter(HL_KIND_FILLER, 0, NULL);
	guard_leave();
	interrupted = guard_depth() != 0;
	log_fork_hold();
	arena_fork_prepare(interrupted);
	log_fork_prepare();
}

static void fork_parent(void)
{
	log_fork_parent();
	arena_fork_parent();
}

static void fork_child(void)
{
	arena_fork_child(thread_self.arena);
	others_fork_child();
	log_fork_child(guard_depth() != 0);
}

void heap_start(void)
{
	thread_ready();
	if (key_made)
		return;
	key_made = pthread_key_create(&key, thread_destroy) == 0;
	pthread_atfork(fork_prepare, fork_parent, fork_child);
	heap_thread_begin();
}

/* pthread_setspecific allocates if the program made many keys before us: then it comes back here,
 * and armed is already set. */
void heap_thread_begin(void)
{
	if (!key_made)
		return;
	thread_self.armed = true;
	pthread_setspecific(key, (void *)1);
}
