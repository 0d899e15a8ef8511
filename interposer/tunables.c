/* SPDX-License-Identifier: MIT
 *
 * tunables.h. The environment is read from the initial stack, because environ is still NULL in the
 * dynamic linker's first allocations. Makes no system call, allocates nothing.
 */
#include "tunables.h"

#include <limits.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>

#define TUNABLES_MMAP_THRESHOLD_BYTES ((size_t)128 << 10)
#define TUNABLES_CACHE_MAX_BYTES 1032
#define TUNABLES_CACHE_BINS 64
#define TUNABLES_CACHE_COUNT_MAX UINT16_MAX

/* On x86-64 this points at argc; the vectors follow. Provided by the dynamic linker. */
extern void *__libc_stack_end;

struct tunables tunables = {
	.mmap_threshold = TUNABLES_MMAP_THRESHOLD_BYTES,
	.trim_threshold = TUNABLES_MMAP_THRESHOLD_BYTES,
	.top_pad = TUNABLES_MMAP_THRESHOLD_BYTES,
	.mmap_max = 65536,
	.fast_max = 128,
	.arena_test = 8,
	.cache_bins = TUNABLES_CACHE_BINS,
	.cache_count = 7,
};

static bool set_mmap_threshold(size_t value)
{
	tunable_set(&tunables.mmap_threshold, value);
	tunables.fixed = true;
	return true;
}

static bool set_trim_threshold(size_t value)
{
	tunable_set(&tunables.trim_threshold, value);
	tunables.fixed = true;
	return true;
}

static bool set_top_pad(size_t value)
{
	tunable_set(&tunables.top_pad, value);
	tunables.fixed = true;
	return true;
}

static bool set_mmap_max(size_t value)
{
	tunable_set(&tunables.mmap_max, value);
	tunables.fixed = true;
	return true;
}

static bool set_fast_max(size_t value)
{
	if (value > TUNABLES_FAST_MAX_BYTES)
		return false;
	tunable_set(&tunables.fast_max, value < 8 ? 16 : (value + 8) & ~(size_t)15);
	return true;
}

static bool set_arena_max(size_t value)
{
	tunable_set(&tunables.arena_max, value);
	return true;
}

static bool set_arena_test(size_t value)
{
	tunable_set(&tunables.arena_test, value);
	return true;
}

static bool set_perturb(size_t value)
{
	tunables.perturb = (int)value;
	return true;
}

static bool set_cache_max(size_t value)
{
	if (value > TUNABLES_CACHE_MAX_BYTES)
		return false;
	/* Bin of the largest request, plus one. */
	tunable_set(&tunables.cache_bins, value <= 24 ? 1 : (value + 8 + 15) / 16 - 1);
	return true;
}

static bool set_cache_count(size_t value)
{
	if (value > TUNABLES_CACHE_COUNT_MAX)
		return false;
	tunable_set(&tunables.cache_count, value);
	tunables.cache_fixed = true;
	return true;
}

static bool set_cache_scan(size_t value)
{
	tunable_set(&tunables.cache_scan, value);
	return true;
}

struct tunable_name {
	const char *name;     /* in GLIBC_TUNABLES, after glibc.malloc. */
	const char *variable; /* the older environment variable, or NULL */
	int parameter;        /* of mallopt, or 0 */
	bool (*set)(size_t value);
};

/* M_ARENA_TEST and M_ARENA_MAX are in <malloc.h>; M_MXFAST is 1. */
static const struct tunable_name names[] = {
	{"mmap_threshold", "MALLOC_MMAP_THRESHOLD_", M_MMAP_THRESHOLD, set_mmap_threshold},
	{"trim_threshold", "MALLOC_TRIM_THRESHOLD_", M_TRIM_THRESHOLD, set_trim_threshold},
	{"top_pad", "MALLOC_TOP_PAD_", M_TOP_PAD, set_top_pad},
	{"mmap_max", "MALLOC_MMAP_MAX_", M_MMAP_MAX, set_mmap_max},
	{"mxfast", NULL, M_MXFAST, set_fast_max},
	{"arena_max", "MALLOC_ARENA_MAX", M_ARENA_MAX, set_arena_max},
	{"arena_test", "MALLOC_ARENA_TEST", M_ARENA_TEST, set_arena_test},
	{"perturb", "MALLOC_PERTURB_", M_PERTURB, set_perturb},
	{"tcache_max", NULL, 0, set_cache_max},
	{"tcache_count", NULL, 0, set_cache_count},
	{"tcache_unsorted_limit", NULL, 0, set_cache_scan},
};

#define NAME_COUNT (sizeof(names) / sizeof(names[0]))

static unsigned digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a') + 10;
	if (c >= 'A' && c <= 'F')
		return (unsigned)(c - 'A') + 10;
	return UINT_MAX;
}

/* Decimal, 0x hexadecimal or 0 octal up to `end`; false if anything else stands there. */
static bool parse_number(const char *text, const char *end, size_t *value)
{
	size_t base = 10;

	if (end - text > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		base = 16;
		text += 2;
	} else if (end - text > 1 && text[0] == '0') {
		base = 8;
	}
	if (text == end)
		return false;
	for (*value = 0; text < end; text++) {
		size_t digit = digit_of(*text);

		if (digit >= base || __builtin_mul_overflow(*value, base, value) ||
			__builtin_add_overflow(*value, digit, value))
			return false;
	}
	return true;
}

static void set_named(const char *name, size_t length, const char *text, const char *end)
{
	size_t value;

	for (size_t i = 0; i < NAME_COUNT; i++)
		if (strncmp(names[i].name, name, length) == 0 && names[i].name[length] == '\0' &&
			parse_number(text, end, &value))
			names[i].set(value);
}

/* name=value:name=value ... */
static void load_list(const char *list)
{
	static const char prefix[] = "glibc.malloc.";

	while (*list != '\0') {
		const char *end = list + strcspn(list, ":");
		const char *equal = memchr(list, '=', (size_t)(end - list));

		if (equal != NULL && strncmp(list, prefix, sizeof(prefix) - 1) == 0) {
			list += sizeof(prefix) - 1;
			set_named(list, (size_t)(equal - list), equal + 1, end);
		}
		list = *end == ':' ? end + 1 : end;
	}
}

static void load_variable(const char *entry)
{
	size_t value;

	for (size_t i = 0; i < NAME_COUNT; i++) {
		size_t length = names[i].variable != NULL ? strlen(names[i].variable) : 0;

		if (length == 0 || strncmp(entry, names[i].variable, length) != 0)
			continue;
		entry += length;
		if (*entry == '=' && parse_number(entry + 1, entry + strlen(entry), &value))
			names[i].set(value);
		return;
	}
}

void tunables_load(void)
{
	static const char list[] = "GLIBC_TUNABLES=";
	uintptr_t argc = *(uintptr_t *)__libc_stack_end;
	char **entry = (char **)__libc_stack_end + argc + 2;

	for (; *entry != NULL; entry++) {
		if (strncmp(*entry, list, sizeof(list) - 1) == 0)
			load_list(*entry + sizeof(list) - 1);
		else if (strncmp(*entry, "MALLOC_", 7) == 0)
			load_variable(*entry);
	}
}

int tunables_set(int parameter, int value)
{
	for (size_t i = 0; i < NAME_COUNT; i++)
		if (parameter != 0 && names[i].parameter == parameter)
			return names[i].set((size_t)value);
	return 1; /* as glibc: parameters it does not know are accepted */
}
