/* SPDX-License-Identifier: MIT
 *
 * Calls the allocator in all the ways that mtrace logs, with mtrace on, for test_import_text.py.
 */
#include "victim.h"

#include <malloc.h>
#include <mcheck.h>
#include <stdlib.h>

#define BLOCKS 500
#define ROUNDS 20000

static void *blocks[BLOCKS];

static void *allocate(unsigned way, size_t size)
{
	switch (way % 5) {
	case 0:
		return calloc(size, 3);
	case 1:
		return memalign(64, size);
	case 2:
		return malloc((size_t)-1 >> 1);
	default:
		return malloc(size);
	}
}

int main(void)
{
	unsigned random = 1;

	mtrace();
	for (int i = 0; i < ROUNDS; i++) {
		random = random * 1103515245 + 12345;
		void **block = &blocks[random >> 8 & 0xff];
		size_t size = random >> 16 & 0xfff;

		if (i % 3 == 0) {
			void *moved = realloc(*block, i % 600 == 0 ? (size_t)-1 >> 1 : size);

			if (moved != NULL || size == 0)
				*block = moved;
		} else {
			free(*block);
			*block = i % 3 == 1 ? allocate(random >> 20, size) : NULL;
		}
	}
	muntrace();
	return 0;
}
