/* SPDX-License-Identifier: MIT
 *
 * os.h. Called by grow.c, large.c and carve.c; the only file that talks to the kernel about memory.
 * Grows through libc's sbrk, which caches the break: a raw brk would leave that cache stale, and a
 * later sbrk by the program would corrupt the heap.
 */
#include "os.h"

#include "fatal.h"
#include "log.h"
#include "tunables.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

extern void *__curbrk; /* libc's cache of the break, NULL before its first brk */

/* libc's own names and system calls by number: a program may define sbrk, mmap and their like
 * itself, and what it puts there may allocate. */
extern void *__sbrk(intptr_t increment);

/* What a thread did with addresses before it gave them away is over when their next owner gets
 * them. The kernel sees to that; ThreadSanitizer knows no system calls by number and is told. */
static _Atomic unsigned given_away;

static void os_give_away(void)
{
	atomic_fetch_add_explicit(&given_away, 1, memory_order_release);
}

static void os_come_by(void)
{
	atomic_load_explicit(&given_away, memory_order_acquire);
}

static void os_log(struct hl_syscall_record *record, uint64_t start, enum hl_kind kind,
	const void *address, struct os_why why)
{
	record->kind_addr = hl_kind_addr(kind, (uintptr_t)address);
	record->cause = hl_cause_pack(0, why.reason, why.region, why.arena);
	record->mmap_threshold = tunable(&tunables.mmap_threshold);
	record->trim_threshold = tunable(&tunables.trim_threshold);
	record->top_pad = tunable(&tunables.top_pad);
	log_syscall(record, start);
}

/* EACCES and ENOSYS are what a sandbox answers. */
static bool is_refusal(int error)
{
	return error == ENOMEM || error == EAGAIN || error == EPERM || error == EACCES ||
	       error == ENOSYS;
}

/* The first sbrk asks the kernel where the break is: a system call of its own. */
static void os_find_break(unsigned arena)
{
	struct hl_syscall_record record = {0};
	uint64_t start = log_tick();

	record.result = (int64_t)(uintptr_t)__sbrk(0);
	os_log(&record, start, HL_KIND_brk, NULL,
		(struct os_why){HL_REASON_heap_init, HL_REGION_break, arena});
}

void *os_break(void)
{
	if (__curbrk == NULL)
		os_find_break(0);
	return __sbrk(0);
}

void *os_sbrk(intptr_t increment, struct os_why why)
{
	struct hl_syscall_record record = {0};
	int saved = errno;
	uint64_t start;
	void *before;

	if (__curbrk == NULL)
		os_find_break(why.arena);
	if (increment == 0)
		return __sbrk(0);
	if (increment < 0)
		log_restamp_all(); /* the addresses may become somebody else's */
	start = log_tick();
	before = __sbrk(increment);
	record.result = (int64_t)(uintptr_t)__curbrk;
	if (before == (void *)-1) { /* libc makes no call when its own namespace lacks the break */
		before = NULL;
		record.argument = (uintptr_t)__curbrk + (uintptr_t)increment;
		os_log(&record, start, HL_KIND_brk, __curbrk, why);
	} else {
		record.argument = (uintptr_t)before + (uintptr_t)increment;
		os_log(&record, start, HL_KIND_brk, before, why);
	}
	errno = saved;
	return before;
}

static void *os_mmap(void *hint, size_t bytes, int prot, int flags, struct os_why why)
{
	struct hl_syscall_record record = {.length = bytes, .argument = (uint64_t)prot};
	int saved = errno;
	uint64_t start = log_tick();
	void *got = (void *)syscall(SYS_mmap, hint, bytes, (long)prot,
		(long)(MAP_PRIVATE | MAP_ANONYMOUS | flags), -1L, 0L);
	int error = errno;

	record.result = got == MAP_FAILED ? -error : (int64_t)(uintptr_t)got;
	os_log(&record, start, HL_KIND_mmap, hint, why);
	os_come_by();
	errno = saved;
	if (got != MAP_FAILED)
		return got;
	if (!is_refusal(error))
		fatal_os("mmap", hint, bytes, error);
	return NULL;
}

void *os_map(void *hint, size_t bytes, struct os_why why)
{
	return os_mmap(hint, bytes, PROT_READ | PROT_WRITE, 0, why);
}

void *os_reserve(void *hint, size_t bytes, struct os_why why)
{
	return os_mmap(hint, bytes, PROT_NONE, MAP_NORESERVE, why);
}

bool os_close(void *address, size_t bytes, struct os_why why)
{
	return os_mmap(address, bytes, PROT_NONE, MAP_NORESERVE | MAP_FIXED, why) != NULL;
}

void *os_remap(void *address, size_t old_bytes, size_t new_bytes, struct os_why why)
{
	struct hl_syscall_record record = {.length = old_bytes, .argument = new_bytes};
	int saved = errno, error;
	uint64_t start = log_tick();
	void *got;

	os_give_away();
	got = (void *)syscall(SYS_mremap, address, old_bytes, new_bytes, (long)MREMAP_MAYMOVE);
	error = errno;
	os_come_by();
	record.result = got == MAP_FAILED ? -error : (int64_t)(uintptr_t)got;
	os_log(&record, start, HL_KIND_mremap, address, why);
	errno = saved;
	/* Any error is a refusal: after the program's own mprotect, mlock or madvise within the
	 * block it is several mappings to the kernel, which answers EFAULT. */
	return got != MAP_FAILED ? got : NULL;
}

/* The end of munmap, madvise and mprotect, which answer 0 or an error. */
static bool os_done(int result, uint64_t start, enum hl_kind kind, const void *address,
	size_t bytes, int argument, struct os_why why)
{
	struct hl_syscall_record record = {.length = bytes, .argument = (uint64_t)argument};

	record.result = result == 0 ? 0 : -errno;
	os_log(&record, start, kind, address, why);
	return result == 0;
}

bool os_unmap(void *address, size_t bytes, struct os_why why)
{
	int saved = errno;
	uint64_t start;
	bool done;

	if (why.region == HL_REGION_arena)
		log_restamp_all();
	start = log_tick();
	os_give_away();
	done = os_done((int)syscall(SYS_munmap, address, bytes), start, HL_KIND_munmap, address,
		bytes, 0, why);
	if (!done && !is_refusal(errno))
		fatal_os("munmap", address, bytes, errno);
	errno = saved;
	return done;
}

bool os_open(void *address, size_t bytes, struct os_why why)
{
	int prot = PROT_READ | PROT_WRITE;
	int saved = errno;
	uint64_t start = log_tick();
	bool done = os_done((int)syscall(SYS_mprotect, address, bytes, (long)prot), start,
		HL_KIND_mprotect, address, bytes, prot, why);

	if (!done && !is_refusal(errno))
		fatal_os("mprotect", address, bytes, errno);
	errno = saved;
	return done;
}

bool os_discard(void *address, size_t bytes, struct os_why why)
{
	int saved = errno;
	uint64_t start = log_tick();
	bool done = os_done((int)syscall(SYS_madvise, address, bytes, (long)MADV_DONTNEED), start,
		HL_KIND_madvise, address, bytes, MADV_DONTNEED, why);

	if (!done && errno != EINVAL &&
		!is_refusal(errno)) /* EINVAL: the program locked the pages */
		fatal_os("madvise", address, bytes, errno);
	errno = saved;
	return done;
}

/* Refusals are no matter: the kernel may have been built without, or the memory be locked. */
void os_advise_huge(void *address, size_t bytes, struct os_why why)
{
	uintptr_t page = os_page_down((uintptr_t)address);
	int saved = errno;
	uint64_t start;

	if (tunables.huge_bytes == 0 || bytes < tunables.huge_bytes)
		return;
	bytes = os_page_up((uintptr_t)address + bytes - page);
	start = log_tick();
	os_done((int)syscall(SYS_madvise, page, bytes, (long)MADV_HUGEPAGE), start, HL_KIND_madvise,
		(void *)page, bytes, MADV_HUGEPAGE, why);
	errno = saved;
}

/* The start of a small file as a text; empty if it cannot be read. */
static void os_read_text(const char *path, char *text, size_t bytes)
{
	int saved = errno;
	/* By number: open and read of libc are cancellation points. */
	long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	long got = fd >= 0 ? syscall(SYS_read, fd, text, bytes - 1) : 0;

	text[got > 0 ? got : 0] = '\0';
	if (fd >= 0)
		syscall(SYS_close, fd);
	errno = saved;
}

static bool os_read_strict(void)
{
	char mode[2];

	os_read_text("/proc/sys/vm/overcommit_memory", mode, sizeof(mode));
	return mode[0] == '2';
}

bool os_commit_is_strict(void)
{
	static _Atomic int known; /* 0 not asked, 1 no, 2 yes */

	if (known == 0)
		known = os_read_strict() ? 2 : 1;
	return known == 2;
}

unsigned os_cores(void)
{
	cpu_set_t set;
	int saved = errno;
	int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 2;

	errno = saved;
	return count > 0 ? (unsigned)count : 2;
}

size_t os_huge_page_bytes(void)
{
	char text[64];
	size_t bytes = 0;

	os_read_text("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text));
	if (strstr(text, "[madvise]") == NULL)
		return 0;
	os_read_text("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof(text));
	for (const char *digit = text; *digit >= '0' && *digit <= '9'; digit++)
		bytes = bytes * 10 + (size_t)(*digit - '0');
	return (bytes & (bytes - 1)) == 0 ? bytes : 0;
}

/* By number: a program may define clock_gettime itself, and what it puts there may allocate. */
uint64_t os_clock_ms(void)
{
	struct timespec now = {0};
	int saved = errno;

	syscall(SYS_clock_gettime, (long)CLOCK_MONOTONIC, &now);
	errno = saved;
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
