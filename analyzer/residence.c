/* SPDX-License-Identifier: MIT
 *
 * residence.h. A snapshot is not of one moment: each page was so at some time from its beginning to
 * its end. So at its end those pages are compared that did not come or go in between, and that no
 * thread was about to get when it began.
 */
#include "residence.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>

#define PAGE_BYTES (UINT64_C(1) << RESIDENT_PAGE_BITS)
#define PAGES_LIMIT ((uint64_t)RESIDENT_LEAF_LIMIT * RESIDENT_LEAF_PAGES)

int residence_start(
	struct residence *residence, struct faults_share share, const struct residence *parent)
{
	*residence = (struct residence){.share = share, .known = share.found};
	if (!parent)
		return 0;
	residence->known = share.found && parent->known;
	return resident_copy(&residence->pages, &parent->pages);
}

void residence_free(struct residence *residence)
{
	resident_pages_free(&residence->pages);
	free(residence->thread);
}

uint64_t residence_next(const struct residence *residence, const struct clock *clock)
{
	const struct faults_share *share = &residence->share;
	return residence->known && share->next < share->end ? clock_tick(clock, share->next->ns)
							    : UINT64_MAX;
}

static bool in_heap(const struct ledger *ledger, uint64_t address)
{
	return ranges_has(&ledger->break_mapped, address) ||
	       ranges_has(&ledger->arena_mapped, address) ||
	       ranges_has(&ledger->block_mapped, address) ||
	       ranges_has(&ledger->metadata_mapped, address);
}

static void note(struct residence *residence, struct ledger *ledger, uint64_t tick)
{
	struct ledger_faults *faults = &ledger->result->faults;
	ledger->memory.resident_bytes = (int64_t)(residence->pages.pages * PAGE_BYTES);
	if (ledger->memory.resident_bytes <= faults->peak)
		return;
	faults->peak = ledger->memory.resident_bytes;
	faults->peak_tick = tick;
}

/* More than is followed is not followed any further. */
static int or_give_up(struct residence *residence, int rc)
{
	if (rc == -E2BIG) {
		residence->known = false;
		return 0;
	}
	return rc < 0 ? rc : 0;
}

static int note_thread(struct residence *residence, const struct faults_event *event)
{
	struct residence_thread last = {.tid = event->tid, .first = event->start / PAGE_BYTES};
	size_t at = 0;
	last.end = last.first + event->bytes / PAGE_BYTES;
	while (at < residence->threads && residence->thread[at].tid != event->tid)
		at++;
	if (at == residence->threads) {
		struct residence_thread *list = room_for_one(residence->thread, residence->threads,
			&residence->thread_capacity, sizeof(*list));
		if (!list)
			return -ENOMEM;
		residence->thread = list;
		residence->threads++;
	}
	residence->thread[at] = last;
	return 0;
}

/* Of a range only what the heap has: a page of 2 MiB may lie over its end. */
static int touch(struct residence *residence, struct ledger *ledger, uint64_t start, uint64_t end)
{
	struct ledger_faults *faults = &ledger->result->faults;
	uint64_t first = start / PAGE_BYTES, last = (end - 1) / PAGE_BYTES;
	if (last - first >= PAGES_LIMIT)
		return -E2BIG;
	for (uint64_t number = first; number <= last; number++) {
		uint64_t address = number == first ? start : number * PAGE_BYTES;
		int rc = in_heap(ledger, address) ? resident_put(&residence->pages, number) : 0;
		if (rc < 0)
			return rc;
		faults->again += rc == RESIDENT_BEFORE;
	}
	return 0;
}

static int move(struct residence *residence, uint64_t first, uint64_t pages)
{
	const struct faults_share *share = &residence->share;
	if (pages >= PAGES_LIMIT || share->next == share->end ||
		share->next->what != FAULTS_MOVED_TO)
		return -E2BIG;
	return resident_move(&residence->pages, first, pages, share->next->start / PAGE_BYTES);
}

static void count(struct ledger *ledger, const struct faults_event *event)
{
	struct ledger_faults *faults = &ledger->result->faults;
	if (event->flags & HL_FAULT_LARGE) {
		faults->large += in_heap(ledger, event->start);
	} else if (in_heap(ledger, event->start)) {
		faults->count++;
		faults->in_calls += !(event->flags & HL_FAULT_USER);
		ledger->result->thrash.break_.faults +=
			ranges_has(&ledger->break_again, event->start);
		ledger->result->thrash.block.faults +=
			ranges_has(&ledger->block_again, event->start);
	}
}

int residence_take(struct residence *residence, struct ledger *ledger, uint64_t tick)
{
	const struct faults_event *event = residence->share.next++;
	uint64_t first = event->start / PAGE_BYTES;
	uint64_t end = (event->start + event->bytes) / PAGE_BYTES;
	int rc = 0;

	ledger_pass(ledger, tick);
	if (event->fault) {
		count(ledger, event);
		rc = note_thread(residence, event);
		if (rc)
			return rc;
	}
	switch (event->what) {
	case FAULTS_TOUCHED:
		rc = touch(residence, ledger, event->start,
			event->fault ? (event->start & ~(PAGE_BYTES - 1)) + event->bytes
				     : event->start + event->bytes);
		break;
	case FAULTS_GONE:
		resident_take_out(&residence->pages, first, end);
		break;
	case FAULTS_MOVED:
		rc = move(residence, first, end - first);
		break;
	default:
		break;
	}
	note(residence, ledger, tick);
	return or_give_up(residence, rc);
}

/* ---- snapshots --------------------------------------------------------------------------------
 */

static int find_in(struct residence *residence, struct ledger *ledger, const struct range *mapped)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	for (size_t i = ranges_find(snapshot->run, snapshot->count, mapped->start + 1);
		i < snapshot->count && snapshot->run[i].start < mapped->end; i++) {
		const struct range *run = &snapshot->run[i];
		uint64_t from = run->start > mapped->start ? run->start : mapped->start;
		uint64_t to = run->end < mapped->end ? run->end : mapped->end;
		for (uint64_t at = from / PAGE_BYTES; at < (to + PAGE_BYTES - 1) / PAGE_BYTES;
			at++) {
			int rc = resident_found(
				&residence->pages, at, &ledger->result->faults.unseen);
			if (rc)
				return rc;
		}
	}
	return 0;
}

static int settle(struct residence *residence, struct ledger *ledger)
{
	const struct ranges *heap[] = {&ledger->break_mapped, &ledger->arena_mapped,
		&ledger->block_mapped, &ledger->metadata_mapped};
	int rc = 0;

	residence->watching = false;
	for (size_t kind = 0; kind < sizeof(heap) / sizeof(heap[0]); kind++)
		for (size_t i = 0; !rc && i < heap[kind]->count; i++)
			rc = find_in(residence, ledger, &heap[kind]->list[i]);
	if (rc)
		return or_give_up(residence, rc);
	resident_settle(&residence->pages, &ledger->result->faults.vanished);
	ledger->result->faults.snapshots++;
	note(residence, ledger, residence->settle_tick);
	return 0;
}

int residence_before(
	struct residence *residence, struct ledger *ledger, uint64_t tick, unsigned kind)
{
	if (!residence->watching ||
		(tick <= residence->settle_tick && kind != HL_KIND_resident_begin))
		return 0;
	return settle(residence, ledger);
}

void residence_after(struct residence *residence, struct ledger *ledger)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	if (!residence->known || !snapshot->whole || snapshot->cut ||
		snapshot->tick == residence->seen_tick)
		return;
	residence->seen_tick = snapshot->tick;
	residence->settle_tick = snapshot->tick + snapshot->took;
	residence->watching = true;
	resident_watch(&residence->pages);
	for (size_t i = 0; i < residence->threads; i++)
		resident_mark(
			&residence->pages, residence->thread[i].first, residence->thread[i].end);
}

int residence_finish(struct residence *residence, struct ledger *ledger)
{
	int rc = residence->watching ? settle(residence, ledger) : 0;
	ledger->result->faults.known = residence->known;
	ledger->result->thrash.faults_known = residence->known;
	return rc;
}
