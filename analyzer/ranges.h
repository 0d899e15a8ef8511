/* SPDX-License-Identifier: MIT
 *
 * A set of addresses kept as sorted, disjoint ranges: which address space is mapped, which is
 * accessible. Used by ledger.c for arenas, of which there are few.
 */
#ifndef HEAPLEDGER_RANGES_H
#define HEAPLEDGER_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range {
	uint64_t start;
	uint64_t end;
};

struct ranges {
	struct range *list;
	size_t count;
	size_t capacity;
	uint64_t bytes; /* the sum */
};

/* [start, end) is in (or out) from now on; *changed = bytes that were not before. 0 or -ENOMEM. */
int ranges_add(struct ranges *ranges, uint64_t start, uint64_t end, uint64_t *changed);
int ranges_remove(struct ranges *ranges, uint64_t start, uint64_t end, uint64_t *changed);

bool ranges_has(const struct ranges *ranges, uint64_t address);

/* The first of sorted, disjoint ranges that ends at the address or after it; `count` if none does. */
size_t ranges_find(const struct range *list, size_t count, uint64_t address);

int ranges_copy(struct ranges *to, const struct ranges *from);
void ranges_free(struct ranges *ranges);

#endif
