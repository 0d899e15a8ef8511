/* SPDX-License-Identifier: MIT
 *
 * See leaves.h.
 */
#include "leaves.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_SIZE 16

static size_t place_of(const struct leaves_place *list, size_t size, uint64_t key)
{
	size_t place = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (size - 1);
	while (list[place].leaf && list[place].key != key)
		place = (place + 1) & (size - 1);
	return place;
}

struct leaf *leaves_search(const struct leaves *leaves, uint64_t key)
{
	return leaves->size ? leaves->list[place_of(leaves->list, leaves->size, key)].leaf : NULL;
}

static int grow(struct leaves *leaves)
{
	size_t size = leaves->size ? leaves->size * 2 : FIRST_SIZE;
	struct leaves_place *list = calloc(size, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < leaves->size; i++)
		if (leaves->list[i].leaf)
			list[place_of(list, size, leaves->list[i].key)] = leaves->list[i];
	free(leaves->list);
	leaves->list = list;
	leaves->size = size;
	return 0;
}

struct leaf *leaves_next(const struct leaves *leaves, size_t *at)
{
	while (*at < leaves->size) {
		struct leaf *leaf = leaves->list[(*at)++].leaf;
		if (leaf)
			return leaf;
	}
	return NULL;
}

int leaves_add(struct leaves *leaves, struct leaf *leaf)
{
	if (leaves->count >= leaves->size / 2 && grow(leaves))
		return -ENOMEM;
	struct leaves_place place = {leaf->key, leaf};
	leaves->list[place_of(leaves->list, leaves->size, leaf->key)] = place;
	leaves->recent[leaf->key % LEAVES_RECENT] = place;
	leaves->count++;
	return 0;
}

void leaves_free(struct leaves *leaves)
{
	for (size_t i = 0; i < leaves->size; i++)
		free(leaves->list[i].leaf);
	free(leaves->list);
	*leaves = (struct leaves){0};
}
