/* SPDX-License-Identifier: MIT
 *
 * Prints how many nanoseconds a cache line takes from one CPU to another and back: the median of
 * some tries, between the first two CPUs that this process may use, 0 if there is but one. On a
 * virtual machine the host moves CPUs about, and the figure, and with it the time of every program
 * of more than one thread, is then one of two.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TRIES 5
#define TRIPS 20000

static _Atomic unsigned long turn;

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
		abort();
}

static void *answer(void *cpu)
{
	stay_on(*(int *)cpu);
	for (unsigned long i = 0; i < TRIES * TRIPS; i++) {
		while (atomic_load(&turn) != 2 * i + 1)
			;
		atomic_store(&turn, 2 * i + 2);
	}
	return NULL;
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

int main(void)
{
	int64_t took[TRIES];
	unsigned long trip = 0;
	pthread_t other;
	cpu_set_t allowed;
	int cpu[2], count = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
		abort();
	for (int i = 0; i < CPU_SETSIZE && count < 2; i++)
		if (CPU_ISSET(i, &allowed))
			cpu[count++] = i;
	if (count < 2) {
		puts("0");
		return 0;
	}
	stay_on(cpu[0]);
	if (pthread_create(&other, NULL, answer, &cpu[1]) != 0)
		abort();
	for (int i = 0; i < TRIES; i++) {
		int64_t start = now();

		for (int n = 0; n < TRIPS; n++, trip++) {
			atomic_store(&turn, 2 * trip + 1);
			while (atomic_load(&turn) != 2 * trip + 2)
				;
		}
		took[i] = (now() - start) / TRIPS;
	}
	pthread_join(other, NULL);
	qsort(took, TRIES, sizeof(took[0]), by_size);
	printf("%lld\n", (long long)took[TRIES / 2]);
	return 0;
}
