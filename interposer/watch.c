/* SPDX-License-Identifier: MIT
 *
 * watch.h. Called by heap.c and thread.c.
 */
#include "watch.h"

#include "carve.h"
#include "check.h"
#include "purge.h"
#include "tunables.h"

static void count_call(void)
{
	static _Atomic uint64_t calls;

	if (tunables.check != 0 &&
		(atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed) + 1) % tunables.check ==
			0)
		heap_check();
}

__attribute__((noinline)) bool watch_enter(struct arena *arena)
{
	count_call();
	if (!arena_enter(arena))
		return false;
	if (tunables.purge < SETTINGS_PURGE_TRIM)
		purge_idle(arena);
	carve_drain(arena);
	return true;
}

void watch_check(void)
{
	if (tunables.check != 0)
		heap_check();
}
