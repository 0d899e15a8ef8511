/* SPDX-License-Identifier: MIT
 *
 * Numbers for ids that can be anything, in the order in which they appear: threads of a stream,
 * processes and threads of a text log. Used by threads.c, and by the recorder's text_streams.c.
 */
#ifndef HEAPLEDGER_ID_MAP_H
#define HEAPLEDGER_ID_MAP_H

#include <stdint.h>

/* All zero is an empty map. */
struct id_map {
	uint64_t *id;     /* open addressing */
	uint32_t *number; /* 0 = empty */
	unsigned bits;    /* there are 1 << bits places */
	uint32_t count;
};

/* The number of this id; a new one gets the next, from 1 to `most`. 0, -ENOSPC when there are so
 * many already, or -ENOMEM. */
int id_map_number(struct id_map *map, uint64_t id, uint32_t most, uint32_t *number);

/* 0: it has none. */
uint32_t id_map_find(const struct id_map *map, uint64_t id);

void id_map_free(struct id_map *map);

#endif
