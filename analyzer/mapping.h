/* SPDX-License-Identifier: MIT
 *
 * The ledger's other side: what the allocator's system calls did to the mapped bytes. Used by
 * ledger.c; the functions ledger_* below are ledger.c's for it and for inherit.c.
 */
#ifndef HEAPLEDGER_MAPPING_H
#define HEAPLEDGER_MAPPING_H

#include "ledger.h"

int mapping_apply(struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record);

/* A system call of a process that was attached to, as the kernel saw it with `flags`: whoever made
 * it, what is private and anonymous is counted. 0 or -ENOMEM. */
int mapping_apply_any(struct ledger *ledger, const struct hl_syscall_record *record, uint64_t flags);

/* For observed.c: a range is not mapped any more, if it was. 0 or -ENOMEM. */
int ledger_unmapped(struct ledger *ledger, uint64_t start, uint64_t length);

/* After mapped bytes grew: the peak. */
void ledger_note_mapped(struct ledger *ledger, uint64_t tick);

/* The freed mapped block at this address was resized, not unmapped. */
void ledger_forget_freed(struct ledger *ledger, uint64_t addr);

struct ledger_realloc *ledger_realloc_of(struct ledger *ledger, uint32_t tid);
void ledger_drop_realloc_pages(struct ledger *ledger, struct ledger_realloc *entry);

/* A call of the allocator that was not refused and does not ask for the absurd. */
bool mapping_succeeded(const struct hl_syscall_record *record);

/* Counted among those of the process, refused or not: neither the recorder's own nor absurd. */
bool mapping_counts(const struct hl_syscall_record *record);

/* For inherit.c: a block turns out to have been in the heap from the start, or not to have been; or
 * everything so far was more by this much. */
int ledger_take_in(struct ledger *ledger, const struct live_block *block);
void ledger_leave_out(struct ledger *ledger, uint64_t addr);
void ledger_rebase(struct ledger *ledger, const struct memory *by);

/* Freed memory whose time ends at `tick`. */
struct free_span {
	struct ledger *ledger;
	uint64_t tick;
	enum waits_end end;
	const uint32_t *holders; /* at the end of the log: the site that holds each area; else NULL */
};

/* A pages_freed; its context is a struct free_span. */
void free_span_ends(void *context, const struct pages_wait *wait);

/* ... and of a block's own mapping, `bytes` of it, which no other block can hold. */
void free_span_ends_alone(
	const struct free_span *span, const struct ledger_freed *freed, uint64_t bytes);

#endif
