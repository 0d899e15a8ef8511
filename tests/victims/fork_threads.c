/* SPDX-License-Identifier: MIT
 *
 * A threaded program forks while its other threads allocate and use stdio. No child and no parent
 * may hang, and a child frees what the parent made.
 */
#include "beside.h"
#include "victim.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define FORKS 300

static void *churn(void *unused)
{
	while (beside_goes_on()) {
		char *block = malloc(3000);

		block[0] = 1;
		free(realloc(block, 200000));
	}
	return unused;
}

/* Takes and holds the lock of stdio's list of streams while it allocates. */
static void *streams(void *unused)
{
	while (beside_goes_on()) {
		FILE *stream = fopen("/dev/null", "w");

		REQUIRE(stream != NULL);
		fprintf(stream, "%d\n", 1);
		fflush(NULL);
		fclose(stream);
	}
	return unused;
}

int main(int argc, char **argv)
{
	int forks = argc > 1 ? atoi(argv[1]) : FORKS;
	pthread_t threads[4];

	alarm(100);
	for (int i = 0; i < 4; i++)
		REQUIRE(pthread_create(&threads[i], NULL, i == 0 ? streams : churn, NULL) == 0);
	for (int i = 0; i < forks; i++) {
		char *block = malloc(5000);
		int status;
		pid_t child;

		memset(block, 3, 5000);
		beside_begin();
		child = fork();
		if (child == 0) {
			alarm(50);
			free(block);
			for (int j = 1; j < 100; j++)
				free(opaque(malloc((size_t)j * 1000)));
			_exit(7);
		}
		REQUIRE(child > 0);
		REQUIRE(waitpid(child, &status, 0) == child);
		REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
		free(block);
	}
	beside_end();
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
