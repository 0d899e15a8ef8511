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

/* A set bit: a living thread has this number. 0 says "the home thread", the last HOME_ANYONE. */
#define NUMBER_WORDS 4
static _Atomic uint64_t numbers[NUMBER_WORDS] = {1, [NUMBER_WORDS - 1] = UINT64_C(1) << 63};
static_assert(HOME_ANYONE == NUMBER_WORDS * 64 - 1, "it is the last one");

/* In a forked child the numbers of the parent's other threads stay taken: a handler may fork in the
 * middle of this. */
void home_begin(void)
{
	for (unsigned i = 0; i < NUMBER_WORDS; i++) {
		uint64_t taken = atomic_load_explicit(&numbers[i], memory_order_relaxed);

		while (taken != UINT64_MAX) {
			unsigned bit = (unsigned)__builtin_ctzll(~taken);

			if (!atomic_compare_exchange_weak(
				    &numbers[i], &taken, taken | UINT64_C(1) << bit))
				continue;
			log_restamp(); /* as in home_enter */
			thread_self.number = (uint8_t)(i * 64 + bit);
			return;
		}
	}
}

void home_end(void)
{
	uint8_t number = thread_self.number;

	thread_self.number = 0;
	if (number != 0)
		atomic_fetch_and(&numbers[number / 64], ~(UINT64_C(1) << number % 64));
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

static bool is_home(const struct chunk *chunk)
{
	const struct arena *arena;

	if (chunk_is_mmapped(chunk))
		return false;
	arena = arena_of(chunk);
	if (atomic_load_explicit(&arena->home, memory_order_relaxed) != &thread_self)
		return false;
	if ((uintptr_t)&chunk->link - log_hot.home >= log_hot.home_bytes)
		move_range(chunk, arena);
	return true;
}

void home_take(void *block)
{
	struct chunk *chunk = chunk_of(block);

	if (!is_home(chunk) && !chunk_is_mmapped(chunk))
		chunk_set_taker(chunk, thread_self.number != 0 ? thread_self.number : HOME_ANYONE);
}

bool home_has(const void *block)
{
	const struct chunk *chunk = chunk_of(block);
	uint8_t taker = chunk_taker(chunk);

	return taker != 0 ? taker == thread_self.number : is_home(chunk);
}
