/* SPDX-License-Identifier: MIT
 *
 * Prints "mapped" or "heap" for a block of 200,000 bytes: what the tunables in its environment say.
 */
#include "victim.h"

#include <malloc.h>

int main(void)
{
	size_t before = mallinfo2().hblks;
	void *block = opaque(malloc(200000));

	printf("%s\n", mallinfo2().hblks > before ? "mapped" : "heap");
	free(block);
	return 0;
}
