/* SPDX-License-Identifier: MIT
 *
 * A heap of a size for `./dev bench residency`: heap MIB ROUNDS fills it with blocks of about 1 KiB,
 * then ROUNDS times frees one by chance and makes it again. Prints nothing.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 1000

int main(int argc, char **argv)
{
	uint64_t state = 88172645463325252u;

	if (argc != 3) {
		fputs("usage: heap MIB ROUNDS\n", stderr);
		return 2;
	}
	size_t count = strtoul(argv[1], NULL, 10) * 1024;
	unsigned long rounds = strtoul(argv[2], NULL, 10);
	char **block = calloc(count, sizeof(*block));
	for (size_t i = 0; block && i < count; i++)
		if ((block[i] = malloc(BLOCK_BYTES)))
			memset(block[i], 1, BLOCK_BYTES);
	for (unsigned long i = 0; block && i < rounds; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		size_t at = state % count;
		free(block[at]);
		if ((block[at] = malloc(BLOCK_BYTES - state / count % 64)))
			block[at][0] = 1;
	}
	return block ? 0 : 1;
}
