/* SPDX-License-Identifier: MIT
 *
 * Room in a list that grows.
 */
#ifndef HEAPLEDGER_RECORD_ROOM_H
#define HEAPLEDGER_RECORD_ROOM_H

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#define ROOM_FIRST 256 /* entries */

/* For `wanted` entries in all; 0 or -ENOMEM, and then the list is as it was. */
static inline int room_for(void **list, size_t *room, size_t wanted, size_t entry_bytes)
{
	size_t more = *room == 0 ? ROOM_FIRST : *room;
	void *grown;

	while (more < wanted)
		more *= 2;
	if (more == *room)
		return 0;
	grown = realloc(*list, more * entry_bytes);
	if (grown == NULL)
		return -ENOMEM;
	*list = grown;
	*room = more;
	return 0;
}

#endif
