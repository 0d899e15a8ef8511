/* SPDX-License-Identifier: MIT
 *
 * The ledger's other side: what the allocator's system calls did to the mapped bytes. Used by
 * ledger.c; the functions ledger_* below are ledger.c's for it.
 */
#ifndef HEAPLEDGER_MAPPING_H
#define HEAPLEDGER_MAPPING_H

#include "ledger.h"

int mapping_apply(struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record);

/* After mapped bytes grew: the peak. */
void ledger_note_mapped(struct ledger *ledger, uint64_t tick);

/* The freed mapped block at this address was resized, not unmapped. */
void ledger_forget_freed(struct ledger *ledger, uint64_t addr);

struct ledger_realloc *ledger_realloc_of(struct ledger *ledger, uint32_t tid);
void ledger_drop_realloc_pages(struct ledger *ledger, struct ledger_realloc *entry);

#endif
