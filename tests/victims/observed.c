/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_observe.py: ROUNDS calls of each kind, then KEPT blocks of
 * known sizes that nobody frees. Some of them are made by another thread. Prints nothing.
 *
 *     observed ROUNDS KEPT [LARGE OWN]
 *
 * LARGE blocks, to which glibc gives a mapping each, are freed again, and as many are not; OWN
 * times a mapping of the program's own comes and goes directly between two calls.
 */
#include "victim.h"

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE_BYTES (1 << 20)
#define OWN_BYTES (256 << 10)

static void *touch(void *block, size_t size)
{
	REQUIRE(block != NULL);
	return memset(block, 1, size);
}

static void one_round(size_t i)
{
	void *block;

	free(touch(malloc(i % 700 + 1), i % 700 + 1));
	free(touch(calloc(3, i % 100 + 1), 3));
	free(touch(aligned_alloc(64, (i % 9 + 1) * 64), 64));
	free(touch(memalign(256, i % 500 + 1), 1));
	REQUIRE(posix_memalign(&block, 128, i % 300 + 1) == 0);
	block = touch(realloc(block, i % 5000 + 1), 1);
	block = touch(realloc(block, i % 90000 + 1), 1);
	free(block);
	free(touch(valloc(i % 100 + 1), 1));
	free(NULL);
}

static void *keep(void *count)
{
	for (size_t i = 0; i < (size_t)count; i++)
		touch(opaque(malloc(i % 2000 + 1)), 1);
	return NULL;
}

static void map(size_t large, size_t own)
{
	void *block;

	mallopt(M_MMAP_THRESHOLD, 128 << 10); /* and it stays so */
	for (size_t i = 0; i < large; i++) {
		free(touch(malloc(LARGE_BYTES), 1));
		touch(opaque(malloc(LARGE_BYTES)), 1);
	}
	for (size_t i = 0; i < own; i++) {
		block = malloc(100);
		munmap(mmap(NULL, OWN_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			OWN_BYTES);
		free(block);
	}
}

static size_t number(int argc, char **argv, int index)
{
	return argc > index ? (size_t)atol(argv[index]) : 0;
}

int main(int argc, char **argv)
{
	size_t rounds = number(argc, argv, 1), kept = number(argc, argv, 2);
	pthread_t thread;

	for (size_t i = 0; i < rounds; i++)
		one_round(i);
	keep((void *)(kept / 2));
	REQUIRE(pthread_create(&thread, NULL, keep, (void *)(kept - kept / 2)) == 0);
	pthread_join(thread, NULL);
	map(number(argc, argv, 3), number(argc, argv, 4));
	return 0;
}
