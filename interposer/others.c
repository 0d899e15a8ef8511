/* SPDX-License-Identifier: MIT
 *
 * See others.h. Caches belong to threads that ask nobody before they change them. So, as the
 * collector does (record/caches.c), all is read twice, and each list that was the same both times
 * had been so in between; of the others nothing is said. What is read may be anything, but it
 * cannot go away: the locks of the arenas are held meanwhile, as far as they can be had at once,
 * and nothing beyond the memory of these arenas is looked at. With them the fast lists stand still.
 *
 * What was read is a row of words, in the order of the walk: of each cache its place, its address,
 * its thread, the bytes of its chunk and its lists, of each arena its address and its lists; a list
 * is the number of its blocks and then these, with what they are in their lowest bits.
 */
#include "others.h"

#include "arena.h"
#include "cache.h"
#include "grow.h"
#include "log.h"
#include "thread.h"

#define TRIES 3
#define WORDS 8192       /* beyond them memory is borrowed */
#define BORROW_MORE 4096 /* words, for what comes meanwhile */
#define CACHE_WORDS 4
#define UNREAD UINT64_MAX               /* in the place of a list's count */
#define CHANGED (UINT64_C(1) << 63)     /* the same, but its words are there */
#define WHAT_MASK UINT64_C(15)          /* of a block */
#define ARENA_LISTS (HL_FAST_BINS + 1u) /* and what lies in no list yet */

/* One reading at a time; whoever comes meanwhile knows nothing of others. */
static struct lock reading_lock;
static uint64_t own_words[WORDS]; /* in .bss, where it takes memory only when it is used */

struct reading {
	struct others *to;
	bool again;          /* compare with what was read before */
	bool own;            /* the calling thread's cache, which needs no lock */
	uintptr_t from, end; /* what was looked at last lies here */
	size_t at;           /* of the words */
};

struct list {
	uint64_t first; /* the block, or the chunk of a fast list */
	uint64_t key;
	unsigned bin;
	uint64_t blocks; /* of a fast list, the most that there can be */
	uint32_t lent;
	bool is_fast, is_known;
};

/* ---- what may be looked at ------------------------------------------------------------------- */

static void hold_arenas(void)
{
	struct arena *arena = &arena_main;

	do {
		arena->read_held = lock_try(&arena->lock) || lock_spin(&arena->lock);
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
	} while (arena != &arena_main);
}

static void leave_arenas(void)
{
	struct arena *arena = &arena_main;

	do {
		if (arena->read_held) {
			arena->read_held = false;
			arena_leave(arena);
		}
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
	} while (arena != &arena_main);
}

/* Any address: of a cache that has gone meanwhile it is nearly the highest that there is. */
static bool is_within(const struct reading *reading, uintptr_t address, size_t bytes)
{
	return address >= reading->from && address < reading->end &&
	       bytes <= reading->end - address;
}

static bool is_held(struct reading *reading, uintptr_t address, size_t bytes)
{
	const struct arena *arena = &arena_main;

	if (is_within(reading, address, bytes))
		return true;
	do {
		if (arena->read_held && grow_find(arena, address, &reading->from, &reading->end))
			return is_within(reading, address, bytes);
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
	} while (arena != &arena_main);
	reading->from = reading->end = 0;
	return false;
}

static uint64_t load(uintptr_t address)
{
	return __atomic_load_n((const uint64_t *)address, __ATOMIC_RELAXED);
}

static bool look_at(struct reading *reading, uintptr_t block, struct hl_kept_block *words)
{
	if (block % HL_CHUNK_BLOCK != 0 || block > HL_ADDRESS_MASK >> 9 ||
		(!reading->own && !is_held(reading, block - 8, sizeof(*words))))
		return false;
	*words = (struct hl_kept_block){load(block - 8), load(block), load(block + 8)};
	return true;
}

/* ---- words ----------------------------------------------------------------------------------- */

/* Whether the word is what it was, if it has been read before. */
static bool put(struct reading *reading, size_t at, uint64_t word)
{
	struct others *to = reading->to;

	if (reading->again)
		return at < to->words && to->word[at] == word;
	if (at < to->room)
		to->word[at] = word;
	return true;
}

static uint64_t walk_list(struct reading *reading, const struct list *list)
{
	uint64_t next = list->first, count = 0;

	for (; next != 0; count++) {
		uint64_t block = next + (list->is_fast ? HL_CHUNK_BLOCK : 0);
		unsigned what = list->is_fast        ? HL_KEPT_FAST
				: count < list->lent ? HL_KEPT_LENT
						     : HL_KEPT_CACHE;
		struct hl_kept_block words;

		if (count == list->blocks || !look_at(reading, block, &words) ||
			!hl_kept_fits(&words, list->bin, list->key) ||
			!put(reading, reading->at + 1 + count, block | what))
			return UNREAD;
		next = hl_unmask(block, words.next);
	}
	return list->is_fast || count == list->blocks ? count : UNREAD;
}

/* A list that has changed keeps its words, for their number, and is told to have none. */
static void take_list(struct reading *reading, const struct list *list)
{
	struct others *to = reading->to;
	uint64_t count = list->is_known ? walk_list(reading, list) : UNREAD;

	if (!reading->again) {
		put(reading, reading->at, count);
	} else {
		uint64_t before = to->word[reading->at];

		if (before != UNREAD && before != count)
			to->word[reading->at] = before | CHANGED;
		count = before;
	}
	reading->at += 1 + (count != UNREAD ? count : 0);
}

static void take_bin(
	struct reading *reading, const struct cache *cache, unsigned bin, bool is_known)
{
	struct list list = {.bin = bin, .key = cache_key};

	if (is_known) {
		bool widened = __atomic_load_n(&cache->widened, __ATOMIC_RELAXED) >> bin & 1;
		uint32_t room = __atomic_load_n(&cache->room[bin], __ATOMIC_RELAXED);

		uint32_t blocks;

		list.first = load((uintptr_t)&cache->first[bin]);
		list.is_known = hl_cache_count(&caches, bin, widened, room, &blocks, &list.lent);
		list.blocks = blocks;
	}
	take_list(reading, &list);
}

/* A block of the heap itself, of which the size is known. */
static bool can_read(struct reading *reading, uintptr_t cache)
{
	size_t bytes = chunk_bytes_for(sizeof(struct cache));

	return reading->own ||
	       (is_held(reading, cache - 8, bytes) &&
		       (load(cache - 8) & HL_CHUNK_BYTES_MASK) - bytes <= CHUNK_ALIGN_BYTES);
}

static void take_cache(struct reading *reading, uint64_t place)
{
	uint64_t cache = atomic_load(&caches.place[place].cache);
	uint64_t thread = atomic_load(&caches.place[place].thread);
	size_t at = reading->at;
	bool is_known;

	reading->own = cache != 0 && cache == (uintptr_t)thread_self.cache;
	if (reading->own)
		thread = log_thread();
	is_known = put(reading, at, place) && can_read(reading, cache) &&
		   put(reading, at + 1, cache) && put(reading, at + 2, thread) &&
		   put(reading, at + 3, load(cache - 8) & HL_CHUNK_BYTES_MASK);
	if (!is_known && at + 1 < reading->to->room)
		reading->to->word[at + 1] = 0;
	reading->at += CACHE_WORDS;
	for (unsigned bin = 0; bin < HL_CACHE_BINS; bin++)
		take_bin(reading, (const struct cache *)cache, bin, is_known);
	reading->own = false;
}

/* Nobody else touches what a lock guards. What was freed and is in no list yet, or waits for the
 * lock, counts as a list that cannot be read. */
static void take_arena(struct reading *reading, const struct arena *arena)
{
	bool calm = arena->read_held && !arena_has_deferred(arena) &&
		    atomic_load_explicit(&arena->lock.word, memory_order_relaxed) == 1;

	put(reading, reading->at++, (uintptr_t)arena);
	reading->own = arena->scattered; /* then nobody knows where it lies */
	for (unsigned bin = 0; bin < HL_FAST_BINS; bin++) {
		struct list list = {.bin = bin, .is_fast = true, .is_known = arena->read_held};

		if (list.is_known) {
			list.first = (uintptr_t)arena->bins.fast[bin];
			list.blocks = arena->system_bytes / CHUNK_MIN_BYTES;
		}
		take_list(reading, &list);
	}
	take_list(reading, &(struct list){.is_fast = true, .is_known = calm});
	reading->own = false;
}

/* ---- readings -------------------------------------------------------------------------------- */

static void take_once(struct others *others)
{
	struct reading reading = {.to = others};
	uint32_t highest = atomic_load(&caches.highest);
	const struct arena *arena = &arena_main;

	others->read = others->arenas = 0;
	for (uint32_t place = 0; place < highest; place++)
		if (atomic_load(&caches.place[place].cache) != 0) {
			take_cache(&reading, place);
			others->read++;
		}
	do {
		take_arena(&reading, arena);
		others->arenas++;
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
	} while (arena != &arena_main);
	others->words = reading.at;
}

/* The same caches and arenas; of others that have come since nothing is known. */
static void take_again(struct others *others)
{
	struct reading reading = {.to = others, .again = true};

	for (uint32_t i = 0; i < others->read; i++)
		take_cache(&reading, others->word[reading.at]);
	for (uint32_t i = 0; i < others->arenas; i++)
		take_arena(&reading, (const struct arena *)others->word[reading.at]);
}

/* ---- what was found -------------------------------------------------------------------------- */

static void tell_block(
	struct others *others, bool tell, uint64_t block, uint64_t bytes, uint64_t chunk)
{
	if (tell)
		log_kept(others->tick, block, bytes, chunk);
	else
		others->blocks++;
}

/* Of a cache or an arena; `at` goes on to what is behind. Returns how many of its lists are unread.
 */
static uint32_t pass_lists(
	struct others *others, size_t *at, unsigned lists, uint32_t tid, bool tell)
{
	uint32_t unread = 0;

	for (unsigned bin = 0; bin < lists; bin++) {
		uint64_t count = others->word[(*at)++],
			 left = count != UNREAD ? count & ~CHANGED : 0;

		unread += (count & CHANGED) != 0;
		for (; left > 0; left--) {
			uint64_t word = others->word[(*at)++];

			if ((count & CHANGED) == 0)
				tell_block(others, tell, word & ~WHAT_MASK, hl_bin_bytes(bin),
					hl_kept_pack(word & WHAT_MASK, tid));
		}
	}
	return unread;
}

/* Either counts what there is to be told, or tells it. */
static void pass(struct others *others, bool tell)
{
	uint32_t serial = (uint32_t)(log_thread() >> 32), unread = 0;
	size_t at = 0;

	for (uint32_t i = 0; i < others->read; i++) {
		uint64_t cache = others->word[at + 1], bytes = others->word[at + 3];
		uint32_t tid = hl_cache_tid(others->word[at + 2], serial), torn;

		at += CACHE_WORDS;
		torn = pass_lists(others, &at, HL_CACHE_BINS, tid, tell);
		unread += torn;
		if (cache != 0)
			tell_block(others, tell, cache, bytes,
				hl_kept_pack(HL_KEPT_TABLE | (torn != 0 ? HL_KEPT_PART : 0), tid));
	}
	for (uint32_t i = 0; i < others->arenas; i++) {
		at++;
		unread += pass_lists(others, &at, ARENA_LISTS, 0, tell);
	}
	others->unread = unread;
	if (others->caches > others->read)
		others->unread += (others->caches - others->read) * HL_CACHE_BINS;
}

/* The recording's clock is parted in between: what any thread logs afterwards bears a later time.
 */
static bool take_both(struct others *others)
{
	hold_arenas();
	take_once(others);
	if (others->words <= others->room) {
		log_restamp_all();
		others->tick = log_tick();
		take_again(others);
		others->blocks = 0;
		others->caches = atomic_load(&caches.count);
		pass(others, false);
	}
	leave_arenas();
	return others->words <= others->room && others->unread == 0;
}

static void borrow(struct others *others)
{
	size_t room = others->words + BORROW_MORE;
	uint64_t *word = log_borrow(room * sizeof(*word));

	if (word == NULL)
		return;
	others->word = word;
	others->room = room;
}

void others_read(struct others *others)
{
	*others = (struct others){.word = own_words, .room = WORDS};
	if (!lock_try(&reading_lock) && !lock_spin(&reading_lock)) {
		others->word = NULL;
		others->words = 1;
	}
	for (int i = 0; others->word != NULL && i < TRIES && !take_both(others); i++)
		if (others->words > others->room && others->word == own_words)
			borrow(others);
	if (others->words <= others->room)
		return;
	/* There is no memory, or another thread is at it: nothing is known. */
	others->tick = log_tick();
	others->read = others->arenas = 0;
	others->caches = atomic_load(&caches.count);
	others->unread = others->caches * HL_CACHE_BINS + arena_count() * ARENA_LISTS;
	others->blocks = 0;
}

void others_tell(struct others *others)
{
	pass(others, true);
}

void others_drop(struct others *others)
{
	if (others->word == NULL)
		return;
	if (others->word != own_words)
		log_give_back(others->word, others->room * sizeof(*others->word));
	lock_drop(&reading_lock);
}

void others_fork_child(void)
{
	struct arena *arena = &arena_main;

	lock_reset(&reading_lock);
	do {
		if (arena->read_held)
			lock_reset(&arena->lock);
		arena->read_held = false;
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
	} while (arena != &arena_main);
}
