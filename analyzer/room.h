/* SPDX-License-Identifier: MIT
 *
 * Room for one more in a list that grows.
 */
#ifndef HEAPLEDGER_ROOM_H
#define HEAPLEDGER_ROOM_H

#include <stddef.h>
#include <stdlib.h>

/* The list, perhaps elsewhere, with room for an entry after `count`; NULL without memory, and then the
 * old one is as it was. */
static inline void *room_for_one(void *list, size_t count, size_t *capacity, size_t entry_bytes)
{
	if (count < *capacity)
		return list;
	size_t grown = *capacity ? *capacity * 2 : 16;
	void *moved = realloc(list, grown * entry_bytes);
	if (moved)
		*capacity = grown;
	return moved;
}

#endif
