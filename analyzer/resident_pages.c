/* SPDX-License-Identifier: MIT
 *
 * resident_pages.h: a hash of leaves of 2 MiB with a bit for each page and question.
 */
#include "resident_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORDS (RESIDENT_LEAF_PAGES / 64)

struct resident_leaf {
	uint64_t key;
	uint64_t there[WORDS];
	uint64_t before[WORDS];  /* it was there some time */
	uint64_t changed[WORDS]; /* since the snapshot began */
	uint64_t found[WORDS];   /* by the snapshot */
};

static size_t place_of(const struct resident_pages *pages, uint64_t key)
{
	size_t place = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (pages->size - 1);
	while (pages->leaves[place] && pages->leaves[place]->key != key)
		place = (place + 1) & (pages->size - 1);
	return place;
}

static struct resident_leaf *find(struct resident_pages *pages, uint64_t key)
{
	if (pages->last && pages->last->key == key)
		return pages->last;
	struct resident_leaf *leaf = pages->size ? pages->leaves[place_of(pages, key)] : NULL;
	if (leaf)
		pages->last = leaf;
	return leaf;
}

static int grow(struct resident_pages *pages)
{
	struct resident_pages grown = {.size = pages->size ? pages->size * 2 : 16};
	grown.leaves = calloc(grown.size, sizeof(struct resident_leaf *));
	if (!grown.leaves)
		return -ENOMEM;
	for (size_t i = 0; i < pages->size; i++)
		if (pages->leaves[i])
			grown.leaves[place_of(&grown, pages->leaves[i]->key)] = pages->leaves[i];
	free(pages->leaves);
	pages->leaves = grown.leaves;
	pages->size = grown.size;
	return 0;
}

static int add(struct resident_pages *pages, uint64_t key, struct resident_leaf **out)
{
	*out = find(pages, key);
	if (*out)
		return 0;
	if (pages->count >= RESIDENT_LEAF_LIMIT)
		return -E2BIG;
	if (pages->count >= pages->size / 2 && grow(pages))
		return -ENOMEM;
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->key = key;
	pages->leaves[place_of(pages, key)] = *out;
	pages->count++;
	pages->last = *out;
	return 0;
}

static bool has(const uint64_t *words, unsigned page)
{
	return words[page / 64] >> page % 64 & 1;
}

static void set(uint64_t *words, unsigned page)
{
	words[page / 64] |= UINT64_C(1) << page % 64;
}

int resident_put(struct resident_pages *pages, uint64_t number)
{
	unsigned page = number % RESIDENT_LEAF_PAGES;
	struct resident_leaf *leaf;
	int rc = add(pages, number / RESIDENT_LEAF_PAGES, &leaf);
	if (rc)
		return rc;
	set(leaf->changed, page);
	if (has(leaf->there, page))
		return RESIDENT_THERE;
	rc = has(leaf->before, page) ? RESIDENT_BEFORE : RESIDENT_NEW;
	set(leaf->there, page);
	set(leaf->before, page);
	pages->pages++;
	return rc;
}

static void take_out(struct resident_pages *pages, struct resident_leaf *leaf, unsigned page)
{
	set(leaf->changed, page);
	if (!has(leaf->there, page))
		return;
	leaf->there[page / 64] &= ~(UINT64_C(1) << page % 64);
	pages->pages--;
}

static void take_out_of(
	struct resident_pages *pages, struct resident_leaf *leaf, uint64_t first, uint64_t end)
{
	uint64_t start = leaf->key * RESIDENT_LEAF_PAGES;
	for (unsigned page = 0; page < RESIDENT_LEAF_PAGES; page++)
		if (start + page >= first && start + page < end)
			take_out(pages, leaf, page);
}

/* A range may be larger than all that is known. */
void resident_take_out(struct resident_pages *pages, uint64_t first, uint64_t end)
{
	if (first >= end)
		return;
	uint64_t from = first / RESIDENT_LEAF_PAGES, to = (end - 1) / RESIDENT_LEAF_PAGES;
	if (to - from >= pages->count) {
		for (size_t i = 0; i < pages->size; i++)
			if (pages->leaves[i])
				take_out_of(pages, pages->leaves[i], first, end);
		return;
	}
	for (uint64_t key = from; key <= to; key++) {
		struct resident_leaf *leaf = find(pages, key);
		if (leaf)
			take_out_of(pages, leaf, first, end);
	}
}

/* The pages go along with the addresses (mremap), and there are as many as before. */
int resident_move(struct resident_pages *pages, uint64_t first, uint64_t count, uint64_t to)
{
	resident_take_out(pages, to, to + count);
	for (uint64_t i = 0; i < count; i++) {
		struct resident_leaf *leaf = find(pages, (first + i) / RESIDENT_LEAF_PAGES);
		unsigned page = (first + i) % RESIDENT_LEAF_PAGES;
		if (!leaf) {
			i += RESIDENT_LEAF_PAGES - 1 - page;
			continue;
		}
		if (!has(leaf->there, page))
			continue;
		take_out(pages, leaf, page);
		int rc = resident_put(pages, to + i);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void resident_watch(struct resident_pages *pages)
{
	for (size_t i = 0; i < pages->size; i++)
		if (pages->leaves[i])
			memset(pages->leaves[i]->changed, 0, sizeof(pages->leaves[i]->changed));
}

void resident_mark(struct resident_pages *pages, uint64_t first, uint64_t end)
{
	for (uint64_t number = first; number < end; number++) {
		struct resident_leaf *leaf = find(pages, number / RESIDENT_LEAF_PAGES);
		if (!leaf)
			return;
		set(leaf->changed, number % RESIDENT_LEAF_PAGES);
	}
}

int resident_found(struct resident_pages *pages, uint64_t number, uint64_t *unseen)
{
	unsigned page = number % RESIDENT_LEAF_PAGES;
	struct resident_leaf *leaf;
	int rc = add(pages, number / RESIDENT_LEAF_PAGES, &leaf);
	if (rc)
		return rc;
	set(leaf->found, page);
	if (has(leaf->there, page) || has(leaf->changed, page))
		return 0;
	set(leaf->there, page);
	set(leaf->before, page);
	pages->pages++;
	++*unseen;
	return 0;
}

void resident_settle(struct resident_pages *pages, uint64_t *vanished)
{
	for (size_t i = 0; i < pages->size; i++) {
		struct resident_leaf *leaf = pages->leaves[i];
		for (unsigned word = 0; leaf && word < WORDS; word++) {
			uint64_t gone =
				leaf->there[word] & ~leaf->found[word] & ~leaf->changed[word];
			unsigned count = (unsigned)__builtin_popcountll(gone);
			leaf->there[word] &= ~gone;
			leaf->found[word] = 0;
			pages->pages -= count;
			*vanished += count;
		}
	}
}

int resident_copy(struct resident_pages *to, const struct resident_pages *from)
{
	*to = (struct resident_pages){.size = from->size, .pages = from->pages};
	if (!from->size)
		return 0;
	to->leaves = calloc(from->size, sizeof(struct resident_leaf *));
	if (!to->leaves) {
		*to = (struct resident_pages){0};
		return -ENOMEM;
	}
	for (size_t i = 0; i < from->size; i++) {
		if (!from->leaves[i])
			continue;
		to->leaves[i] = malloc(sizeof(struct resident_leaf));
		if (!to->leaves[i]) {
			resident_pages_free(to);
			return -ENOMEM;
		}
		*to->leaves[i] = *from->leaves[i];
		to->count++;
	}
	return 0;
}

void resident_pages_free(struct resident_pages *pages)
{
	for (size_t i = 0; i < pages->size; i++)
		free(pages->leaves[i]);
	free(pages->leaves);
	*pages = (struct resident_pages){0};
}
