/* SPDX-License-Identifier: MIT
 *
 * For test_policy.py: damages the heap where no call that follows looks, makes a few calls, and
 * exits 0. Only the check of the whole heap can find it.
 *
 *     planted WHAT HOW      how it goes on: call, trim or end
 */
#include "victim.h"

#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

struct freed {
	struct freed *next, *prev;
};

static size_t *size_word(void *block)
{
	return (size_t *)block - 1;
}

/* A block that nobody frees says that it is larger than it is. */
static void size(void)
{
	char *block = opaque(malloc(5000));

	opaque(malloc(5000));
	*size_word(block) += 64;
}

/* Smaller than any can be. */
static void tiny(void)
{
	char *block = opaque(malloc(5000));

	opaque(malloc(5000));
	*size_word(block) = 1;
}

/* Two free blocks of an odd size, sorted into a list that nothing else wants. */
static struct freed *listed(void)
{
	void *block[4];

	for (int i = 0; i < 4; i++)
		block[i] = opaque(malloc(41000));
	free(block[0]);
	free(block[2]);
	opaque(malloc(50000));
	return block[0];
}

static void link_forward(void)
{
	static struct freed elsewhere;

	listed()->next = &elsewhere;
}

static void link_backward(void)
{
	struct freed *block = listed();

	block->prev = block;
}

/* What stands behind a free block, from where the next one finds its start. */
static void size_behind(void)
{
	char *block = (char *)listed();

	*(size_t *)(block + malloc_usable_size(block) - 8) -= 16;
}

/* A free block whose neighbour has forgotten that it is free. */
static void in_use_mark(void)
{
	char *block = (char *)listed();

	*size_word(block + malloc_usable_size(block) + 8) |= 1;
}

static void none(void)
{
}

static const struct {
	const char *name;
	void (*plant)(void);
} damages[] = {
	{"size", size},
	{"tiny", tiny},
	{"link_forward", link_forward},
	{"link_backward", link_backward},
	{"size_behind", size_behind},
	{"in_use_mark", in_use_mark},
	{"none", none},
};

int main(int argc, char **argv)
{
	void *first, *second;

	REQUIRE(argc == 3);
	first = opaque(malloc(2000));
	second = opaque(malloc(2000));
	memset(second, 1, 2000);
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++)
		if (strcmp(argv[1], damages[i].name) == 0)
			damages[i].plant();
	if (strcmp(argv[2], "call") == 0)
		free(first);
	if (strcmp(argv[2], "trim") == 0)
		malloc_trim(1 << 30);
	if (strcmp(argv[2], "end") != 0)
		_exit(0);
	return 0;
}
