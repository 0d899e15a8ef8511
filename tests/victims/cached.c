/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_caches.py: programs that keep still with caches whose content
 * is known by construction, and one whose threads never rest.
 *
 *     cached still THREADS   each thread frees blocks of its own, and waits; the program says which
 *                            ones, and ends when its input does
 *     cached return THREADS  the same, but it ends at once, in this way: by return, exit of a
 * thread, cached exit THREADS    quick_exit, or _exit, which runs no handlers. The others rest;
 * `last`: cached quick THREADS   they and main end first, and the last thread ends the process;
 * `fork`: as cached _exit THREADS   return, of a child that has the caches of its parent's threads,
 * too cached last THREADS cached fork THREADS cached many THREADS    as return, with 50,000 blocks
 * more in fast lists cached marked COUNT    COUNT blocks of mixed sizes, all freed, then a phase,
 * then all again cached wild THREADS    at different paces, until they are done and its input has
 * ended cached mixed THREADS   so many rest, as many run wild when it ends
 */
#include "heapledger/mark.h"

#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MOST 8
#define IN_CACHE 5   /* of the thread's size, fewer than its cache has room for */
#define IN_LISTS 100 /* of a size for which fast lists are there, more than it has room for */
#define MANY 50000
#define LIVE 512
#define TURNS 40000
#define BURST 50        /* then a pause of half a millisecond at most */
#define ANYWHERE 104729 /* a prime */

static pthread_barrier_t barrier;
static void *small[THREADS_MOST][IN_LISTS], *large[THREADS_MOST][IN_CACHE];
static atomic_bool over;
static char buffer[1 << 16]; /* stdio's own would be a block */

static void fill(void **blocks, size_t count, size_t size)
{
	for (size_t i = 0; i < count; i++)
		blocks[i] = opaque(malloc(size));
	for (size_t i = 0; i < count; i++)
		free(blocks[i]);
}

static void *keep_still(void *number)
{
	size_t thread = (size_t)number;

	/* Not taken from the top afterwards, which would empty the fast lists. */
	fill(small[thread], IN_LISTS, 96);
	fill(large[thread], IN_CACHE, 700 + 32 * thread);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	return NULL;
}

static void say(const char *what, void *const *blocks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("%s %p\n", what, blocks[i]);
}

static void wait_for_end_of_input(void)
{
	char byte;

	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
}

/* Until all have put their blocks where they stay. */
static void begin_still(pthread_t *other, size_t threads)
{
	pthread_barrier_init(&barrier, NULL, (unsigned)threads);
	for (size_t i = 1; i < threads; i++)
		REQUIRE(pthread_create(&other[i], NULL, keep_still, (void *)i) == 0);
	fill(small[0], IN_LISTS, 96);
	fill(large[0], IN_CACHE, 700);
	pthread_barrier_wait(&barrier);
	for (size_t i = 0; i < threads; i++) {
		say("small", small[i], IN_LISTS);
		say("large", large[i], IN_CACHE);
	}
	printf("still %d\n", (int)getpid());
	fflush(stdout);
}

static int still(size_t threads)
{
	pthread_t other[THREADS_MOST];

	begin_still(other, threads);
	wait_for_end_of_input();
	pthread_barrier_wait(&barrier);
	for (size_t i = 1; i < threads; i++)
		pthread_join(other[i], NULL);
	return 0;
}

static void *exit_of_thread(void *unused)
{
	exit(0);
	return unused;
}

static void *outlive(void *main_thread)
{
	REQUIRE(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
	fill(small[0], IN_CACHE, 96);
	say("small", small[0], IN_CACHE);
	printf("still %d\n", (int)getpid());
	fflush(stdout);
	return NULL;
}

/* Between others, which are freed first: so that nothing joins, and the lists are not emptied. */
static void fill_fast_lists(void)
{
	static void *blocks[2 * MANY];

	for (size_t i = 0; i < 2 * MANY; i++)
		blocks[i] = opaque(malloc(i % 2 == 0 ? 400 : 100));
	for (size_t i = 0; i < 2 * MANY; i += 2)
		free(blocks[i]);
	for (size_t i = 1; i < 2 * MANY; i += 2)
		free(blocks[i]);
}

static int end(const char *how, size_t threads)
{
	static pthread_t other[THREADS_MOST], main_thread;
	pthread_t ending;
	pid_t child;

	if (strcmp(how, "last") == 0) {
		main_thread = pthread_self();
		REQUIRE(pthread_create(&ending, NULL, outlive, &main_thread) == 0);
		pthread_exit(NULL);
	}
	begin_still(other, threads);
	if (strcmp(how, "fork") == 0) {
		child = fork();
		REQUIRE(child >= 0);
		if (child > 0)
			REQUIRE(waitpid(child, NULL, 0) == child);
	} else if (strcmp(how, "exit") == 0) {
		REQUIRE(pthread_create(&ending, NULL, exit_of_thread, NULL) == 0);
		pthread_join(ending, NULL);
	} else if (strcmp(how, "many") == 0) {
		fill_fast_lists();
	} else if (strcmp(how, "quick") == 0) {
		quick_exit(0);
	} else if (strcmp(how, "_exit") == 0) {
		_exit(0);
	}
	return 0;
}

static size_t size_of(size_t i)
{
	return 16 + i * 7919 % 6700;
}

static void mixed(void **blocks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		memset(blocks[i] = opaque(malloc(size_of(i))), 1, size_of(i));
	for (size_t i = 0; i < count; i++) /* each once, anywhere */
		free(blocks[i * ANYWHERE % count]);
}

static int marked(size_t count)
{
	void **blocks = malloc(count * sizeof(*blocks));

	REQUIRE(blocks != NULL);
	heapledger_phase("first");
	mixed(blocks, count);
	heapledger_phase("freed");
	mixed(blocks, count);
	free(blocks);
	return 0;
}

static void *run_wild(void *number)
{
	uint64_t random = (uintptr_t)number + 1;
	void *live[LIVE] = {NULL};

	for (unsigned i = 0; i < TURNS && !atomic_load(&over); i++) {
		struct timespec pause = {.tv_nsec = (long)(random >> 45)};
		void **place;

		if (i % BURST == 0)
			nanosleep(&pause, NULL);
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		place = &live[random >> 33 & (LIVE - 1)];
		free(*place);
		*place = opaque(malloc(16 + (random >> 43 & 1023)));
	}
	for (size_t i = 0; i < LIVE; i++)
		free(live[i]);
	return NULL;
}

static void *run_for_ever(void *number)
{
	for (;;)
		run_wild(number);
	return NULL;
}

/* Nobody is joined: they never end. */
static int rest_and_run(size_t threads)
{
	static pthread_t other[THREADS_MOST];

	begin_still(other, threads);
	for (size_t i = 0; i < threads; i++)
		REQUIRE(pthread_create(&other[i], NULL, run_for_ever, (void *)i) == 0);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	return 0;
}

static int wild(size_t threads)
{
	pthread_t thread[THREADS_MOST];

	for (size_t i = 0; i < threads; i++)
		REQUIRE(pthread_create(&thread[i], NULL, run_wild, (void *)i) == 0);
	printf("still 0\n");
	fflush(stdout);
	wait_for_end_of_input();
	atomic_store(&over, true);
	for (size_t i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	return 0;
}

int main(int argc, char **argv)
{
	size_t count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	REQUIRE(count > 0);
	if (strcmp(argv[1], "marked") == 0)
		return marked(count);
	REQUIRE(count <= THREADS_MOST);
	if (strcmp(argv[1], "wild") == 0)
		return wild(count);
	if (strcmp(argv[1], "mixed") == 0)
		return rest_and_run(count);
	return strcmp(argv[1], "still") == 0 ? still(count) : end(argv[1], count);
}
