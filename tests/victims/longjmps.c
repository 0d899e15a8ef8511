/* SPDX-License-Identifier: MIT
 *
 * A timer's handler that allocates and frees interrupts allocations too; when it interrupted
 * something else, it leaves by siglongjmp. Afterwards the heap is as before: small requests are not
 * taken for nested ones, which would cost a mapping each.
 */
#include "victim.h"

#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define JUMPS 300

static sigjmp_buf place;
static volatile sig_atomic_t allocating, jumping, jumps, returns;
static void *volatile made_by_handler;

static void handler(int number)
{
	char *block = malloc(500);

	(void)number;
	if (block == NULL)
		abort();
	memset(block, 4, 500);
	free(made_by_handler);
	made_by_handler = block;
	if (allocating || !jumping) {
		returns++;
		return;
	}
	jumping = 0;
	jumps++;
	siglongjmp(place, 1);
}

static void work(unsigned random)
{
	char *block;

	allocating = 1;
	block = malloc(random % 6000 + 1);
	allocating = 0;
	memset(block, 5, random % 6000 + 1);
	for (volatile int i = 0; i < 2000; i++)
		continue;
	allocating = 1;
	free(block);
	allocating = 0;
}

int main(void)
{
	const struct itimerval often = {{0, 150}, {0, 150}}, never = {{0, 0}, {0, 0}};
	struct sigaction action = {.sa_handler = handler};
	static volatile unsigned random = 1;
	char *block;

	alarm(100);
	sigaction(SIGVTALRM, &action, NULL);
	REQUIRE(setitimer(ITIMER_VIRTUAL, &often, NULL) == 0);
	while (jumps < JUMPS) {
		sigsetjmp(place, 1); /* what work() had made is lost by a jump */
		jumping = 1;
		for (int i = 0; i < 50; i++) {
			random = random * 1103515245 + 12345;
			work(random >> 8);
		}
		jumping = 0;
	}
	setitimer(ITIMER_VIRTUAL, &never, NULL);
	REQUIRE(returns > 0);
	free(made_by_handler);
	block = malloc(100);
	REQUIRE(malloc_usable_size(block) < 4000);
	free(block);
	return 0;
}
