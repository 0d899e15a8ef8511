/* SPDX-License-Identifier: MIT
 *
 * Puts known pages of its heap into memory and then keeps still, for test_residency.py: prints its
 * pid, and the address and pages of each block with a letter a page of what mincore says of it, and
 * waits for standard input to end. With `peak`: it first had 64 MiB more, until a byte came.
 */
#include "victim.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 300u
#define SMALL 4000u

static char output[1 << 16]; /* so that printing makes no heap */

static void wait_for_byte(void)
{
	char byte;

	if (read(STDIN_FILENO, &byte, 1) < 0)
		exit(1);
}

static char *aligned(void)
{
	char *block = opaque(aligned_alloc(PAGE, PAGES * PAGE));

	REQUIRE(block != NULL);
	return block;
}

static void print(const char *name, char *block)
{
	unsigned char there[PAGES];

	REQUIRE(mincore(block, PAGES * PAGE, there) == 0);
	printf("%s %p ", name, (void *)block);
	for (unsigned i = 0; i < PAGES; i++)
		putchar(there[i] & 1 ? 'x' : '-');
	putchar('\n');
}

static void peak(void)
{
	char *block = malloc(64 << 20);

	REQUIRE(opaque(block) != NULL);
	memset(block, 1, 64 << 20);
	puts("peak");
	fflush(stdout);
	wait_for_byte();
	free(block);
}

/* Blocks beside each other, of which every second one is freed: pages stay, some are given back. */
static void small(void)
{
	static char *block[SMALL];

	for (unsigned i = 0; i < SMALL; i++)
		block[i] = memset(malloc(1000 + i % 7), 1, 1000);
	for (unsigned i = 0; i < SMALL; i++)
		if (i % 2 == 0 || i > SMALL / 2)
			free(opaque(block[i]));
}

int main(int argc, char **argv)
{
	char sum = 0;
	char *touched, *given, *seen, *gone;

	setvbuf(stdout, output, _IOFBF, sizeof(output));
	if (argc > 1 && strcmp(argv[1], "peak") == 0)
		peak();
	touched = aligned();
	given = aligned();
	seen = aligned();
	gone = aligned();
	for (unsigned i = 0; i < PAGES; i += 3)
		touched[i * PAGE] = 1;
	memset(given, 1, PAGES * PAGE);
	REQUIRE(madvise(given + 10 * PAGE, 100 * PAGE, MADV_DONTNEED) == 0);
	for (unsigned i = 1; i < PAGES; i += 2)
		sum |= seen[i * PAGE];
	REQUIRE(sum == 0);
	memset(gone, 1, PAGES * PAGE);
	free(gone);
	small();
	printf("%d\n", (int)getpid());
	print("touched", touched);
	print("given", given);
	print("seen", seen);
	fflush(stdout);
	wait_for_byte();
	return 0;
}
