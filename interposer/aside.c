/* SPDX-License-Identifier: MIT
 *
 * heap.h's _aside functions, for calls from a signal handler that interrupted an allocator call of
 * the same thread. Only mappings, atomic counts and the lock-free list of deferred frees are used.
 */
#include "heap.h"

#include "arena.h"
#include "carve.h"
#include "large.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

static void *map_block(size_t alignment, size_t bytes)
{
	struct chunk *chunk = NULL;
	size_t lead;

	if (bytes <= PTRDIFF_MAX && alignment <= PTRDIFF_MAX - bytes)
		chunk = large_alloc(chunk_bytes_for(bytes + alignment), HL_REASON_interrupted);
	if (chunk == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	lead = alignment != 0 ? -(uintptr_t)chunk_block(chunk) & (alignment - 1) : 0;
	return chunk_block(lead != 0 ? large_advance(chunk, lead) : chunk);
}

void *heap_alloc_aside(size_t bytes)
{
	return map_block(0, bytes);
}

void *heap_calloc_aside(size_t bytes)
{
	return map_block(0, bytes);
}

void *heap_aligned_aside(size_t alignment, size_t bytes)
{
	size_t power = CHUNK_ALIGN_BYTES;

	while (power != 0 && power < alignment)
		power <<= 1;
	if (power != 0)
		return map_block(power, bytes);
	errno = EINVAL;
	return NULL;
}

void heap_free_aside(void *block)
{
	struct chunk *chunk = chunk_of(block);

	if (block == NULL)
		return;
	if (chunk_is_mmapped(chunk)) {
		large_free(chunk);
		return;
	}
	carve_check_free(chunk);
	arena_defer(arena_of(chunk), chunk);
}

void *heap_realloc_aside(void *block, size_t bytes)
{
	size_t have = heap_usable(block);
	void *moved = NULL;

	if (block == NULL)
		return heap_alloc_aside(bytes);
	if (bytes != 0) {
		moved = heap_alloc_aside(bytes);
		if (moved == NULL)
			return NULL;
		memcpy(moved, block, have < bytes ? have : bytes);
	}
	heap_free_aside(block);
	return moved;
}
