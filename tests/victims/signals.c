/* SPDX-License-Identifier: MIT
 *
 * A timer's signal handler allocates and frees while it interrupts allocations, in two threads. Not
 * allowed by POSIX, done by real programs.
 */
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define HANDLED 3000

static atomic_int handled;
static void *_Atomic exchanged;

static void handler(int number)
{
	char *block = malloc(100);

	(void)number;
	memset(block, 8, 100);
	block = realloc(block, 5000);
	for (int i = 0; i < 100; i++)
		if (block[i] != 8)
			abort();
	free(block);
	free(atomic_exchange(&exchanged, calloc(1, 300)));
	handled++;
}

static void *churn(void *unused)
{
	unsigned random = 1;

	while (handled < HANDLED) {
		size_t bytes = (random = random * 1103515245 + 12345) >> 16 & 0x3fff;
		char *block = malloc(bytes + 1);

		block[bytes] = 1;
		block = realloc(block, bytes / 2 + 700);
		free(atomic_exchange(&exchanged, block));
	}
	return unused;
}

int main(void)
{
	const struct itimerval often = {{0, 200}, {0, 200}};
	const struct itimerval never = {{0, 0}, {0, 0}};
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	pthread_t thread;

	alarm(100);
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
	sigaction(SIGPROF, &action, NULL);
	REQUIRE(setitimer(ITIMER_PROF, &often, NULL) == 0);
	REQUIRE(pthread_create(&thread, NULL, churn, NULL) == 0);
	churn(NULL);
	pthread_join(thread, NULL);
	setitimer(ITIMER_PROF, &never, NULL);
	free(atomic_exchange(&exchanged, NULL));
	return 0;
}
