/* SPDX-License-Identifier: MIT
 *
 * See id_map.h.
 */
#include "id_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BITS 4

static uint32_t place_of(const struct id_map *map, uint64_t id)
{
	uint32_t mask = (UINT32_C(1) << map->bits) - 1;
	uint32_t at = (uint32_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> (64 - map->bits));

	while (map->number[at] != 0 && map->id[at] != id)
		at = (at + 1) & mask;
	return at;
}

static int grow(struct id_map *map)
{
	struct id_map grown = {
		.bits = map->number != NULL ? map->bits + 1 : FIRST_BITS, .count = map->count};
	size_t size = (size_t)1 << grown.bits;

	grown.id = calloc(size, sizeof(*grown.id));
	grown.number = calloc(size, sizeof(*grown.number));
	if (grown.id == NULL || grown.number == NULL) {
		id_map_free(&grown);
		return -ENOMEM;
	}
	for (size_t i = 0; map->number != NULL && i < (size_t)1 << map->bits; i++) {
		if (map->number[i] != 0) {
			uint32_t at = place_of(&grown, map->id[i]);

			grown.id[at] = map->id[i];
			grown.number[at] = map->number[i];
		}
	}
	id_map_free(map);
	*map = grown;
	return 0;
}

int id_map_number(struct id_map *map, uint64_t id, uint32_t most, uint32_t *number)
{
	uint32_t at;

	if (map->number == NULL || map->count >= UINT32_C(1) << (map->bits - 1))
		if (grow(map) != 0)
			return -ENOMEM;
	at = place_of(map, id);
	if (map->number[at] == 0) {
		if (map->count >= most)
			return -ENOSPC;
		map->id[at] = id;
		map->number[at] = ++map->count;
	}
	*number = map->number[at];
	return 0;
}

uint32_t id_map_find(const struct id_map *map, uint64_t id)
{
	return map->number != NULL ? map->number[place_of(map, id)] : 0;
}

void id_map_free(struct id_map *map)
{
	free(map->id);
	free(map->number);
	memset(map, 0, sizeof(*map));
}
