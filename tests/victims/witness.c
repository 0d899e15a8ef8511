/* SPDX-License-Identifier: MIT
 *
 * Counts the calls that a process makes, for tests/commands/test_nothing_lost.py. Preloaded before
 * the library, so that every call of the program, of libc and of the loader comes here first and is
 * passed on. The counts are in a file that the test holds open as descriptor 777: they outlive the
 * process however it ends. A call is counted when it begins and when it has returned.
 *
 * A copy of the process (fork, but not vfork) counts in a slot of its own. `carried` are the calls
 * that the forking thread was in, when a signal handler forked: they were begun in the parent's
 * slot and return in both.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define DESCRIPTOR 777
#define SLOTS 4096
#define KINDS 16 /* as numbered in calls.def */
#define DEPTHS 4
#define EXPORT __attribute__((visibility("default")))
#define INITIAL __attribute__((tls_model("initial-exec")))

struct slot {
	uint64_t pid;
	_Atomic uint64_t begun[KINDS], done[KINDS], bytes[KINDS];
	uint64_t carried[KINDS];
};

struct witness {
	_Atomic uint64_t slots;
	struct slot slot[SLOTS];
};

enum {
	MALLOC = 1,
	CALLOC,
	REALLOC,
	ALIGNED_ALLOC,
	MEMALIGN,
	POSIX_MEMALIGN,
	VALLOC,
	PVALLOC,
	FREE,
	CFREE,
	FREE_SIZED,
	FREE_ALIGNED_SIZED,
	TRIM,
	MALLOPT
};

static struct {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void *(*aligned_alloc)(size_t, size_t);
	void *(*memalign)(size_t, size_t);
	int (*posix_memalign)(void **, size_t, size_t);
	void *(*valloc)(size_t);
	void *(*pvalloc)(size_t);
	void (*free)(void *);
	void (*cfree)(void *);
	void (*free_sized)(void *, size_t);
	void (*free_aligned_sized)(void *, size_t, size_t);
	int (*malloc_trim)(size_t);
	int (*mallopt)(int, int);
} next;

static struct witness *witness;
static struct slot none, *mine = &none;
static uint32_t never, *same = &never; /* leads to a word that the kernel wipes in a copy */
static __thread uint8_t inside[DEPTHS] INITIAL;
static __thread _Atomic unsigned depth INITIAL;

static void find(void *pointer, const char *name)
{
	*(void **)pointer = dlsym(RTLD_NEXT, name);
	if (*(void **)pointer == NULL)
		_exit(87);
}

static void find_all(void)
{
	find(&next.malloc, "malloc");
	find(&next.calloc, "calloc");
	find(&next.realloc, "realloc");
	find(&next.aligned_alloc, "aligned_alloc");
	find(&next.memalign, "memalign");
	find(&next.posix_memalign, "posix_memalign");
	find(&next.valloc, "valloc");
	find(&next.pvalloc, "pvalloc");
	find(&next.free, "free");
	find(&next.cfree, "cfree");
	find(&next.free_sized, "free_sized");
	find(&next.free_aligned_sized, "free_aligned_sized");
	find(&next.malloc_trim, "malloc_trim");
	find(&next.mallopt, "mallopt");
}

/* The first call of an image, when there is one thread and libc may not have begun. */
static void open_file(void)
{
	find_all();
	witness = mmap(NULL, sizeof(*witness), PROT_READ | PROT_WRITE, MAP_SHARED, DESCRIPTOR, 0);
	same = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (witness == MAP_FAILED || same == MAP_FAILED)
		_exit(86);
	madvise(same, 4096, MADV_WIPEONFORK);
}

/* Whole, before a signal handler can make a call. */
static void new_slot(void)
{
	sigset_t all, before;
	uint64_t number;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if (*same != 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		return;
	}
	if (witness == NULL)
		open_file();
	*same = 1;
	number = atomic_fetch_add(&witness->slots, 1);
	if (number >= SLOTS)
		_exit(85);
	mine = &witness->slot[number];
	for (unsigned i = 0; i < depth && i < DEPTHS; i++)
		mine->carried[inside[i]]++;
	mine->pid = (uint64_t)getpid();
	sigprocmask(SIG_SETMASK, &before, NULL);
}

/* A first call could be made in a child of vfork, under its pid. */
static __attribute__((constructor)) void start(void)
{
	new_slot();
}

static void begin(unsigned kind)
{
	if (*same == 0)
		new_slot();
	if (depth < DEPTHS)
		inside[depth] = (uint8_t)kind;
	depth++;
	atomic_fetch_add(&mine->begun[kind], 1);
}

static void end(unsigned kind, size_t bytes)
{
	if (*same == 0)
		new_slot(); /* a handler forked, and this is the copy */
	atomic_fetch_add(&mine->bytes[kind], bytes);
	atomic_fetch_add(&mine->done[kind], 1);
	depth--;
}

static void *made(unsigned kind, void *block, size_t bytes)
{
	end(kind, block != NULL ? bytes : 0);
	return block;
}

EXPORT void *malloc(size_t bytes)
{
	begin(MALLOC);
	return made(MALLOC, next.malloc(bytes), bytes);
}

EXPORT void *calloc(size_t count, size_t bytes)
{
	begin(CALLOC);
	return made(CALLOC, next.calloc(count, bytes), count * bytes);
}

EXPORT void *realloc(void *block, size_t bytes)
{
	begin(REALLOC);
	return made(REALLOC, next.realloc(block, bytes), bytes);
}

EXPORT void *aligned_alloc(size_t alignment, size_t bytes)
{
	begin(ALIGNED_ALLOC);
	return made(ALIGNED_ALLOC, next.aligned_alloc(alignment, bytes), bytes);
}

EXPORT void *memalign(size_t alignment, size_t bytes)
{
	begin(MEMALIGN);
	return made(MEMALIGN, next.memalign(alignment, bytes), bytes);
}

EXPORT int posix_memalign(void **block, size_t alignment, size_t bytes)
{
	int rc;

	begin(POSIX_MEMALIGN);
	rc = next.posix_memalign(block, alignment, bytes);
	end(POSIX_MEMALIGN, rc == 0 ? bytes : 0);
	return rc;
}

EXPORT void *valloc(size_t bytes)
{
	begin(VALLOC);
	return made(VALLOC, next.valloc(bytes), bytes);
}

EXPORT void *pvalloc(size_t bytes)
{
	begin(PVALLOC);
	return made(PVALLOC, next.pvalloc(bytes), bytes);
}

EXPORT void free(void *block)
{
	begin(FREE);
	next.free(block);
	end(FREE, 0);
}

EXPORT void cfree(void *block);
EXPORT void cfree(void *block)
{
	begin(CFREE);
	next.cfree(block);
	end(CFREE, 0);
}

EXPORT void free_sized(void *block, size_t bytes);
EXPORT void free_sized(void *block, size_t bytes)
{
	begin(FREE_SIZED);
	next.free_sized(block, bytes);
	end(FREE_SIZED, 0);
}

EXPORT void free_aligned_sized(void *block, size_t alignment, size_t bytes);
EXPORT void free_aligned_sized(void *block, size_t alignment, size_t bytes)
{
	begin(FREE_ALIGNED_SIZED);
	next.free_aligned_sized(block, alignment, bytes);
	end(FREE_ALIGNED_SIZED, 0);
}

EXPORT int malloc_trim(size_t pad)
{
	int rc;

	begin(TRIM);
	rc = next.malloc_trim(pad);
	end(TRIM, 0);
	return rc;
}

EXPORT int mallopt(int parameter, int value)
{
	int rc;

	begin(MALLOPT);
	rc = next.mallopt(parameter, value);
	end(MALLOPT, 0);
	return rc;
}
