/* SPDX-License-Identifier: MIT
 *
 * A threaded process forks while its threads allocate and hand blocks over. Each child frees what
 * the parent and all its threads had made, starts threads of its own, forks a grandchild that frees
 * the rest, and ends by exit().
 */
#include "beside.h"
#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 400
#define FORKS 60
#define THREADS 4

static _Atomic(unsigned char *) slot[SLOTS];

/* The first two bytes say what the others are. */
static unsigned char *make(unsigned random)
{
	size_t bytes = random % 16 == 0 ? 200000 : random % 3000 + 8;
	unsigned char *block = malloc(bytes);

	REQUIRE(block != NULL);
	memset(block, (int)(random & 0x7f), 8);
	return block;
}

static void drop(unsigned char *block)
{
	for (int i = 1; block != NULL && i < 8; i++)
		REQUIRE(block[i] == block[0]);
	free(block);
}

static void *churn(void *seed)
{
	unsigned random = (unsigned)(size_t)seed;

	while (beside_goes_on()) {
		random = random * 1103515245 + 12345;
		drop(atomic_exchange(&slot[random >> 8 & 0xff], make(random >> 4)));
	}
	return NULL;
}

static void *short_life(void *unused)
{
	for (unsigned i = 0; i < 300; i++)
		drop(make(i * 77));
	return unused;
}

static void wait_for(pid_t child)
{
	int status;

	REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

static _Noreturn void live_as_child(void)
{
	pthread_t threads[2];
	pid_t grandchild;

	alarm(60);
	for (int i = 0; i < SLOTS / 2; i++)
		drop(atomic_exchange(&slot[i], NULL));
	for (int i = 0; i < 2; i++)
		REQUIRE(pthread_create(&threads[i], NULL, short_life, NULL) == 0);
	grandchild = fork();
	if (grandchild == 0) {
		for (int i = 0; i < SLOTS; i++)
			drop(atomic_exchange(&slot[i], NULL));
		short_life(NULL);
		exit(7);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	wait_for(grandchild);
	exit(7);
}

int main(int argc, char **argv)
{
	int forks = argc > 1 ? atoi(argv[1]) : FORKS;
	pthread_t threads[THREADS];

	alarm(200);
	for (unsigned i = 0; i < SLOTS; i++)
		slot[i] = make(i);
	for (size_t i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
	for (int i = 0; i < forks; i++) {
		pid_t child;

		beside_begin();
		child = fork();
		if (child == 0)
			live_as_child();
		wait_for(child);
	}
	beside_end();
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < SLOTS; i++)
		drop(slot[i]);
	return 0;
}
