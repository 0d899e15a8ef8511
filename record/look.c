/* SPDX-License-Identifier: MIT
 *
 * See look.h.
 */
#include "look.h"

#include "sample.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (64 << 10)
#define PAGE_BYTES 4096u
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_SHARED (UINT64_C(1) << 61) /* a file's, or of shared memory as the session is */
#define PAGEMAP_EXCLUSIVE (UINT64_C(1) << 56)

static int open_file(pid_t pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The whole of a file that has no length; the caller frees it. */
static int read_text(pid_t pid, const char *name, char **out)
{
	size_t used = 0, room = 0;
	char *text = NULL;
	int fd = open_file(pid, name);
	ssize_t got = fd;

	while (got >= 0) {
		if (room - used < CHUNK_BYTES) {
			char *grown = realloc(text, room * 2 + CHUNK_BYTES + 1);

			if (grown == NULL) {
				got = -ENOMEM;
				break;
			}
			text = grown;
			room = room * 2 + CHUNK_BYTES;
		}
		got = read(fd, text + used, room - used);
		if (got < 0)
			got = -errno;
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	if (fd >= 0)
		close(fd);
	if (got == 0 && used == 0)
		got = -ESRCH; /* its memory is gone */
	if (got < 0) {
		free(text);
		return (int)got;
	}
	text[used] = '\0';
	*out = text;
	return 0;
}

/* ---- maps ---------------------------------------------------------------------------------- */

struct line {
	uint64_t start, end, inode;
	char shared; /* 's', or 'p' */
	bool accessible;
	const char *name;
};

/* 00400000-0040b000 r--p 00000000 fe:01 1234   /path */
static int parse(const char *text, struct line *line)
{
	char rights[5];
	int name = 0;

	if (sscanf(text, "%lx-%lx %4s %*x %*x:%*x %lu %n", &line->start, &line->end, rights,
		    &line->inode, &name) < 4)
		return -EINVAL;
	line->shared = rights[3];
	line->accessible = rights[0] == 'r' || rights[1] == 'w';
	line->name = text + name;
	return 0;
}

static bool is_heaps(const struct line *line)
{
	if (line->inode != 0 || line->shared == 's')
		return false;
	return line->name[0] == '\0' || strcmp(line->name, "[heap]") == 0 ||
	       strncmp(line->name, "[anon:", 6) == 0;
}

/* Private memory that is no heap's. The kernel's own pages are none of the process's. */
static bool is_other(const struct line *line)
{
	return line->shared == 'p' && !is_heaps(line) &&
	       (line->inode != 0 || strcmp(line->name, "[stack]") == 0);
}

/* Lines come in order; where the process was changing its memory meanwhile they can overlap. */
static int add_range(
	struct look *look, size_t *room, uint64_t start, uint64_t end, bool other)
{
	struct look_range *last = look->count > 0 ? &look->range[look->count - 1] : NULL;

	if (last != NULL && start <= last->end && last->other == other) {
		if (end > last->end)
			last->end = end;
		return 0;
	}
	if (look->count == *room) {
		size_t more = *room == 0 ? 64 : *room * 2;
		struct look_range *grown = realloc(look->range, more * sizeof(*grown));

		if (grown == NULL)
			return -ENOMEM;
		look->range = grown;
		*room = more;
	}
	look->range[look->count++] = (struct look_range){start, end, other};
	return 0;
}

static int take_lines(struct look *look, char *text, const char *path, enum look_ranges ranges)
{
	bool recorded = false;
	size_t room = 0;
	char *rest = text;
	struct line line;
	int rc = 0;

	for (char *at; rc == 0 && (at = strsep(&rest, "\n")) != NULL && at[0] != '\0';) {
		bool session;

		rc = parse(at, &line);
		if (rc != 0)
			break;
		session = strncmp(line.name, path, strlen(path)) == 0;
		recorded = recorded || session;
		if (strcmp(line.name, "[heap]") == 0)
			look->heap_end = line.end;
		if (session ? ranges == LOOK_HEAP_AND_SESSION : is_heaps(&line))
			rc = add_range(look, &room, line.start, line.end, false);
		else if (!session && ranges == LOOK_PRIVATE && is_other(&line))
			rc = add_range(look, &room, line.start, line.end, true);
	}
	return rc == 0 && !recorded ? -ESRCH : rc;
}

int look_take(struct look *look, pid_t pid, const char *session, enum look_ranges ranges)
{
	struct look taken = {.from_ns = session_monotonic()};
	char *text = NULL;
	int rc = read_text(pid, "maps", &text);

	taken.to_ns = session_monotonic();
	if (rc == 0)
		rc = take_lines(&taken, text, session, ranges);
	free(text);
	if (rc != 0) {
		look_free(&taken);
		return rc;
	}
	look_free(look);
	*look = taken;
	return 0;
}

int look_each(struct look *look, pid_t pid, look_taker *take, void *context)
{
	struct line line;
	char *text = NULL, *rest;
	int rc;

	look->from_ns = session_monotonic();
	rc = read_text(pid, "maps", &text);
	look->to_ns = session_monotonic();
	rest = text;
	for (char *at; rc == 0 && (at = strsep(&rest, "\n")) != NULL && at[0] != '\0';) {
		rc = parse(at, &line);
		if (rc == 0 && is_heaps(&line))
			take(context, &(struct look_mapping){line.start, line.end,
					      strcmp(line.name, "[heap]") == 0, line.accessible});
	}
	free(text);
	return rc;
}

void look_free(struct look *look)
{
	free(look->range);
	*look = (struct look){0};
}

/* ---- smaps_rollup, pagemap ----------------------------------------------------------------- */

static int count_pages(struct look_resident *resident, int fd, struct look_range range)
{
	uint64_t entry[CHUNK_BYTES / sizeof(uint64_t)];
	uint64_t page = range.start / PAGE_BYTES, end = range.end / PAGE_BYTES;

	while (page < end) {
		uint64_t wanted = end - page;
		ssize_t got;

		if (wanted > sizeof(entry) / sizeof(entry[0]))
			wanted = sizeof(entry) / sizeof(entry[0]);
		got = pread(fd, entry, wanted * sizeof(entry[0]), (off_t)(page * sizeof(entry[0])));
		if (got < (ssize_t)sizeof(entry[0]))
			return got < 0 ? -errno : -ESRCH;
		for (size_t i = 0; i < (size_t)got / sizeof(entry[0]); i++) {
			bool there = (entry[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) != 0 &&
				     (entry[i] & PAGEMAP_SHARED) == 0;
			bool own = (entry[i] & (PAGEMAP_EXCLUSIVE | PAGEMAP_SWAPPED)) != 0;

			resident->present += there ? PAGE_BYTES : 0;
			resident->own += there && own ? PAGE_BYTES : 0;
		}
		page += (uint64_t)got / sizeof(entry[0]);
	}
	return 0;
}

static int read_rollup(struct look_resident *resident, pid_t pid)
{
	char *text = NULL;
	int rc = read_text(pid, "smaps_rollup", &text);

	if (rc == 0) {
		resident->anonymous = sample_kib_line(text, "\nAnonymous:");
		resident->swap = sample_kib_line(text, "\nSwap:");
	}
	free(text);
	return rc;
}

int look_count_resident(struct look_resident *resident, const struct look *look, pid_t pid)
{
	struct look_resident taken = {.from_ns = session_monotonic()};
	uint64_t before = sample_faults(pid);
	int fd, rc = read_rollup(&taken, pid);

	if (rc != 0)
		return rc;
	fd = open_file(pid, "pagemap");
	if (fd < 0)
		return fd;
	for (size_t i = 0; rc == 0 && i < look->count; i++)
		rc = count_pages(&taken, fd, look->range[i]);
	close(fd);
	if (rc != 0)
		return rc;
	taken.quiet = before != 0 && before == sample_faults(pid);
	taken.to_ns = session_monotonic();
	*resident = taken;
	return 0;
}
