/* SPDX-License-Identifier: MIT
 *
 * resident_pages.h: leaves of 2 MiB with a bit for each page and question.
 */
#include "resident_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORDS (RESIDENT_LEAF_PAGES / 64)

struct resident_leaf {
	struct leaf leaf;
	uint64_t there[WORDS];
	uint64_t before[WORDS];  /* it was there some time */
	uint64_t changed[WORDS]; /* since the snapshot began */
	uint64_t found[WORDS];   /* by the snapshot */
};

static struct resident_leaf *find(struct resident_pages *pages, uint64_t key)
{
	return (struct resident_leaf *)leaves_find(&pages->leaves, key);
}

static struct resident_leaf *next_leaf(const struct resident_pages *pages, size_t *at)
{
	return (struct resident_leaf *)leaves_next(&pages->leaves, at);
}

/* A new leaf, which is freed if there is no room for it. */
static int put_in(struct resident_pages *pages, struct resident_leaf *leaf, uint64_t key)
{
	leaf->leaf.key = key;
	int rc = leaves_add(&pages->leaves, &leaf->leaf);
	if (rc)
		free(leaf);
	return rc;
}

static int add(struct resident_pages *pages, uint64_t key, struct resident_leaf **out)
{
	*out = find(pages, key);
	if (*out)
		return 0;
	if (pages->leaves.count >= RESIDENT_LEAF_LIMIT)
		return -E2BIG;
	*out = calloc(1, sizeof(**out));
	return *out ? put_in(pages, *out, key) : -ENOMEM;
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
	uint64_t start = leaf->leaf.key * RESIDENT_LEAF_PAGES;
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
	if (to - from >= pages->leaves.count) {
		size_t at = 0;
		for (struct resident_leaf *leaf; (leaf = next_leaf(pages, &at));)
			take_out_of(pages, leaf, first, end);
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
	size_t at = 0;
	for (struct resident_leaf *leaf; (leaf = next_leaf(pages, &at));)
		memset(leaf->changed, 0, sizeof(leaf->changed));
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
	size_t at = 0;
	for (struct resident_leaf *leaf; (leaf = next_leaf(pages, &at));) {
		for (unsigned word = 0; word < WORDS; word++) {
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
	size_t at = 0;
	*to = (struct resident_pages){.pages = from->pages};
	for (const struct resident_leaf *leaf; (leaf = next_leaf(from, &at));) {
		struct resident_leaf *copy = malloc(sizeof(*copy));
		if (copy)
			*copy = *leaf;
		if (!copy || put_in(to, copy, leaf->leaf.key)) {
			resident_pages_free(to);
			return -ENOMEM;
		}
	}
	return 0;
}

void resident_pages_free(struct resident_pages *pages)
{
	leaves_free(&pages->leaves);
	*pages = (struct resident_pages){0};
}
