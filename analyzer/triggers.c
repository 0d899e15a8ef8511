/* SPDX-License-Identifier: MIT
 *
 * See triggers.h.
 */
#include "triggers.h"
#include "room.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define FIRST_PLACES ((size_t)64)

static bool same(const struct trigger *a, const struct trigger *b)
{
	return a->caller == b->caller && a->syscall == b->syscall && a->reason == b->reason &&
	       a->call == b->call;
}

static size_t place_of(const struct triggers *triggers, const struct trigger *trigger)
{
	uint64_t key = trigger->caller ^ (uint64_t)trigger->syscall << 56 ^
		       (uint64_t)trigger->reason << 48 ^ (uint64_t)trigger->call << 40;
	size_t mask = triggers->table_size - 1;
	size_t place = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;
	while (triggers->table[place] &&
		!same(&triggers->list[triggers->table[place] - 1], trigger))
		place = (place + 1) & mask;
	return place;
}

static int grow(struct triggers *triggers)
{
	size_t size = triggers->table_size ? triggers->table_size * 2 : FIRST_PLACES;
	uint32_t *table = size / 2 < UINT32_MAX ? calloc(size, sizeof(*table)) : NULL;
	if (!table)
		return -ENOMEM;
	free(triggers->table);
	triggers->table = table;
	triggers->table_size = size;
	for (uint32_t i = 0; i < triggers->count; i++)
		table[place_of(triggers, &triggers->list[i])] = i + 1;
	return 0;
}

int triggers_add(struct triggers *triggers, const struct trigger *add)
{
	if (triggers->count >= triggers->table_size / 2 && grow(triggers))
		return -ENOMEM;
	size_t place = place_of(triggers, add);
	if (!triggers->table[place]) {
		struct trigger *list = room_for_one(
			triggers->list, triggers->count, &triggers->capacity, sizeof(*list));
		if (!list)
			return -ENOMEM;
		triggers->list = list;
		list[triggers->count++] = *add;
		triggers->table[place] = (uint32_t)triggers->count;
		return 0;
	}
	struct trigger *trigger = &triggers->list[triggers->table[place] - 1];
	trigger->count += add->count;
	trigger->returned += add->returned;
	trigger->ticks += add->ticks;
	return 0;
}

/* Equal ones by name, so that the order is always the same. */
static int by_returned(const void *left, const void *right)
{
	const struct trigger *a = left, *b = right;
	if (a->returned != b->returned)
		return a->returned > b->returned ? -1 : 1;
	if (a->caller != b->caller)
		return a->caller < b->caller ? -1 : 1;
	if (a->syscall != b->syscall)
		return a->syscall < b->syscall ? -1 : 1;
	if (a->reason != b->reason)
		return a->reason < b->reason ? -1 : 1;
	return a->call < b->call ? -1 : a->call > b->call;
}

void triggers_finish(struct triggers *triggers, size_t most)
{
	free(triggers->table);
	triggers->table = NULL;
	triggers->table_size = 0;
	triggers->all = triggers->count;
	if (!triggers->count)
		return;
	qsort(triggers->list, triggers->count, sizeof(*triggers->list), by_returned);
	if (triggers->count <= most)
		return;
	triggers->count = most;
	void *less = realloc(triggers->list, most * sizeof(*triggers->list));
	if (less)
		triggers->list = less;
}

void triggers_free(struct triggers *triggers)
{
	free(triggers->list);
	free(triggers->table);
	*triggers = (struct triggers){0};
}
