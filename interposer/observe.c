/* SPDX-License-Identifier: MIT
 *
 * libheapledger-observe.so: the names of libc's malloc interface in front of whatever allocator the
 * program has. Each export is guard -> the real function -> log -> return, in preload.c's order: an
 * allocation is logged after it is made, a free before it is done. Nothing is known of the
 * allocator's threads, so every block counts as one that another thread may have had (log.h).
 *
 * The real functions are found at the first call. What dlsym itself asks for meanwhile comes from a
 * small arena here and is not logged; it is never given back.
 *
 * A call within a call is a signal handler's, or the allocator's own; it is logged a depth deeper.
 */
#include "observe.h"

#include "attach.h"
#include "guard.h"
#include "log.h"

#include "heapledger/mark.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)
#define EARLY_BYTES 16384
#define EARLY_ALIGN 16

const uint8_t attach_mode = HL_MODE_OBSERVE;
const struct hl_caches *const attach_caches = NULL;
__thread struct thread thread_self __attribute__((tls_model("initial-exec")));
__thread const void *observe_last __attribute__((tls_model("initial-exec")));

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
	size_t (*malloc_usable_size)(void *);
	int (*malloc_trim)(size_t);
	int (*mallopt)(int, int);
	int (*malloc_info)(int, FILE *);
} real;

/* By kind: the function is of the object that malloc_usable_size is of, which knows its blocks. */
static bool measured[HL_KIND_LIMIT];
static bool found, finding;
static __thread bool measuring __attribute__((tls_model("initial-exec")));

static struct {
	char bytes[EARLY_BYTES] __attribute__((aligned(EARLY_ALIGN)));
	size_t used;
} early;

static pthread_key_t key;
static bool key_made;

static inline bool is_early(const void *block)
{
	return (uintptr_t)block - (uintptr_t)early.bytes < EARLY_BYTES;
}

/* Zero, as nothing is used twice. Its size stands before the block. */
static void *early_alloc(size_t alignment, size_t size)
{
	size_t at = early.used + EARLY_ALIGN;

	if (alignment > EARLY_ALIGN)
		at = (at + alignment - 1) & ~(alignment - 1);
	if (at > EARLY_BYTES || size > EARLY_BYTES - at)
		return NULL;
	early.used = (at + size + EARLY_ALIGN - 1) & ~(size_t)(EARLY_ALIGN - 1);
	memcpy(early.bytes + at - sizeof(size), &size, sizeof(size));
	return early.bytes + at;
}

static size_t early_size(const void *block)
{
	size_t size;

	memcpy(&size, (const char *)block - sizeof(size), sizeof(size));
	return size;
}

/* FILLER: no block comes from it. */
static const struct {
	void *function;
	const char *name;
	enum hl_kind kind;
} functions[] = {
	{&real.malloc, "malloc", HL_KIND_malloc},
	{&real.calloc, "calloc", HL_KIND_calloc},
	{&real.realloc, "realloc", HL_KIND_realloc},
	{&real.aligned_alloc, "aligned_alloc", HL_KIND_aligned_alloc},
	{&real.memalign, "memalign", HL_KIND_memalign},
	{&real.posix_memalign, "posix_memalign", HL_KIND_posix_memalign},
	{&real.valloc, "valloc", HL_KIND_valloc},
	{&real.pvalloc, "pvalloc", HL_KIND_pvalloc},
	{&real.free, "free", HL_KIND_FILLER},
	{&real.malloc_usable_size, "malloc_usable_size", HL_KIND_FILLER},
	{&real.malloc_trim, "malloc_trim", HL_KIND_FILLER},
	{&real.mallopt, "mallopt", HL_KIND_FILLER},
	{&real.malloc_info, "malloc_info", HL_KIND_FILLER},
};

static const void *object_of(const void *function)
{
	Dl_info info;

	return function != NULL && dladdr(function, &info) != 0 ? info.dli_fbase : NULL;
}

/* A program's malloc and, say, pvalloc can be of different allocators: neither measures the blocks
 * of the other. */
static void find_measured(void)
{
	const void *object = object_of(*(void **)(void *)&real.malloc_usable_size);

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		measured[functions[i].kind] =
			object != NULL && object_of(*(void **)functions[i].function) == object;
}

/* False while it is under way: the call is dlsym's. The first call of an image is made when it has
 * one thread. */
static __attribute__((noinline)) bool find_all(void)
{
	if (finding)
		return false;
	finding = true;
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		*(void **)functions[i].function = dlsym(RTLD_NEXT, functions[i].name);
	find_measured();
	found = true;
	finding = false;
	return true;
}

static inline bool ready(void)
{
	return __builtin_expect(found, 1) || find_all();
}

bool observe_has(const void *function)
{
	const void *object = ready() ? object_of(*(void **)(void *)&real.malloc) : NULL;

	return object != NULL && object_of(function) == object;
}

/* The destructor of this thread will run. pthread_setspecific may allocate and come back here. */
static __attribute__((noinline)) void arm(void)
{
	if (!key_made)
		return;
	thread_self.armed = true;
	pthread_setspecific(key, (void *)1);
}

static void enter(enum hl_kind kind, size_t size, const void *caller)
{
	if (__builtin_expect(!thread_self.armed, 0))
		arm();
	guard_enter(kind, size, caller);
	log_call_begin();
}

static void leave(void)
{
	log_call_end();
	guard_leave();
}

/* As if the usable bytes had a header of 8, as in glibc; 0 = not known: tcmalloc says 0 of what it
 * gave before it was initialised, and allocates when it is asked for the first time. */
static size_t measure(enum hl_kind kind, void *block, size_t size)
{
	size_t usable;

	if (block == NULL || !measured[kind] || measuring)
		return 0;
	measuring = true;
	usable = real.malloc_usable_size(block);
	measuring = false;
	return usable != 0 && usable >= size ? usable + HL_OBSERVED_HEADER_BYTES : 0;
}

static void log_made(enum hl_kind kind, void *block, size_t size, size_t alignment)
{
	log_call_end();
	observe_last = block;
	if (!log_is_off())
		log_call(&(struct log_call){
			.kind = kind,
			.handed = true,
			.addr = block,
			.size = size,
			.chunk = measure(kind, block, size),
			.alignment = alignment,
		});
}

static void log_given(enum hl_kind kind, void *block, size_t size)
{
	if (!log_is_off())
		log_call(&(struct log_call){
			.kind = kind,
			.handed = block != NULL,
			.addr = block,
			.size = size,
		});
	log_call_begin();
}

static inline void *done(enum hl_kind kind, void *block, size_t size, size_t alignment)
{
	log_made(kind, block, size, alignment);
	guard_leave();
	return block;
}

void *observe_malloc(size_t size, const void *caller)
{
	if (!ready())
		return early_alloc(0, size);
	enter(HL_KIND_malloc, size, caller);
	return done(HL_KIND_malloc, real.malloc(size), size, 0);
}

void observe_found(
	enum hl_kind kind, void *block, size_t size, size_t alignment, const void *caller)
{
	enter(kind, size, caller);
	done(kind, block, size, alignment);
}

EXPORT void *malloc(size_t size)
{
	return observe_malloc(size, CALLER);
}

EXPORT void *calloc(size_t count, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(count, size, &total))
		total = SIZE_MAX; /* refused as too large */
	if (!ready())
		return early_alloc(0, total);
	enter(HL_KIND_calloc, total, CALLER);
	return done(HL_KIND_calloc, real.calloc(count, size), total, 0);
}

static void *resize(void *old, size_t size, const void *caller)
{
	enter(HL_KIND_realloc, size, caller);
	log_given(HL_KIND_realloc_begin, old, 0);
	return done(HL_KIND_realloc, real.realloc(old, size), size, 0);
}

/* It stays where it is; what has become of it is a new block. */
static void *move_early(const void *old, size_t size)
{
	size_t bytes = early_size(old);
	void *block = malloc(size);

	return block != NULL ? memcpy(block, old, bytes < size ? bytes : size) : NULL;
}

EXPORT void *realloc(void *old, size_t size)
{
	if (is_early(old))
		return move_early(old, size);
	return ready() ? resize(old, size, CALLER) : early_alloc(0, size);
}

/* Some allocators have one of their own, which would pass realloc by. */
EXPORT void *reallocarray(void *old, size_t count, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(count, size, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	if (is_early(old))
		return move_early(old, total);
	return ready() ? resize(old, total, CALLER) : early_alloc(0, total);
}

void observe_free(enum hl_kind kind, void *block, size_t size, const void *caller)
{
	if (is_early(block) || !ready())
		return;
	enter(kind, size, caller);
	log_given(kind, block, size);
	real.free(block);
	leave();
}

EXPORT void free(void *block)
{
	observe_free(HL_KIND_free, block, 0, CALLER);
}

EXPORT void cfree(void *block);
EXPORT void cfree(void *block)
{
	observe_free(HL_KIND_cfree, block, 0, CALLER);
}

EXPORT void free_sized(void *block, size_t size);
EXPORT void free_sized(void *block, size_t size)
{
	observe_free(HL_KIND_free_sized, block, size, CALLER);
}

EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size);
EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size)
{
	(void)alignment;
	observe_free(HL_KIND_free_aligned_sized, block, size, CALLER);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	if (!ready())
		return early_alloc(alignment, size);
	enter(HL_KIND_aligned_alloc, size, CALLER);
	return done(HL_KIND_aligned_alloc, real.aligned_alloc(alignment, size), size, alignment);
}

void *observe_memalign(size_t alignment, size_t size, const void *caller)
{
	if (!ready())
		return early_alloc(alignment, size);
	enter(HL_KIND_memalign, size, caller);
	return done(HL_KIND_memalign, real.memalign(alignment, size), size, alignment);
}

EXPORT void *memalign(size_t alignment, size_t size)
{
	return observe_memalign(alignment, size, CALLER);
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t size)
{
	int rc;

	if (!ready()) {
		*result = early_alloc(alignment, size);
		return *result != NULL ? 0 : ENOMEM;
	}
	enter(HL_KIND_posix_memalign, size, CALLER);
	rc = real.posix_memalign(result, alignment, size);
	done(HL_KIND_posix_memalign, rc == 0 ? *result : NULL, size, alignment);
	return rc;
}

EXPORT void *valloc(size_t size)
{
	size_t page = (size_t)getpagesize();

	if (!ready())
		return early_alloc(page, size);
	enter(HL_KIND_valloc, size, CALLER);
	return done(HL_KIND_valloc, real.valloc(size), size, page);
}

EXPORT void *pvalloc(size_t size)
{
	size_t page = (size_t)getpagesize();

	if (!ready())
		return early_alloc(page, size);
	enter(HL_KIND_pvalloc, size, CALLER);
	return done(HL_KIND_pvalloc, real.pvalloc(size), size, page);
}

static int control_done(enum hl_kind kind, size_t size, int result)
{
	log_call_end();
	if (!log_is_off())
		log_call(&(struct log_call){.kind = kind, .size = size, .chunk = (size_t)result});
	guard_leave();
	return result;
}

EXPORT int mallopt(int parameter, int value)
{
	size_t packed = (uint32_t)parameter | (uint64_t)(uint32_t)value << 32;

	if (!ready())
		return 0;
	enter(HL_KIND_mallopt, packed, CALLER);
	return control_done(HL_KIND_mallopt, packed, real.mallopt(parameter, value));
}

EXPORT int malloc_trim(size_t pad)
{
	if (!ready())
		return 0;
	enter(HL_KIND_malloc_trim, pad, CALLER);
	return control_done(HL_KIND_malloc_trim, pad, real.malloc_trim(pad));
}

/* heapledger/mark.h: the stream is a name. */
static int mark_phase(const char *name)
{
	if (name != NULL && !log_is_off()) {
		enter(HL_KIND_FILLER, 0, CALLER);
		log_phase(name);
		guard_leave();
	}
	return EINVAL;
}

EXPORT int malloc_info(int options, FILE *stream)
{
	if (options == HEAPLEDGER_PHASE_OPTION)
		return mark_phase((const char *)stream);
	return ready() ? real.malloc_info(options, stream) : EINVAL;
}

/* Other destructors may still free and allocate after this one, so it asks to be called again until
 * the last round. */
static void thread_destroy(void *round)
{
	uintptr_t next = (uintptr_t)round + 1;

	if (next > PTHREAD_DESTRUCTOR_ITERATIONS || pthread_setspecific(key, (void *)next) != 0)
		log_thread_exit();
}

static void fork_prepare(void)
{
	guard_enter(HL_KIND_FILLER, 0, NULL);
	guard_leave();
	log_fork_hold();
	log_fork_prepare();
}

static void fork_child(void)
{
	log_fork_child(guard_depth() != 0);
}

/* The first constructor of all (-z initfirst), when there is one thread. */
static __attribute__((constructor)) void observe_start(void)
{
	ready();
	guard_enter(HL_KIND_FILLER, 0, NULL);
	guard_leave();
	log_process_start();
	key_made = pthread_key_create(&key, thread_destroy) == 0;
	pthread_atfork(fork_prepare, log_fork_parent, fork_child);
	arm();
}

static __attribute__((destructor)) void observe_end(void)
{
	log_process_exit();
}
