/* SPDX-License-Identifier: MIT
 *
 * The victim of tests/commands/test_moments.py: makes holes of many sizes between blocks that stay, has
 * their pages given back, and then frees the highest blocks, with a phase for each. All sizes are
 * beyond what caches and fast lists take, so that each free joins its neighbours.
 */
#include "heapledger/mark.h"
#include "victim.h"

#include <malloc.h>

#define HOLES 300
#define HOLE_BYTES 5000
#define PEG_BYTES 1100
#define FREED 4 /* of the highest pegs */

int main(void)
{
	void *hole[HOLES], *peg[HOLES];

	heapledger_phase("make");
	for (size_t i = 0; i < HOLES; i++) {
		hole[i] = malloc(HOLE_BYTES + i * 16 + i % 3 * 2048);
		peg[i] = malloc(PEG_BYTES);
		REQUIRE(hole[i] != NULL && peg[i] != NULL);
	}
	for (size_t i = 0; i < HOLES; i++)
		free(hole[i]);
	heapledger_phase("trim");
	malloc_trim(0);
	heapledger_phase("free");
	for (size_t i = HOLES - FREED; i < HOLES; i++)
		free(peg[i]);
	malloc_trim(0);
	return 0;
}
