/* SPDX-License-Identifier: MIT
 *
 * The kernel refuses: sbrk, mmap and mremap fail on demand (the linker wraps them), or because of a
 * limit. The heap falls back where it can, says ENOMEM where it cannot, and goes on afterwards.
 */
#include "heap_log.h"

#include "arena.h"
#include "check.h"
#include "heap.h"
#include "log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

static bool refuse_sbrk, refuse_mmap, refuse_mremap, refuse_munmap;

void *__real___sbrk(intptr_t increment);
void *__wrap___sbrk(intptr_t increment);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

void *__wrap___sbrk(intptr_t increment)
{
	if (!refuse_sbrk || increment <= 0)
		return __real___sbrk(increment);
	errno = ENOMEM;
	return (void *)-1;
}

static bool is_refused(long number)
{
	return (number == SYS_mmap && refuse_mmap) || (number == SYS_mremap && refuse_mremap) ||
	       (number == SYS_munmap && refuse_munmap);
}

long __wrap_syscall(long number, ...)
{
	long words[6];
	va_list list;

	if (is_refused(number)) {
		errno = ENOMEM;
		return -1;
	}
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		words[i] = va_arg(list, long);
	va_end(list);
	return __real_syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

static void mremap_refused_means_a_copy(void **state)
{
	unsigned char *block = heap_alloc(MIB);

	(void)state;
	memset(block, 6, MIB);
	refuse_mremap = true;
	block = heap_realloc(block, 3 * MIB);
	assert_non_null(block);
	for (size_t i = 0; i < MIB; i++)
		assert_int_equal(block[i], 6);
	refuse_mremap = false;
	heap_free(block);
	heap_check();
}

static void munmap_refused_is_survived(void **state)
{
	void *block = heap_alloc(40 * MIB);

	(void)state;
	refuse_munmap = true;
	errno = EINTR;
	heap_free(block);
	assert_int_equal(errno, EINTR);
	refuse_munmap = false;
	assert_int_equal(heap_log_failed(HL_KIND_munmap), 1);
}

static void mmap_refused_means_the_break(void **state)
{
	unsigned char *block;
	bool mapped;

	(void)state;
	refuse_mmap = true;
	block = heap_alloc(34 * MIB);
	refuse_mmap = false;
	assert_non_null(block);
	heap_taken(block, &mapped);
	assert_false(mapped);
	memset(block, 1, 34 * MIB);
	heap_free(block);
	heap_check();
}

static void both_refused_is_no_memory(void **state)
{
	void *block, *small = heap_alloc(50);

	(void)state;
	refuse_mmap = refuse_sbrk = true;
	errno = 0;
	block = heap_alloc(34 * MIB);
	assert_null(block);
	assert_int_equal(errno, ENOMEM);
	assert_null(heap_calloc(34 * MIB));
	assert_null(heap_aligned(4096, 34 * MIB));
	assert_null(heap_realloc(small, 34 * MIB));
	refuse_mmap = refuse_sbrk = false;
	heap_free(small);
	heap_check();
	block = heap_alloc(34 * MIB);
	assert_non_null(block);
	heap_free(block);
}

static void sbrk_refused_means_a_map(void **state)
{
	unsigned before = heap_log_count(HL_KIND_mmap, HL_REASON_brk_fallback);
	unsigned char *block[300];

	(void)state;
	refuse_sbrk = true;
	for (int i = 0; i < 300; i++) {
		block[i] = heap_alloc(60000);
		assert_non_null(block[i]);
		memset(block[i], i, 60000);
	}
	refuse_sbrk = false;
	assert_true(heap_log_count(HL_KIND_mmap, HL_REASON_brk_fallback) > before);
	assert_true(arena_main.scattered);
	for (int i = 0; i < 300; i++) {
		assert_int_equal(block[i][59999], i & 0xff);
		heap_free(block[i]);
	}
	heap_check();
	heap_trim(0);
	heap_free(heap_alloc(70000));
	heap_check();
}

static void a_data_limit_is_reported_and_survived(void **state)
{
	/* Not 0: of that Linux asks rlim_max only, and refuses no mapping. */
	struct rlimit limit = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
	int status;
	pid_t child = fork();

	(void)state;
	if (child == 0) { /* a limit on data refuses both brk and private mmap */
		void *first = heap_alloc(100), *block = first;
		int count = 0;

		setrlimit(RLIMIT_DATA, &limit);
		while ((block = heap_alloc(100000)) != NULL && count < 100)
			count++;
		if (block != NULL || errno != ENOMEM)
			_exit(1);
		heap_free(first);
		heap_check();
		limit.rlim_cur = RLIM_INFINITY;
		setrlimit(RLIMIT_DATA, &limit);
		_exit(heap_alloc(100000) != NULL ? 0 : 2);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mremap_refused_means_a_copy),
		cmocka_unit_test(munmap_refused_is_survived),
		cmocka_unit_test(mmap_refused_means_the_break),
		cmocka_unit_test(both_refused_is_no_memory),
		cmocka_unit_test(a_data_limit_is_reported_and_survived),
		cmocka_unit_test(sbrk_refused_means_a_map),
	};

	heap_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
