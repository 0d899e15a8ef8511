/* SPDX-License-Identifier: MIT
 *
 * With no more address space every call fails with ENOMEM and harms nothing; later calls work. So
 * they do in a thread that has not allocated before and cannot have an arena of its own.
 */
#include "victim.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

#define BLOCKS 100000
#define EDGE 4096

static pthread_barrier_t turn;
static char *block[BLOCKS];

/* What is mapped already: a recording's buffers may be large. */
static size_t mapped_bytes(void)
{
	FILE *stream = fopen("/proc/self/statm", "r");
	size_t pages = 0;

	REQUIRE(stream != NULL);
	REQUIRE(fscanf(stream, "%zu", &pages) == 1);
	fclose(stream);
	return pages * 4096;
}

static size_t bytes_of(int i)
{
	return (size_t)(i % 7) * 30000 + 1;
}

static size_t edge_of(int i)
{
	return bytes_of(i) < EDGE ? bytes_of(i) : EDGE;
}

/* Both ends: all of it would take too long. */
static void fill(int i)
{
	memset(block[i], i, edge_of(i));
	memset(block[i] + bytes_of(i) - edge_of(i), i, edge_of(i));
}

static void verify(int i)
{
	const char *end = block[i] + bytes_of(i) - edge_of(i);

	for (size_t j = 0; j < edge_of(i); j++)
		REQUIRE(block[i][j] == (char)i && end[j] == (char)i);
}

static void *first_call_is_refused(void *unused)
{
	void *own;

	pthread_barrier_wait(&turn); /* there is no memory */
	errno = 0;
	REQUIRE(opaque(malloc(1 << 20)) == NULL && errno == ENOMEM);
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn); /* there is again */
	own = malloc(1 << 20);
	REQUIRE(own != NULL);
	memset(own, 1, 1 << 20);
	free(own);
	return unused;
}

int main(void)
{
	struct rlimit limit = {.rlim_cur = 200 << 20, .rlim_max = RLIM_INFINITY};
	pthread_t thread;
	void *large;
	int count = 0;

	REQUIRE(pthread_barrier_init(&turn, NULL, 2) == 0);
	REQUIRE(pthread_create(&thread, NULL, first_call_is_refused, NULL) == 0);
	limit.rlim_cur += mapped_bytes();
	REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
	errno = 0;
	while (count < BLOCKS && (block[count] = malloc(bytes_of(count))) != NULL)
		fill(count++);
	REQUIRE(count < BLOCKS && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(calloc(1000, 1000)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(realloc(block[3], 100 << 20)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(aligned_alloc(4096, 100 << 20)) == NULL && errno == ENOMEM);
	REQUIRE(posix_memalign(&large, 4096, 100 << 20) == ENOMEM);
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	for (int i = 0; i < count; i++)
		verify(i);
	while (count > 0)
		free(block[--count]);
	pthread_barrier_wait(&turn);
	REQUIRE(pthread_join(thread, NULL) == 0);
	large = malloc(50 << 20);
	REQUIRE(large != NULL);
	memset(large, 1, 50 << 20);
	free(large);
	return 0;
}
