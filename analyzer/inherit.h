/* SPDX-License-Identifier: MIT
 *
 * What a forked child perhaps has of its parent's heap. The fork mark is written before the kernel
 * makes the copy; what other threads of the parent log in between is in the copy or not. Gathered
 * here from the mark on, and settled by what the child does: a block that it frees was there, and
 * where it is given memory there was none. What the child never shows is as it was at the mark.
 *
 * Calls on the break and on arenas are not gathered: the mark is written with the locks of all
 * arenas held, so those that follow it also follow the copy. Filled by analysis.c, asked by
 * ledger.c and mapping.c.
 */
#ifndef HEAPLEDGER_INHERIT_H
#define HEAPLEDGER_INHERIT_H

#include "live.h"
#include "stream_reader.h"

struct ledger;

struct inherit_entry {
	uint64_t start; /* the addresses that it takes ... */
	uint64_t end;
	uint64_t reach;          /* ... and the highest end up to here in the list */
	uint64_t order;          /* of gathering */
	struct live_block block; /* addr 0 = a mapping */
	bool metadata;           /* a mapping of tables, not of a block */
	bool gone;               /* there at the mark, perhaps not in the copy; else the reverse */
	bool settled;            /* the child has shown which */
};

/* The first `known` entries are sorted by address and can be asked; the others are gathered. Of
 * each range only the first event counts: it tells how the range was at the mark. */
struct inherit_list {
	struct inherit_entry *entry;
	size_t known;
	size_t count;
	size_t capacity;
	uint64_t orders;
};

struct inherit {
	struct inherit_list blocks;
	struct inherit_list maps;
	bool any; /* something is known: ask */
};

/* What another thread of the parent did between the mark and the copy, in time order. Then, once,
 * inherit_close. 0 or -ENOMEM, as all below that return anything. */
int inherit_note(struct ledger *child, const struct stream_event *event);

/* A block that is not in the heap at the mark, but perhaps in the copy: also one that another
 * thread is resizing then. */
int inherit_note_block(struct ledger *child, const struct live_block *block);

void inherit_close(struct ledger *child);

/* A grandchild does not know either what is not settled yet. */
int inherit_copy(struct inherit *to, const struct inherit *from);
void inherit_free(struct inherit *inherit);

/* The child frees or resizes a block; or it was given one. */
int inherit_block_freed(struct ledger *ledger, uint64_t addr);
void inherit_block_made(struct ledger *ledger, const struct live_block *block);

/* A successful system call of the child. */
int inherit_mapping_moved(struct ledger *ledger, const struct hl_syscall_record *record);

#endif
