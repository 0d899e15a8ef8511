/* SPDX-License-Identifier: MIT
 *
 * Touches known pages of its heap in known steps, for test_faults.py: between two steps it asks for
 * nothing with madvise, which the kernel's record has with its time. Prints the block's address
 * and pages. With `huge`: a block with huge pages, if the kernel gives any.
 */
#include "victim.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 64u
#define HUGE_BYTES (2u << 20)

static char output[4096]; /* so that printing makes no heap */

static void step(char *block)
{
	REQUIRE(madvise(block, PAGES * PAGE, MADV_NORMAL) == 0);
}

static void touch(char *block, unsigned page)
{
	*(volatile char *)(block + page * PAGE + 100) = 1;
}

static void known_steps(char *block, int zeros)
{
	step(block);
	touch(block, 0);
	touch(block, 3);
	touch(block, 5);
	touch(block, 3);
	step(block);
	REQUIRE(read(zeros, block + 7 * PAGE, 2 * PAGE) == 2 * PAGE);
	step(block);
	(void)*(volatile char *)(block + 10 * PAGE);
	step(block);
	touch(block, 10);
	step(block);
	REQUIRE(madvise(block + 3 * PAGE, 5 * PAGE, MADV_DONTNEED) == 0);
	touch(block, 3);
	step(block);
	touch(block, PAGES - 1);
	step(block);
}

/* The child's pages are its parent's until it writes. */
static void in_child(char *block)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		touch(block, 20);
		exit(0);
	}
	REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void huge(void)
{
	size_t bytes = 8 * (size_t)HUGE_BYTES;
	char *block = opaque(aligned_alloc(HUGE_BYTES, bytes));

	REQUIRE(block != NULL);
	REQUIRE(madvise(block, bytes, MADV_HUGEPAGE) == 0);
	for (size_t at = 0; at < bytes; at += PAGE)
		block[at] = 1;
}

int main(int argc, char **argv)
{
	int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	char *block;

	setvbuf(stdout, output, _IOFBF, sizeof(output));
	if (argc > 1 && strcmp(argv[1], "huge") == 0) {
		huge();
		return 0;
	}
	REQUIRE(zeros >= 0 && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	block = opaque(aligned_alloc(PAGE, PAGES * PAGE));
	REQUIRE(block != NULL);
	printf("%p %u\n", (void *)block, PAGES);
	fflush(stdout);
	known_steps(block, zeros);
	if (argc > 1 && strcmp(argv[1], "fork") == 0)
		in_child(block);
	return 0;
}
