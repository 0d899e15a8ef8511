/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_observe.py: ROUNDS calls of each kind, then KEPT blocks of
 * known sizes that nobody frees. Some of them are made by another thread. Prints nothing.
 *
 *     observed ROUNDS KEPT
 */
#include "victim.h"

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

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

int main(int argc, char **argv)
{
	size_t rounds = argc == 3 ? (size_t)atol(argv[1]) : 0;
	size_t kept = argc == 3 ? (size_t)atol(argv[2]) : 0;
	pthread_t thread;

	for (size_t i = 0; i < rounds; i++)
		one_round(i);
	keep((void *)(kept / 2));
	REQUIRE(pthread_create(&thread, NULL, keep, (void *)(kept - kept / 2)) == 0);
	pthread_join(thread, NULL);
	return 0;
}
