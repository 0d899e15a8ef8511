/* SPDX-License-Identifier: MIT
 *
 * A timer's signal handler allocates and frees while it interrupts allocations, in two threads. Not
 * allowed by POSIX, done by real programs. Each thread has its own timer of wall time: one of CPU
 * time waits for the kernel's next tick, a few times as long as is asked for here.
 */
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define HANDLED 3000
#define LEAST_OF_A_THREAD 100

static atomic_int handled;
static _Thread_local volatile sig_atomic_t handled_here;
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
	handled_here++;
}

static timer_t start_timer(void)
{
	const struct itimerspec often = {{0, 1000000}, {0, 1000000}};
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
	timer_t timer;

	event.sigev_notify_thread_id = gettid();
	REQUIRE(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	REQUIRE(timer_settime(timer, 0, &often, NULL) == 0);
	return timer;
}

static void *churn(void *unused)
{
	timer_t timer = start_timer();
	unsigned random = 1;

	while (handled < HANDLED || handled_here < LEAST_OF_A_THREAD) {
		size_t bytes = (random = random * 1103515245 + 12345) >> 16 & 0x3fff;
		char *block = malloc(bytes + 1);

		block[bytes] = 1;
		block = realloc(block, bytes / 2 + 700);
		free(atomic_exchange(&exchanged, block));
	}
	REQUIRE(timer_delete(timer) == 0);
	return unused;
}

int main(void)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	pthread_t thread;

	alarm(100);
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
	sigaction(SIGPROF, &action, NULL);
	REQUIRE(pthread_create(&thread, NULL, churn, NULL) == 0);
	churn(NULL);
	pthread_join(thread, NULL);
	free(atomic_exchange(&exchanged, NULL));
	return 0;
}
