/* SPDX-License-Identifier: MIT
 *
 * grow.h, the rules of glibc 2.36. The arena's lock is held across brk and mprotect: the top chunk
 * must end where the break ends, and between the system call and the new boundary tag nobody may
 * look at either.
 */
#include "grow.h"

#include "carve.h"
#include "fatal.h"
#include "log.h"
#include "os.h"
#include "purge.h"
#include "tunables.h"

#include <stddef.h>

#define GROW_SEGMENT_MIN_BYTES ((size_t)32 << 10)
#define GROW_FALLBACK_BYTES ((size_t)1 << 20)

static_assert(sizeof(struct segment) % CHUNK_ALIGN_BYTES == 0, "chunks follow a segment");

static void set_top(struct arena *arena, void *start, char *end)
{
	arena->top = start;
	chunk_set_head(arena->top, (size_t)(end - (char *)start) | CHUNK_BELOW_IN_USE);
}

static void count_system(struct arena *arena, size_t bytes)
{
	arena->system_bytes += bytes;
	if (arena->system_bytes > arena->system_bytes_max)
		arena->system_bytes_max = arena->system_bytes;
}

static size_t top_bytes(const struct arena *arena)
{
	return arena->top != NULL ? chunk_bytes(arena->top) : 0;
}

/* As a number, because there is no top before the first growth. */
static uintptr_t top_end(const struct arena *arena)
{
	return (uintptr_t)arena->top + top_bytes(arena);
}

/* The main arena. */

static struct os_why break_why(enum hl_reason reason)
{
	return (struct os_why){reason, HL_REGION_break, 0};
}

/* The old top stays behind as a free chunk with two small chunks, in use for ever, as its fence:
 * whatever lies behind is not ours. */
static void fence_old_top(struct arena *arena, struct chunk *old, size_t bytes)
{
	struct chunk *fence;

	if (old == NULL || bytes == 0)
		return;
	bytes = (bytes - 2 * CHUNK_HEADER_BYTES) & ~(CHUNK_ALIGN_BYTES - 1);
	fence = chunk_at(old, bytes);
	chunk_set_head(old, bytes | CHUNK_BELOW_IN_USE | (chunk_head(old) & CHUNK_OTHER_ARENA));
	chunk_set_head(fence, CHUNK_HEADER_BYTES | CHUNK_BELOW_IN_USE);
	chunk_set_head(chunk_next(fence), CHUNK_HEADER_BYTES | CHUNK_BELOW_IN_USE);
	if (bytes >= CHUNK_MIN_BYTES)
		carve_give_quietly(arena, old);
}

static bool grow_main_by_map(struct arena *arena, size_t bytes)
{
	struct chunk *old = arena->top;
	size_t old_bytes = top_bytes(arena);
	char *start;

	if (!arena->scattered)
		bytes = os_page_up(bytes + old_bytes);
	if (bytes < GROW_FALLBACK_BYTES)
		bytes = GROW_FALLBACK_BYTES;
	start = os_map(NULL, bytes, break_why(HL_REASON_brk_fallback));
	if (start == NULL)
		return false;
	os_advise_huge(start, bytes, break_why(HL_REASON_huge_page));
	arena->scattered = true;
	count_system(arena, bytes);
	set_top(arena, start, start + bytes);
	fence_old_top(arena, old, old_bytes);
	return true;
}

/* The break moved between our calls: somebody else owns what lies between. Start a new top there,
 * aligned at both ends. */
static bool grow_main_beyond(struct arena *arena, char *start, size_t bytes)
{
	struct chunk *old = arena->top;
	size_t old_bytes = top_bytes(arena);
	char *aligned = (char *)(((uintptr_t)start + 15) & ~(uintptr_t)15);
	size_t more = (size_t)(aligned - start);
	char *end;

	if (!arena->scattered) {
		if (old_bytes != 0) {
			arena->foreign_bytes += (uintptr_t)start - top_end(arena);
			count_system(arena, (uintptr_t)start - top_end(arena));
		}
		more += old_bytes;
		more = os_page_up((uintptr_t)start + bytes + more) - ((uintptr_t)start + bytes);
	} else {
		more = 0;
	}
	end = start + bytes;
	if (more != 0) {
		char *second = os_sbrk((intptr_t)more, break_why(HL_REASON_grow_top));

		/* Another program's sbrk may have come between: then what we got first must do. */
		if (second == end) {
			end += more;
			count_system(arena, more);
			os_advise_huge(second, more, break_why(HL_REASON_huge_page));
		}
	}
	set_top(arena, aligned, (char *)((uintptr_t)end & ~(uintptr_t)15));
	fence_old_top(arena, old, old_bytes);
	return true;
}

/* Whole pages, or with huge pages what brings the break to the end of one. */
static size_t break_step(size_t bytes)
{
	uintptr_t end;

	if (tunables.huge_bytes == 0)
		return os_page_up(bytes);
	end = (uintptr_t)os_break() + bytes + tunables.huge_bytes - 1;
	return (end & ~(tunables.huge_bytes - 1)) - (uintptr_t)os_break();
}

static bool grow_main(struct arena *arena, size_t need)
{
	size_t old_bytes = top_bytes(arena);
	size_t bytes = need + tunable(&tunables.top_pad) + CHUNK_MIN_BYTES;
	char *start = NULL;

	if (!arena->scattered)
		bytes -= old_bytes;
	bytes = break_step(bytes);
	if ((intptr_t)bytes > 0)
		start = os_sbrk((intptr_t)bytes, break_why(HL_REASON_grow_top));
	if (start == NULL)
		return tunables.policy != HL_POLICY_brk && grow_main_by_map(arena, bytes);
	os_advise_huge(start, bytes, break_why(HL_REASON_huge_page));
	if (arena->base == NULL)
		arena->base = start;
	count_system(arena, bytes);
	if ((uintptr_t)start == top_end(arena)) {
		chunk_set_head(arena->top, (bytes + old_bytes) | CHUNK_BELOW_IN_USE |
						   (chunk_head(arena->top) & CHUNK_BELOW_IN_USE));
		return true;
	}
	if (!arena->scattered && old_bytes != 0 && (uintptr_t)start < top_end(arena))
		fatal_block("break adjusted to free heap memory", start);
	return grow_main_beyond(arena, start, bytes);
}

static bool trim_break(struct arena *arena, size_t pad, enum hl_reason reason)
{
	size_t bytes = top_bytes(arena);
	size_t step = tunables.huge_bytes != 0 ? tunables.huge_bytes : OS_PAGE_BYTES;
	uintptr_t end = top_end(arena);
	size_t extra;

	if (bytes <= CHUNK_MIN_BYTES + 1 + pad)
		return false;
	extra = (bytes - CHUNK_MIN_BYTES - 1 - pad) & ~(step - 1);
	if (extra == 0 || (uintptr_t)os_break() != end)
		return false;
	if (os_sbrk(-(intptr_t)extra, break_why(reason)) == NULL ||
		(uintptr_t)os_break() != end - extra)
		return false;
	arena->system_bytes -= extra;
	chunk_set_head(arena->top, chunk_head(arena->top) - extra);
	return true;
}

/* Arenas in segments. */

static struct os_why segment_why(unsigned arena, enum hl_reason reason)
{
	return (struct os_why){reason, HL_REGION_arena, arena};
}

/* The aligned place behind the last segment: a second reservation often fits there at once. */
static _Atomic(char *) next_segment;

static char *reserve_aligned(unsigned number)
{
	struct os_why why = segment_why(number, HL_REASON_arena_new);
	struct os_why align = segment_why(number, HL_REASON_arena_align);
	char *hint = atomic_exchange(&next_segment, NULL);
	char *got, *start;
	size_t before;

	if (hint != NULL) {
		got = os_reserve(hint, GROW_SEGMENT_BYTES, why);
		if (got != NULL && ((uintptr_t)got & (GROW_SEGMENT_BYTES - 1)) == 0)
			return got;
		if (got != NULL)
			os_unmap(got, GROW_SEGMENT_BYTES, align);
	}
	got = os_reserve(NULL, 2 * GROW_SEGMENT_BYTES, why);
	if (got == NULL) {
		got = os_reserve(NULL, GROW_SEGMENT_BYTES, why);
		if (got == NULL || ((uintptr_t)got & (GROW_SEGMENT_BYTES - 1)) == 0)
			return got;
		os_unmap(got, GROW_SEGMENT_BYTES, align);
		return NULL;
	}
	start = (char *)(((uintptr_t)got + GROW_SEGMENT_BYTES - 1) & ~(GROW_SEGMENT_BYTES - 1));
	before = (size_t)(start - got);
	if (before != 0)
		os_unmap(got, before, align);
	else
		atomic_store(&next_segment, start + GROW_SEGMENT_BYTES);
	os_unmap(start + GROW_SEGMENT_BYTES, GROW_SEGMENT_BYTES - before, align);
	return start;
}

static struct segment *segment_new(unsigned number, size_t need)
{
	size_t pad = tunable(&tunables.top_pad);
	struct segment *segment;

	if (need > GROW_SEGMENT_BYTES)
		return NULL;
	if (pad > GROW_SEGMENT_BYTES - need)
		need = GROW_SEGMENT_BYTES;
	else if (need + pad < GROW_SEGMENT_MIN_BYTES)
		need = GROW_SEGMENT_MIN_BYTES;
	else
		need += pad;
	need = os_page_up(need);
	segment = (struct segment *)reserve_aligned(number);
	if (segment == NULL)
		return NULL;
	if (!os_open(segment, need, segment_why(number, HL_REASON_arena_new))) {
		os_unmap(segment, GROW_SEGMENT_BYTES, segment_why(number, HL_REASON_arena_free));
		return NULL;
	}
	os_advise_huge(segment, need, segment_why(number, HL_REASON_huge_page));
	segment->bytes = segment->open_bytes = need;
	return segment;
}

struct arena *grow_new_arena(unsigned number, size_t need)
{
	size_t own = sizeof(struct segment) + sizeof(struct arena) + CHUNK_ALIGN_BYTES;
	struct segment *segment =
		need <= GROW_SEGMENT_BYTES ? segment_new(number, own + need) : NULL;
	struct arena *arena;
	uintptr_t start;

	if (segment == NULL) /* too large for a segment; perhaps a mapping can serve it */
		segment = segment_new(number, own);
	if (segment == NULL)
		return NULL;
	arena = (struct arena *)(segment + 1);
	segment->arena = arena;
	arena->number = number;
	arena->in_segments = true;
	bins_init(&arena->bins);
	count_system(arena, segment->bytes);
	start = ((uintptr_t)(arena + 1) + 15) & ~(uintptr_t)15;
	set_top(arena, (void *)start, (char *)segment + segment->bytes);
	return arena;
}

void grow_drop_arena(struct arena *arena)
{
	os_unmap(grow_segment_of(arena), GROW_SEGMENT_BYTES,
		segment_why(arena->number, HL_REASON_arena_free));
}

static bool segment_grow(struct segment *segment, size_t bytes)
{
	size_t wanted = segment->bytes + os_page_up(bytes);
	unsigned number = segment->arena->number;

	if (wanted > GROW_SEGMENT_BYTES)
		return false;
	if (wanted > segment->open_bytes) {
		if (!os_open((char *)segment + segment->open_bytes, wanted - segment->open_bytes,
			    segment_why(number, HL_REASON_arena_grow)))
			return false;
		segment->open_bytes = wanted;
	}
	segment->bytes = wanted;
	return true;
}

static bool segment_shrink(struct segment *segment, size_t bytes)
{
	struct os_why why = segment_why(segment->arena->number, HL_REASON_arena_shrink);
	size_t left = segment->bytes - bytes;

	if (os_commit_is_strict()) {
		if (!os_close((char *)segment + left, bytes, why))
			return false;
		segment->open_bytes = left;
	} else if (!os_discard((char *)segment + left, bytes, why)) {
		return false; /* what is not given back is not zero when it is opened again */
	}
	segment->bytes = left;
	return true;
}

/* The segment that top lies in; NULL before the main arena's first. */
static struct segment *top_segment(const struct arena *arena)
{
	return arena->top != NULL ? grow_segment_of(arena->top) : NULL;
}

static bool grow_in_place(struct arena *arena, size_t need)
{
	struct segment *segment = top_segment(arena);
	size_t before = segment != NULL ? segment->bytes : 0;

	if (segment == NULL || need + CHUNK_MIN_BYTES > GROW_SEGMENT_BYTES ||
		!segment_grow(segment, need + CHUNK_MIN_BYTES - top_bytes(arena)))
		return false;
	count_system(arena, segment->bytes - before);
	chunk_set_head(arena->top, chunk_head(arena->top) + segment->bytes - before);
	return true;
}

static bool grow_by_segment(struct arena *arena, size_t need)
{
	struct chunk *old = arena->top;
	size_t old_bytes = top_bytes(arena);
	struct segment *segment = top_segment(arena);
	struct segment *fresh;

	if (grow_in_place(arena, need))
		return true;
	fresh = segment_new(arena->number, need + CHUNK_MIN_BYTES + sizeof(*fresh));
	if (fresh == NULL)
		return false;
	fresh->arena = arena;
	fresh->below = segment;
	count_system(arena, fresh->bytes);
	set_top(arena, fresh + 1, (char *)fresh + fresh->bytes);
	fence_old_top(arena, old, old_bytes);
	return true;
}

/* The free end of the segment below, with its fence, seen as a chunk; NULL if none is free. */
static size_t segment_tail(struct segment *segment, struct chunk **tail)
{
	struct chunk *fence = chunk_at(segment, segment->bytes - 2 * CHUNK_HEADER_BYTES);

	*tail = fence;
	if (chunk_below_in_use(fence))
		return 2 * CHUNK_HEADER_BYTES;
	*tail = chunk_below(fence);
	return chunk_bytes(*tail) + 2 * CHUNK_HEADER_BYTES;
}

/* While top is all that a segment holds, and the one below has room left for growth, drop it. */
static void drop_empty_segments(struct arena *arena, size_t pad)
{
	struct segment *segment = grow_segment_of(arena->top);

	while (arena->top == (struct chunk *)(segment + 1) && segment->below != NULL &&
		log_has_room()) {
		struct segment *below = segment->below;
		struct chunk *tail;
		size_t tail_bytes = segment_tail(below, &tail);
		size_t flags;

		if (tail_bytes + (GROW_SEGMENT_BYTES - below->bytes) <
			pad + CHUNK_MIN_BYTES + OS_PAGE_BYTES)
			return;
		arena->system_bytes -= segment->bytes;
		if (atomic_load(&next_segment) == (char *)segment + GROW_SEGMENT_BYTES)
			atomic_store(&next_segment, NULL);
		os_unmap(segment, GROW_SEGMENT_BYTES,
			segment_why(arena->number, HL_REASON_arena_free));
		flags = chunk_head(tail) & CHUNK_BELOW_IN_USE;
		if (tail_bytes > 2 * CHUNK_HEADER_BYTES)
			bins_remove(&arena->bins, tail);
		arena->top = tail;
		chunk_set_head(tail, tail_bytes | flags);
		segment = below;
	}
}

static bool trim_segment(struct arena *arena, size_t pad)
{
	size_t bytes = top_bytes(arena);
	size_t extra;

	if (bytes <= CHUNK_MIN_BYTES + 1 + pad)
		return false;
	extra = os_page_down(bytes - CHUNK_MIN_BYTES - 1 - pad);
	if (extra == 0 || !segment_shrink(top_segment(arena), extra))
		return false;
	arena->system_bytes -= extra;
	chunk_set_head(arena->top, chunk_head(arena->top) - extra);
	return true;
}

bool grow_top(struct arena *arena, size_t need)
{
	return arena->in_segments ? grow_by_segment(arena, need) : grow_main(arena, need);
}

bool grow_trim_main(size_t pad)
{
	struct arena *arena = &arena_main;

	return arena->in_segments ? trim_segment(arena, pad)
				  : trim_break(arena, pad, HL_REASON_trim_call);
}

__attribute__((noinline)) void grow_trim(struct arena *arena)
{
	size_t pad = tunable(&tunables.top_pad);

	if (arena->in_segments)
		drop_empty_segments(arena, pad);
	if (chunk_bytes(arena->top) >= tunable(&tunables.trim_threshold)) {
		if (arena->in_segments)
			trim_segment(arena, pad);
		else
			trim_break(arena, pad, HL_REASON_trim_top);
	}
	if (tunables.purge == SETTINGS_PURGE_TRIM)
		purge_free(arena);
}

/* Of a scattered main arena nobody has written down where it lies. */
bool grow_find(const struct arena *arena, uintptr_t address, uintptr_t *from, uintptr_t *to)
{
	if (!arena->in_segments) {
		*from = (uintptr_t)arena->base;
		*to = top_end(arena);
		return !arena->scattered && *from != 0 && address >= *from && address < *to;
	}
	for (const struct segment *s = top_segment(arena); s != NULL; s = s->below) {
		*from = (uintptr_t)s;
		*to = *from + s->bytes;
		if (address >= *from && address < *to)
			return true;
	}
	return false;
}
