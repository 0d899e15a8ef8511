/* SPDX-License-Identifier: MIT
 *
 * What programs do to the memory beneath a heap: split the mapping of a large block by madvise or
 * mprotect and resize the block then, and define mmap and sbrk themselves, in terms of malloc.
 */
#include "victim.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static int own_calls;

void *mmap(void *hint, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	void *block = malloc(100);
	long got = syscall(SYS_mmap, hint, bytes, (long)prot, (long)flags, (long)fd, offset);

	own_calls++;
	free(block);
	return (void *)got;
}

int munmap(void *start, size_t bytes)
{
	own_calls++;
	free(opaque(malloc(100)));
	return (int)syscall(SYS_munmap, start, bytes);
}

void *sbrk(intptr_t increment)
{
	(void)increment;
	own_calls++;
	free(opaque(malloc(100)));
	return (void *)-1;
}

static char *whole_page(char *block)
{
	return (char *)(((uintptr_t)block + 4095) & ~(uintptr_t)4095);
}

int main(void)
{
	char *block = malloc(8 * MIB);

	memset(block, 7, 8 * MIB);
	REQUIRE(madvise(whole_page(block) + MIB, 2 * MIB, MADV_DONTDUMP) == 0);
	block = realloc(block, 16 * MIB);
	REQUIRE(block != NULL);
	for (size_t i = 0; i < 8 * MIB; i++)
		REQUIRE(block[i] == 7);
	REQUIRE(mprotect(whole_page(block) + MIB, 4096, PROT_READ) == 0);
	block = realloc(block, 12 * MIB);
	REQUIRE(block != NULL && block[12 * MIB - 1] == 0);
	free(block);
	for (int i = 0; i < 100; i++)
		free(opaque(malloc((size_t)i * 100000)));
	REQUIRE(own_calls == 0);
	return 0;
}
