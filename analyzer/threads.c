/* SPDX-License-Identifier: MIT
 *
 * See threads.h.
 */
#include "threads.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>

uint32_t threads_look_up(struct threads *threads, uint32_t tid)
{
	uint32_t number;
	uint32_t *tids = room_for_one(
		threads->tids, threads->map.count, &threads->capacity, sizeof(*tids));
	if (!tids)
		return 0;
	threads->tids = tids;
	if (id_map_number(&threads->map, tid, UINT32_MAX, &number))
		return 0;
	tids[number - 1] = tid;
	threads->recent_tid[tid % THREADS_RECENT] = tid;
	return threads->recent_number[tid % THREADS_RECENT] = number;
}

int threads_copy(struct threads *to, const struct threads *from)
{
	*to = (struct threads){0};
	for (uint32_t i = 0; i < from->map.count; i++)
		if (!threads_number(to, from->tids[i]))
			return -ENOMEM;
	return 0;
}

void threads_free(struct threads *threads)
{
	id_map_free(&threads->map);
	free(threads->tids);
	*threads = (struct threads){0};
}
