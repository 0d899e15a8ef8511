/* SPDX-License-Identifier: MIT
 *
 * Parts of an address space that something is known of, by number: a hash of leaves, which are what
 * pages.c and resident_pages.c make of them. Those used last are at hand.
 */
#ifndef HEAPLEDGER_LEAVES_H
#define HEAPLEDGER_LEAVES_H

#include <stddef.h>
#include <stdint.h>

/* The first member of each. */
struct leaf {
	uint64_t key;
};

/* The key lies beside the leaf, which is large and far away. */
struct leaves_place {
	uint64_t key;
	struct leaf *leaf; /* NULL: none */
};

#define LEAVES_RECENT 128

struct leaves {
	struct leaves_place *list; /* open addressing */
	size_t count;
	size_t size;
	struct leaves_place recent[LEAVES_RECENT]; /* by the key's lowest bits */
};

struct leaf *leaves_search(const struct leaves *leaves, uint64_t key);

/* NULL if there is none. */
static inline struct leaf *leaves_look_up(const struct leaves *leaves, uint64_t key)
{
	const struct leaves_place *recent = &leaves->recent[key % LEAVES_RECENT];
	return recent->leaf && recent->key == key ? recent->leaf : leaves_search(leaves, key);
}

static inline struct leaf *leaves_find(struct leaves *leaves, uint64_t key)
{
	struct leaves_place *recent = &leaves->recent[key % LEAVES_RECENT];
	if (!recent->leaf || recent->key != key)
		*recent = (struct leaves_place){key, leaves_search(leaves, key)};
	return recent->leaf;
}

/* The next one of a walk over all of them, from *at = 0 on; NULL at the end. */
struct leaf *leaves_next(const struct leaves *leaves, size_t *at);

/* Puts in a leaf that is not there, made by malloc; 0 or -ENOMEM. */
int leaves_add(struct leaves *leaves, struct leaf *leaf);

/* With all leaves. */
void leaves_free(struct leaves *leaves);

#endif
