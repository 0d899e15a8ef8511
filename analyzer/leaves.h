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

#define LEAVES_RECENT 128
struct leaves_recent {
	uint64_t key;
	struct leaf *leaf; /* NULL: none */
};

struct leaves {
	struct leaf **list; /* open addressing; NULL = an empty place */
	size_t count;
	size_t size;
	struct leaves_recent recent[LEAVES_RECENT]; /* by the key's lowest bits */
};

/* NULL if there is none. */
struct leaf *leaves_look_up(const struct leaves *leaves, uint64_t key);

static inline struct leaf *leaves_find(struct leaves *leaves, uint64_t key)
{
	struct leaves_recent *recent = &leaves->recent[key % LEAVES_RECENT];
	if (!recent->leaf || recent->key != key)
		*recent = (struct leaves_recent){key, leaves_look_up(leaves, key)};
	return recent->leaf;
}

/* The next one of a walk over all of them, from *at = 0 on; NULL at the end. */
struct leaf *leaves_next(const struct leaves *leaves, size_t *at);

/* Puts in a leaf that is not there, made by malloc; 0 or -ENOMEM. */
int leaves_add(struct leaves *leaves, struct leaf *leaf);

/* With all leaves. */
void leaves_free(struct leaves *leaves);

#endif
