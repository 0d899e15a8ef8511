/* SPDX-License-Identifier: MIT
 *
 * 1,000 threads that live at the same time, each with blocks of its own, some of which the next one
 * frees; then 1,000 one after another. Half of them are detached or cancelled.
 */
#include "victim.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define THREADS 1000
#define BLOCKS 20

static pthread_barrier_t all;
static char *_Atomic given[THREADS];
static atomic_int detached;

static void use_blocks(size_t number)
{
	char *block[BLOCKS];

	for (size_t i = 0; i < BLOCKS; i++) {
		block[i] = malloc(i * i * 13 + number % 50 + 1);
		REQUIRE(block[i] != NULL);
		memset(block[i], (int)number, i * i * 13 + number % 50 + 1);
	}
	for (size_t i = 0; i < BLOCKS; i++) {
		REQUIRE(block[i][i * i * 13 + number % 50] == (char)number);
		free(block[i]);
	}
}

static void *together(void *number)
{
	size_t own = (size_t)number;

	use_blocks(own);
	given[own] = malloc(own + 1);
	memset(given[own], (int)own, own + 1);
	pthread_barrier_wait(&all);
	REQUIRE(given[(own + 1) % THREADS][0] == (char)((own + 1) % THREADS));
	free(atomic_exchange(&given[(own + 1) % THREADS], NULL));
	use_blocks(own);
	return NULL;
}

static void *alone(void *number)
{
	use_blocks((size_t)number);
	if ((size_t)number % 4 == 1)
		atomic_fetch_add(&detached, 1);
	if ((size_t)number % 4 == 2)
		for (;;)
			pause(); /* until it is cancelled */
	return NULL;
}

int main(void)
{
	static pthread_t threads[THREADS];
	pthread_attr_t small;
	int waiting = 0;

	alarm(200);
	REQUIRE(pthread_attr_init(&small) == 0);
	REQUIRE(pthread_attr_setstacksize(&small, 64 << 10) == 0);
	REQUIRE(pthread_barrier_init(&all, NULL, THREADS) == 0);
	for (size_t i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&threads[i], &small, together, (void *)i) == 0);
	for (size_t i = 0; i < THREADS; i++)
		REQUIRE(pthread_join(threads[i], NULL) == 0);
	for (size_t i = 0; i < THREADS; i++) {
		pthread_t thread;

		REQUIRE(pthread_create(&thread, &small, alone, (void *)i) == 0);
		if (i % 4 == 1) {
			REQUIRE(pthread_detach(thread) == 0);
			waiting++;
			continue;
		}
		if (i % 4 == 2)
			REQUIRE(pthread_cancel(thread) == 0);
		REQUIRE(pthread_join(thread, NULL) == 0);
	}
	while (detached < waiting)
		usleep(1000);
	return 0;
}
