/* SPDX-License-Identifier: MIT
 *
 * What keeps the ends of the heap where they are: the break comes down, and an arena's end too,
 * only as far as the highest page that a block lies on. Of each area, the break and each arena,
 * this is that page, and since when the free pages above it have had no block above them. Used by
 * pages.c.
 *
 * A page has a position in its area. At the break that is its number; in an arena its segments
 * follow each other in the order in which they were made, since the arena ends in the newest one.
 */
#ifndef HEAPLEDGER_HOLDS_H
#define HEAPLEDGER_HOLDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOLDS_SLICE_PAGES 512
#define HOLDS_SEGMENT_PAGES_BITS 14 /* an arena's segments have 64 MiB */

/* Which of 512 pages hold a block; part of what pages.c knows of them. */
struct holds_slice {
	uint64_t first; /* position of the first page */
	uint32_t area;
	uint32_t count; /* pages that hold one */
	uint64_t live[HOLDS_SLICE_PAGES / 64];
};

/* From here on up to where the step before begins there has been no block since `tick`, when the
 * last one, from `site`, went. */
struct holds_step {
	uint64_t from;
	uint64_t tick;
	uint32_t site;
};

struct holds_area {
	uint64_t id;                 /* 0 = the break, else the arena's number and 1 */
	uint64_t top;                /* no page from here on holds a block */
	uint64_t segments;           /* that it had so far */
	struct holds_slice **slices; /* by position */
	unsigned char *used;         /* of each slice: it holds a block */
	size_t count;
	size_t capacity;
	struct holds_step *steps; /* downwards: the last one begins at `top` */
	size_t step_count;
	size_t step_capacity;
};

/* 64 MiB of addresses that an arena has now. */
struct holds_segment {
	uint64_t key; /* address >> 26 */
	uint32_t area;
	uint64_t order; /* in its arena */
};

struct holds {
	struct holds_area *areas; /* the first is the break */
	size_t count;
	size_t capacity;
	struct holds_segment *segments; /* by key */
	size_t segment_count;
	size_t segment_capacity;
};

/* An arena's segment begins (0 or -ENOMEM), and those from a key up to another have gone. */
int holds_segment_begins(struct holds *holds, uint64_t key, unsigned arena, bool *is_new);
void holds_segments_end(struct holds *holds, uint64_t first, uint64_t end);

/* A slice without blocks, of pages from `page` on, takes its place (and leaves the one it had, if
 * it was in one). 0 or -ENOMEM. */
int holds_place(struct holds *holds, struct holds_slice *slice, uint64_t page, bool placed);

/* The nth page of a slice holds a block now; or no more since `tick`, and that is 0 or -ENOMEM. */
void holds_page(struct holds *holds, struct holds_slice *slice, unsigned nth);
int holds_page_gone(
	struct holds *holds, struct holds_slice *slice, unsigned nth, uint64_t tick, uint32_t site);

/* The step that a page without a block is in; NULL if a block above holds it. */
const struct holds_step *holds_clear(
	const struct holds *holds, const struct holds_slice *slice, unsigned nth);

/* Areas and segments, with no slices in them. 0 or -ENOMEM; then holds_free is needed, too. */
int holds_copy_areas(struct holds *to, const struct holds *from);
void holds_free(struct holds *holds);

#endif
