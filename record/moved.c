/* SPDX-License-Identifier: MIT
 *
 * See moved.h. A page that has a new owner, or none any more, says no more than that its old one
 * has moved; of one that is the same thread's the records that have come are looked at.
 */
#include "moved.h"
#include "room.h"

#include "heapledger/caches.h"

#include <errno.h>
#include <stdlib.h>

#define TID_MASK ((UINT32_C(1) << HL_TID_DEPTH_SHIFT) - 1)

/* Whether the process has it; it may pass to another meanwhile, and then it is told to have moved.
 */
static bool is_of(const struct hl_page *page, uint32_t serial, struct moved_page *now)
{
	if (atomic_load_explicit(&page->state, memory_order_acquire) != HL_PAGE_OWNED ||
		page->serial != serial)
		return false;
	now->tid = page->tid;
	now->used = atomic_load_explicit(&page->used, memory_order_acquire);
	return true;
}

int moved_begin(struct moved *moved, const struct session *session, uint32_t serial)
{
	uint32_t count = session_fresh_pages(session);

	moved->pages = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct moved_page now = {.number = i};

		if (!is_of(session_page(session, i), serial, &now))
			continue;
		if (room_for((void **)&moved->page, &moved->page_room, moved->pages + 1,
			    sizeof(*moved->page)) != 0)
			return -ENOMEM;
		moved->page[moved->pages++] = now;
	}
	return 0;
}

static int add(struct moved *moved, uint32_t tid, uint64_t bins)
{
	if (room_for((void **)&moved->thread, &moved->thread_room, moved->threads + 1,
		    sizeof(*moved->thread)) != 0)
		return -ENOMEM;
	moved->thread[moved->threads++] = (struct moved_thread){tid & TID_MASK, bins};
	moved->bins |= bins;
	return 0;
}

/* The bin of a block that was handed out; 0 = of none. */
static uint64_t bin_of(const struct hl_packed *slot)
{
	unsigned extra = hl_packed_extra(slot->word[0]);
	uint64_t chunk = extra == HL_PACKED_WIDE
				 ? slot[1].word[1] & HL_ADDRESS_MASK
				 : hl_packed_chunk(slot->word[1] >> HL_PACKED_ADDRESS_BITS) +
					   extra * HL_PACKED_EXTRA_BYTES;
	uint64_t bin = chunk / 16 - 2;

	return hl_packed_kind(slot->word[0]) < HL_KIND_free && chunk >= 32 && bin < HL_CACHE_BINS
		       ? UINT64_C(1) << bin
		       : 0;
}

/* Of what was written from `from` to `to`, while nobody else has had the page. */
static uint64_t bins_in(const struct hl_page *page, uint32_t from, uint32_t to)
{
	const struct hl_packed *slot = (const struct hl_packed *)(page + 1);
	uint64_t bins = 0;
	unsigned slots;

	for (; from < to; from += slots) {
		slots = hl_packed_slots(slot[from].word[0]);
		if (slots == 0 || from + slots > to)
			return UINT64_MAX;
		if (hl_packed_kind(slot[from].word[0]) != HL_KIND_FILLER)
			bins |= bin_of(&slot[from]);
	}
	return bins;
}

/* Of a thread that had a page at the first moment. */
static uint64_t bins_since(
	const struct session *session, const struct moved_page *before, uint32_t serial, bool *any)
{
	const struct hl_page *page = session_page(session, before->number);
	struct moved_page now = {0}, again = {0};
	uint64_t bins;

	*any = true;
	if (!is_of(page, serial, &now) || now.tid != before->tid || now.used < before->used ||
		now.used > HL_PAGE_SLOTS)
		return UINT64_MAX;
	*any = now.used > before->used;
	bins = bins_in(page, before->used, now.used);
	return is_of(page, serial, &again) && again.tid == now.tid && again.used >= now.used
		       ? bins
		       : UINT64_MAX;
}

int moved_end(struct moved *moved, const struct session *session, uint32_t serial)
{
	uint32_t count = session_fresh_pages(session);
	size_t next = 0;
	int rc = 0;

	moved->threads = 0;
	moved->bins = 0;
	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		struct moved_page now = {0};
		bool any;

		if (next < moved->pages && moved->page[next].number == i) {
			const struct moved_page *before = &moved->page[next++];
			uint64_t bins = bins_since(session, before, serial, &any);

			if (any)
				rc = add(moved, before->tid, bins);
		} else if (is_of(session_page(session, i), serial, &now)) {
			rc = add(moved, now.tid, UINT64_MAX);
		}
	}
	return rc;
}

uint64_t moved_bins(const struct moved *moved, uint32_t tid)
{
	uint64_t bins = 0;

	if (tid == 0)
		return moved->bins;
	for (size_t i = 0; i < moved->threads; i++)
		if (moved->thread[i].tid == tid)
			bins |= moved->thread[i].bins;
	return bins;
}

void moved_free(struct moved *moved)
{
	free(moved->page);
	free(moved->thread);
	*moved = (struct moved){0};
}
