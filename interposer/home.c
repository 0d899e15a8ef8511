/* SPDX-License-Identifier: MIT
 *
 * home.h.
 */
#include "home.h"

#include "arena.h"
#include "grow.h"
#include "log_fast.h"
#include "thread.h"

extern void *__curbrk; /* libc's cache of the break */

static void set_range(uintptr_t from, uintptr_t to)
{
	log_hot.home = from;
	log_hot.home_bytes = to - from;
}

/* A thread that begins somewhere frees what an earlier home thread allocated as if it had been
 * itself: its own time must be later. */
void home_enter(struct arena *arena)
{
	const struct thread *nobody = NULL;

	log_restamp();
	atomic_compare_exchange_strong(&arena->home, &nobody, &thread_self);
}

void home_leave(struct arena *arena)
{
	const struct thread *self = &thread_self;

	set_range(0, 0);
	atomic_compare_exchange_strong(&arena->home, &self, NULL);
}

static void move_range(const struct chunk *chunk, const struct arena *arena)
{
	uintptr_t at = (uintptr_t)chunk;

	if ((chunk_head(chunk) & CHUNK_OTHER_ARENA) != 0) {
		at &= ~(uintptr_t)(GROW_SEGMENT_BYTES - 1);
		set_range(at, at + GROW_SEGMENT_BYTES);
	} else if (at >= (uintptr_t)arena->base && at < (uintptr_t)__curbrk) {
		set_range((uintptr_t)arena->base, (uintptr_t)__curbrk);
	}
}

bool home_has(const void *block)
{
	const struct chunk *chunk = chunk_of(block);
	const struct arena *arena;

	if (chunk_is_mmapped(chunk))
		return false;
	arena = arena_of(chunk);
	if (atomic_load_explicit(&arena->home, memory_order_relaxed) != &thread_self)
		return false;
	if ((uintptr_t)block - log_hot.home >= log_hot.home_bytes)
		move_range(chunk, arena);
	return true;
}

bool home_take(void *block)
{
	bool home = home_has(block);

	if (!home && !chunk_is_mmapped(chunk_of(block)))
		chunk_set_foreign(chunk_of(block), true);
	return home;
}

void home_give(void *block)
{
	if (!chunk_is_foreign(chunk_of(block)))
		home_has(block);
	home_unmark(block);
}
