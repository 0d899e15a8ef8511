/* SPDX-License-Identifier: MIT
 *
 * stats.h: counts by walking the lists of each arena under its lock, prints afterwards.
 */
#include "stats.h"

#include "arena.h"
#include "carve.h"
#include "grow.h"
#include "guard.h"
#include "large.h"
#include "log.h"
#include "thread.h"

#include <string.h>
#include <unistd.h>

#define STATS_LINE_BYTES 96

/* The chunks of one list: the smallest, the largest, how many, how much. */
struct size_class {
	size_t from, to, total, count;
};

struct figures {
	size_t system, system_max;      /* taken from the kernel */
	size_t free_bytes, free_chunks; /* top and bins, without fast bins */
	size_t fast_bytes, fast_chunks;
	size_t top;
	size_t space, open; /* address space, and what of it can be used */
	size_t segments;
	struct size_class fast[BINS_FAST];
	struct size_class list[BINS_COUNT];
};

static void count_chunk(struct size_class *class, size_t bytes)
{
	if (class->count == 0 || bytes < class->from)
		class->from = bytes;
	if (bytes > class->to)
		class->to = bytes;
	class->total += bytes;
	class->count++;
}

static void count_fast(const struct bins *bins, struct figures *figures)
{
	for (unsigned i = 0; i < BINS_FAST; i++) {
		const struct chunk *chunk = bins->fast[i];

		while (chunk != NULL) {
			count_chunk(&figures->fast[i], chunk_bytes(chunk));
			chunk = chunk_mask(&chunk->link.next, chunk->link.next);
		}
		figures->fast_chunks += figures->fast[i].count;
	}
	figures->fast_bytes = bins->fast_bytes;
}

static void count_bins(struct bins *bins, struct figures *figures)
{
	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++) {
		struct node *head = &bins->list[i];

		for (struct node *node = head->next; node != head; node = node->next)
			count_chunk(&figures->list[i], chunk_bytes(chunk_of_node(node)));
		figures->free_chunks += figures->list[i].count;
		figures->free_bytes += figures->list[i].total;
	}
}

static void count_space(const struct arena *arena, struct figures *figures)
{
	struct segment *segment = NULL;

	figures->space = figures->open = arena->system_bytes;
	if (!arena->in_segments)
		return;
	if (arena->top != NULL)
		segment = grow_segment_of(arena->top);
	for (figures->open = 0; segment != NULL; segment = segment->below) {
		figures->open += segment->open_bytes;
		figures->segments++;
	}
}

/* All zero if a pending fork kept the arena's lock. */
static struct figures count_arena(struct arena *arena)
{
	struct figures figures = {0};

	if (!arena_enter(arena))
		return figures;
	carve_drain(arena);
	count_fast(&arena->bins, &figures);
	count_bins(&arena->bins, &figures);
	count_space(arena, &figures);
	figures.system = arena->system_bytes;
	figures.system_max = arena->system_bytes_max;
	if (arena->top != NULL) {
		figures.top = chunk_bytes(arena->top);
		figures.free_bytes += figures.top;
		figures.free_chunks++;
	}
	arena_leave(arena);
	return figures;
}

struct mallinfo2 stats_mallinfo(void)
{
	struct mallinfo2 info = {0};
	struct arena *arena = &arena_main;

	thread_ready();
	do {
		struct figures figures = count_arena(arena);

		info.arena += figures.system;
		info.ordblks += figures.free_chunks;
		info.smblks += figures.fast_chunks;
		info.fsmblks += figures.fast_bytes;
		info.fordblks += figures.free_bytes + figures.fast_bytes;
		if (arena == &arena_main)
			info.keepcost = figures.top;
		arena = arena->next;
	} while (arena != &arena_main);
	info.uordblks = info.arena - info.fordblks;
	info.hblks = large_counts.blocks;
	info.hblkhd = large_counts.bytes;
	return info;
}

/* "name             =     figure" */
static void print_figure(const char *name, size_t value)
{
	char line[STATS_LINE_BYTES];
	size_t at = sizeof(line), digits;

	line[--at] = '\n';
	for (digits = 0; value != 0 || digits == 0; digits++, value /= 10)
		line[--at] = (char)('0' + value % 10);
	for (; digits < 10; digits++)
		line[--at] = ' ';
	at -= 2;
	memcpy(line + at, "= ", 2);
	at -= 17;
	memset(line + at, ' ', 17);
	memcpy(line + at, name, strlen(name));
	if (write(STDERR_FILENO, line + at, sizeof(line) - at) < 0)
		return; /* nobody reads it */
}

static void print_text(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return; /* nobody reads it */
}

/* "Arena 3:" */
static void print_title(unsigned number)
{
	char digits[10], text[20] = "Arena ";
	size_t count = 0, at = 6;

	do
		digits[count++] = (char)('0' + number % 10);
	while ((number /= 10) != 0);
	while (count > 0)
		text[at++] = digits[--count];
	memcpy(text + at, ":\n", 3);
	print_text(text);
}

static void print_arena(const struct arena *arena, const struct figures *figures)
{
	print_title(arena->number);
	print_figure("system bytes", figures->system);
	print_figure("in use bytes", figures->system - figures->free_bytes - figures->fast_bytes);
}

void stats_print(void)
{
	struct arena *arena = &arena_main;
	size_t system = large_counts.bytes, in_use = large_counts.bytes;

	thread_ready();
	do {
		struct figures figures = count_arena(arena);

		print_arena(arena, &figures);
		system += figures.system;
		in_use += figures.system - figures.free_bytes - figures.fast_bytes;
		arena = arena->next;
	} while (arena != &arena_main);
	print_text("Total (incl. mmap):\n");
	print_figure("system bytes", system);
	print_figure("in use bytes", in_use);
	print_figure("max mmap regions", large_counts.blocks_max);
	print_figure("max mmap bytes", large_counts.bytes_max);
}

static void add(struct figures *total, const struct figures *figures)
{
	total->system += figures->system;
	total->system_max += figures->system_max;
	total->free_bytes += figures->free_bytes;
	total->free_chunks += figures->free_chunks;
	total->fast_bytes += figures->fast_bytes;
	total->fast_chunks += figures->fast_chunks;
	total->space += figures->space;
	total->open += figures->open;
}

static void print_xml_size(FILE *stream, const char *tag, const struct size_class *class)
{
	if (class->count != 0)
		fprintf(stream, "  <%s from=\"%zu\" to=\"%zu\" total=\"%zu\" count=\"%zu\"/>\n",
			tag, class->from, class->to, class->total, class->count);
}

static void print_xml_sizes(FILE *stream, const struct figures *figures)
{
	fputs("<sizes>\n", stream);
	for (unsigned i = 0; i < BINS_FAST; i++)
		print_xml_size(stream, "size", &figures->fast[i]);
	for (unsigned i = BINS_UNSORTED + 1; i < BINS_COUNT; i++)
		print_xml_size(stream, "size", &figures->list[i]);
	print_xml_size(stream, "unsorted", &figures->list[BINS_UNSORTED]);
	fputs("</sizes>\n", stream);
}

static void print_xml_space(FILE *stream, const struct figures *figures)
{
	fprintf(stream,
		"<aspace type=\"total\" size=\"%zu\"/>\n<aspace type=\"mprotect\" "
		"size=\"%zu\"/>\n",
		figures->space, figures->open);
}

static void print_xml_figures(FILE *stream, const struct figures *figures)
{
	fprintf(stream,
		"<total type=\"fast\" count=\"%zu\" size=\"%zu\"/>\n"
		"<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n",
		figures->fast_chunks, figures->fast_bytes, figures->free_chunks,
		figures->free_bytes);
}

static void print_xml_system(FILE *stream, const struct figures *figures)
{
	fprintf(stream,
		"<system type=\"current\" size=\"%zu\"/>\n<system type=\"max\" size=\"%zu\"/>\n",
		figures->system, figures->system_max);
}

/* A signal handler that allocates must not meet a lock of its own thread: the guard tells. */
static struct figures count_guarded(struct arena *arena)
{
	struct figures figures = {0};

	if (guard_enter(HL_KIND_FILLER, 0, NULL) == 0)
		figures = count_arena(arena);
	guard_leave();
	return figures;
}

void stats_print_xml(FILE *stream)
{
	struct arena *arena = &arena_main;
	struct figures total = {0};

	thread_ready();
	fputs("<malloc version=\"1\">\n", stream);
	do {
		struct figures figures = count_guarded(arena);

		fprintf(stream, "<heap nr=\"%u\">\n", arena->number);
		print_xml_sizes(stream, &figures);
		print_xml_figures(stream, &figures);
		print_xml_system(stream, &figures);
		print_xml_space(stream, &figures);
		if (figures.segments != 0)
			fprintf(stream, "<aspace type=\"subheaps\" size=\"%zu\"/>\n",
				figures.segments);
		fputs("</heap>\n", stream);
		add(&total, &figures);
		arena = arena->next;
	} while (arena != &arena_main);
	print_xml_figures(stream, &total);
	fprintf(stream, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n",
		(size_t)large_counts.blocks, (size_t)large_counts.bytes);
	print_xml_system(stream, &total);
	print_xml_space(stream, &total);
	fputs("</malloc>\n", stream);
}
