/* SPDX-License-Identifier: MIT
 *
 * The program uses sbrk as a stack of its own, up and down by odd amounts, between allocations,
 * frees and trims. What it got stays its own, what it gave back may be ours.
 */
#include "victim.h"

#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define BLOCKS 64
#define DEPTH 8
#define STEPS 20000

struct piece {
	unsigned char *start;
	size_t bytes;
};

static uint64_t state = 88172645463325252u;

static size_t random_below(size_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % limit;
}

static void fill(struct piece *piece, void *start, size_t bytes)
{
	*piece = (struct piece){start, bytes};
	memset(start, (int)(bytes % 251), bytes);
}

static void verify(const struct piece *piece)
{
	for (size_t i = 0; i < piece->bytes; i++)
		REQUIRE(piece->start[i] == piece->bytes % 251);
}

static struct piece own[DEPTH], kept[4096];
static int depth, kept_count;

static void move_up(void)
{
	size_t bytes = random_below(20000) + 1;
	void *start = sbrk((intptr_t)bytes);

	REQUIRE(start != (void *)-1);
	fill(&own[depth++], start, bytes);
}

/* Down again while it is still ours: nothing lies above. Else it is kept for ever. */
static void move_down(void)
{
	struct piece *piece = &own[--depth];

	verify(piece);
	if (sbrk(0) == piece->start + piece->bytes)
		REQUIRE(sbrk(-(intptr_t)piece->bytes) == piece->start + piece->bytes);
	else if (kept_count < 4096)
		kept[kept_count++] = *piece;
}

int main(void)
{
	struct piece block[BLOCKS] = {{0}};

	for (int i = 0; i < STEPS; i++) {
		struct piece *piece = &block[random_below(BLOCKS)];
		size_t choice = random_below(100);

		if (choice < 3)
			malloc_trim(random_below(20000));
		else if (choice < 6 && depth < DEPTH && kept_count < 500)
			move_up();
		else if (choice < 9 && depth > 0)
			move_down();
		else if (piece->start != NULL) {
			verify(piece);
			free(piece->start);
			piece->start = NULL;
			piece->bytes = 0;
		} else {
			size_t bytes = random_below(choice < 50 ? 120000 : 3000);

			fill(piece, malloc(bytes), bytes);
		}
	}
	for (int i = 0; i < BLOCKS; i++) {
		verify(&block[i]);
		free(block[i].start);
	}
	for (int i = 0; i < depth; i++)
		verify(&own[i]);
	for (int i = 0; i < kept_count; i++)
		verify(&kept[i]);
	REQUIRE(kept_count > 10);
	return 0;
}
