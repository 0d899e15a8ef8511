/* SPDX-License-Identifier: MIT
 *
 * 200 threads at a time, created and ended, twenty times over: blocks cross threads, arenas are
 * used again, nothing is left behind.
 */
#include "victim.h"

#include <malloc.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define THREADS 200

static void *passed[THREADS];

static void *work(void *number)
{
	size_t own = (size_t)number;
	char *block[50];

	free(__atomic_exchange_n(&passed[(own + 1) % THREADS], NULL, __ATOMIC_ACQ_REL));
	for (size_t i = 0; i < 50; i++) {
		block[i] = malloc(i * 97 + own);
		memset(block[i], (int)own, i * 97 + own);
	}
	for (size_t i = 0; i < 50; i++) {
		for (size_t j = 0; j < i * 97 + own; j++)
			REQUIRE(block[i][j] == (char)own);
		free(block[i]);
	}
	free(__atomic_exchange_n(&passed[own], malloc(own * 10), __ATOMIC_ACQ_REL));
	return NULL;
}

static void round_of_threads(void)
{
	pthread_t threads[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < THREADS; i++) {
		free(passed[i]);
		passed[i] = NULL;
	}
}

int main(void)
{
	/* On a busy machine the last arenas may come late: each keeps a few KiB for itself. */
	size_t arenas = 8 * (size_t)sysconf(_SC_NPROCESSORS_ONLN) * 8192;
	size_t in_use = 0;

	for (int i = 0; i < 20; i++) {
		round_of_threads();
		if (i == 11) /* by then the C library has all the stacks it keeps */
			in_use = mallinfo2().uordblks;
	}
	/* A cache that is lost at a thread's end would be 656 bytes, 1,600 times: 1 MiB. */
	REQUIRE(mallinfo2().uordblks < in_use + THREADS * 64 + arenas);
	return 0;
}
