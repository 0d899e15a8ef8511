/* SPDX-License-Identifier: MIT
 *
 * What other threads do beside each trial of a victim: at full speed, but so many rounds of it at
 * most. Without a bound there is the more of it the slower the machine is, and it is all recorded.
 */
#ifndef BESIDE_H
#define BESIDE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#define BESIDE_ROUNDS 2000 /* of all threads together, for each trial */
#define BESIDE_BEGUN 20

static atomic_int beside_left;
static atomic_bool beside_over;

/* Before each trial: comes back when the others are in the middle of it. */
static inline void beside_begin(void)
{
	atomic_store(&beside_left, BESIDE_ROUNDS);
	while (atomic_load(&beside_left) > BESIDE_ROUNDS - BESIDE_BEGUN)
		sched_yield();
}

static inline void beside_end(void)
{
	atomic_store(&beside_over, true);
}

/* Before each round of such a thread: whether there is one. */
static inline bool beside_goes_on(void)
{
	const struct timespec soon = {.tv_nsec = 100000};

	while (!atomic_load(&beside_over)) {
		if (atomic_load(&beside_left) > 0 && atomic_fetch_sub(&beside_left, 1) > 0)
			return true;
		nanosleep(&soon, NULL);
	}
	return false;
}

#endif
