/* SPDX-License-Identifier: MIT
 *
 * See pieces.h.
 */
#include "pieces.h"
#include "caches.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES UINT64_C(4096)
#define PAGES 512

/* Kept by the last bits of their numbers. */
struct pieces_pages {
	uint64_t number[PAGES]; /* 0 = none */
	uint32_t wanted[PAGES]; /* at which step, last */
	uint8_t bytes[PAGES][PAGE_BYTES];
};

/* The first piece that cannot be read ends a call. */
static void read_some(const struct caches_source *source, struct piece *piece, size_t count)
{
	struct iovec local[PIECES_AT_ONCE], remote[PIECES_AT_ONCE];

	for (size_t i = 0; i < count; i++) {
		local[i] = (struct iovec){piece[i].to, piece[i].bytes};
		remote[i] = (struct iovec){(void *)(uintptr_t)piece[i].from, piece[i].bytes};
	}
	for (size_t i = 0; i < count;) {
		ssize_t got = source->read(source, local + i, remote + i, count - i);

		while (i < count && got >= (ssize_t)piece[i].bytes) {
			got -= (ssize_t)piece[i].bytes;
			piece[i++].missing = false;
		}
		if (i < count)
			piece[i++].missing = true;
	}
}

bool pieces_read_one(const struct caches_source *source, uint64_t from, void *to, size_t bytes)
{
	struct piece piece = {from, to, bytes, true};

	read_some(source, &piece, 1);
	return !piece.missing;
}

void pieces_begin(struct pieces *pieces)
{
	pieces->count = 0;
	pieces->step++;
}

int pieces_ask(struct pieces *pieces, uint64_t from, void *to, size_t bytes)
{
	int rc = room_for(
		(void **)&pieces->piece, &pieces->room, pieces->count + 1, sizeof(*pieces->piece));

	if (rc == 0)
		pieces->piece[pieces->count++] = (struct piece){from, to, bytes, false};
	return rc;
}

static bool in_one_page(uint64_t from, size_t bytes)
{
	return (from + bytes - 1) / PAGE_BYTES == from / PAGE_BYTES;
}

int pieces_ask_page(struct pieces *pieces, uint64_t from, void *to, size_t bytes)
{
	struct pieces_pages *pages = pieces->pages;
	uint64_t number = from / PAGE_BYTES;
	size_t at = number % PAGES;

	/* A place that this step needs for another page is not to be had. */
	if (!in_one_page(from, bytes) ||
		(pages->wanted[at] == pieces->step && pages->number[at] != number))
		return pieces_ask(pieces, from, to, bytes);
	pages->wanted[at] = pieces->step;
	if (pages->number[at] == number)
		return 0;
	pages->number[at] = number;
	return pieces_ask(pieces, number * PAGE_BYTES, pages->bytes[at], PAGE_BYTES);
}

void pieces_from_page(const struct pieces *pieces, uint64_t from, void *to, size_t bytes)
{
	uint64_t number = from / PAGE_BYTES;

	if (in_one_page(from, bytes) && pieces->pages->number[number % PAGES] == number)
		memcpy(to, pieces->pages->bytes[number % PAGES] + from % PAGE_BYTES, bytes);
}

int pieces_forget_pages(struct pieces *pieces)
{
	if (pieces->pages == NULL)
		pieces->pages = calloc(1, sizeof(*pieces->pages));
	if (pieces->pages == NULL)
		return -ENOMEM;
	memset(pieces->pages->number, 0, sizeof(pieces->pages->number));
	return 0;
}

static bool is_page(const struct pieces *pieces, const struct piece *piece)
{
	return pieces->pages != NULL &&
	       piece->to == pieces->pages->bytes[piece->from / PAGE_BYTES % PAGES];
}

/* A page that could not be read is not known. */
void pieces_read(struct pieces *pieces, const struct caches_source *source)
{
	for (size_t i = 0; i < pieces->count; i += PIECES_AT_ONCE) {
		size_t left = pieces->count - i;

		read_some(source, pieces->piece + i, left < PIECES_AT_ONCE ? left : PIECES_AT_ONCE);
	}
	for (size_t i = 0; i < pieces->count; i++)
		if (pieces->piece[i].missing && is_page(pieces, &pieces->piece[i]))
			pieces->pages->number[pieces->piece[i].from / PAGE_BYTES % PAGES] = 0;
}

void pieces_free(struct pieces *pieces)
{
	free(pieces->piece);
	free(pieces->pages);
	*pieces = (struct pieces){0};
}
