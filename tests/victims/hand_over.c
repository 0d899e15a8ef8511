/* SPDX-License-Identifier: MIT
 *
 * Threads hand each block over as soon as they have it, and free what they get: the shortest way
 * from an allocation in one thread to the free in another. A recording must have them in order.
 */
#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define SLOTS 4
#define MOST_THREADS 64

static void *_Atomic slot[SLOTS];
static long steps = 400000;
static size_t least; /* bytes */
static bool by_any_way;

/* Fresh or used before, zeroed, aligned, grown in place or moved. */
static void *take(unsigned random, size_t bytes)
{
	void *made;

	switch (by_any_way ? random >> 19 & 7 : 0) {
	case 1:
		return calloc(1, bytes);
	case 2:
		return aligned_alloc(64, (bytes + 63) / 64 * 64);
	case 3:
		return posix_memalign(&made, 4096, bytes) == 0 ? made : NULL;
	case 4:
		return realloc(malloc(bytes / 2 + 1), bytes);
	case 5:
		return realloc(malloc(bytes + 4096), bytes);
	default:
		return malloc(bytes);
	}
}

/* Each thread is replaced by a new one half-way: arenas change hands. */
static void *churn(void *seed)
{
	unsigned random = (unsigned)(size_t)seed;

	for (long i = 0; i < steps / 2; i++) {
		void *got, *made;

		random = random * 1103515245 + 12345;
		made = take(random, least + (random >> 8 & 0x3ff));
		got = atomic_exchange(&slot[random >> 16 & (SLOTS - 1)], made);
		if ((random >> 18 & 7) == 0 && got != NULL)
			got = realloc(got, (random >> 4 & 0xfff) + 1);
		free(got);
	}
	return NULL;
}

static void *churn_twice(void *seed)
{
	pthread_t second;

	churn(seed);
	REQUIRE(pthread_create(&second, NULL, churn, (char *)seed + 1000) == 0);
	pthread_join(second, NULL);
	return NULL;
}

/* hand_over [THREADS [STEPS [LEAST [any]]]]: of LEAST bytes at least, beyond 1032 from arenas only;
 * and by any way there is to a block, not by malloc alone */
int main(int argc, char **argv)
{
	pthread_t threads[MOST_THREADS];
	size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 4;

	if (argc > 2)
		steps = strtol(argv[2], NULL, 10);
	if (argc > 3)
		least = strtoul(argv[3], NULL, 10);
	by_any_way = argc > 4;
	REQUIRE(count <= MOST_THREADS);
	for (size_t i = 0; i < count; i++)
		REQUIRE(pthread_create(&threads[i], NULL, churn_twice, (void *)(i + 1)) == 0);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < SLOTS; i++)
		free(slot[i]);
	return 0;
}
