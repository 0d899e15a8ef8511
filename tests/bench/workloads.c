/* SPDX-License-Identifier: MIT
 *
 * The allocator benchmark: one program, one workload a run, the same work whichever malloc serves
 * it. Run by bench.py, which takes the time from outside. Every block is written to, as programs
 * do. Sizes and order come from a fixed seed, so each run makes the same calls in each thread.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 8

struct worker {
	pthread_t thread;
	uint64_t seed;
	unsigned long rounds;
	unsigned number;
};

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Small sizes as programs have them: half up to 64 bytes, nearly all up to 512. */
static size_t small_size(uint64_t *seed)
{
	uint64_t r = next_random(seed);

	return 8 + (r >> 8 & (r & 1 ? 63 : r & 2 ? 127 : 511));
}

static void *checked(void *block)
{
	if (block == NULL) {
		fprintf(stderr, "workloads: out of memory\n");
		exit(1);
	}
	return block;
}

static void *make(size_t size)
{
	char *block = checked(malloc(size));

	block[0] = (char)size;
	block[size - 1] = (char)size;
	return block;
}

/* A thousand live blocks, replaced at random. */
static void *churn(void *argument)
{
	struct worker *worker = argument;
	void *live[1024] = {0};

	for (unsigned long i = 0; i < worker->rounds; i++) {
		void **slot = &live[next_random(&worker->seed) & 1023];

		free(*slot);
		*slot = make(small_size(&worker->seed));
	}
	for (size_t i = 0; i < 1024; i++)
		free(live[i]);
	return NULL;
}

/* Lists that grow by realloc beside blocks of 16 bytes to 32 KiB. */
static void *mixed(void *argument)
{
	struct worker *worker = argument;
	struct {
		char *items;
		size_t bytes;
	} list[256] = {{0}};
	void *live[2048] = {0};

	for (unsigned long i = 0; i < worker->rounds; i++) {
		uint64_t r = next_random(&worker->seed);
		size_t at = r >> 16 & 255;

		if ((r & 3) == 0) {
			list[at].bytes = list[at].bytes > 60000 ? 24 : list[at].bytes * 3 / 2 + 24;
			list[at].items = checked(realloc(list[at].items, list[at].bytes));
			list[at].items[list[at].bytes - 1] = 1;
		} else {
			void **slot = &live[r >> 24 & 2047];

			free(*slot);
			*slot = make((size_t)16 << (r >> 40 & 7) | (r >> 48 & 15));
			if ((r >> 52 & 63) == 0) {
				free(*slot);
				*slot = make((r >> 4 & 32767) | 16);
			}
		}
	}
	for (size_t i = 0; i < 2048; i++)
		free(live[i]);
	for (size_t i = 0; i < 256; i++)
		free(list[i].items);
	return NULL;
}

/* calloc of objects and of tables. */
static void *zeroed(void *argument)
{
	struct worker *worker = argument;
	void *live[512] = {0};

	for (unsigned long i = 0; i < worker->rounds; i++) {
		uint64_t r = next_random(&worker->seed);
		void **slot = &live[r & 511];
		size_t count = (r >> 16 & 31) == 0 ? 256 + (r >> 24 & 1023) : 1 + (r >> 24 & 7);
		char *block = checked(calloc(count, 8 + (r >> 40 & 56)));

		block[0] = 1;
		free(*slot);
		*slot = block;
	}
	for (size_t i = 0; i < 512; i++)
		free(live[i]);
	return NULL;
}

/* Blocks on both sides of the mmap threshold, each page written. */
static void *large(void *argument)
{
	struct worker *worker = argument;
	char *live[16] = {0};

	for (unsigned long i = 0; i < worker->rounds; i++) {
		uint64_t r = next_random(&worker->seed);
		size_t size = (32 << 10) + (r >> 16) % (480 << 10);
		char **slot = &live[r & 15];

		free(*slot);
		*slot = checked(malloc(size));
		for (size_t at = 0; at < size; at += 4096)
			(*slot)[at] = 1;
	}
	for (size_t i = 0; i < 16; i++)
		free(live[i]);
	return NULL;
}

/* One thread makes, the other frees: a bounded queue between them. */
#define QUEUE_LENGTH 4096
static _Atomic(void *) queue[QUEUE_LENGTH];

static void *produce(void *argument)
{
	struct worker *worker = argument;

	for (unsigned long i = 0; i < worker->rounds; i++) {
		_Atomic(void *) *slot = &queue[i % QUEUE_LENGTH];
		void *block = make(small_size(&worker->seed));

		while (atomic_load_explicit(slot, memory_order_acquire) != NULL)
			sched_yield();
		atomic_store_explicit(slot, block, memory_order_release);
	}
	return NULL;
}

static void *consume(void *argument)
{
	struct worker *worker = argument;

	for (unsigned long i = 0; i < worker->rounds; i++) {
		_Atomic(void *) *slot = &queue[i % QUEUE_LENGTH];
		void *block;

		while ((block = atomic_load_explicit(slot, memory_order_acquire)) == NULL)
			sched_yield();
		atomic_store_explicit(slot, NULL, memory_order_release);
		free(block);
	}
	return NULL;
}

/* Requests whose blocks are freed by whichever thread comes next. */
#define SHARED_SLOTS 8192
static _Atomic(void *) shared[SHARED_SLOTS];

static void *serve(void *argument)
{
	struct worker *worker = argument;

	for (unsigned long i = 0; i < worker->rounds; i++) {
		void *own[8];

		for (size_t n = 0; n < 8; n++)
			own[n] = make(small_size(&worker->seed));
		for (size_t n = 0; n < 8; n++) {
			size_t at = next_random(&worker->seed) % SHARED_SLOTS;

			if (n & 1)
				free(own[n]);
			else
				free(atomic_exchange(&shared[at], own[n]));
		}
	}
	return NULL;
}

static void drop_shared(void)
{
	for (size_t i = 0; i < SHARED_SLOTS; i++)
		free(atomic_exchange(&shared[i], NULL));
}

static const struct workload {
	const char *name;
	unsigned threads;
	unsigned long rounds;
	void *(*work)(void *);
	void *(*other_work)(void *); /* of odd threads, NULL = the same */
} workloads[] = {
	{"churn", 1, 20000000, churn, NULL},
	{"mixed", 1, 8000000, mixed, NULL},
	{"calloc", 1, 8000000, zeroed, NULL},
	{"large", 1, 60000, large, NULL},
	{"two-threads", 2, 12000000, churn, NULL},
	{"hand-over", 2, 6000000, produce, consume},
	{"server", 4, 800000, serve, NULL},
};

static void run(const struct workload *workload)
{
	struct worker workers[MAX_THREADS];

	for (unsigned i = 0; i < workload->threads; i++) {
		workers[i] = (struct worker){.seed = 88172645463325252u + i * 977,
			.rounds = workload->rounds,
			.number = i};
		/* A single thread's work is done by main, on the main heap. */
		if (workload->threads == 1)
			workload->work(&workers[i]);
		else if (pthread_create(&workers[i].thread, NULL,
				 i & 1 && workload->other_work ? workload->other_work
							       : workload->work,
				 &workers[i]) != 0)
			abort();
	}
	for (unsigned i = 0; workload->threads > 1 && i < workload->threads; i++)
		pthread_join(workers[i].thread, NULL);
	drop_shared();
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
		if (argc == 1)
			puts(workloads[i].name);
		else if (strcmp(argv[1], workloads[i].name) == 0) {
			run(&workloads[i]);
			return 0;
		}
	}
	if (argc == 1)
		return 0;
	fprintf(stderr, "workloads: no workload %s\n", argv[1]);
	return 2;
}
