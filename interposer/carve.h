/* SPDX-License-Identifier: MIT
 *
 * Inside one arena: takes chunks out of the bins and top, gives them back, coalesces. All functions
 * want the arena's lock held. Called by heap.c and, for fences, by grow.c.
 */
#ifndef HEAPLEDGER_CARVE_H
#define HEAPLEDGER_CARVE_H

#include "arena.h"
#include "cache.h"

/* For here and heap.c: the common way through what a function calls becomes one function; what is
 * rare stays out of it. */
#define FLAT __attribute__((flatten))
#define APART __attribute__((noinline))

/* A chunk of at least `bytes`, marked in use, or NULL when bins and top have none. What lies on the
 * way and has the same size may go to the thread's cache (which may be NULL). */
struct chunk *carve_take(struct arena *arena, size_t bytes, struct cache *cache);

/* Grows top and takes from it; NULL if there is no memory. */
struct chunk *carve_take_grown(struct arena *arena, size_t bytes);

/* Frees a chunk, checking it and its neighbours; trims when the rules say so, for which the
 * thread's cache (which may be NULL) gives up its surplus. */
void carve_give(struct arena *arena, struct chunk *chunk, struct cache *cache);
void carve_give_quietly(struct arena *arena, struct chunk *chunk); /* not to fast bins, no trim */

/* Resizes in place if it can be done without taking another chunk. */
bool carve_resize(struct arena *arena, struct chunk *chunk, size_t bytes, struct cache *cache);

/* Cuts a chunk in use to `bytes` and frees the rest; `cache` may take it. */
void carve_cut(struct arena *arena, struct chunk *chunk, size_t bytes, struct cache *cache);

/* Empties the fast bins and the cache's surplus (it may be NULL) into the others. */
void carve_consolidate(struct arena *arena, struct cache *cache);

/* Frees what came in without the lock, and trims as carve_give does. */
void carve_drain_deferred(struct arena *arena);

static inline void carve_drain(struct arena *arena)
{
	if (__builtin_expect(arena_has_deferred(arena), 0))
		carve_drain_deferred(arena);
}

/* The checks a chunk must pass before anything is done to it; dies if it does not. */
void carve_check_free(const struct chunk *chunk);
void carve_check_realloc(const struct chunk *chunk);

#endif
