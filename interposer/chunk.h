/* SPDX-License-Identifier: MIT
 *
 * A chunk: what the heap deals in. It lies between boundary tags, so that both neighbours are found
 * from it. The block the program sees starts 16 bytes in; the first word of the next chunk belongs
 * to the block while this chunk is in use, and holds this chunk's size while it is free.
 *
 *	chunk -> | prev_bytes | head: size and flags | block ... |
 *	next  -> | prev_bytes (the last 8 bytes of the block) | head ... |
 */
#ifndef HEAPLEDGER_CHUNK_H
#define HEAPLEDGER_CHUNK_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK_ALIGN_BYTES ((size_t)16)
#define CHUNK_HEADER_BYTES ((size_t)16)
#define CHUNK_MIN_BYTES ((size_t)32)

#define CHUNK_BELOW_IN_USE ((size_t)1) /* the chunk below is not free */
#define CHUNK_MMAPPED ((size_t)2)      /* alone in a mapping, prev_bytes after its start */
#define CHUNK_OTHER_ARENA ((size_t)4)  /* in a segment, which names its arena */
#define CHUNK_NOTED ((size_t)8)        /* free, and `note` says something about it */
#define CHUNK_FLAGS ((size_t)15)

/* Sizes have 56 bits. The byte above belongs to the block's owner, who writes it without a lock. */
#define CHUNK_SIZE_MASK (((size_t)1 << 56) - 1 - CHUNK_FLAGS)
#define CHUNK_TAKER_BYTE 7 /* which thread took it, if not the arena's home thread (home.h) */

struct node {
	struct node *next, *prev;
};

struct chunk {
	size_t prev_bytes;
	size_t head;                    /* for chunk_head and chunk_set_head only */
	struct node link;               /* free: place in its bin */
	struct chunk *smaller, *larger; /* free in a large bin, first of its size: ring of sizes */
	uint64_t note;                  /* free, CHUNK_NOTED: a time or one of CHUNK_NOTE_... */
};

/* What is known of a free chunk that holds whole pages; else since when it is free, in ms. */
#define CHUNK_NOTE_TO_TRIM UINT64_MAX      /* malloc_trim has not looked at it yet */
#define CHUNK_NOTE_PURGED (UINT64_MAX - 1) /* its whole pages went back */
static_assert(offsetof(struct chunk, link) == CHUNK_HEADER_BYTES, "links lie in the block");

static inline struct chunk *chunk_of(const void *block)
{
	return (struct chunk *)((uintptr_t)block - CHUNK_HEADER_BYTES);
}

static inline void *chunk_block(struct chunk *chunk)
{
	return (char *)chunk + CHUNK_HEADER_BYTES;
}

static inline struct chunk *chunk_of_node(struct node *node)
{
	return (struct chunk *)((char *)node - offsetof(struct chunk, link));
}

/* Request at most PTRDIFF_MAX. */
static inline size_t chunk_bytes_for(size_t request)
{
	size_t bytes = (request + 8 + CHUNK_ALIGN_BYTES - 1) & ~(CHUNK_ALIGN_BYTES - 1);

	return bytes < CHUNK_MIN_BYTES ? CHUNK_MIN_BYTES : bytes;
}

/* The owner of a block reads the head and writes its top byte without a lock, while whoever frees,
 * takes or cuts the chunk below changes CHUNK_BELOW_IN_USE in the same word, under the arena's
 * lock. So each is done in one piece, which on x86-64 is what it is anyway; the owner writes a
 * single byte, the other the lower half. Nobody else changes the head of a block in use, and no
 * owner looks at that bit.
 *
 * Whoever asks for the flags of a chunk, or knows that it is short, reads the lower half only: a
 * load of the whole word cannot be served from a store of the half that is still on its way, and
 * waits until all stores before it have reached the cache. */
static inline size_t chunk_head(const struct chunk *chunk)
{
	return __atomic_load_n(&chunk->head, __ATOMIC_RELAXED);
}

static inline void chunk_set_head(struct chunk *chunk, size_t head)
{
	__atomic_store_n(&chunk->head, head, __ATOMIC_RELAXED);
}

static inline uint32_t chunk_low_half(const struct chunk *chunk)
{
	return __atomic_load_n((const uint32_t *)(const void *)&chunk->head, __ATOMIC_RELAXED);
}

static inline void chunk_set_low_half(struct chunk *chunk, uint32_t half)
{
	__atomic_store_n((uint32_t *)(void *)&chunk->head, half, __ATOMIC_RELAXED);
}

static inline void chunk_mark(struct chunk *chunk, size_t flags)
{
	chunk_set_low_half(chunk, chunk_low_half(chunk) | (uint32_t)flags);
}

static inline void chunk_unmark(struct chunk *chunk, size_t flags)
{
	chunk_set_low_half(chunk, chunk_low_half(chunk) & ~(uint32_t)flags);
}

static inline uint8_t chunk_taker(const struct chunk *chunk)
{
	return (uint8_t)(chunk_head(chunk) >> (8 * CHUNK_TAKER_BYTE));
}

static inline void chunk_set_taker(struct chunk *chunk, uint8_t taker)
{
	__atomic_store_n((uint8_t *)&chunk->head + CHUNK_TAKER_BYTE, taker, __ATOMIC_RELAXED);
}

static inline size_t chunk_bytes(const struct chunk *chunk)
{
	return chunk_head(chunk) & CHUNK_SIZE_MASK;
}

static inline struct chunk *chunk_at(const void *chunk, size_t offset)
{
	return (struct chunk *)((uintptr_t)chunk + offset);
}

static inline struct chunk *chunk_next(const struct chunk *chunk)
{
	return chunk_at(chunk, chunk_bytes(chunk));
}

static inline struct chunk *chunk_below(const struct chunk *chunk)
{
	return (struct chunk *)((uintptr_t)chunk - chunk->prev_bytes);
}

static inline bool chunk_is_mmapped(const struct chunk *chunk)
{
	return (chunk_low_half(chunk) & CHUNK_MMAPPED) != 0;
}

static inline bool chunk_below_in_use(const struct chunk *chunk)
{
	return (chunk_low_half(chunk) & CHUNK_BELOW_IN_USE) != 0;
}

/* Asks the next chunk: not for top. */
static inline bool chunk_in_use(const struct chunk *chunk)
{
	return chunk_below_in_use(chunk_next(chunk));
}

/* Bytes the program may use. */
static inline size_t chunk_usable(const struct chunk *chunk)
{
	return chunk_bytes(chunk) - (chunk_is_mmapped(chunk) ? 16 : 8);
}

/* Free lists that have one link keep it masked by its own place, so that a stray write into a freed
 * block is found by the alignment of what comes out. */
static inline void *chunk_mask(const void *place, const void *link)
{
	return (void *)((uintptr_t)place >> 12 ^ (uintptr_t)link);
}

static inline bool chunk_is_aligned(const void *address)
{
	return ((uintptr_t)address & (CHUNK_ALIGN_BYTES - 1)) == 0;
}

#endif
