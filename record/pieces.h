/* SPDX-License-Identifier: MIT
 *
 * Memory of a process that runs on, read in pieces, many of them in one call. Lists that are long
 * lead to the same pages again and again: these can be read whole, once in a reading, and kept.
 * Called by caches.c; nothing that is read is trusted to be there.
 */
#ifndef HEAPLEDGER_RECORD_PIECES_H
#define HEAPLEDGER_RECORD_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIECES_AT_ONCE 1024 /* that a call reads: UIO_MAXIOV */

struct caches_source;

struct piece {
	uint64_t from;
	void *to;
	size_t bytes;
	bool missing; /* it could not be read */
};

/* All zero before the first time, but for `pages` if it is asked for some. */
struct pieces {
	struct piece *piece;
	size_t count, room;
	uint32_t step; /* how many times it began */
	struct pieces_pages *pages;
};

/* 0 or -ENOMEM: room for pages, none of them known. */
int pieces_forget_pages(struct pieces *pieces);

/* What was asked for before is forgotten; then what is asked for, 0 or -ENOMEM; then it is read. */
void pieces_begin(struct pieces *pieces);
int pieces_ask(struct pieces *pieces, uint64_t from, void *to, size_t bytes);
void pieces_read(struct pieces *pieces, const struct caches_source *source);

/* With its page, if it lies in one: after the reading it is to be had from there. What could not be
 * read remains as it was. */
int pieces_ask_page(struct pieces *pieces, uint64_t from, void *to, size_t bytes);
void pieces_from_page(const struct pieces *pieces, uint64_t from, void *to, size_t bytes);

bool pieces_read_one(const struct caches_source *source, uint64_t from, void *to, size_t bytes);
void pieces_free(struct pieces *pieces);

#endif
