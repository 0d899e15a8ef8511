/* SPDX-License-Identifier: MIT
 *
 * A set of pages, those that are in memory; of each page it is known, too, whether it ever was in
 * the set, and whether it went in or out since a snapshot began. Used by residence.c.
 */
#ifndef HEAPLEDGER_RESIDENT_PAGES_H
#define HEAPLEDGER_RESIDENT_PAGES_H

#include "leaves.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESIDENT_PAGE_BITS 12
#define RESIDENT_LEAF_PAGES 512u
#define RESIDENT_LEAF_LIMIT ((size_t)1 << 17) /* 256 GiB, as in pages.h */

struct resident_pages {
	struct leaves leaves; /* by number / RESIDENT_LEAF_PAGES */
	uint64_t pages; /* in the set */
};

/* What pages_put found. */
enum resident_was { RESIDENT_NEW, RESIDENT_THERE, RESIDENT_BEFORE };

/* Pages by their numbers. enum resident_was, -ENOMEM, or -E2BIG at the limit. */
int resident_put(struct resident_pages *pages, uint64_t number);
void resident_take_out(struct resident_pages *pages, uint64_t first, uint64_t end);
int resident_move(struct resident_pages *pages, uint64_t first, uint64_t count, uint64_t to);

/* A snapshot begins, and ends: every page that it found and that may be compared is told of, and
 * then the rest is taken out. What went in or out meanwhile is left as it is. */
void resident_watch(struct resident_pages *pages);
void resident_mark(struct resident_pages *pages, uint64_t first, uint64_t end); /* not comparable */
int resident_found(struct resident_pages *pages, uint64_t number, uint64_t *unseen);
void resident_settle(struct resident_pages *pages, uint64_t *vanished);

int resident_copy(struct resident_pages *to, const struct resident_pages *from);
void resident_pages_free(struct resident_pages *pages);

#endif
