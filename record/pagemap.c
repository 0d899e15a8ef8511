/* SPDX-License-Identifier: MIT
 *
 * See pagemap.h.
 */
#include "pagemap.h"

#include "heapledger/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define PIECE_BYTES                                                                                \
	(UINT64_C(64) << 20) /* so long is the lock held: 0.3 ms at most when all is there */
#define REGIONS 512
#define READ_BYTES (64 << 10)
#define WAY_ENV "HEAPLEDGER_PAGEMAP" /* read: for tests, as if there were no PAGEMAP_SCAN */

#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE (UINT64_C(1) << 61)

int pagemap_open(struct pagemap *pagemap, pid_t pid)
{
	const char *way = getenv(WAY_ENV);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	pagemap->fd = open(path, O_RDONLY | O_CLOEXEC);
	pagemap->scans = way == NULL || strcmp(way, "read") != 0;
	return pagemap->fd < 0 ? -errno : 0;
}

void pagemap_close(struct pagemap *pagemap)
{
	close(pagemap->fd);
}

/* One piece. -ENOTTY if this kernel cannot. */
static int scan_piece(
	struct pagemap *pagemap, uint64_t start, uint64_t end, pagemap_take *take, void *context)
{
	struct hl_pagemap_region regions[REGIONS];

	while (start < end) {
		struct hl_pagemap_scan arg = {
			.size = sizeof(arg),
			.start = start,
			.end = end,
			.vec = (uint64_t)(uintptr_t)regions,
			.vec_len = REGIONS,
			.category_anyof_mask = HL_PAGEMAP_PRESENT | HL_PAGEMAP_SWAPPED,
			.return_mask = HL_PAGEMAP_FILE | HL_PAGEMAP_PRESENT | HL_PAGEMAP_SWAPPED |
				       HL_PAGEMAP_ZERO | HL_PAGEMAP_HUGE,
		};
		int count = ioctl(pagemap->fd, HL_PAGEMAP_SCAN, &arg), rc = 0;

		if (count < 0)
			return -errno;
		for (int i = 0; rc == 0 && i < count; i++)
			rc = take(context, &(struct pagemap_run){regions[i].start, regions[i].end,
						   hl_pagemap_flags(regions[i].categories),
						   (regions[i].categories & HL_PAGEMAP_FILE) != 0});
		if (rc != 0)
			return rc;
		if (arg.walk_end <= start)
			return -EIO;
		start = arg.walk_end;
	}
	return 0;
}

/* Of alike entries, how many from `at` on. */
static size_t alike(const uint64_t *entry, size_t at, size_t count, uint64_t mask)
{
	size_t end = at + 1;

	while (end < count && ((entry[end] ^ entry[at]) & mask) == 0)
		end++;
	return end - at;
}

static int read_piece(const struct pagemap *pagemap, uint64_t start, uint64_t end,
	pagemap_take *take, void *context)
{
	const uint64_t there = ENTRY_PRESENT | ENTRY_SWAPPED, mask = there | ENTRY_FILE;
	uint64_t entry[READ_BYTES / sizeof(uint64_t)];
	int rc = 0;

	while (rc == 0 && start < end) {
		size_t wanted = (end - start) / PAGE_BYTES * sizeof(entry[0]), count;
		ssize_t got =
			pread(pagemap->fd, entry, wanted < sizeof(entry) ? wanted : sizeof(entry),
				(off_t)(start / PAGE_BYTES * sizeof(entry[0])));

		if (got < (ssize_t)sizeof(entry[0]))
			return got < 0 ? -errno : -ESRCH;
		count = (size_t)got / sizeof(entry[0]);
		for (size_t at = 0, more; rc == 0 && at < count; at += more) {
			struct pagemap_run run = {.start = start + at * PAGE_BYTES};

			more = alike(entry, at, count, mask);
			run.end = run.start + more * PAGE_BYTES;
			run.flags = (entry[at] & ENTRY_PRESENT) != 0 ? 0 : HL_RESIDENT_SWAPPED;
			run.file = (entry[at] & ENTRY_FILE) != 0;
			if ((entry[at] & there) != 0)
				rc = take(context, &run);
		}
		start += count * PAGE_BYTES;
	}
	return rc;
}

int pagemap_scan(
	struct pagemap *pagemap, uint64_t start, uint64_t end, pagemap_take *take, void *context)
{
	int rc = 0;

	while (rc == 0 && start < end) {
		uint64_t until = end - start > PIECE_BYTES ? start + PIECE_BYTES : end;

		rc = pagemap->scans ? scan_piece(pagemap, start, until, take, context)
				    : read_piece(pagemap, start, until, take, context);
		if (rc == -ENOTTY && pagemap->scans) {
			pagemap->scans = false;
			rc = 0;
			continue;
		}
		start = until;
	}
	return rc;
}

/* The kernel gives the entries of no memory that nobody uses any more. */
bool pagemap_alive(const struct pagemap *pagemap)
{
	uint64_t entry;

	return pread(pagemap->fd, &entry, sizeof(entry), 0) == sizeof(entry);
}
