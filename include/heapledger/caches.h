/* SPDX-License-Identifier: MIT
 *
 * Where a process has what its heap keeps of freed blocks: the caches of its threads and the fast
 * lists of its arenas. The library has a `struct hl_caches` and names its address in its slot of
 * the process table (session.h); the collector reads it and what it leads to in the process's
 * memory, while the process runs (record/caches.c), and the process itself when it ends
 * (interposer/others.c). What both take for a list is told here. Never in a file.
 */
#ifndef HEAPLEDGER_CACHES_H
#define HEAPLEDGER_CACHES_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HL_CACHE_BINS 64
#define HL_CACHE_SURPLUS_ENTRIES 25
#define HL_CACHE_SURPLUS_BYTES 4096
#define HL_CACHES_MOST 4096
#define HL_FAST_BINS 10

/* A thread's cache. A bin `i` has blocks whose chunks take hl_bin_bytes(i). */
struct hl_cache {
	uint16_t room[HL_CACHE_BINS]; /* entries that may still be put; 0 in unused bins */
	uint64_t first[HL_CACHE_BINS];
	uint64_t widened; /* a set bit: that bin has room for hl_cache_surplus more */
};

/* From 8 bytes before a freed block on, in a cache or in a fast list. */
struct hl_kept_block {
	uint64_t head; /* bytes of the chunk; flags in the 4 lowest bits and in the top byte */
	uint64_t next; /* block or chunk, hl_unmask */
	uint64_t key;  /* in a cache: hl_caches.key */
};
#define HL_CHUNK_BYTES_MASK ((UINT64_C(1) << 56) - 16)
#define HL_CHUNK_BLOCK 16 /* a block lies so far behind its chunk, which fast lists link */

/* Whose cache it is: the thread's id, and above it the serial of the process that the thread was
 * of, since copies of it go on in the processes that it forks. 0 = not known. */
struct hl_cache_place {
	_Atomic uint64_t cache; /* address, or 0 */
	_Atomic uint64_t thread;
};

struct hl_caches {
	uint64_t key;             /* 0: the heap has not begun */
	uint64_t arena;           /* the first one of a ring */
	uint32_t arena_next;      /* in an arena: the next one ... */
	uint32_t arena_deferred;  /* ... what was freed and lies in no list yet, or 0 ... */
	uint32_t arena_fast;      /* ... and the heads of its HL_FAST_BINS fast lists */
	uint32_t bins;            /* of a cache, that are in use */
	uint32_t entries;         /* a bin, but for its surplus */
	_Atomic uint32_t count;   /* caches that there are */
	_Atomic uint32_t highest; /* no place of the list below was used from here on */
	uint32_t reserved;
	struct hl_cache_place place[HL_CACHES_MOST]; /* of those that found room */
};

static inline uint64_t hl_bin_bytes(unsigned bin)
{
	return (uint64_t)(bin + 2) << 4;
}

/* Entries a bin gets when it is widened. */
static inline unsigned hl_cache_surplus(unsigned bin)
{
	unsigned entries = (unsigned)(HL_CACHE_SURPLUS_BYTES / hl_bin_bytes(bin));

	return entries < HL_CACHE_SURPLUS_ENTRIES ? entries : HL_CACHE_SURPLUS_ENTRIES;
}

/* A link, masked by the place where it stands. */
static inline uint64_t hl_unmask(uint64_t place, uint64_t link)
{
	return place >> 12 ^ link;
}

/* The id of a cache's thread, in the process of this serial; 0 = not known. */
static inline uint32_t hl_cache_tid(uint64_t thread, uint32_t serial)
{
	return thread >> 32 == serial ? (uint32_t)thread : 0;
}

/* How many blocks a bin has follows from the room that is left: *lent of them, the newest, are
 * beyond its entries. False: it cannot be. */
static inline bool hl_cache_count(const struct hl_caches *caches, unsigned bin, bool widened,
	uint32_t room, uint32_t *blocks, uint32_t *lent)
{
	uint32_t entries = bin < caches->bins ? caches->entries : 0;
	uint32_t surplus = widened ? hl_cache_surplus(bin) : 0;

	*blocks = entries + surplus - room;
	*lent = room < surplus ? surplus - room : 0;
	return room <= entries + surplus;
}

/* Whether what was read can be of this bin; key: 0 in a fast list, which has none. */
static inline bool hl_kept_fits(const struct hl_kept_block *block, unsigned bin, uint64_t key)
{
	return (block->head & HL_CHUNK_BYTES_MASK) == hl_bin_bytes(bin) &&
	       (key == 0 || block->key == key);
}

#endif
