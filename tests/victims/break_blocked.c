/* SPDX-License-Identifier: MIT
 *
 * The break cannot grow: `mapping`: something is mapped right above it; `limit`: RLIMIT_DATA.
 * Allocations go on while the kernel gives mappings, fail with ENOMEM when it does not, and what
 * was there before stays whole. When the obstacle is gone all is well again.
 */
#include "victim.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define BLOCKS 1000
#define BYTES 9000
#define PAGE 4096
#define WALL (1 << 20)

static unsigned char *block[BLOCKS];

static bool make(int i)
{
	errno = 0;
	block[i] = malloc(BYTES);
	if (block[i] == NULL) {
		REQUIRE(errno == ENOMEM);
		return false;
	}
	memset(block[i], i, BYTES);
	return true;
}

static void verify(int i)
{
	for (int j = 0; block[i] != NULL && j < BYTES; j++)
		REQUIRE(block[i][j] == (unsigned char)i);
}

static void drop(int i)
{
	verify(i);
	free(block[i]);
	block[i] = NULL;
}

static void block_break(char **wall)
{
	uintptr_t end = ((uintptr_t)sbrk(0) + PAGE - 1) & ~(uintptr_t)(PAGE - 1);

	*wall = mmap((void *)end, WALL, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	REQUIRE(*wall == (char *)end);
	memset(&errno, 0, sizeof(errno));
	REQUIRE(sbrk(PAGE * 2) == (void *)-1);
}

/* Whether the kernel still maps memory that can be written to. */
static bool kernel_maps(void)
{
	void *place =
		mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return place != MAP_FAILED && munmap(place, 2 << 20) == 0;
}

int main(int argc, char **argv)
{
	bool limited = argc > 1 && strcmp(argv[1], "limit") == 0;
	struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
	char *wall = NULL;
	int failed = 0;
	bool maps;

	for (int i = 0; i < BLOCKS / 4; i++)
		REQUIRE(make(i));
	if (limited)
		REQUIRE(setrlimit(RLIMIT_DATA, &limit) == 0);
	else
		block_break(&wall);
	maps = kernel_maps();
	REQUIRE(maps || limited);
	for (int i = BLOCKS / 4; i < BLOCKS; i++)
		failed += !make(i);
	REQUIRE(maps ? failed == 0 : failed > 0);
	for (int i = 0; i < BLOCKS; i += 2)
		drop(i);
	for (int i = 0; i < BLOCKS; i += 2)
		REQUIRE(make(i) || !maps);
	for (int i = 1; i < BLOCKS; i += 2)
		drop(i);
	limit.rlim_cur = RLIM_INFINITY;
	REQUIRE(setrlimit(RLIMIT_DATA, &limit) == 0);
	REQUIRE(wall == NULL || munmap(wall, WALL) == 0);
	for (int i = 1; i < BLOCKS; i += 2)
		REQUIRE(make(i));
	for (int i = 0; i < BLOCKS; i++)
		drop(i);
	printf("%s\n", maps ? "mapped" : "refused");
	return 0;
}
