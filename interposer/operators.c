/* SPDX-License-Identifier: MIT
 *
 * operator new and delete of C++, for allocators that have their own: those do not come by malloc.
 * Its malloc, memalign and free serve in their place and are logged: such operators call the public
 * names for some of their work, and not for the rest. libstdc++'s operators, and a program's own,
 * call malloc in any case and are only passed on to.
 *
 * Names of ours come before those of a library that is loaded later, with a plugin, say: then the
 * caller's own object knows what it would have got. Arguments that an operator does not have are
 * passed on as they are.
 */
#include "observe.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

typedef void *operator_function(uintptr_t a, uintptr_t b, uintptr_t c);

struct entry {
	const char *name;
	_Atomic(operator_function *) function;
	_Atomic bool allocators; /* it does what the allocator's malloc and free do */
};

/* What `from` would have found without us. An object that is not the caller's stays loaded. */
static void *find_beside(const char *name, const void *caller, bool *shared)
{
	Dl_info from, to;
	void *handle, *function = NULL;

	*shared = false;
	if (dladdr(caller, &from) == 0)
		return NULL;
	handle = dlopen(from.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
	if (handle != NULL)
		function = dlsym(handle, name);
	if (function != NULL && dladdr(function, &to) != 0 && to.dli_fbase != from.dli_fbase)
		*shared = dlopen(to.dli_fname, RTLD_LAZY | RTLD_NOLOAD) != NULL;
	if (handle != NULL)
		dlclose(handle);
	return function;
}

static operator_function *find_operator(struct entry *entry, const void *caller)
{
	operator_function *function = atomic_load_explicit(&entry->function, memory_order_acquire);
	bool shared = true;
	void *symbol;

	if (__builtin_expect(function != NULL, 1))
		return function;
	symbol = dlsym(RTLD_NEXT, entry->name);
	if (symbol == NULL) {
		symbol = find_beside(entry->name, caller, &shared);
		dlerror(); /* that there was none is nothing for the program */
	}
	if (symbol == NULL)
		abort(); /* whoever calls it was linked with one */
	function = *(operator_function **)(void *)&symbol;
	if (shared) {
		atomic_store(&entry->allocators, observe_has(symbol));
		atomic_store_explicit(&entry->function, function, memory_order_release);
	}
	return function;
}

static bool is_allocators(const struct entry *entry)
{
	return atomic_load_explicit(&entry->allocators, memory_order_relaxed);
}

/* The allocator's malloc has the same memory. When it has none, its operator calls the program's
 * handler, tries again and throws, outside of any bracket; what it then tries may come here. */
static void *new_by(struct entry *entry, uintptr_t size, uintptr_t b, uintptr_t c, size_t alignment,
	const void *caller)
{
	operator_function *function = find_operator(entry, caller);
	void *block;

	if (!is_allocators(entry))
		return function(size, b, c);
	block = alignment != 0 ? observe_memalign(alignment, size, caller)
			       : observe_malloc(size, caller);
	if (block != NULL)
		return block;
	block = function(size, b, c);
	if (block != NULL && block != observe_last)
		observe_found(alignment != 0 ? HL_KIND_memalign : HL_KIND_malloc, block, size,
			alignment, caller);
	return block;
}

#define NEW_OPERATOR(symbol, alignment)                                                            \
	EXPORT void *symbol(uintptr_t size, uintptr_t b, uintptr_t c);                             \
	EXPORT void *symbol(uintptr_t size, uintptr_t b, uintptr_t c)                              \
	{                                                                                          \
		static struct entry entry = {.name = #symbol};                                     \
		return new_by(&entry, size, b, c, alignment, CALLER);                              \
	}

NEW_OPERATOR(_Znwm, 0)
NEW_OPERATOR(_Znam, 0)
NEW_OPERATOR(_ZnwmRKSt9nothrow_t, 0)
NEW_OPERATOR(_ZnamRKSt9nothrow_t, 0)
NEW_OPERATOR(_ZnwmSt11align_val_t, b)
NEW_OPERATOR(_ZnamSt11align_val_t, b)
NEW_OPERATOR(_ZnwmSt11align_val_tRKSt9nothrow_t, b)
NEW_OPERATOR(_ZnamSt11align_val_tRKSt9nothrow_t, b)

static void delete_by(struct entry *entry, enum hl_kind kind, uintptr_t block, uintptr_t b,
	uintptr_t c, size_t size, const void *caller)
{
	operator_function *function = find_operator(entry, caller);

	if (is_allocators(entry))
		observe_free(kind, (void *)block, size, caller);
	else
		function(block, b, c);
}

#define DELETE_OPERATOR(symbol, kind, size)                                                        \
	EXPORT void symbol(uintptr_t block, uintptr_t b, uintptr_t c);                             \
	EXPORT void symbol(uintptr_t block, uintptr_t b, uintptr_t c)                              \
	{                                                                                          \
		static struct entry entry = {.name = #symbol};                                     \
		delete_by(&entry, kind, block, b, c, size, CALLER);                                \
	}

DELETE_OPERATOR(_ZdlPv, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdaPv, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdlPvm, HL_KIND_free_sized, b)
DELETE_OPERATOR(_ZdaPvm, HL_KIND_free_sized, b)
DELETE_OPERATOR(_ZdlPvRKSt9nothrow_t, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdaPvRKSt9nothrow_t, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdlPvSt11align_val_t, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdaPvSt11align_val_t, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdlPvmSt11align_val_t, HL_KIND_free_aligned_sized, b)
DELETE_OPERATOR(_ZdaPvmSt11align_val_t, HL_KIND_free_aligned_sized, b)
DELETE_OPERATOR(_ZdlPvSt11align_val_tRKSt9nothrow_t, HL_KIND_free, 0)
DELETE_OPERATOR(_ZdaPvSt11align_val_tRKSt9nothrow_t, HL_KIND_free, 0)
