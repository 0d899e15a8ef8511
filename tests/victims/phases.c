/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_phases.py: makes a known number of calls to posix_memalign in
 * each of the phases that it names, and between two marks nothing else.
 *
 *     phases MODE COUNT [NAME...]
 */
#include "heapledger/mark.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4

static pthread_barrier_t barrier;

static void calls(long count)
{
	void *block;

	for (long i = 0; i < count; i++) {
		if (posix_memalign(&block, 64, (size_t)(i % 1000) + 1) != 0)
			exit(99);
		free(block);
	}
}

/* errno is the program's, whatever a mark does. */
static void mark(const char *name)
{
	errno = 77;
	heapledger_phase(name);
	if (errno != 77)
		exit(98);
}

/* The n-th named phase has n times as many calls. */
static int run_names(long count, char **names)
{
	for (long i = 1; *names != NULL; i++, names++) {
		mark(*names);
		calls(i * count);
	}
	return 0;
}

static void *work(void *count)
{
	for (int phase = 0; phase < 3; phase++) {
		pthread_barrier_wait(&barrier);
		calls((long)count * (phase + 1));
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

/* One thread marks, all the others work: what they do after the mark is of its phase. */
static int run_threads(long count)
{
	pthread_t thread[THREADS];
	char name[] = "round 0";

	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, work, (void *)count);
	for (int phase = 0; phase < 3; phase++) {
		name[6] = (char)('0' + phase);
		mark(name);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	mark("rest");
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	return 0;
}

static void on_signal(int number)
{
	(void)number;
	mark("in a handler");
}

static int run_handler(long count)
{
	signal(SIGUSR1, on_signal);
	calls(count);
	raise(SIGUSR1);
	calls(2 * count);
	return 0;
}

/* The child begins in its parent's phase and then has its own. */
static int run_fork(long count)
{
	pid_t pid;

	mark("parent");
	calls(count);
	pid = fork();
	if (pid == 0) {
		calls(2 * count);
		mark("child");
		calls(3 * count);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	mark("after");
	calls(4 * count);
	return 0;
}

/* Says that it is there, and goes on when told: what happens meanwhile comes from outside. */
static int run_gated(long count, int rounds)
{
	char byte;

	for (int i = 1; i <= rounds; i++) {
		calls(i * count);
		if (write(STDOUT_FILENO, ".", 1) != 1 || read(STDIN_FILENO, &byte, 1) != 1)
			return 97;
	}
	return 0;
}

/* For ever: a child after the other, each makes its calls and is waited for. */
static int run_forks(long count)
{
	for (;;) {
		pid_t pid = fork();

		if (pid == 0) {
			calls(count);
			_exit(0);
		}
		if (waitpid(pid, NULL, 0) != pid)
			return 95;
	}
}

static int run_many(long count)
{
	for (long i = 0; i < count; i++)
		mark("again");
	return 0;
}

static int run_large(long count)
{
	void *held;

	mark("large");
	held = malloc((size_t)count);
	memset(held, 1, (size_t)count);
	free(held);
	mark("small");
	held = malloc(1000);
	free(held);
	return 0;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[1] : "";
	long count = argc > 2 ? atol(argv[2]) : 0;

	heapledger_phase(NULL); /* is nothing */
	if (strcmp(mode, "names") == 0)
		return run_names(count, argv + 3);
	if (strcmp(mode, "threads") == 0)
		return run_threads(count);
	if (strcmp(mode, "handler") == 0)
		return run_handler(count);
	if (strcmp(mode, "fork") == 0)
		return run_fork(count);
	if (strcmp(mode, "gated") == 0 && argc > 3)
		return run_gated(count, atoi(argv[3]));
	if (strcmp(mode, "forks") == 0)
		return run_forks(count);
	if (strcmp(mode, "many") == 0)
		return run_many(count);
	if (strcmp(mode, "large") == 0)
		return run_large(count);
	return 96;
}
