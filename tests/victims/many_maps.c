/* SPDX-License-Identifier: MIT
 *
 * The process has as many mappings as it may (vm.max_map_count). Large blocks fail with ENOMEM,
 * blocks in the heap go on, a mapping that cannot be cut out of its neighbours does not harm, and
 * all is well when the mappings are gone.
 */
#include "victim.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
#define LARGE 500000
#define BLOCKS 64
#define SMALL 200
#define OTHERS 16

static long most_maps(void)
{
	FILE *stream = fopen("/proc/sys/vm/max_map_count", "r");
	long most = 0;

	REQUIRE(stream != NULL);
	REQUIRE(fscanf(stream, "%ld", &most) == 1);
	fclose(stream);
	return most;
}

static char *large[BLOCKS];

static void check_large(int i)
{
	for (int j = 0; j < LARGE; j += 97)
		REQUIRE(large[i][j] == (char)i);
}

static void *others[OTHERS];

/* Every second page readable: two mappings each. The last few the kernel gives only whole. */
static void fill_up(char *area, long most)
{
	long made = 0;
	bool refused = false;

	while (made < most && mprotect(area + made * PAGE, PAGE, PROT_READ) == 0)
		made += 2;
	REQUIRE(made < most);
	for (int i = 0; i < OTHERS; i++) {
		others[i] = mmap(NULL, PAGE, i % 2 == 0 ? PROT_READ : PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		refused |= others[i] == MAP_FAILED;
	}
	REQUIRE(refused);
}

int main(void)
{
	long most = most_maps();
	char *area = mmap(NULL, (size_t)(most + 2) * PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *small[SMALL], *got;

	if (most > 200000) { /* it would take too long */
		printf("too many\n");
		return 0;
	}
	REQUIRE(area != MAP_FAILED);
	for (int i = 0; i < BLOCKS; i++) {
		large[i] = malloc(LARGE);
		REQUIRE(large[i] != NULL);
		memset(large[i], i, LARGE);
	}
	/* Half of them make room in the heap: it cannot grow later. */
	for (int i = 0; i < SMALL; i++) {
		small[i] = malloc(3000);
		REQUIRE(small[i] != NULL);
		memset(small[i], i, 3000);
	}
	for (int i = 0; i < SMALL; i += 2)
		free(small[i]);
	fill_up(area, most);
	errno = 0;
	REQUIRE(opaque(malloc(40 << 20)) == NULL && errno == ENOMEM);
	for (int i = 0; i < SMALL; i += 2) {
		small[i] = malloc(3000);
		REQUIRE(small[i] != NULL);
		memset(small[i], i, 3000);
	}
	for (int i = 1; i < BLOCKS; i += 2) {
		check_large(i);
		errno = 77;
		free(large[i]);
		REQUIRE(errno == 77);
	}
	for (int i = 0; i < BLOCKS; i += 2) {
		got = realloc(large[i], LARGE * 2);
		if (got != NULL)
			large[i] = got;
		else
			REQUIRE(errno == ENOMEM);
		check_large(i);
	}
	REQUIRE(munmap(area, (size_t)(most + 2) * PAGE) == 0);
	for (int i = 0; i < OTHERS; i++)
		REQUIRE(others[i] == MAP_FAILED || munmap(others[i], PAGE) == 0);
	for (int i = 1; i < BLOCKS; i += 2) {
		large[i] = malloc(LARGE);
		REQUIRE(large[i] != NULL);
		memset(large[i], i, LARGE);
	}
	for (int i = 0; i < BLOCKS; i++) {
		check_large(i);
		free(large[i]);
	}
	for (int i = 0; i < SMALL; i++) {
		for (int j = 0; j < 3000; j++)
			REQUIRE(small[i][j] == (char)i);
		free(small[i]);
	}
	return 0;
}
