/* SPDX-License-Identifier: MIT
 *
 * The lock-free stacks of page numbers in the session (session.h), used by both ends. A head is
 * tag << 32 | page number + 1 (0 = empty); the tag changes with every operation, so that a page
 * that left and came back meanwhile is noticed. Links live outside the pages.
 */
#ifndef HEAPLEDGER_STACK_H
#define HEAPLEDGER_STACK_H

#include <stdatomic.h>
#include <stdint.h>

#define HL_STACK_TAG (UINT64_C(1) << 32)

static inline uint64_t hl_stack_next(uint64_t head, uint32_t entry)
{
	return ((head & ~(HL_STACK_TAG - 1)) + HL_STACK_TAG) | entry;
}

/* Takes one page off: its number + 1, or 0 when the stack is empty. */
static inline uint32_t hl_stack_pop(
	_Atomic uint64_t *head, _Atomic uint32_t *links, uint32_t page_count)
{
	uint64_t seen = atomic_load_explicit(head, memory_order_acquire);
	uint32_t entry, below;

	do {
		entry = (uint32_t)seen;
		if (entry == 0 || entry > page_count)
			return 0;
		below = atomic_load_explicit(&links[entry - 1], memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(head, &seen, hl_stack_next(seen, below),
		memory_order_acq_rel, memory_order_acquire));
	return entry;
}

static inline void hl_stack_push(_Atomic uint64_t *head, _Atomic uint32_t *links, uint32_t page)
{
	uint64_t seen = atomic_load_explicit(head, memory_order_relaxed);

	do
		atomic_store_explicit(&links[page], (uint32_t)seen, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(head, &seen, hl_stack_next(seen, page + 1),
		memory_order_acq_rel, memory_order_relaxed));
}

/* Takes the whole stack: the first entry, to be followed through links (entry = page + 1). */
static inline uint32_t hl_stack_take_all(_Atomic uint64_t *head)
{
	uint64_t seen = atomic_load_explicit(head, memory_order_acquire);

	do {
		if ((uint32_t)seen == 0)
			return 0;
	} while (!atomic_compare_exchange_weak_explicit(
		head, &seen, hl_stack_next(seen, 0), memory_order_acq_rel, memory_order_acquire));
	return (uint32_t)seen;
}

#endif
