/* SPDX-License-Identifier: MIT
 *
 * Randomised work on the prefixed heap by many threads, for as long as it is told: every entry
 * point, every size, blocks that cross threads, threads that end, forks among them. Each block
 * carries a pattern that is verified before it is resized or freed; at the end of each phase, when
 * no other thread runs, the whole heap is checked. Any fault aborts with a message.
 *
 *     stress SECONDS SEED THREADS [FORKS]
 *
 * FORKS: how many times a phase forks (default 2; sanitizers that forbid it want 0). Run by meson
 * (tests/stress/meson.build) and by hand for as long as one likes. Built for sanitizers too: what
 * it allocates for itself comes from libc.
 */
#include "check.h"
#include "heap.h"
#include "log.h"
#include "stats.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 200
#define SHARED 1024
#define THREADS_MOST 256
#define PHASE_NS 300000000
#define CHILD_SECONDS 120
#define PATTERN UINT64_C(0x9e3779b97f4a7c15)

/* A block and what it holds: words tag + i * PATTERN. */
struct slot {
	unsigned char *block;
	size_t bytes;
	uint64_t tag;
};

/* How a block travels: this is written over its first bytes. */
struct parcel {
	uint64_t bytes, tag;
};

struct worker {
	pthread_t thread;
	uint64_t random;
	uint64_t operations;
	struct slot slot[SLOTS];
};

static _Atomic(struct parcel *) shared[SHARED];
static atomic_bool phase_over;
static struct worker workers[THREADS_MOST];

#ifdef pthread_setspecific
/* ThreadSanitizer forgets a thread in the last round of its destructors, and the heap ends it there
 * too, but later. For it the build gives the heap this function, which refuses another round. */
int real_setspecific(pthread_key_t key, uintptr_t value) __asm__("pthread_setspecific");

int pthread_setspecific(pthread_key_t key, const void *value)
{
	return (uintptr_t)value > 1 ? ENOMEM : real_setspecific(key, (uintptr_t)value);
}
#endif

static _Noreturn void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fprintf(stderr, "stress: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	abort();
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Every class: cache, fast bin, small, large, around the mmap threshold, and now and then huge. */
static size_t random_bytes(uint64_t *state)
{
	uint64_t choice = random_next(state) % 4096;
	uint64_t r = random_next(state) >> 8;

	if (choice == 0)
		return r % (40 << 20);
	if (choice < 40)
		return r % 400000;
	if (choice < 400)
		return r % 40000;
	if (choice < 1200)
		return r % 2100;
	return r % 200;
}

static void fill(const struct slot *slot)
{
	uint64_t word = slot->tag;
	size_t i = 0;

	for (; i + 8 <= slot->bytes; i += 8, word += PATTERN)
		memcpy(slot->block + i, &word, 8);
	memcpy(slot->block + i, &word, slot->bytes - i);
}

static void verify(const struct slot *slot, const unsigned char *block, size_t bytes)
{
	uint64_t word = slot->tag, seen;
	size_t i = 0;

	for (; i + 8 <= bytes; i += 8, word += PATTERN) {
		memcpy(&seen, block + i, 8);
		if (seen != word)
			die("block %p of %zu bytes: changed at %zu: %#jx, not %#jx",
				(const void *)block, slot->bytes, i, (uintmax_t)seen,
				(uintmax_t)word);
	}
	if (memcmp(block + i, &word, bytes - i) != 0)
		die("block %p of %zu bytes: changed behind %zu", (const void *)block, slot->bytes,
			i);
}

static void put(struct slot *slot, void *block, size_t bytes, uint64_t tag)
{
	if (block == NULL)
		die("no memory for %zu bytes", bytes);
	if (((uintptr_t)block & 15) != 0 || heap_usable(block) < bytes)
		die("block %p of %zu bytes: misaligned, or only %zu usable", block, bytes,
			heap_usable(block));
	*slot = (struct slot){block, bytes, tag};
	fill(slot);
}

static void drop(struct slot *slot, uint64_t choice)
{
	if (slot->block != NULL)
		verify(slot, slot->block, slot->bytes);
	log_enter(HL_KIND_free, 0, NULL);
	if (choice % 64 == 0)
		heap_free_aside(slot->block);
	else
		heap_free(slot->block);
	log_leave();
	slot->block = NULL;
}

static void *make_zeroed(size_t bytes)
{
	unsigned char *block = heap_calloc(bytes);

	for (size_t i = 0; block != NULL && i < bytes; i++)
		if (block[i] != 0)
			die("calloc of %zu bytes: %#x at %zu", bytes, block[i], i);
	return block;
}

static void *make_aligned(size_t bytes, uint64_t choice)
{
	size_t alignment = (size_t)16 << choice / 128 % 14;
	void *block = choice % 64 == 2 ? heap_aligned_aside(alignment, bytes)
				       : heap_aligned(alignment, bytes);

	if (((uintptr_t)block & (alignment - 1)) != 0)
		die("block %p is not aligned to %zu", block, alignment);
	return block;
}

static void make(struct slot *slot, size_t bytes, uint64_t choice)
{
	void *block;

	log_enter(HL_KIND_malloc, bytes, NULL);
	switch (choice % 8) {
	case 0:
		block = make_zeroed(bytes);
		break;
	case 1:
	case 2:
		block = make_aligned(bytes, choice);
		break;
	default:
		block = choice % 512 == 3 ? heap_alloc_aside(bytes) : heap_alloc(bytes);
	}
	log_leave();
	put(slot, block, bytes, choice);
}

static void resize(struct slot *slot, size_t bytes, uint64_t choice)
{
	size_t kept = slot->bytes < bytes ? slot->bytes : bytes;
	void *block;

	if (bytes == 0 || slot->block == NULL)
		return;
	verify(slot, slot->block, slot->bytes);
	log_enter(HL_KIND_realloc, bytes, NULL);
	block = choice % 256 == 0 ? heap_realloc_aside(slot->block, bytes)
				  : heap_realloc(slot->block, bytes);
	log_leave();
	if (block != NULL)
		verify(slot, block, kept);
	put(slot, block, bytes, choice);
}

static bool open_parcel(struct slot *slot, struct parcel *parcel)
{
	if (parcel == NULL)
		return false;
	*slot = (struct slot){(unsigned char *)parcel, parcel->bytes, parcel->tag};
	fill(&(struct slot){slot->block, sizeof(*parcel), slot->tag});
	return true;
}

/* Gives a block to whoever comes next, and takes what lay there. */
static void hand_over(struct slot *slot, uint64_t choice)
{
	struct parcel *parcel = NULL;

	if (slot->block != NULL && slot->bytes >= sizeof(*parcel)) {
		parcel = (struct parcel *)slot->block;
		*parcel = (struct parcel){slot->bytes, slot->tag};
		slot->block = NULL;
	}
	if (slot->block == NULL)
		open_parcel(slot, atomic_exchange(&shared[choice % SHARED], parcel));
}

/* What looks at the whole heap while others work. */
static void look(uint64_t choice)
{
	struct mallinfo2 info;

	if (choice % 4 == 0) {
		log_enter(HL_KIND_malloc_trim, 0, NULL);
		heap_trim(choice / 4 % 100000);
		log_leave();
	}
	info = stats_mallinfo();
	if (info.uordblks > info.arena)
		die("mallinfo: %zu bytes in use of %zu", info.uordblks, info.arena);
}

static void step(struct worker *self)
{
	uint64_t choice = random_next(&self->random) >> 4;
	struct slot *slot = &self->slot[choice / 16 % SLOTS];
	size_t bytes = random_bytes(&self->random);

	choice = random_next(&self->random) >> 4;
	if (choice % 20000 == 0)
		look(choice / 20000);
	else if (choice % 8 == 0)
		resize(slot, bytes, choice / 8);
	else if (choice % 8 == 1)
		hand_over(slot, choice / 8);
	else if (slot->block == NULL)
		make(slot, bytes, choice / 8);
	else
		drop(slot, choice / 8);
	self->operations++;
}

/* Half of the threads end before the phase does; what they hold stays for their successors. */
static void *work(void *argument)
{
	struct worker *self = argument;
	uint64_t steps = random_next(&self->random) % 2 == 0 ? UINT64_MAX
							     : random_next(&self->random) % 50000;

	heap_thread_begin();
	for (uint64_t i = 0; i < steps; i++) {
		if (i % 16 == 0 && atomic_load(&phase_over))
			break;
		step(self);
	}
	return NULL;
}

static void empty_shared(uint64_t random, bool all)
{
	for (size_t i = 0; i < SHARED; i++) {
		struct slot slot;

		if ((all || random_next(&random) % 4 == 0) &&
			open_parcel(&slot, atomic_exchange(&shared[i], NULL)))
			drop(&slot, 1);
	}
}

/* In a child that was forked while others worked: takes what all threads had handed over. */
static _Noreturn void live_as_child(uint64_t random)
{
	struct worker *self = &workers[THREADS_MOST - 1];

	alarm(CHILD_SECONDS);
	heap_check();
	empty_shared(random, true);
	self->random = random;
	for (int i = 0; i < 2000; i++)
		step(self);
	for (size_t i = 0; i < SLOTS; i++)
		drop(&self->slot[i], 1);
	heap_check();
	_exit(0);
}

static void fork_once(uint64_t random)
{
	int status;
	pid_t child = fork();

	if (child == 0)
		live_as_child(random);
	if (child < 0 || waitpid(child, &status, 0) != child)
		die("fork failed");
	if (status != 0)
		die("child ended with status %#x", (unsigned)status);
}

/* Anything but the thresholds would make one phase unlike a real program's. */
static void turn_knobs(uint64_t choice)
{
	const int thresholds[] = {4096, 65536, 131072, 1 << 20, 32 << 20};

	heap_option(M_MMAP_THRESHOLD, thresholds[choice % 5]);
	heap_option(M_TRIM_THRESHOLD, thresholds[choice / 5 % 5]);
	heap_option(M_TOP_PAD, (int)(choice / 25 % 200000));
	heap_option(M_MXFAST, (int)(choice / 100 % 3 * 80));
}

struct totals {
	uint64_t phases, threads, forks;
};

static void phase(struct totals *totals, uint64_t *random, unsigned threads, unsigned forks)
{
	uint64_t end = now_ns() + PHASE_NS;

	atomic_store(&phase_over, false);
	for (unsigned i = 0; i < threads; i++) {
		workers[i].random = random_next(random) | 1;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			die("no thread");
	}
	for (unsigned i = 0; i < forks; i++)
		fork_once(random_next(random) | 1);
	while (now_ns() < end)
		usleep(10000);
	atomic_store(&phase_over, true);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
	totals->phases++;
	totals->threads += threads;
	totals->forks += forks;
}

/* No other thread runs. */
static void rest(uint64_t *random, unsigned threads)
{
	heap_check();
	for (unsigned i = 0; i < threads; i++)
		for (size_t j = 0; j < SLOTS; j++)
			if (workers[i].slot[j].block != NULL)
				verify(&workers[i].slot[j], workers[i].slot[j].block,
					workers[i].slot[j].bytes);
	empty_shared(random_next(random) | 1, random_next(random) % 4 == 0);
	heap_check();
	if (random_next(random) % 2 == 0) {
		heap_trim(random_next(random) % 300000);
		heap_check();
	}
	if (random_next(random) % 3 == 0)
		turn_knobs(random_next(random) >> 8);
}

/* All that is still in use must be what this thread's cache and the others' remains keep. */
static void finish(unsigned threads)
{
	for (unsigned i = 0; i < threads; i++)
		for (size_t j = 0; j < SLOTS; j++)
			drop(&workers[i].slot[j], 1);
	empty_shared(1, true);
	heap_trim(0);
	heap_check();
	if (stats_mallinfo().hblkhd != 0)
		die("%zu bytes in mappings of their own, and all blocks are freed",
			stats_mallinfo().hblkhd);
	if (stats_mallinfo().uordblks > 1 << 20)
		die("%zu bytes in use, and all blocks are freed", stats_mallinfo().uordblks);
}

int main(int argc, char **argv)
{
	unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	unsigned threads = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
	unsigned forks = argc > 4 ? (unsigned)atoi(argv[4]) : 2;
	uint64_t random = (seed + 1) * PATTERN;
	uint64_t end = now_ns() + seconds * UINT64_C(1000000000);
	uint64_t operations = 0;
	struct totals totals = {0};

	if (seconds == 0 || threads == 0 || threads >= THREADS_MOST) {
		fprintf(stderr, "usage: stress SECONDS SEED THREADS [FORKS]\n");
		return 2;
	}
	heap_start();
	do {
		phase(&totals, &random, threads, forks);
		rest(&random, threads);
	} while (now_ns() < end);
	finish(threads);
	for (unsigned i = 0; i < threads; i++)
		operations += workers[i].operations;
	printf("%ju operations in %u s by %ju threads, %u at a time, in %ju phases, "
	       "%ju forks, seed %ju\n",
		(uintmax_t)operations, seconds, (uintmax_t)totals.threads, threads,
		(uintmax_t)totals.phases, (uintmax_t)totals.forks, (uintmax_t)seed);
	return 0;
}
