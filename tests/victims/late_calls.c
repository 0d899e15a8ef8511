/* SPDX-License-Identifier: MIT
 *
 * Calls when the end has begun: in handlers of atexit, in destructors of thread-specific data
 * (every round of them), after the thread's cache is gone, and in a library-like destructor.
 */
#include "victim.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static pthread_key_t key;
static atomic_int rounds;

static void destroy(void *value)
{
	char *next = malloc(200);

	memset(next, 1, 200);
	free(value);
	rounds++;
	pthread_setspecific(
		key, next); /* again, as long as the C library lets us; the last leaks */
}

static void *work(void *unused)
{
	pthread_setspecific(key, malloc(100));
	dlsym(RTLD_DEFAULT, "no such symbol"); /* leaves a message that is freed at thread exit */
	return unused;
}

static void at_exit(void)
{
	free(opaque(malloc(1000)));
	free(opaque(malloc(1 << 20)));
}

static __attribute__((destructor)) void at_end(void)
{
	free(opaque(realloc(opaque(malloc(10)), 5000)));
}

int main(void)
{
	REQUIRE(pthread_key_create(&key, destroy) == 0);
	atexit(at_exit);
	for (int i = 0; i < 50; i++) {
		pthread_t thread;

		REQUIRE(pthread_create(&thread, NULL, work, NULL) == 0);
		pthread_join(thread, NULL);
	}
	REQUIRE(rounds == 50 * PTHREAD_DESTRUCTOR_ITERATIONS);
	return 0;
}
