/* SPDX-License-Identifier: MIT
 *
 * threads.h: open addressing, half full at most.
 */
#include "threads.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 16u

static uint32_t place_of(const struct threads *threads, uint32_t tid)
{
	uint32_t mask = threads->size - 1, place = tid * UINT32_C(0x9e3779b1) >> 7 & mask;
	while (threads->table[place] && threads->tids[threads->table[place] - 1] != tid)
		place = (place + 1) & mask;
	return place;
}

static int grow(struct threads *threads)
{
	uint32_t size = threads->size ? threads->size * 2 : FIRST_SIZE;
	uint32_t *tids = realloc(threads->tids, size / 2 * sizeof(*tids));
	uint32_t *table = tids ? calloc(size, sizeof(*table)) : NULL;
	if (tids)
		threads->tids = tids;
	if (!table)
		return -ENOMEM;
	free(threads->table);
	threads->table = table;
	threads->size = size;
	for (uint32_t i = 0; i < threads->count; i++)
		table[place_of(threads, tids[i])] = i + 1;
	return 0;
}

uint32_t threads_number(struct threads *threads, uint32_t tid)
{
	if (threads->count && threads->last_tid == tid)
		return threads->last_number;
	if (threads->count >= threads->size / 2 && grow(threads))
		return 0;
	uint32_t place = place_of(threads, tid);
	if (!threads->table[place]) {
		threads->tids[threads->count++] = tid;
		threads->table[place] = threads->count;
	}
	threads->last_tid = tid;
	return threads->last_number = threads->table[place];
}

int threads_copy(struct threads *to, const struct threads *from)
{
	*to = (struct threads){0};
	for (uint32_t i = 0; i < from->count; i++)
		if (!threads_number(to, from->tids[i]))
			return -ENOMEM;
	return 0;
}

void threads_free(struct threads *threads)
{
	free(threads->tids);
	free(threads->table);
	*threads = (struct threads){0};
}
