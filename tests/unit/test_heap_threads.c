/* SPDX-License-Identifier: MIT
 *
 * Threads: arenas, caches, blocks that cross threads, ends of threads; a random stress whose blocks
 * carry patterns, with the whole-heap check between phases.
 */
#include "arena.h"
#include "check.h"
#include "heap.h"
#include "log.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOTS 512
#define THREADS 6
#define STEPS 40000

struct slot {
	unsigned char *block;
	size_t bytes;
};

/* Blocks in the shared table are taken and put back whole, so any thread may free any block. */
static struct slot shared[SLOTS];
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static size_t random_bytes(uint64_t *state)
{
	uint64_t r = random_next(state);
	unsigned kind = r % 64;
	size_t limit = kind == 0 ? 400000 : kind < 5 ? 40000 : kind < 17 ? 2000 : 200;

	return r / 64 % limit;
}

static void fill(struct slot *slot)
{
	memset(slot->block, (int)(slot->bytes % 251), slot->bytes);
}

static void verify(const struct slot *slot, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (slot->block[i] != slot->bytes % 251)
			abort();
}

static void step(struct slot *slot, uint64_t *state)
{
	size_t bytes = random_bytes(state);
	unsigned choice = random_next(state) % 8;
	struct slot old = *slot;

	if (old.block != NULL)
		verify(&old, old.bytes);
	if (choice == 0 && bytes > 0) {
		slot->block = heap_realloc(old.block, bytes);
		old.block = slot->block != NULL && old.block != NULL ? slot->block : NULL;
		if (old.block != NULL)
			verify(&old, old.bytes < bytes ? old.bytes : bytes);
	} else {
		heap_free(old.block);
		if (choice == 1)
			slot->block = heap_aligned((size_t)16 << random_next(state) % 9, bytes);
		else if (choice == 2)
			slot->block = heap_calloc(bytes);
		else
			slot->block = heap_alloc(bytes);
	}
	if (slot->block == NULL)
		abort();
	for (size_t i = 0; choice == 2 && i < bytes; i++)
		if (slot->block[i] != 0)
			abort();
	slot->bytes = bytes;
	fill(slot);
}

static void *work(void *seed)
{
	uint64_t state = (uintptr_t)seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	struct slot own[64] = {0};

	heap_thread_begin();
	for (int i = 0; i < STEPS; i++) {
		struct slot *slot = &own[random_next(&state) % 64];

		step(slot, &state);
		if (i % 3 == 0) {
			struct slot *other = &shared[random_next(&state) % SLOTS];
			struct slot kept = *slot;

			pthread_mutex_lock(&shared_lock);
			*slot = *other;
			*other = kept;
			pthread_mutex_unlock(&shared_lock);
		}
	}
	for (int i = 0; i < 64; i++)
		heap_free(own[i].block);
	return NULL;
}

static void run_threads(uintptr_t seed)
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, work, (void *)(seed * 100 + i)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void empty_shared(void)
{
	for (int i = 0; i < SLOTS; i++) {
		if (shared[i].block != NULL)
			verify(&shared[i], shared[i].bytes);
		heap_free(shared[i].block);
		shared[i].block = NULL;
	}
}

static void contents_survive_a_stress(void **state)
{
	(void)state;
	for (uintptr_t round = 1; round <= 3; round++) {
		run_threads(round);
		heap_check();
		heap_trim(0);
		heap_check();
	}
	empty_shared();
	heap_check();
}

static void arenas_are_reused_and_limited(void **state)
{
	(void)state;
	/* Threads that ended left their arenas to the next ones. */
	assert_in_range(arena_count(), 2, THREADS + 2);
}

static void *touch(void *unused)
{
	void *block[20];

	heap_thread_begin();
	for (size_t i = 0; i < 20; i++)
		block[i] = heap_alloc(i * 100);
	for (size_t i = 0; i < 20; i++)
		heap_free(block[i]);
	return unused;
}

static void a_thousand_threads_leave_nothing(void **state)
{
	unsigned before;

	(void)state;
	before = arena_count();
	for (int i = 0; i < 1000; i++) {
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, touch, NULL), 0);
		pthread_join(thread, NULL);
	}
	assert_int_equal(arena_count(), before);
	heap_check();
}

static _Atomic bool stop;

static void *churn(void *unused)
{
	heap_thread_begin();
	while (!stop) {
		void *block = heap_alloc(5000);

		heap_free(heap_realloc(block, 9000));
	}
	return unused;
}

static void fork_among_threads_keeps_the_heap_whole(void **state)
{
	pthread_t threads[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
	for (int i = 0; i < 100; i++) {
		unsigned char *block = heap_alloc(4000);
		int status;
		pid_t child;

		memset(block, 5, 4000);
		child = fork();
		if (child == 0) {
			alarm(20);
			heap_check();
			heap_free(block);
			heap_free(heap_alloc(100000));
			heap_check();
			_exit(0);
		}
		assert_true(child > 0);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
		heap_free(block);
	}
	stop = true;
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	heap_check();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents_survive_a_stress),
		cmocka_unit_test(arenas_are_reused_and_limited),
		cmocka_unit_test(a_thousand_threads_leave_nothing),
		cmocka_unit_test(fork_among_threads_keeps_the_heap_whole),
	};

	heap_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
