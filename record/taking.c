/* SPDX-License-Identifier: MIT
 *
 * See taking.h. What targets write is not trusted: a program's wild store can hit the shared pages, so
 * numbers are bounded and records are walked before they are passed on.
 */
#include "taking.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#define UNIT_BYTES 4096u
#define AHEAD_SLOTS 96 /* their lines are in the core's cache that wrote them; 3 % of an event's cost */

/* The high-water mark of what this process touched in one page of the pool. */
static void touch(struct processes *all, struct process *process, uint32_t number, uint32_t used)
{
	size_t bytes = sizeof(struct hl_page) + used * sizeof(struct hl_packed);
	uint8_t units = (uint8_t)((bytes + UNIT_BYTES - 1) / UNIT_BYTES);

	if (process->touched == NULL) {
		process->touched = calloc(all->session->map->page_count, 1);
		if (process->touched == NULL)
			return;
	}
	if (units > process->touched[number]) {
		process->touched_bytes += (uint64_t)(units - process->touched[number]) * UNIT_BYTES;
		process->touched[number] = units;
	}
}

/* What attaching maps: the header, the process's slot and the links of its pages, each with the
 * pages around it that the kernel maps along. */
uint64_t taking_recorder_bytes(const struct processes *all, const struct process *process)
{
	uint64_t head = (uint64_t)(process->slot + 1) * sizeof(struct hl_process) + UNIT_BYTES;
	uint64_t links = (session_fresh_pages(all->session) * sizeof(uint32_t)) / UNIT_BYTES + 1;

	head = (head + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
	return head + links * UNIT_BYTES + process->touched_bytes;
}

static uint32_t used_slots(const struct hl_page *page)
{
	uint32_t used = atomic_load_explicit(&page->used, memory_order_acquire);

	return used < HL_PAGE_SLOTS ? used : HL_PAGE_SLOTS;
}

void taking_count_owned(struct processes *all)
{
	uint32_t fresh = session_fresh_pages(all->session);

	for (uint32_t i = 0; i < fresh; i++) {
		const struct hl_page *page = session_page(all->session, i);
		struct process *process;

		if (atomic_load_explicit(&page->state, memory_order_acquire) == HL_PAGE_FREE)
			continue;
		process = processes_by_serial(all, page->serial);
		if (process != NULL && process->alive)
			touch(all, process, i, used_slots(page));
	}
}

/* Words of a record lie where they lie in record.h, but for the first two, which change places. */
#define PACKED_WORD(type, member) (((uint64_t *)(void *)slots)[2 * at + offsetof(type, member) / 8])

/* Nearly every slot. */
static bool is_compact_call(uint64_t head)
{
	unsigned kind = hl_packed_kind(head);

	return kind >= HL_KIND_malloc && kind <= HL_KIND_mallopt &&
	       hl_packed_extra(head) != HL_PACKED_WIDE;
}

/* Counts the events of slots; returns how many slots hold whole, known records. */
static uint32_t walk(
	struct processes *all, struct process *process, struct hl_packed *slots, uint32_t used)
{
	uint64_t calls = 0, syscalls = 0;
	uint32_t at = 0;

	while (at < used) {
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		unsigned length;

		__builtin_prefetch(&slots[at + AHEAD_SLOTS]);
		if (is_compact_call(slots[at].word[0])) {
			calls++;
			at++;
			continue;
		}
		length = hl_packed_slots(slots[at].word[0]);
		if (length == 0 || length > used - at)
			break;
		if (kind < HL_KIND_brk)
			calls++;
		else if (kind < HL_KIND_other)
			syscalls += (PACKED_WORD(struct hl_syscall_record, cause) >> 8 & 0xff) !=
				    HL_REASON_recorder;
		else if (kind == HL_KIND_sample)
			PACKED_WORD(struct hl_sample_record, recorder) =
				taking_recorder_bytes(all, process);
		at += length;
	}
	process->events += calls + syscalls;
	process->syscalls += syscalls;
	return at;
}

void taking_set_level(struct processes *all, int level)
{
	all->level = level;
}

/* Whether a record of this kind has a tick of its own, which holds for what follows (packed.h). */
static bool is_timed(unsigned kind)
{
	return kind >= HL_KIND_brk && kind != HL_KIND_realloc_begin;
}

/* How many slots hold records of no later time than `cut`. What one thread does after such a time
 * is not needed to understand what is kept: a thread reads the time anew before it does anything
 * with a block that another one may have had. */
static uint32_t before(const struct hl_packed *slots, uint32_t used, uint64_t tick, uint64_t cut)
{
	uint32_t at = 0;

	while (at < used) {
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		unsigned width = hl_packed_slots(slots[at].word[0]);

		if (width == 0 || width > used - at)
			break;
		if (is_timed(kind))
			tick = slots[at].word[1];
		else if (width < used - at &&
			 hl_packed_kind(slots[at + width].word[0]) == HL_PACKED_TICK_BACK)
			tick = slots[at + width].word[1];
		if (tick > cut)
			return at;
		at += width;
	}
	return used;
}

/* Those of before the recording's begin, or of before the last cut, are written, but are no events of
 * the stream. */
static uint32_t walk_page(struct processes *all, struct process *process, struct hl_packed *slots,
	uint32_t used, uint64_t tick)
{
	uint64_t events = process->events, syscalls = process->syscalls;
	uint32_t early = 0, sound;

	if (all->begin_tick == UINT64_MAX)
		early = used;
	else if (process->begin_tick != 0)
		early = before(slots, used, tick, process->begin_tick);
	sound = walk(all, process, slots, early);
	if (all->begin_tick == 0) /* with --ring they were events */
		processes_overwrite(all, process, process->events - events,
			process->syscalls - syscalls);
	process->events = events;
	process->syscalls = syscalls;
	if (sound == early)
		sound += walk(all, process, slots + early, used - early);
	return sound;
}

/* Takes records that follow each other in a page, from `tick` on. */
static void take_slots(struct processes *all, struct process *process, uint32_t tid, uint64_t tick,
	struct hl_packed *slots, uint32_t used)
{
	uint32_t sound, all_used = used;

	if (all->cut_tick != 0)
		used = before(slots, used, tick, all->cut_tick);
	process->cut = process->cut || used < all_used;
	sound = walk_page(all, process, slots, used, tick);
	if (sound != used)
		process->damaged = true;
	if (all->error != 0 || process->stream == NULL || sound == 0)
		return;
	if (all->stacks != NULL)
		processes_note_error(all, stacks_file_catch_up(all->stacks));
	stream_set_level(process->stream, all->level);
	processes_note_error(all, stream_append_packed(process->stream, tid, tick, slots, sound));
}

void taking_page(struct processes *all, uint32_t number)
{
	struct hl_page *page = session_page(all->session, number);
	struct hl_packed *slots = (struct hl_packed *)(page + 1);
	struct process *process = processes_by_serial(all, page->serial);
	uint32_t used = used_slots(page);
	struct taken taken = {.tick = page->tick};

	all->pages++;
	if (all->taken != NULL && all->taken[number].slots != 0) {
		taken = all->taken[number];
		all->taken[number] = (struct taken){0};
	}
	if (process == NULL || !process->alive) {
		all->lost_pages++;
		return;
	}
	touch(all, process, number, used);
	if (used > taken.slots)
		take_slots(all, process, page->tid, taken.tick, slots + taken.slots,
			used - taken.slots);
}

/* How many slots can be taken though others may follow: not a call at the end, whose time may still
 * be moved. Sets the tick that holds for what follows. */
static uint32_t settled(const struct hl_packed *slots, uint32_t used, uint64_t *tick)
{
	uint32_t at = 0, last = 0;
	uint64_t before_last = *tick;
	bool timed = true;

	while (at < used) {
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		unsigned width = hl_packed_slots(slots[at].word[0]);

		if (width == 0 || width > used - at)
			return at;
		last = at;
		before_last = *tick;
		timed = is_timed(kind);
		if (timed)
			*tick = slots[at].word[1];
		at += width;
	}
	if (!timed)
		*tick = before_last;
	return timed ? used : last;
}

static bool is_filled_by(const struct hl_page *page, const struct process *process)
{
	return atomic_load_explicit(&page->state, memory_order_acquire) == HL_PAGE_OWNED &&
	       page->serial == process->serial;
}

int taking_look_ahead(struct processes *all, const struct process *process)
{
	uint32_t fresh = session_fresh_pages(all->session);

	if (all->taken == NULL)
		all->taken = calloc(all->session->map->page_count, sizeof(*all->taken));
	if (all->taken == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < fresh; i++) {
		const struct hl_page *page = session_page(all->session, i);
		bool filled = is_filled_by(page, process);

		all->taken[i].seen = filled ? used_slots(page) : 0;
		all->taken[i].sequence = filled ? page->sequence : 0;
	}
	return 0;
}

int taking_ahead(struct processes *all, struct process *process)
{
	uint32_t fresh = session_fresh_pages(all->session);

	for (uint32_t i = 0; i < fresh && all->error == 0; i++) {
		struct hl_page *page = session_page(all->session, i);
		struct taken *taken = &all->taken[i];
		struct hl_packed *slots = (struct hl_packed *)(page + 1) + taken->slots;
		uint64_t tick = taken->slots != 0 ? taken->tick : page->tick, next = tick;
		uint32_t count;

		if (taken->seen <= taken->slots || !is_filled_by(page, process) ||
			page->sequence != taken->sequence)
			continue;
		count = settled(slots, taken->seen - taken->slots, &next);
		if (count == 0)
			continue;
		take_slots(all, process, page->tid, tick, slots, count);
		taken->slots += count;
		taken->tick = next;
	}
	return all->error;
}

struct owned {
	uint64_t sequence;
	uint32_t number;
};

static int by_sequence(const void *a, const void *b)
{
	const struct owned *left = a, *right = b;

	return (left->sequence > right->sequence) - (left->sequence < right->sequence);
}

void taking_owned(struct processes *all, const struct process *process, bool detached)
{
	uint32_t fresh = session_fresh_pages(all->session), count = 0, size = 0;
	struct owned *owned = NULL, *grown;

	for (uint32_t i = 0; i < fresh; i++) {
		const struct hl_page *page = session_page(all->session, i);

		if (page->serial != process->serial ||
			atomic_load_explicit(&page->state, memory_order_acquire) == HL_PAGE_FREE)
			continue;
		if (count == size) {
			size = size == 0 ? 64 : size * 2;
			grown = realloc(owned, size * sizeof(*owned));
			if (grown == NULL) {
				processes_note_error(all, -ENOMEM);
				break;
			}
			owned = grown;
		}
		owned[count++] = (struct owned){page->sequence, i};
	}
	if (count > 0)
		qsort(owned, count, sizeof(*owned), by_sequence);
	for (uint32_t i = 0; i < count; i++) {
		taking_page(all, owned[i].number);
		if (!detached)
			session_free_page(all->session, owned[i].number);
	}
	free(owned);
}
