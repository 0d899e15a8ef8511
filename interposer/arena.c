/* SPDX-License-Identifier: MIT
 *
 * arena.h. Holds the list lock and arena locks only for a few instructions, but for the creation of
 * an arena, which maps its first heap outside of both.
 */
#include "arena.h"

#include "grow.h"
#include "os.h"
#include "tunables.h"

#include <stddef.h>

#define ARENAS_A_CORE 8

struct arena arena_main;

static struct lock list_lock;
static bool list_fork_held;
static struct arena *free_list;     /* no thread uses these; guarded by list_lock */
static struct arena *next_shared;   /* guarded by list_lock */
static _Atomic unsigned arenas = 1; /* number of arenas */
static _Atomic size_t arena_limit;  /* 0 = not known yet */

void arena_start(void)
{
	bins_init(&arena_main.bins);
	arena_main.in_segments = tunables.policy == HL_POLICY_mmap;
	atomic_store(&arena_main.next, &arena_main);
}

struct arena *arena_of(const struct chunk *chunk)
{
	return (chunk_head(chunk) & CHUNK_OTHER_ARENA) != 0 ? grow_segment_of(chunk)->arena
							    : &arena_main;
}

unsigned arena_count(void)
{
	return atomic_load(&arenas);
}

void arena_defer(struct arena *arena, struct chunk *chunk)
{
	struct chunk *first = atomic_load(&arena->deferred);

	do
		chunk->link.next = (struct node *)first;
	while (!atomic_compare_exchange_weak(&arena->deferred, &first, chunk));
}

struct chunk *arena_take_deferred(struct arena *arena)
{
	return atomic_exchange(&arena->deferred, NULL);
}

void arena_attach_main(void)
{
	arena_main.threads++;
}

static void free_list_remove(struct arena *arena)
{
	for (struct arena **place = &free_list; *place != NULL; place = &(*place)->next_free)
		if (*place == arena) {
			*place = arena->next_free;
			return;
		}
}

static struct arena *attach_free(void)
{
	struct arena *arena;

	if (!lock_take(&list_lock))
		return NULL;
	arena = free_list;
	if (arena != NULL) {
		free_list = arena->next_free;
		arena->threads++;
	}
	lock_drop(&list_lock);
	return arena;
}

/* The next arena in turn whose lock is free now, or simply the next. */
static struct arena *pick_shared(struct arena *avoid)
{
	struct arena *start = next_shared != NULL ? next_shared : &arena_main;
	struct arena *arena = start;

	do {
		if (arena != avoid && lock_try(&arena->lock)) {
			lock_drop(&arena->lock);
			return arena;
		}
		arena = arena->next;
	} while (arena != start);
	return arena == avoid ? arena->next : arena;
}

static struct arena *attach_shared(struct arena *avoid)
{
	struct arena *arena;

	if (!lock_take(&list_lock))
		return NULL;
	arena = pick_shared(avoid);
	next_shared = arena->next;
	free_list_remove(arena);
	arena->threads++;
	lock_drop(&list_lock);
	return arena;
}

/* glibc's rule: any number up to arena_test, and from there on 8 a core unless arena_max is set. */
static bool may_create(void)
{
	size_t max = tunable(&tunables.arena_max);

	if (tunables.policy == HL_POLICY_brk) /* there is one break */
		return false;
	if (arena_limit == 0) {
		if (max != 0)
			arena_limit = max;
		else if (arena_count() > tunable(&tunables.arena_test))
			arena_limit = (size_t)ARENAS_A_CORE * os_cores();
	}
	return arena_limit == 0 || arena_count() < arena_limit;
}

/* Counted first, so that two threads cannot both take the last number. */
static struct arena *attach_new(size_t need)
{
	unsigned number = atomic_fetch_add(&arenas, 1);
	struct arena *arena;

	arena = arena_limit == 0 || number < arena_limit ? grow_new_arena(number, need) : NULL;
	if (arena == NULL) {
		atomic_fetch_sub(&arenas, 1);
		return NULL;
	}
	arena->threads = 1;
	if (!lock_take(&list_lock)) { /* fork: it must not meet a half known arena */
		grow_drop_arena(arena);
		atomic_fetch_sub(&arenas, 1);
		return NULL;
	}
	atomic_store(&arena->next, atomic_load(&arena_main.next));
	atomic_store(&arena_main.next, arena);
	lock_drop(&list_lock);
	return arena;
}

struct arena *arena_attach(size_t need)
{
	struct arena *arena = attach_free();

	if (arena == NULL && may_create())
		arena = attach_new(need);
	return arena != NULL ? arena : attach_shared(NULL);
}

struct arena *arena_attach_other(struct arena *avoid, size_t need)
{
	struct arena *arena;

	if (tunables.policy == HL_POLICY_brk)
		return NULL;
	if (avoid != &arena_main) {
		if (!lock_take(&list_lock))
			return NULL;
		arena_main.threads++;
		free_list_remove(&arena_main);
		lock_drop(&list_lock);
		return &arena_main;
	}
	arena = attach_free();
	if (arena == NULL && may_create())
		arena = attach_new(need);
	if (arena == NULL && arena_count() > 1)
		arena = attach_shared(avoid);
	return arena;
}

void arena_detach(struct arena *arena)
{
	lock_take_always(&list_lock);
	if (--arena->threads == 0) {
		arena->next_free = free_list;
		free_list = arena;
	}
	lock_drop(&list_lock);
}

/* Whether the lock is ours now. A thread that has interrupted itself may hold it already. */
static bool fork_take(struct lock *lock, bool interrupted)
{
	if (interrupted)
		return lock_take(lock);
	lock_take_always(lock);
	return true;
}

void arena_fork_prepare(bool interrupted)
{
	struct arena *arena = &arena_main;

	/* First, so that a signal handler of this thread does not wait for its own locks. */
	atomic_fetch_add(&lock_forks_pending, 1);
	list_fork_held = fork_take(&list_lock, interrupted);
	do {
		arena->fork_held = fork_take(&arena->lock, interrupted);
		arena = arena->next;
	} while (arena != &arena_main);
}

void arena_fork_parent(void)
{
	struct arena *arena = &arena_main;

	do {
		if (arena->fork_held)
			lock_drop(&arena->lock);
		arena = arena->next;
	} while (arena != &arena_main);
	if (list_fork_held)
		lock_drop(&list_lock);
	atomic_fetch_sub(&lock_forks_pending, 1);
}

/* What is not ours is held by the call that this thread has interrupted and will go on with. */
void arena_fork_child(struct arena *mine)
{
	struct arena *arena = &arena_main;

	if (list_fork_held)
		free_list = NULL;
	do {
		if (arena->fork_held)
			lock_reset(&arena->lock);
		if (list_fork_held)
			arena->threads = arena == mine;
		if (arena != mine)
			arena->home = NULL;
		if (list_fork_held && arena != mine) {
			arena->next_free = free_list;
			free_list = arena;
		}
		arena = arena->next;
	} while (arena != &arena_main);
	if (list_fork_held)
		lock_reset(&list_lock);
	atomic_store(&lock_forks_pending, 0);
}
