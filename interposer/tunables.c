/* SPDX-License-Identifier: MIT
 *
 * tunables.h. The environment is read from the initial stack, because environ is still NULL in the
 * dynamic linker's first allocations. Makes no system call, allocates nothing.
 */
#include "tunables.h"
#include "line.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define TUNABLES_CACHE_MAX_BYTES 1032
#define TUNABLES_CACHE_BINS 64
#define TUNABLES_CACHE_COUNT_MAX UINT16_MAX

/* On x86-64 this points at argc; the vectors follow. Provided by the dynamic linker. */
extern void *__libc_stack_end;

enum {
#define HL_SETTING(name, initial, least, most, variable) INITIAL_##name = (int)(initial),
#include "heapledger/settings.def"
};

struct tunables tunables = {
	.mmap_threshold = INITIAL_mmap_threshold,
	.trim_threshold = INITIAL_trim_threshold,
	.top_pad = INITIAL_top_pad,
	.mmap_max = INITIAL_mmap_max,
	.fast_max = INITIAL_mxfast,
	.arena_test = INITIAL_arena_test,
	.cache_bins = TUNABLES_CACHE_BINS,
	.cache_count = INITIAL_tcache_count,
	.purge = SETTINGS_PURGE_NEVER,
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

static bool set_hugetlb(size_t value)
{
	tunables.hugetlb = value != 0;
	return true;
}

static bool set_purge(size_t value)
{
	tunables.purge = value;
	return true;
}

static bool (*const set[SETTINGS_COUNT])(size_t value) = {
	[SETTINGS_mmap_threshold] = set_mmap_threshold,
	[SETTINGS_trim_threshold] = set_trim_threshold,
	[SETTINGS_top_pad] = set_top_pad,
	[SETTINGS_mmap_max] = set_mmap_max,
	[SETTINGS_mxfast] = set_fast_max,
	[SETTINGS_arena_max] = set_arena_max,
	[SETTINGS_arena_test] = set_arena_test,
	[SETTINGS_tcache_count] = set_cache_count,
	[SETTINGS_tcache_max] = set_cache_max,
	[SETTINGS_tcache_unsorted_limit] = set_cache_scan,
	[SETTINGS_perturb] = set_perturb,
	[SETTINGS_hugetlb] = set_hugetlb,
	[SETTINGS_purge] = set_purge,
};

static char **environment(void)
{
	uintptr_t argc = *(uintptr_t *)__libc_stack_end;

	return (char **)__libc_stack_end + argc + 2;
}

void tunables_load(void)
{
	struct settings settings;

	settings_read(&settings, environment(), NULL, NULL);
	tunables.policy = settings.policy;
	tunables.check = settings.check;
	for (unsigned i = 0; i < SETTINGS_COUNT; i++)
		if ((settings.given >> i & 1) != 0)
			set[i](settings.value[i]);
	tunables.watched = tunables.check != 0 || tunables.purge < SETTINGS_PURGE_TRIM;
}

static void report(void *unused, const struct settings_fault *fault)
{
	struct line line = {.used = 0};

	(void)unused;
	line_text(&line, "heapledger: ignored: ");
	if (fault->variable != NULL) {
		line_text(&line, fault->variable);
		line_text(&line, ": ");
	}
	line_add(&line, fault->item, fault->bytes);
	line_text(&line, ": ");
	line_text(&line, fault->why);
	line_write(&line); /* whether or not anybody reads it */
}

void tunables_report(void)
{
	struct settings settings;
	int saved = errno;

	settings_read(&settings, environment(), NULL, NULL);
	if (!settings.recorded)
		settings_read(&settings, environment(), report, NULL);
	errno = saved;
}

int tunables_set(int parameter, int value)
{
	switch (parameter) {
	case M_MMAP_THRESHOLD:
		return set_mmap_threshold((size_t)value);
	case M_TRIM_THRESHOLD:
		return set_trim_threshold((size_t)value);
	case M_TOP_PAD:
		return set_top_pad((size_t)value);
	case M_MMAP_MAX:
		return set_mmap_max((size_t)value);
	case M_MXFAST:
		return set_fast_max((size_t)value);
	case M_ARENA_MAX:
		return set_arena_max((size_t)value);
	case M_ARENA_TEST:
		return set_arena_test((size_t)value);
	case M_PERTURB:
		return set_perturb((size_t)value);
	default:
		return 1; /* as glibc: parameters it does not know are accepted */
	}
}
