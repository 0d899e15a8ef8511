/* SPDX-License-Identifier: MIT
 *
 * The process ends while threads allocate: handlers of atexit, on_exit and destructors run, and
 * allocate, beside them. `quick`: by quick_exit. `thread`: main leaves first, the last thread ends
 * the process.
 */
#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define HANDLERS 40

static atomic_int handled;
static char *kept[HANDLERS];

static void *churn(void *unused)
{
	for (;;)
		free(opaque(realloc(opaque(malloc(700)), 20000)));
	return unused;
}

static void handler(void)
{
	int number = handled++;
	char *block = malloc((size_t)number * 4000 + 10);

	for (int i = 0; i < 10; i++)
		REQUIRE(kept[number][i] == (char)number);
	free(kept[number]);
	memset(block, 1, (size_t)number * 4000 + 10);
	free(realloc(block, 300000));
	if (handled == HANDLERS && write(STDOUT_FILENO, "handled\n", 8) != 8)
		_exit(9);
}

static void late(int status, void *block)
{
	(void)status;
	free(block);
	free(opaque(malloc(1000)));
}

static __attribute__((destructor)) void at_end(void)
{
	free(opaque(calloc(10, 1000)));
}

static void *last_one(void *unused)
{
	usleep(20000);
	free(opaque(malloc(5000)));
	exit(0);
	return unused;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	pthread_t thread;

	alarm(60);
	for (int i = 0; i < HANDLERS; i++) {
		kept[i] = malloc(100);
		memset(kept[i], i, 100);
		REQUIRE((strcmp(how, "quick") == 0 ? at_quick_exit(handler) : atexit(handler)) ==
			0);
	}
	on_exit(late, malloc(50));
	if (strcmp(how, "thread") == 0) {
		REQUIRE(pthread_create(&thread, NULL, last_one, NULL) == 0);
		pthread_exit(NULL);
	}
	for (int i = 0; i < 3; i++)
		REQUIRE(pthread_create(&thread, NULL, churn, NULL) == 0);
	usleep(20000);
	if (strcmp(how, "quick") == 0)
		quick_exit(0);
	return 0;
}
