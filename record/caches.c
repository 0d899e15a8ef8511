/* SPDX-License-Identifier: MIT
 *
 * See caches.h. The process runs on, and nothing that is read is trusted. All is read twice: lists
 * link by link, all of them one step in one call, and the pages that fast lists lead to as a whole;
 * then once more what was found. A list that was
 * the same both times had been so in between; of the others nothing is said. In between the
 * recording's coarse clock moves, so that whatever a thread does after the second reading gets a
 * time after that, and whatever the first one has seen was logged with a time before.
 */
#include "caches.h"
#include "moved.h"
#include "pieces.h"
#include "room.h"

#include "heapledger/caches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 3
#define BLOCKS_MOST 65536 /* as the process itself tells at its end */
#define ARENAS_MOST 4096
#define DEFERRED HL_FAST_BINS /* what lies in no list yet counts as one more of an arena's */

struct arena_lists {
	uint64_t next;
	uint64_t deferred;
	uint64_t fast[HL_FAST_BINS];
};

/* A thread's cache, from the head of its own chunk on, or an arena. */
struct owner {
	uint64_t address;
	uint64_t thread; /* hl_cache_place.thread */
	uint32_t place;  /* of the cache, in hl_caches */
	bool is_arena;
	bool torn;     /* what it has is not known ... */
	uint64_t lost; /* ... or, a bit each, not of these lists */
	union {
		struct {
			uint64_t head;
			struct hl_cache cache;
		};
		struct arena_lists lists;
	} once, twice;
};

/* A block that was found, or is about to be read. */
struct found {
	uint64_t block;
	uint32_t owner;
	uint8_t bin;
	uint8_t what; /* enum hl_kept */
	struct hl_kept_block once, twice;
};

/* A list that is followed. */
struct chain {
	uint32_t owner;
	uint8_t bin;
	uint64_t next; /* block, or chunk of a fast list; 0 = its end */
	uint32_t left; /* blocks that there must be, of a cache */
	uint32_t lent; /* of them, the first so many */
};

struct caches_scratch {
	struct hl_caches caches, again;
	struct owner *owner;
	size_t owners, owner_room;
	struct found *found;
	size_t founds, found_room;
	struct chain *chain;
	size_t chains, chain_room;
	struct pieces pieces;
	size_t arenas;                    /* owners before the caches ... */
	size_t fast_founds;               /* ... and what was found of theirs */
	uint32_t unread;                  /* lists that could not be read */
	struct moved moved, moved_lately; /* while all was read, and caches */
};

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_caches(const struct caches_source *source, struct hl_caches *caches)
{
	size_t head = offsetof(struct hl_caches, place);

	if (!pieces_read_one(source, source->address, caches, head) || caches->key == 0 ||
		caches->highest > HL_CACHES_MOST)
		return false;
	return caches->highest == 0 ||
	       pieces_read_one(source, source->address + head, (void *)caches->place,
		       caches->highest * sizeof(caches->place[0]));
}

static int add_owner_pieces(struct caches_scratch *scratch, struct owner *owner, bool twice)
{
	const struct hl_caches *caches = &scratch->caches;
	struct pieces *pieces = &scratch->pieces;
	struct arena_lists *lists = twice ? &owner->twice.lists : &owner->once.lists;
	int rc;

	if (!owner->is_arena)
		return pieces_ask(pieces, owner->address - sizeof(owner->once.head),
			twice ? (void *)&owner->twice : (void *)&owner->once,
			sizeof(owner->once.head) + sizeof(owner->once.cache));
	rc = pieces_ask(pieces, owner->address + caches->arena_next, &lists->next, 8);
	if (rc == 0)
		rc = pieces_ask(
			pieces, owner->address + caches->arena_deferred, &lists->deferred, 8);
	if (rc == 0)
		rc = pieces_ask(pieces, owner->address + caches->arena_fast, lists->fast,
			sizeof(lists->fast));
	return rc;
}

static int read_owner_pieces(const struct caches_source *source, struct caches_scratch *scratch,
	size_t from, size_t end, bool twice)
{
	int rc = 0;

	pieces_begin(&scratch->pieces);
	for (size_t i = from; rc == 0 && i < end; i++)
		rc = add_owner_pieces(scratch, &scratch->owner[i], twice);
	if (rc != 0)
		return rc;
	pieces_read(&scratch->pieces, source);
	for (size_t i = from, at = 0; i < end; i++)
		for (int parts = scratch->owner[i].is_arena ? 3 : 1; parts > 0; parts--)
			scratch->owner[i].torn |= scratch->pieces.piece[at++].missing;
	return 0;
}

/* ---- the first reading ----------------------------------------------------------------------- */

static struct owner *add_owner(struct caches_scratch *scratch, struct owner owner)
{
	if (room_for((void **)&scratch->owner, &scratch->owner_room, scratch->owners + 1,
		    sizeof(*scratch->owner)) != 0)
		return NULL;
	scratch->owner[scratch->owners] = owner;
	return &scratch->owner[scratch->owners++];
}

static int add_caches(const struct caches_source *source, struct caches_scratch *scratch)
{
	for (uint32_t i = 0; i < scratch->caches.highest; i++) {
		const struct hl_cache_place *place = &scratch->caches.place[i];

		if (place->cache != 0 && add_owner(scratch, (struct owner){.address = place->cache,
								    .thread = place->thread,
								    .place = i}) == NULL)
			return -ENOMEM;
	}
	return read_owner_pieces(source, scratch, scratch->arenas, scratch->owners, false);
}

/* One after the other: each names the next one. A ring that is none is torn where it ends. */
static int add_arenas(const struct caches_source *source, struct caches_scratch *scratch)
{
	uint64_t address = scratch->caches.arena;

	scratch->owners = 0;
	for (unsigned i = 0; address != 0; i++) {
		struct owner *owner =
			add_owner(scratch, (struct owner){.address = address, .is_arena = true});
		int rc = owner == NULL ? -ENOMEM
				       : read_owner_pieces(source, scratch, i, i + 1, false);

		if (rc != 0)
			return rc;
		owner->torn = owner->torn || i == ARENAS_MOST || owner->once.lists.next == 0;
		address = owner->torn || owner->once.lists.next == scratch->caches.arena
				  ? 0
				  : owner->once.lists.next;
	}
	return 0;
}

static int add_chain(struct caches_scratch *scratch, const struct chain *chain)
{
	int rc = room_for((void **)&scratch->chain, &scratch->chain_room, scratch->chains + 1,
		sizeof(*scratch->chain));

	if (rc == 0)
		scratch->chain[scratch->chains++] = *chain;
	return rc;
}

/* It is a block of the heap itself, which may take a little more than it needs. */
static bool is_cache(const struct owner *owner)
{
	uint64_t bytes = owner->once.head & HL_CHUNK_BYTES_MASK;
	uint64_t least = (sizeof(struct hl_cache) + sizeof(owner->once.head) + 15) / 16 * 16;

	return owner->address % HL_CHUNK_BLOCK == 0 && owner->address <= HL_ADDRESS_MASK >> 9 &&
	       (bytes == least || bytes == least + 16);
}

static int add_cache_chains(struct caches_scratch *scratch, uint32_t index)
{
	struct owner *owner = &scratch->owner[index];
	const struct hl_cache *cache = &owner->once.cache;
	int rc = 0;

	owner->torn = !is_cache(owner);
	for (uint8_t bin = 0; rc == 0 && bin < HL_CACHE_BINS; bin++) {
		struct chain chain = {.owner = index, .bin = bin, .next = cache->first[bin]};

		if (!hl_cache_count(&scratch->caches, bin, cache->widened >> bin & 1,
			    cache->room[bin], &chain.left, &chain.lent) ||
			(chain.next == 0) != (chain.left == 0))
			owner->lost |= UINT64_C(1) << bin;
		else if (chain.next != 0)
			rc = add_chain(scratch, &chain);
	}
	return rc;
}

static int add_fast_chains(struct caches_scratch *scratch, uint32_t index)
{
	struct owner *owner = &scratch->owner[index];
	int rc = 0;

	if (owner->once.lists.deferred != 0)
		owner->lost |= UINT64_C(1) << DEFERRED;
	for (uint8_t bin = 0; rc == 0 && bin < HL_FAST_BINS; bin++)
		if (owner->once.lists.fast[bin] != 0)
			rc = add_chain(
				scratch, &(struct chain){index, bin, owner->once.lists.fast[bin],
						 BLOCKS_MOST, 0});
	return rc;
}

/* Of all owners from this one on. */
static int add_chains(struct caches_scratch *scratch, size_t from)
{
	int rc = 0;

	scratch->chains = 0;
	for (uint32_t i = (uint32_t)from; rc == 0 && i < scratch->owners; i++) {
		if (scratch->owner[i].torn)
			continue;
		rc = scratch->owner[i].is_arena ? add_fast_chains(scratch, i)
						: add_cache_chains(scratch, i);
	}
	return rc;
}

static bool is_lost(const struct owner *owner, uint8_t bin)
{
	return owner->torn || (owner->lost >> bin & 1) != 0;
}

static void lose(struct owner *owner, uint8_t bin)
{
	owner->lost |= UINT64_C(1) << bin;
}

/* The next block of a chain; false: it has ended, or cannot be true. */
static bool step(struct caches_scratch *scratch, struct chain *chain, struct found *found)
{
	struct owner *owner = &scratch->owner[chain->owner];

	if (is_lost(owner, chain->bin) ||
		(chain->next == 0 && (owner->is_arena || chain->left == 0)))
		return false;
	if (chain->left == 0 || chain->next == 0 || chain->next % HL_CHUNK_BLOCK != 0 ||
		chain->next > HL_ADDRESS_MASK >> 9) {
		lose(owner, chain->bin);
		return false;
	}
	*found = (struct found){
		.block = chain->next + (owner->is_arena ? HL_CHUNK_BLOCK : 0),
		.owner = chain->owner,
		.bin = chain->bin,
		.what = owner->is_arena ? HL_KEPT_FAST
			: chain->lent   ? HL_KEPT_LENT
					: HL_KEPT_CACHE,
	};
	chain->left--;
	chain->lent -= chain->lent > 0;
	return true;
}

/* It has been read: where does it lead to? */
static void follow(struct caches_scratch *scratch, struct chain *chain, const struct found *found)
{
	const struct hl_kept_block *read = &found->once;
	struct owner *owner = &scratch->owner[chain->owner];

	if (!hl_kept_fits(read, found->bin, owner->is_arena ? 0 : scratch->caches.key))
		lose(owner, found->bin);
	chain->next = hl_unmask(found->block, read->next);
}

static int ask_for(
	struct caches_scratch *scratch, const struct found *found, struct hl_kept_block *to)
{
	uint64_t from = found->block - sizeof(to->head);

	return found->what == HL_KEPT_FAST
		       ? pieces_ask_page(&scratch->pieces, from, to, sizeof(*to))
		       : pieces_ask(&scratch->pieces, from, to, sizeof(*to));
}

/* A block that could not be read remains all zero, which fits no bin. */
static void take_from_page(
	const struct caches_scratch *scratch, const struct found *found, struct hl_kept_block *to)
{
	if (found->what == HL_KEPT_FAST)
		pieces_from_page(
			&scratch->pieces, found->block - sizeof(to->head), to, sizeof(*to));
}

/* All lists one block further. */
static int read_level(const struct caches_source *source, struct caches_scratch *scratch)
{
	size_t left = 0, first = scratch->founds;
	int rc = room_for((void **)&scratch->found, &scratch->found_room, first + scratch->chains,
		sizeof(*scratch->found));

	pieces_begin(&scratch->pieces);
	for (size_t i = 0; rc == 0 && i < scratch->chains; i++) {
		struct chain *chain = &scratch->chain[i];
		struct found *found = &scratch->found[scratch->founds];

		if (!step(scratch, chain, found))
			continue;
		scratch->founds++;
		scratch->chain[left++] = *chain;
		rc = ask_for(scratch, found, &found->once);
	}
	if (rc != 0)
		return rc;
	scratch->chains = left;
	pieces_read(&scratch->pieces, source);
	for (size_t i = 0; i < left; i++) {
		struct found *found = &scratch->found[first + i];

		take_from_page(scratch, found, &found->once);
		follow(scratch, &scratch->chain[i], found);
	}
	return 0;
}

static void lose_what_is_left(struct caches_scratch *scratch)
{
	for (size_t i = 0; i < scratch->chains; i++)
		lose(&scratch->owner[scratch->chain[i].owner], scratch->chain[i].bin);
}

static int read_chains(
	const struct caches_source *source, struct caches_scratch *scratch, size_t from)
{
	size_t first = scratch->founds;
	int rc = pieces_forget_pages(&scratch->pieces);

	if (rc == 0)
		rc = add_chains(scratch, from);
	while (rc == 0 && scratch->chains > 0 && scratch->founds - first < BLOCKS_MOST)
		rc = read_level(source, scratch);
	if (rc == 0)
		lose_what_is_left(scratch);
	return rc;
}

static int begin_moved(struct moved *moved, const struct caches_source *source)
{
	return source->session != NULL ? moved_begin(moved, source->session, source->serial) : 0;
}

static int end_moved(struct moved *moved, const struct caches_source *source)
{
	return source->session != NULL ? moved_end(moved, source->session, source->serial) : 0;
}

/* Caches change most, and are short: they are read last here, and first the second time. */
static int read_once(const struct caches_source *source, struct caches_scratch *scratch)
{
	int rc = read_caches(source, &scratch->caches) ? 0 : -ESRCH;

	scratch->founds = 0;
	if (rc == 0)
		rc = begin_moved(&scratch->moved, source);
	if (rc == 0)
		rc = add_arenas(source, scratch);
	scratch->arenas = scratch->owners;
	if (rc == 0)
		rc = read_chains(source, scratch, 0);
	scratch->fast_founds = scratch->founds;
	if (rc == 0)
		rc = begin_moved(&scratch->moved_lately, source);
	if (rc == 0)
		rc = add_caches(source, scratch);
	return rc == 0 ? read_chains(source, scratch, scratch->arenas) : rc;
}

/* ---- the second reading ---------------------------------------------------------------------- */

/* The flags of a head may change: they are about the chunk below. */
static bool same_block(const struct hl_kept_block *a, const struct hl_kept_block *b)
{
	return ((a->head ^ b->head) & HL_CHUNK_BYTES_MASK) == 0 && a->next == b->next &&
	       a->key == b->key;
}

/* Which lists of it begin elsewhere. */
static uint64_t changed_lists(const struct owner *owner)
{
	const struct hl_cache *a = &owner->once.cache, *b = &owner->twice.cache;
	const struct arena_lists *c = &owner->once.lists, *d = &owner->twice.lists;
	uint64_t changed = owner->is_arena ? (uint64_t)(c->deferred != d->deferred) << DEFERRED
					   : a->widened ^ b->widened;

	for (unsigned bin = 0; bin < (owner->is_arena ? HL_FAST_BINS : HL_CACHE_BINS); bin++)
		if (owner->is_arena
				? c->fast[bin] != d->fast[bin]
				: a->room[bin] != b->room[bin] || a->first[bin] != b->first[bin])
			changed |= UINT64_C(1) << bin;
	return changed;
}

static bool same_owner(const struct owner *owner)
{
	if (owner->is_arena)
		return owner->once.lists.next == owner->twice.lists.next;
	return ((owner->once.head ^ owner->twice.head) & HL_CHUNK_BYTES_MASK) == 0;
}

static int read_founds_again(
	const struct caches_source *source, struct caches_scratch *scratch, size_t from, size_t end)
{
	int rc = 0;

	pieces_begin(&scratch->pieces);
	for (size_t i = from; rc == 0 && i < end; i++)
		rc = ask_for(scratch, &scratch->found[i], &scratch->found[i].twice);
	if (rc != 0)
		return rc;
	pieces_read(&scratch->pieces, source);
	for (size_t i = from; i < end; i++) {
		struct found *found = &scratch->found[i];

		take_from_page(scratch, found, &found->twice);
		if (!same_block(&found->once, &found->twice))
			lose(&scratch->owner[found->owner], found->bin);
	}
	return 0;
}

static int read_all_again(
	const struct caches_source *source, struct caches_scratch *scratch, size_t from, size_t end)
{
	int rc = pieces_forget_pages(&scratch->pieces);

	for (size_t i = from; rc == 0 && i < end; i += PIECES_AT_ONCE)
		rc = read_founds_again(
			source, scratch, i, end - i < PIECES_AT_ONCE ? end : i + PIECES_AT_ONCE);
	return rc;
}

static int read_owners_again(
	const struct caches_source *source, struct caches_scratch *scratch, size_t from, size_t end)
{
	int rc = read_owner_pieces(source, scratch, from, end, true);

	for (size_t i = from; rc == 0 && i < end; i++) {
		scratch->owner[i].torn |= !same_owner(&scratch->owner[i]);
		scratch->owner[i].lost |= changed_lists(&scratch->owner[i]);
	}
	return rc;
}

static int read_twice(const struct caches_source *source, struct caches_scratch *scratch)
{
	int rc = read_all_again(source, scratch, scratch->fast_founds, scratch->founds);

	if (rc == 0)
		rc = read_owners_again(source, scratch, scratch->arenas, scratch->owners);
	if (rc == 0)
		rc = end_moved(&scratch->moved_lately, source);
	if (rc == 0)
		rc = read_all_again(source, scratch, 0, scratch->fast_founds);
	if (rc == 0)
		rc = read_owners_again(source, scratch, 0, scratch->arenas);
	return rc == 0 ? end_moved(&scratch->moved, source) : rc;
}

/* A list that is as it was may have been another one in between, if a block of its size was handed
 * out. Fast lists are anybody's. */
static void lose_what_moved(struct caches_scratch *scratch, uint32_t serial)
{
	const uint64_t fast = (UINT64_C(1) << HL_FAST_BINS) - 1;

	for (size_t i = 0; i < scratch->owners; i++) {
		struct owner *owner = &scratch->owner[i];

		owner->lost |= owner->is_arena ? scratch->moved.bins & fast
					       : moved_bins(&scratch->moved_lately,
							 hl_cache_tid(owner->thread, serial));
	}
}

/* Beyond the highest lies what another process may have had there. */
static const struct hl_cache_place *place_of(const struct hl_caches *caches, size_t place)
{
	static const struct hl_cache_place nobody;

	return place < caches->highest ? &caches->place[place] : &nobody;
}

static bool same_place(const struct hl_cache_place *a, const struct hl_cache_place *b)
{
	return a->cache == b->cache && a->thread == b->thread;
}

/* A cache that has gone is a block like any other by now, and may be somebody's: another thread's
 * cache, even, with the same blocks, if it does the same. */
static void lose_what_has_gone(const struct caches_source *source, struct caches_scratch *scratch)
{
	if (!read_caches(source, &scratch->again))
		scratch->again = (struct hl_caches){0};
	for (size_t i = scratch->arenas; i < scratch->owners; i++) {
		struct owner *owner = &scratch->owner[i];

		if (!same_place(&scratch->caches.place[owner->place],
			    place_of(&scratch->again, owner->place)))
			owner->torn = true;
	}
}

/* How many lists could not be read, of caches that have come meanwhile and of those that were not
 * found, too. */
static void count_unread(struct caches_scratch *scratch)
{
	const struct hl_caches *once = &scratch->caches, *again = &scratch->again;
	uint32_t caches = 0, unread = 0;

	for (size_t i = 0; i < scratch->owners; i++) {
		const struct owner *owner = &scratch->owner[i];

		caches += !owner->is_arena;
		unread += !owner->torn      ? (uint32_t)__builtin_popcountll(owner->lost)
			  : owner->is_arena ? HL_FAST_BINS + 1
					    : HL_CACHE_BINS;
	}
	for (uint32_t i = 0; i < once->highest || i < again->highest; i++)
		if (place_of(again, i)->cache != 0 &&
			!same_place(place_of(once, i), place_of(again, i)))
			unread += HL_CACHE_BINS;
	if (once->count > caches)
		unread += (once->count - caches) * HL_CACHE_BINS;
	if (again->count != once->count || once->count < caches)
		unread++; /* one has come or gone unseen */
	scratch->unread = unread;
}

/* ---- records --------------------------------------------------------------------------------- */

static void put(struct caches_held *held, uint64_t addr, uint64_t size, uint64_t chunk)
{
	held->record[held->count++] = (struct hl_mark_record){
		.tick = held->tick,
		.kind_addr = hl_kind_addr(HL_KIND_kept, addr),
		.size = size,
		.chunk = chunk,
	};
}

static int put_all(struct caches_held *held, uint32_t serial)
{
	const struct caches_scratch *scratch = held->scratch;
	int rc = room_for((void **)&held->record, &held->capacity,
		1 + scratch->founds + scratch->owners, sizeof(*held->record));

	if (rc != 0)
		return rc;
	held->count = 0;
	put(held, 0, 0,
		hl_kept_head(HL_KEPT_MOMENT | (held->all ? HL_KEPT_ALL : 0), scratch->caches.count,
			held->unread));
	for (size_t i = 0; i < scratch->founds; i++) {
		const struct found *found = &scratch->found[i];
		const struct owner *owner = &scratch->owner[found->owner];

		if (!is_lost(owner, found->bin))
			put(held, found->block, hl_bin_bytes(found->bin),
				hl_kept_pack(found->what, hl_cache_tid(owner->thread, serial)));
	}
	for (size_t i = 0; i < scratch->owners; i++) {
		const struct owner *owner = &scratch->owner[i];

		if (!owner->torn && !owner->is_arena)
			put(held, owner->address, owner->once.head & HL_CHUNK_BYTES_MASK,
				hl_kept_pack(HL_KEPT_TABLE | (owner->lost ? HL_KEPT_PART : 0),
					hl_cache_tid(owner->thread, serial)));
	}
	held->record[0].size = held->count - 1;
	return 0;
}

/* ---- a process ------------------------------------------------------------------------------- */

static ssize_t read_process(const struct caches_source *source, const struct iovec *local,
	const struct iovec *remote, size_t count)
{
	return process_vm_readv(source->pid, local, count, remote, count, 0);
}

/* 0 is no time of the recorded threads. */
static uint64_t divide_time(const struct caches_source *source)
{
	if (atomic_fetch_add(&source->session->map->round, 1) == UINT32_MAX)
		atomic_fetch_add(&source->session->map->round, 1);
	return session_tick(source->session);
}

struct caches_source caches_source(
	const struct session *session, pid_t pid, uint32_t serial, uint64_t address)
{
	return (struct caches_source){
		.session = session,
		.pid = pid,
		.serial = serial,
		.address = address,
		.read = read_process,
		.divide = divide_time,
	};
}

/* Of several tries the best one counts. */
static int try_once(struct caches_held *held, const struct caches_source *source)
{
	struct caches_scratch *scratch = held->scratch;
	int rc = read_once(source, scratch);
	uint64_t tick = source->divide(source);

	if (rc == 0)
		rc = read_twice(source, scratch);
	if (rc != 0)
		return rc;
	lose_what_moved(scratch, source->serial);
	lose_what_has_gone(source, scratch);
	count_unread(scratch);
	if (held->count > 0 && scratch->unread >= held->unread)
		return 0;
	held->tick = tick;
	held->unread = scratch->unread;
	held->all = scratch->unread == 0;
	return put_all(held, source->serial);
}

int caches_take(struct caches_held *held, const struct caches_source *source)
{
	int rc = 0;

	held->count = 0;
	held->all = false;
	if (source->address == 0)
		return -ESRCH;
	if (held->scratch == NULL)
		held->scratch = calloc(1, sizeof(*held->scratch));
	if (held->scratch == NULL)
		return -ENOMEM;
	for (held->tries = 0; rc == 0 && !held->all && held->tries < TRIES; held->tries++) {
		rc = try_once(held, source);
		if (held->scratch->fast_founds >= BLOCKS_MOST) /* and will be again */
			break;
	}
	if (rc != 0)
		held->count = 0;
	return rc;
}

void caches_free(struct caches_held *held)
{
	if (held->scratch != NULL) {
		free(held->scratch->owner);
		free(held->scratch->found);
		free(held->scratch->chain);
		pieces_free(&held->scratch->pieces);
		moved_free(&held->scratch->moved);
		moved_free(&held->scratch->moved_lately);
	}
	free(held->scratch);
	free(held->record);
	*held = (struct caches_held){0};
}
