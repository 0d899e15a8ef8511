/* SPDX-License-Identifier: MIT
 *
 * bins.h. Every link is checked before it is followed for writing: a broken one is a fault of the
 * program (a write past a block's end or after its free), reported and fatal.
 */
#include "bins.h"

#include "fatal.h"

#include <stddef.h>

void bins_init(struct bins *bins)
{
	for (unsigned i = 0; i < BINS_COUNT; i++)
		bins->list[i].next = bins->list[i].prev = &bins->list[i];
}

static void list_insert(struct node *before, struct node *node)
{
	struct node *after = before->next;

	node->prev = before;
	node->next = after;
	before->next = node;
	after->prev = node;
}

void bins_put_unsorted(struct bins *bins, struct chunk *chunk)
{
	struct node *head = &bins->list[BINS_UNSORTED];

	if (head->next->prev != head)
		fatal_block("corrupted unsorted chunks", chunk_block(chunk));
	list_insert(head, &chunk->link);
	if (!bins_is_small(chunk_bytes(chunk))) /* a small chunk has no room for them */
		chunk->smaller = chunk->larger = NULL;
}

static void ring_insert_before(struct chunk *place, struct chunk *chunk)
{
	chunk->smaller = place;
	chunk->larger = place->larger;
	if (place->larger->smaller != place)
		fatal_block("corrupted ring of sizes", chunk_block(place));
	place->larger->smaller = chunk;
	place->larger = chunk;
}

static __attribute__((noinline)) void put_large(struct node *head, struct chunk *chunk)
{
	size_t bytes = chunk_bytes(chunk);
	struct chunk *place;

	if (head->next == head) {
		chunk->smaller = chunk->larger = chunk;
		list_insert(head, &chunk->link);
		return;
	}
	place = chunk_of_node(head->next);
	if (bytes < chunk_bytes(chunk_of_node(head->prev))) {
		ring_insert_before(place, chunk); /* the ring closes: largest follows smallest */
		list_insert(head->prev, &chunk->link);
		return;
	}
	while (bytes < chunk_bytes(place))
		place = place->smaller;
	if (bytes == chunk_bytes(place)) { /* second of its size: the ring stays as it is */
		chunk->smaller = chunk->larger = NULL;
		list_insert(&place->link, &chunk->link);
		return;
	}
	ring_insert_before(place, chunk);
	list_insert(place->link.prev, &chunk->link);
}

void bins_put_sorted(struct bins *bins, struct chunk *chunk)
{
	unsigned index = bins_index(chunk_bytes(chunk));

	if (bins_is_small(chunk_bytes(chunk)))
		list_insert(&bins->list[index], &chunk->link);
	else
		put_large(&bins->list[index], chunk);
	bins->map[index / 64] |= UINT64_C(1) << index % 64;
}

/* The next chunk in the list takes over the place in the ring if it has the same size. */
static __attribute__((noinline)) void ring_remove(
	const struct bins *bins, struct chunk *chunk, size_t bytes)
{
	const struct node *head = &bins->list[bins_index(bytes)];
	struct chunk *heir = chunk_of_node(chunk->link.next);

	if (chunk->smaller->larger != chunk || chunk->larger->smaller != chunk)
		fatal_block("corrupted ring of sizes", chunk_block(chunk));
	if (chunk->link.next == head || chunk_bytes(heir) != bytes) {
		chunk->smaller->larger = chunk->larger;
		chunk->larger->smaller = chunk->smaller;
		return;
	}
	if (chunk->smaller == chunk) {
		heir->smaller = heir->larger = heir;
		return;
	}
	heir->smaller = chunk->smaller;
	heir->larger = chunk->larger;
	chunk->smaller->larger = heir;
	chunk->larger->smaller = heir;
}

void bins_remove(struct bins *bins, struct chunk *chunk)
{
	struct node *next = chunk->link.next, *prev = chunk->link.prev;
	size_t bytes = chunk_bytes(chunk);

	if (chunk_at(chunk, bytes)->prev_bytes != bytes)
		fatal_block("corrupted size of a free chunk", chunk_block(chunk));
	if (next->prev != &chunk->link || prev->next != &chunk->link)
		fatal_block("corrupted free list", chunk_block(chunk));
	if (!bins_is_small(bytes) && chunk->smaller != NULL)
		ring_remove(bins, chunk, bytes);
	next->prev = prev;
	prev->next = next;
}

struct chunk *bins_best_own(struct bins *bins, size_t bytes)
{
	struct node *head = &bins->list[bins_index(bytes)];
	struct chunk *fit;

	if (head->next == head || chunk_bytes(chunk_of_node(head->next)) < bytes)
		return NULL;
	fit = chunk_of_node(head->next)->larger; /* the smallest */
	while (chunk_bytes(fit) < bytes)
		fit = fit->larger;
	/* The second of its size is cheaper to take: it is not in the ring. */
	if (&fit->link != head->prev &&
		chunk_bytes(chunk_of_node(fit->link.next)) == chunk_bytes(fit))
		fit = chunk_of_node(fit->link.next);
	return fit;
}

struct chunk *bins_best_above(struct bins *bins, unsigned index)
{
	for (index++; index < BINS_COUNT; index++) {
		uint64_t word = bins->map[index / 64] >> index % 64;

		if (word == 0) {
			index |= 63;
			continue;
		}
		index += (unsigned)__builtin_ctzll(word);
		if (bins->list[index].prev != &bins->list[index])
			return chunk_of_node(bins->list[index].prev);
		bins->map[index / 64] &= ~(UINT64_C(1) << index % 64);
	}
	return NULL;
}

void bins_fast_push(struct bins *bins, struct chunk *chunk)
{
	struct chunk **first = &bins->fast[bins_fast_index(chunk_bytes(chunk))];

	if (*first == chunk)
		fatal_block("double free (fast bin)", chunk_block(chunk));
	chunk->link.next = chunk_mask(&chunk->link.next, *first);
	*first = chunk;
	bins->fast_bytes += chunk_bytes(chunk);
}

struct chunk *bins_fast_pop(struct bins *bins, unsigned index)
{
	struct chunk *chunk = bins->fast[index];

	if (chunk == NULL)
		return NULL;
	if (!chunk_is_aligned(chunk))
		fatal_block("corrupted fast bin: misaligned chunk", chunk);
	if ((chunk_low_half(chunk) & ~(uint32_t)CHUNK_FLAGS) != bins_fast_bytes(index))
		fatal_block("corrupted fast bin: wrong size", chunk_block(chunk));
	bins->fast[index] = chunk_mask(&chunk->link.next, chunk->link.next);
	bins->fast_bytes -= bins_fast_bytes(index);
	return chunk;
}
