/* SPDX-License-Identifier: MIT
 *
 * Where a ledger begins: empty, with a copy of a parent's heap, or anew with its own; and its end.
 */
#include "ledger_parts.h"

#include <stdlib.h>
#include <string.h>

void ledger_start(struct ledger *ledger, struct ledger_result *result, struct clock *clock)
{
	*ledger = (struct ledger){.result = result, .clock = clock};
	ledger->short_ticks = clock_ticks(clock, LIFETIMES_KNOWN_NS);
	result->thrash.window = clock_ticks(clock, THRASH_WINDOW_NS);
	ledger->timeline.next_tick = UINT64_MAX;
}

/* Reallocs that are under way: one that a signal handler interrupted and then forked is so in the
 * child, too, in its only thread. */
static int fork_reallocs(
	struct ledger *child, const struct ledger *parent, const struct ledger_copy *copy)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < parent->realloc_count; i++) {
		struct ledger_realloc entry = parent->reallocs[i];
		uint32_t depth = entry.tid & ~LEDGER_TID_MASK;
		if (ledger_same_thread(entry.tid, copy->forked_by)) {
			entry.tid = copy->child_tid | depth;
			rc = add_realloc(child, &entry);
		} else if (entry.old.addr) {
			rc = inherit_note_block(child, &entry.old);
		}
	}
	return rc;
}

/* The blocks of before: when they came and what they pinned is of no account. */
static void own_blocks(struct ledger *ledger)
{
	size_t at = 0;
	for (struct live_block *block; (block = live_change(&ledger->live, &at));)
		block->record = 0, block->pinned = 0, block->after = LIVE_BEFORE;
	for (size_t i = 0; i < ledger->realloc_count; i++) {
		ledger->reallocs[i].old.pinned = 0;
		ledger->reallocs[i].old.after = ledger->reallocs[i].birth.after = LIVE_BEFORE;
	}
	live_free(&ledger->resized);
}

int ledger_fork(struct ledger *child, const struct ledger *parent, const struct ledger_copy *copy,
	struct ledger_result *result, struct clock *clock)
{
	ledger_start(child, result, clock);
	child->memory = parent->memory;
	child->break_end = parent->break_end;
	int rc = live_copy(&child->live, &parent->live);
	if (!rc)
		rc = pages_copy(&child->pages, &parent->pages, result->phases.start_tick);
	if (!rc)
		rc = ranges_copy(&child->break_mapped, &parent->break_mapped);
	if (!rc)
		rc = ranges_copy(&child->block_mapped, &parent->block_mapped);
	if (!rc)
		rc = ranges_copy(&child->metadata_mapped, &parent->metadata_mapped);
	if (!rc)
		rc = ranges_copy(&child->arena_mapped, &parent->arena_mapped);
	if (!rc)
		rc = ranges_copy(&child->arena_open, &parent->arena_open);
	if (!rc)
		rc = inherit_copy(&child->inherit, &parent->inherit);
	if (!rc)
		rc = threads_copy(&child->threads, &parent->threads);
	if (!rc)
		rc = fork_reallocs(child, parent, copy);
	own_blocks(child);
	ledger_note_mapped(child, 0);
	result->usable_unknown = parent->result->usable_unknown;
	result->peak.requested = child->memory.requested;
	result->peak.live_blocks = child->memory.live_blocks;
	result->peak.at_requested = child->memory;
	return rc ? rc : phases_fork(&result->phases, &parent->result->phases, &child->memory);
}

void ledger_free(struct ledger *ledger)
{
	live_free(&ledger->live);
	live_free(&ledger->resized);
	pages_free(&ledger->pages);
	laid_free(&ledger->laid);
	threads_free(&ledger->threads);
	ranges_free(&ledger->break_mapped);
	ranges_free(&ledger->arena_mapped);
	ranges_free(&ledger->arena_open);
	inherit_free(&ledger->inherit);
	recall_free(&ledger->recall);
	free(ledger->reallocs);
	free(ledger->freed);
	free(ledger->kept);
	id_map_free(&ledger->ran.map);
	free(ledger->ran.at);
	free(ledger->snapshot.run);
	still_free(&ledger->still);
	ranges_free(&ledger->break_again);
	ranges_free(&ledger->block_again);
	ranges_free(&ledger->block_mapped);
	ranges_free(&ledger->metadata_mapped);
}

/* As they are now, from the live blocks: what was free or given back before is of no account. */
static int count_pages_anew(struct ledger *ledger, uint64_t tick)
{
	size_t at = 0;
	int rc = pages_clear(&ledger->pages);
	for (struct live_block *block; !rc && (block = live_change(&ledger->live, &at));)
		rc = in_pages(ledger, block) ? hold_pages(ledger, block, tick, NULL) : 0;
	for (size_t i = 0; !rc && i < ledger->realloc_count; i++) {
		struct ledger_realloc *entry = &ledger->reallocs[i];
		entry->holds_pages = entry->old.addr && in_pages(ledger, &entry->old);
		rc = entry->holds_pages ? hold_pages(ledger, &entry->old, tick, NULL) : 0;
	}
	return rc;
}

/* The heap stays, and nothing has been counted. */
static int count_anew(struct ledger *ledger, uint64_t tick)
{
	struct ledger_result *result = ledger->result, before = *result;
	int rc;
	ranges_free(&ledger->break_again);
	ranges_free(&ledger->block_again);
	recall_forget(ledger);
	memset(result, 0, sizeof(*result));
	result->waits = before.waits;
	waits_restart(&result->waits);
	pages_pin_anew(&ledger->pages, tick);
	own_blocks(ledger);
	result->orphan = before.orphan;
	result->observed = before.observed;
	result->syscalls_unknown = before.syscalls_unknown;
	result->usable_unknown = before.usable_unknown;
	result->attached = before.attached;
	result->windowed = before.windowed;
	result->elsewhere = before.elsewhere;
	result->calls_unknown = before.calls_unknown;
	result->phases.start_tick = tick;
	result->thrash.window = before.thrash.window;
	timeline_restart(&ledger->timeline, &ledger->memory);
	rc = phases_fork(&result->phases, &before.phases, &ledger->memory);
	result->peak.requested = ledger->memory.requested;
	result->peak.requested_tick = tick;
	result->peak.live_blocks = ledger->memory.live_blocks;
	result->peak.at_requested = ledger->memory;
	ledger_note_mapped(ledger, tick);
	result->faults.peak = ledger->memory.resident_bytes;
	result->faults.peak_tick = tick;
	free(before.causes.list);
	triggers_free(&before.triggers);
	lifetimes_free(&before.lifetimes);
	phases_free(&before.phases);
	return rc;
}

int ledger_recording_begins(struct ledger *ledger, uint64_t tick)
{
	ledger->freed_count = 0;
	int rc = count_anew(ledger, tick);
	return rc ? rc : count_pages_anew(ledger, tick);
}

int ledger_window(struct ledger *ledger, uint64_t tick)
{
	uint64_t lost = ledger->result->lost;
	int rc = count_anew(ledger, tick);
	ledger->pages.reused_pages = 0;
	ledger->result->windowed = true;
	ledger->result->lost = lost;
	keep_peaks(ledger, tick);
	return rc;
}
