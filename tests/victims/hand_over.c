/* SPDX-License-Identifier: MIT
 *
 * Threads hand each block over as soon as they have it, and free what they get: the shortest way
 * from an allocation in one thread to the free in another. A recording must have them in order.
 */
#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define THREADS 4
#define SLOTS 4
#define STEPS 400000

static void *_Atomic slot[SLOTS];

static void *churn(void *seed)
{
	unsigned random = (unsigned)(size_t)seed;

	for (int i = 0; i < STEPS; i++) {
		random = random * 1103515245 + 12345;
		free(atomic_exchange(
			&slot[random >> 16 & (SLOTS - 1)], malloc(random >> 8 & 0x3ff)));
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < SLOTS; i++)
		free(slot[i]);
	return 0;
}
