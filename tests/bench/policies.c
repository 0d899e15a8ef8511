/* SPDX-License-Identifier: MIT
 *
 * What the textbook says of brk and mmap, in small programs for policies.py and heapledger compare:
 *
 *     policies calls              prints what single calls take, in ns
 *     policies blocks KIB COUNT   so many blocks, all touched, then all freed
 *     policies blocked KIB COUNT  and one small block, made after them, that stays
 *     policies users COUNT        blocks of 60 KiB, then of 90, while the program moves the break
 *     policies small COUNT        blocks of 100 bytes, none freed
 *     policies churn KIB COUNT    one block, made, touched and freed again and again
 *     policies idle KIB COUNT     the same, not touched
 *     policies purge KIB COUNT    made, touched and freed below a block that stays, then malloc_trim
 */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define KIB 1024L
#define ROUNDS 20000

static void *opaque(void *block)
{
	__asm__ volatile("" : "+r"(block) : : "memory");
	return block;
}

static void *touched(size_t bytes)
{
	char *block = opaque(malloc(bytes));

	if (!block)
		exit(1);
	for (size_t i = 0; i < bytes; i += PAGE_BYTES)
		((volatile char *)block)[i] = 1;
	return block;
}

static void malloc_free(void)
{
	free(opaque(malloc(64)));
}

static void system_call(void)
{
	syscall(SYS_getppid);
}

static void break_moves(void)
{
	static long end;

	if (!end)
		end = syscall(SYS_brk, 0);
	syscall(SYS_brk, end + PAGE_BYTES);
	syscall(SYS_brk, end);
}

static void *map_page(void)
{
	return mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void map_unmap(void)
{
	munmap(map_page(), PAGE_BYTES);
}

static void break_moves_touched(void)
{
	static long end;

	if (!end)
		end = syscall(SYS_brk, 0);
	syscall(SYS_brk, end + PAGE_BYTES);
	*(volatile char *)((end + PAGE_BYTES - 1) & -PAGE_BYTES) = 1;
	syscall(SYS_brk, end);
}

static void map_unmap_touched(void)
{
	volatile char *page = map_page();

	*page = 1;
	munmap((void *)page, PAGE_BYTES);
}

static double nanoseconds(void (*call)(void))
{
	struct timespec start, end;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < ROUNDS; i++)
		call();
	clock_gettime(CLOCK_MONOTONIC, &end);
	return ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) /
	       ROUNDS;
}

static void calls(void)
{
	printf("malloc and free of 64 bytes\t%.1f\n", nanoseconds(malloc_free));
	printf("getppid, a system call that does nothing\t%.1f\n", nanoseconds(system_call));
	printf("brk up a page and down\t%.1f\n", nanoseconds(break_moves));
	printf("the same, and the page touched\t%.1f\n", nanoseconds(break_moves_touched));
	printf("mmap of a page and munmap\t%.1f\n", nanoseconds(map_unmap));
	printf("the same, and the page touched\t%.1f\n", nanoseconds(map_unmap_touched));
}

static void blocks(size_t bytes, long count, int one_stays)
{
	void **block = calloc((size_t)count, sizeof(*block));

	for (long i = 0; i < count; i++)
		block[i] = touched(bytes);
	if (one_stays)
		touched(3000);
	for (long i = 0; i < count; i++)
		free(block[i]);
}

/* The second blocks fit where two of the first lay, if nothing lies between these. */
static void users(long count)
{
	void **block = calloc((size_t)count, sizeof(*block));

	for (long i = 0; i < count; i++) {
		block[i] = touched(60 * KIB);
		if (sbrk(PAGE_BYTES) == (void *)-1)
			exit(1);
	}
	for (long i = 0; i < count; i++)
		free(block[i]);
	for (long i = 0; i < count / 2; i++)
		block[i] = touched(90 * KIB);
}

static void small(long count)
{
	for (long i = 0; i < count; i++)
		touched(100);
}

static void churn(size_t bytes, long count)
{
	for (long i = 0; i < count; i++)
		free(touched(bytes));
}

static void idle(size_t bytes, long count)
{
	for (long i = 0; i < count; i++)
		free(opaque(malloc(bytes)));
}

static void purge(size_t bytes, long count)
{
	void *block = touched(bytes);

	touched(3000);
	for (long i = 0; i < count; i++) {
		free(block);
		malloc_trim(0);
		block = touched(bytes);
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	long first = argc > 2 ? atol(argv[2]) : 0, second = argc > 3 ? atol(argv[3]) : 0;

	if (!strcmp(mode, "calls"))
		return calls(), 0;
	if (!strcmp(mode, "users") && first > 0)
		return users(first), 0;
	if (!strcmp(mode, "small") && first > 0)
		return small(first), 0;
	if (first <= 0 || second <= 0)
		return 2;
	if (!strcmp(mode, "churn"))
		return churn((size_t)(first * KIB), second), 0;
	if (!strcmp(mode, "idle"))
		return idle((size_t)(first * KIB), second), 0;
	if (!strcmp(mode, "purge"))
		return purge((size_t)(first * KIB), second), 0;
	if (!strcmp(mode, "blocks") || !strcmp(mode, "blocked"))
		return blocks((size_t)(first * KIB), second, !strcmp(mode, "blocked")), 0;
	return 2;
}
