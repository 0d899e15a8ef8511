/* SPDX-License-Identifier: MIT
 *
 * Many processes that end while threads of theirs begin and end: their caches come and go under
 * whoever reads them.
 */
#include "victim.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES 40
#define BLOCKS 200

static void *short_lived(void *unused)
{
	void *block[BLOCKS];

	for (size_t i = 0; i < BLOCKS; i++)
		block[i] = opaque(malloc(16 + i * 37 % 900));
	for (size_t i = 0; i < BLOCKS; i++)
		free(block[i]);
	return unused;
}

static void *make_threads(void *unused)
{
	pthread_t thread;

	while (pthread_create(&thread, NULL, short_lived, NULL) == 0)
		pthread_join(thread, NULL);
	return unused;
}

int main(void)
{
	pthread_t thread;

	alarm(60);
	for (useconds_t i = 0; i < PROCESSES; i++) {
		pid_t child = fork();
		int status;

		REQUIRE(child >= 0);
		if (child == 0) {
			alarm(30);
			for (int n = 0; n < 4; n++)
				if (pthread_create(&thread, NULL, make_threads, NULL) != 0)
					_exit(2);
			usleep(1000 + i * 317 % 9000);
			exit(0);
		}
		REQUIRE(waitpid(child, &status, 0) == child);
		REQUIRE(status == 0);
	}
	return 0;
}
