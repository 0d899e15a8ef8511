/* SPDX-License-Identifier: MIT
 *
 * instants.h.
 */
#include "instants.h"

#include <errno.h>
#include <stdlib.h>

_Static_assert(INSTANTS_MOST / INSTANTS_LEAST == 16 && INSTANTS_MOST % INSTANTS_LEAST == 0,
	"halved, instants stay even and the last one is the end");

static uint64_t tick_of(const struct instants *instants, uint32_t part)
{
	uint64_t ticks = instants->last_tick - instants->first_tick;
	return instants->first_tick + ticks / INSTANTS_MOST * part +
	       ticks % INSTANTS_MOST * part / INSTANTS_MOST;
}

static void go_on(struct instants *instants, uint32_t next)
{
	instants->next = next;
	instants->next_tick = next < INSTANTS_MOST ? tick_of(instants, next) : UINT64_MAX;
}

static bool may_halve(const struct instants *instants)
{
	return instants->apart < INSTANTS_MOST / INSTANTS_LEAST;
}

int instants_start(
	struct instants *instants, uint64_t first_tick, uint64_t last_tick, uint64_t most)
{
	*instants = (struct instants){.first_tick = first_tick,
		.last_tick = last_tick > first_tick ? last_tick : first_tick,
		.apart = 1};
	while (INSTANTS_MOST / instants->apart > most && may_halve(instants))
		instants->apart *= 2;
	instants->list = calloc(INSTANTS_MOST / instants->apart, sizeof(*instants->list));
	if (!instants->list)
		return -ENOMEM;
	go_on(instants, instants->apart);
	return 0;
}

/* The first of two goes: the last one of all is the second of two. */
static void halve(struct instants *instants)
{
	instants->apart *= 2;
	instants->count /= 2;
	for (size_t i = 0; i < instants->count; i++)
		instants->list[i] = instants->list[2 * i + 1];
	instants->work /= 2;
	instants->applied = UINT64_MAX; /* of the last that was taken, which may be gone */
	go_on(instants, (uint32_t)(instants->count + 1) * instants->apart);
}

/* In blocks, each of which takes as long as some 32 pages. */
static uint64_t work_of(const struct ledger *ledger)
{
	return ledger->live.count +
	       ((ledger->break_mapped.bytes + ledger->arena_open.bytes) >> (PAGES_BITS + 5));
}

static int take(struct instants *instants, const struct ledger *ledger)
{
	uint64_t tick = tick_of(instants, instants->next);
	struct layout *layout = &instants->list[instants->count];
	bool same = instants->count && instants->applied == ledger->applied;
	int rc = 0;
	if (same)
		*layout = layout[-1];
	else
		rc = layout_take(layout, ledger, tick, LAYOUT_STILL, &instants->room);
	if (rc)
		return rc;
	layout->tick = tick;
	instants->applied = ledger->applied;
	if (!same)
		instants->work += work_of(ledger);
	instants->count++;
	go_on(instants, instants->next + instants->apart);
	if (instants->work > INSTANTS_WORK && may_halve(instants))
		halve(instants);
	return 0;
}

int instants_take(struct instants *instants, const struct ledger *ledger, uint64_t tick)
{
	int rc = 0;
	while (!rc && instants->next_tick < tick)
		rc = take(instants, ledger);
	return rc;
}

int instants_finish(struct instants *instants, const struct ledger *ledger)
{
	int rc = 0;
	/* The blocks of reallocs that have not ended are live again. */
	if (ledger->realloc_count)
		instants->applied = UINT64_MAX;
	while (!rc && instants->list && instants->next <= INSTANTS_MOST)
		rc = take(instants, ledger);
	layout_room_free(&instants->room);
	return rc;
}

void instants_free(struct instants *instants)
{
	layout_room_free(&instants->room);
	free(instants->list);
	*instants = (struct instants){0};
}
