/* SPDX-License-Identifier: MIT
 *
 * `breaks PROCESSES PAIRS`: that many processes at once, each of which has the heap move the break
 * up and down again so many times when trim_threshold and top_pad are 0. Prints how long it took,
 * in nanoseconds.
 */
#include "victim.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 100000 /* a free block of this size next to the end is given back at once */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void move(long pairs)
{
	for (long i = 0; i < pairs; i++) {
		void *block = malloc(BLOCK_BYTES);

		REQUIRE(block != NULL);
		free(block);
	}
}

int main(int argc, char **argv)
{
	long processes, pairs;
	uint64_t start = now_ns();
	int status;

	REQUIRE(argc == 3);
	processes = strtol(argv[1], NULL, 10);
	pairs = strtol(argv[2], NULL, 10);
	for (long i = 0; i < processes; i++)
		if (fork() == 0) {
			move(pairs);
			_exit(0);
		}
	while (wait(&status) > 0)
		REQUIRE(status == 0);
	printf("%" PRIu64 "\n", now_ns() - start);
	return 0;
}
