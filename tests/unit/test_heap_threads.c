/* SPDX-License-Identifier: MIT
 *
 * Threads: arenas, caches, blocks that cross threads, ends of threads; a random stress whose blocks
 * carry patterns, with the whole-heap check between phases.
 */
#include "arena.h"
#include "check.h"
#include "heap.h"
#include "heap_log.h"
#include "log.h"

#include "heapledger/packed.h"

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

#define RESTING 3
#define REST_BLOCKS 5
#define READINGS 400
#define MANY 30000

static pthread_barrier_t resting;
static void *rested[RESTING][REST_BLOCKS];
static _Atomic uint32_t rested_tid[RESTING];

static size_t rest_bytes(size_t thread)
{
	return 700 + 16 * thread;
}

static void *rest(void *number)
{
	size_t thread = (size_t)number;

	heap_thread_begin();
	for (int i = 0; i < REST_BLOCKS; i++)
		rested[thread][i] = heap_alloc(rest_bytes(thread));
	for (int i = 0; i < REST_BLOCKS; i++)
		heap_free(rested[thread][i]);
	rested_tid[thread] = (uint32_t)gettid();
	pthread_barrier_wait(&resting);
	pthread_barrier_wait(&resting);
	return NULL;
}

/* All sizes that caches take, by threads that begin and end, too. */
static void *churn_small(void *unused)
{
	void *block[64] = {NULL};

	heap_thread_begin();
	for (unsigned i = 0; i < 20000 && !stop; i++) {
		void **place = &block[i * 7 % 64];

		heap_free(*place);
		*place = heap_alloc(i * 31 % 1100);
		memset(*place, 0x5a, i * 31 % 1100);
	}
	for (unsigned i = 0; i < 64; i++)
		heap_free(block[i]);
	return unused;
}

static void *begin_and_end(void *unused)
{
	while (!stop) {
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, churn_small, NULL), 0);
		pthread_join(thread, NULL);
	}
	return unused;
}

/* Of one resting thread: how many of its blocks are told, each once and as its own. */
static unsigned told_of(size_t thread, const struct hl_mark_record *list, size_t count)
{
	unsigned told = 0;

	for (size_t i = 1; i < count; i++)
		for (int j = 0; j < REST_BLOCKS; j++) {
			if (hl_addr_of(list[i].kind_addr) != (uintptr_t)rested[thread][j])
				continue;
			assert_int_equal(hl_kept_tid(list[i].chunk), rested_tid[thread]);
			assert_int_equal(hl_kept_what(list[i].chunk), HL_KEPT_CACHE);
			/* What is left of a free chunk may be too short for one of its own. */
			assert_in_range(list[i].size, hl_packed_chunk(rest_bytes(thread)),
				hl_packed_chunk(rest_bytes(thread)) + 16);
			told++;
		}
	return told;
}

/* What is told is at least possible, and whole unless it is said that something is missing. */
static unsigned check_list(void)
{
	const struct hl_mark_record *list;
	size_t count = heap_log_kept_list(&list);
	unsigned whole = 0;

	assert_true(count > 0);
	assert_int_equal(list[0].size, count - 1);
	assert_int_equal(hl_addr_of(list[0].kind_addr), 0);
	for (size_t i = 1; i < count; i++) {
		assert_int_equal(hl_addr_of(list[i].kind_addr) % 16, 0);
		assert_in_range(list[i].size, 32, 1040);
		assert_in_range(hl_kept_what(list[i].chunk), HL_KEPT_CACHE, HL_KEPT_LENT);
	}
	for (size_t thread = 0; thread < RESTING; thread++) {
		unsigned told = told_of(thread, list, count);

		assert_true(told == REST_BLOCKS || hl_kept_unread(list[0].chunk) > 0);
		whole += told == REST_BLOCKS;
	}
	return whole;
}

static void what_caches_hold_is_told_beside_threads_that_run(void **state)
{
	pthread_t rests[RESTING], runs[3];
	unsigned whole = 0;

	(void)state;
	stop = false;
	pthread_barrier_init(&resting, NULL, RESTING + 1);
	for (size_t i = 0; i < RESTING; i++)
		assert_int_equal(pthread_create(&rests[i], NULL, rest, (void *)i), 0);
	pthread_barrier_wait(&resting);
	heap_log_kept(true);
	assert_int_equal(check_list(), RESTING);
	for (int i = 0; i < 3; i++)
		assert_int_equal(
			pthread_create(&runs[i], NULL, i == 0 ? churn : begin_and_end, NULL), 0);
	for (int i = 0; i < READINGS; i++) {
		heap_log_kept(i % 2 == 0);
		whole += check_list();
	}
	assert_true(whole > 0);
	stop = true;
	for (int i = 0; i < 3; i++)
		pthread_join(runs[i], NULL);
	heap_log_kept(true);
	assert_int_equal(check_list(), RESTING);
	pthread_barrier_wait(&resting);
	for (size_t i = 0; i < RESTING; i++)
		pthread_join(rests[i], NULL);
	heap_check();
}

/* More than there is room for at hand. */
static void many_kept_blocks_are_told(void **state)
{
	static void *block[2 * MANY];
	const struct hl_mark_record *list;
	unsigned fast = 0, borrowed_before = heap_log_borrowed();
	size_t count;

	(void)state;
	for (size_t i = 0; i < 2 * MANY; i++)
		block[i] = heap_alloc(i % 2 == 0 ? 400 : 100);
	for (size_t i = 0; i < 2 * MANY; i += 2)
		heap_free(block[i]);
	for (size_t i = 1; i < 2 * MANY; i += 2)
		heap_free(block[i]);
	heap_log_kept(true);
	count = heap_log_kept_list(&list);
	assert_int_equal(list[0].size, count - 1);
	assert_int_equal(hl_kept_unread(list[0].chunk), 0);
	for (size_t i = 1; i < count; i++)
		fast += hl_kept_what(list[i].chunk) == HL_KEPT_FAST && list[i].size == 112;
	assert_in_range(fast, MANY - 64, MANY);
	assert_int_equal(heap_log_borrowed(), borrowed_before + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents_survive_a_stress),
		cmocka_unit_test(arenas_are_reused_and_limited),
		cmocka_unit_test(a_thousand_threads_leave_nothing),
		cmocka_unit_test(fork_among_threads_keeps_the_heap_whole),
		cmocka_unit_test(what_caches_hold_is_told_beside_threads_that_run),
		cmocka_unit_test(many_kept_blocks_are_told),
	};

	heap_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
