/* SPDX-License-Identifier: MIT
 *
 * The program moves the break itself, up and down, between allocations. What it got stays its own.
 */
#include "victim.h"

#include <string.h>
#include <unistd.h>

#define BLOCKS 300

int main(void)
{
	static char *block[BLOCKS], *own[BLOCKS];

	for (int i = 0; i < BLOCKS; i++) {
		block[i] = malloc(60000);
		memset(block[i], i, 60000);
		own[i] = i % 10 == 0 ? sbrk(3001) : NULL;
		if (own[i] != NULL)
			memset(own[i], ~i, 3001);
		if (i % 20 == 10) /* nothing of ours lies above it yet */
			REQUIRE(sbrk(-3001) == own[i] + 3001);
	}
	for (int i = 0; i < BLOCKS; i++) {
		for (int j = 0; j < 60000; j++)
			REQUIRE(block[i][j] == (char)i);
		for (int j = 0; i % 20 == 0 && j < 3001; j++)
			REQUIRE(own[i][j] == (char)~i);
		free(block[i]);
	}
	return 0;
}
