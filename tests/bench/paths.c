/* SPDX-License-Identifier: MIT
 *
 * One way through the allocator, over and over, for instructions.py to count:
 *
 *     paths NAME ROUNDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keeps the compiler from seeing that a block is never used. */
static void *opaque(void *block)
{
	__asm__ volatile("" : "+r"(block));
	return block;
}

static void malloc_free(void)
{
	free(opaque(malloc(48)));
}

static void calloc_free(void)
{
	free(opaque(calloc(1, 48)));
}

/* Too large for the thread's cache. */
static void malloc_free_arena(void)
{
	free(opaque(malloc(4000)));
}

static void realloc_grows(void)
{
	free(opaque(realloc(opaque(malloc(2000)), 3000)));
}

/* More at a time than the thread's cache holds. */
static void malloc_free_64(void)
{
	void *block[64];

	for (int i = 0; i < 64; i++)
		block[i] = opaque(malloc(200));
	for (int i = 0; i < 64; i++)
		free(block[i]);
}

/* clang-format off */
#define PATH(name) {#name, name}
/* clang-format on */

static const struct {
	const char *name;
	void (*walk)(void);
} paths[] = {
	PATH(malloc_free),
	PATH(calloc_free),
	PATH(malloc_free_arena),
	PATH(realloc_grows),
	PATH(malloc_free_64),
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		if (argc < 3)
			puts(paths[i].name);
		else if (strcmp(argv[1], paths[i].name) == 0)
			for (long rounds = atol(argv[2]); rounds > 0; rounds--)
				paths[i].walk();
	}
	return 0;
}
