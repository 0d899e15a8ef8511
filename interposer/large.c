/* SPDX-License-Identifier: MIT
 *
 * large.h, the rules of glibc 2.36.
 */
#include "large.h"

#include "fatal.h"
#include "os.h"
#include "tunables.h"

struct large_counts large_counts;

static struct os_why block_why(enum hl_reason reason)
{
	return (struct os_why){reason, HL_REGION_block, 0};
}

static void raise_to(_Atomic size_t *peak, size_t value)
{
	size_t seen = atomic_load_explicit(peak, memory_order_relaxed);

	while (seen < value && !atomic_compare_exchange_weak(peak, &seen, value))
		continue;
}

static void count(size_t blocks, size_t bytes)
{
	raise_to(&large_counts.blocks_max, atomic_fetch_add(&large_counts.blocks, blocks) + blocks);
	raise_to(&large_counts.bytes_max, atomic_fetch_add(&large_counts.bytes, bytes) + bytes);
}

bool large_wanted(size_t bytes)
{
	return tunables.policy != HL_POLICY_brk && bytes >= tunable(&tunables.mmap_threshold) &&
	       atomic_load_explicit(&large_counts.blocks, memory_order_relaxed) <
		       tunable(&tunables.mmap_max);
}

__attribute__((noinline)) struct chunk *large_alloc(size_t bytes, enum hl_reason reason)
{
	size_t mapped = os_page_up(bytes + 8);
	struct chunk *chunk;

	if (mapped <= bytes)
		return NULL;
	chunk = os_map(NULL, mapped, block_why(reason));
	if (chunk == NULL)
		return NULL;
	os_advise_huge(chunk, mapped, block_why(HL_REASON_huge_page));
	count(1, mapped);
	chunk->prev_bytes = 0;
	chunk_set_head(chunk, mapped | CHUNK_MMAPPED);
	return chunk;
}

static char *check_mapping(struct chunk *chunk, const char *fault)
{
	uintptr_t start = (uintptr_t)chunk - chunk->prev_bytes;
	uintptr_t place = (uintptr_t)chunk_block(chunk) & (OS_PAGE_BYTES - 1);

	if (((start | large_mapped_bytes(chunk)) & (OS_PAGE_BYTES - 1)) != 0 ||
		(place & (place - 1)) != 0 || start == 0)
		fatal_block(fault, chunk_block(chunk));
	return (char *)start;
}

static void raise_thresholds(size_t bytes)
{
	if (tunables.fixed || bytes <= tunable(&tunables.mmap_threshold) ||
		bytes > TUNABLES_MMAP_THRESHOLD_MAX_BYTES)
		return;
	tunable_set(&tunables.mmap_threshold, bytes);
	tunable_set(&tunables.trim_threshold, 2 * bytes);
}

__attribute__((noinline)) void large_free(struct chunk *chunk)
{
	size_t mapped = large_mapped_bytes(chunk);
	char *start = check_mapping(chunk, "free(): invalid pointer (mapped block)");

	raise_thresholds(chunk_bytes(chunk));
	atomic_fetch_sub(&large_counts.blocks, 1);
	atomic_fetch_sub(&large_counts.bytes, mapped);
	os_unmap(start, mapped, block_why(HL_REASON_free_mmapped));
}

struct chunk *large_resize(struct chunk *chunk, size_t bytes)
{
	size_t offset = chunk->prev_bytes;
	size_t old_mapped = large_mapped_bytes(chunk);
	size_t mapped = os_page_up(bytes + offset + 8);
	char *start = check_mapping(chunk, "realloc(): invalid pointer (mapped block)");

	if (mapped == old_mapped)
		return chunk;
	if (mapped < bytes)
		return NULL;
	start = os_remap(start, old_mapped, mapped, block_why(HL_REASON_realloc_mremap));
	if (start == NULL)
		return NULL;
	if (mapped > old_mapped)
		os_advise_huge(start, mapped, block_why(HL_REASON_huge_page));
	count(0, mapped - old_mapped);
	chunk = chunk_at(start, offset);
	chunk_set_head(chunk, (mapped - offset) | CHUNK_MMAPPED);
	return chunk;
}

struct chunk *large_advance(struct chunk *chunk, size_t lead)
{
	struct chunk *moved = chunk_at(chunk, lead);

	moved->prev_bytes = chunk->prev_bytes + lead;
	chunk_set_head(moved, (chunk_bytes(chunk) - lead) | CHUNK_MMAPPED);
	return moved;
}
