/* SPDX-License-Identifier: MIT
 *
 * heapledger/mark.h in C++: 10 calls in a phase.
 */
#include "heapledger/mark.h"

#include <cstdlib>

int main()
{
	heapledger_phase("of C++");
	for (int i = 0; i < 10; i++) {
		void *block;

		if (posix_memalign(&block, 64, 100) != 0)
			return 1;
		free(block);
	}
	return 0;
}
