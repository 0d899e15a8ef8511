/* SPDX-License-Identifier: MIT
 *
 * A program that defines malloc itself, as Chromium and servers that are linked with an allocator
 * do: it comes before any library in the order of the dynamic linker. Blocks are cut off one static
 * array, and never used again.
 */
#include "victim.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static _Alignas(16) char heap[32 << 20];
static size_t used;
static long calls;

void *malloc(size_t size)
{
	size_t bytes = (size + 31) / 16 * 16;
	size_t *block = (size_t *)(heap + used);

	REQUIRE(used + bytes <= sizeof(heap));
	used += bytes;
	calls++;
	*block = size;
	return block + 2;
}

void free(void *block)
{
	(void)block;
}

void *calloc(size_t count, size_t size)
{
	return malloc(count * size); /* is zero yet */
}

void *realloc(void *block, size_t size)
{
	size_t old = block != NULL ? ((size_t *)block)[-2] : 0;
	void *moved = malloc(size);

	return old > 0 ? memcpy(moved, block, old < size ? old : size) : moved;
}

/* own_malloc CALLS [fork | exec PROGRAM | aligned | wait] */
int main(int argc, char **argv)
{
	const char *then = argc > 2 ? argv[2] : "";
	long count = argc > 1 ? strtol(argv[1], NULL, 10) : 1000, before = calls;

	for (long i = 0; i < count; i++)
		free(malloc((size_t)i % 1000));
	printf("%ld\n", calls - before);
	fflush(stdout);
	if (strcmp(then, "fork") == 0) {
		pid_t child = fork();

		if (child == 0)
			_exit(malloc(1) == NULL);
		REQUIRE(waitpid(child, NULL, 0) == child);
	} else if (strcmp(then, "exec") == 0) {
		execv(argv[3], argv + 3);
	} else if (strcmp(then, "aligned") == 0) {
		void *block; /* of the library: what this program does not define */

		REQUIRE(posix_memalign(&block, 64, 100) == 0);
	} else if (strcmp(then, "wait") == 0) {
		usleep(300000);
	}
	return 0;
}
