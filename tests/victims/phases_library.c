/* SPDX-License-Identifier: MIT
 *
 * A program whose library names the phase: exits 0 after 10 calls in it.
 */
#include <stdlib.h>

void module_phase(const char *name);

int main(void)
{
	void *block;

	module_phase("of the library");
	for (int i = 0; i < 10; i++) {
		if (posix_memalign(&block, 64, 100) != 0)
			return 1;
		free(block);
	}
	return 0;
}
