/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_ring.py: a known heap, then so many calls that the recording of
 * them is cut again and again, then the heap is taken down. All blocks are of posix_memalign, which
 * nothing else here calls.
 *
 *     ring churn THREADS ROUNDS BLOCKS   a thread that is idle meanwhile has made half of the heap
 *                                        and frees the other half
 *     ring fork ROUNDS BLOCKS            a child has the heap, too; parent and child churn
 *     ring idle ROUNDS BLOCKS            the same, but the thread that forks does nothing meanwhile:
 *                                        another one frees half of the heap and churns
 *     ring family ROUNDS CHILDREN        children churn one after the other
 *     ring exec ROUNDS TIMES             the program starts itself again and again
 */
#include "victim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_BLOCKS 200000
#define MOST_THREADS 16
#define BLOCK_BYTES 100

static void *block[MOST_BLOCKS];
static long blocks;
static long rounds;
static pthread_barrier_t barrier;

static void *get(size_t size)
{
	void *made;

	REQUIRE(posix_memalign(&made, 64, size) == 0);
	return made;
}

/* Blocks of this parity. */
static void make(long from)
{
	for (long i = from; i < blocks; i += 2)
		block[i] = get(BLOCK_BYTES);
}

static void take_down(long from)
{
	for (long i = from; i < blocks; i += 2)
		free(block[i]);
}

static void *churn(void *seed)
{
	unsigned random = (unsigned)(size_t)seed;
	void *held[64] = {NULL};

	for (long i = 0; i < rounds; i++) {
		random = random * 1103515245 + 12345;
		unsigned at = random >> 8 & 63;
		free(held[at]);
		held[at] = get((random >> 16) % 2000 + 1);
	}
	for (int i = 0; i < 64; i++)
		free(held[i]);
	return NULL;
}

static void *idle(void *unused)
{
	(void)unused;
	make(1);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	take_down(0);
	return NULL;
}

static int run_churn(long count)
{
	pthread_t thread[MOST_THREADS], other;

	REQUIRE(count >= 1 && count <= MOST_THREADS);
	pthread_barrier_init(&barrier, NULL, 2);
	REQUIRE(pthread_create(&other, NULL, idle, NULL) == 0);
	make(0);
	pthread_barrier_wait(&barrier);
	for (long i = 1; i < count; i++)
		REQUIRE(pthread_create(&thread[i], NULL, churn, (void *)i) == 0);
	churn(NULL);
	for (long i = 1; i < count; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_wait(&barrier);
	take_down(1);
	pthread_join(other, NULL);
	return 0;
}

/* The child is the last to churn, so that both are there at the end. */
static int run_fork(void)
{
	int gate[2], status;
	char byte;
	pid_t pid;

	make(0);
	make(1);
	REQUIRE(pipe(gate) == 0);
	pid = fork();
	if (pid == 0) {
		close(gate[1]);
		take_down(0);
		REQUIRE(read(gate[0], &byte, 1) == 0);
		churn((void *)1);
		take_down(1);
		_exit(0);
	}
	take_down(1);
	churn((void *)2);
	close(gate[1]);
	REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
	take_down(0);
	return 0;
}

static void *other(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&barrier);
	take_down(1);
	churn((void *)2);
	return NULL;
}

static int run_idle(void)
{
	int gate[2], status;
	pthread_t thread;
	char byte;
	pid_t pid;

	pthread_barrier_init(&barrier, NULL, 2);
	REQUIRE(pthread_create(&thread, NULL, other, NULL) == 0);
	make(0);
	make(1);
	REQUIRE(pipe(gate) == 0);
	pid = fork();
	if (pid == 0) {
		close(gate[1]);
		REQUIRE(read(gate[0], &byte, 1) == 0);
		take_down(0);
		take_down(1);
		_exit(0);
	}
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	close(gate[1]);
	REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
	take_down(0);
	return 0;
}

static int run_family(long children)
{
	int status;

	for (long i = 0; i < children; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			churn((void *)i);
			_exit(0);
		}
		REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
	}
	return 0;
}

static int run_exec(char **argv, long times)
{
	char left[32];

	churn((void *)times);
	if (times == 1)
		return 0;
	snprintf(left, sizeof(left), "%ld", times - 1);
	argv[3] = left;
	execv("/proc/self/exe", argv);
	return 99;
}

int main(int argc, char **argv)
{
	const char *mode = argc >= 4 ? argv[1] : "";

	if (strcmp(mode, "churn") == 0 && argc == 5) {
		rounds = atol(argv[3]);
		blocks = atol(argv[4]);
	} else {
		rounds = argc >= 4 ? atol(argv[2]) : 0;
	}
	if (strcmp(mode, "fork") == 0 || strcmp(mode, "idle") == 0)
		blocks = atol(argv[3]);
	REQUIRE(blocks >= 0 && blocks <= MOST_BLOCKS);
	if (strcmp(mode, "churn") == 0 && argc == 5)
		return run_churn(atol(argv[2]));
	if (strcmp(mode, "fork") == 0)
		return run_fork();
	if (strcmp(mode, "idle") == 0)
		return run_idle();
	if (strcmp(mode, "family") == 0)
		return run_family(atol(argv[3]));
	if (strcmp(mode, "exec") == 0)
		return run_exec(argv, atol(argv[3]));
	return 98;
}
