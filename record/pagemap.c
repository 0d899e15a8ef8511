/* SPDX-License-Identifier: MIT
 *
 * See pagemap.h.
 */
#include "pagemap.h"

#include "heapledger/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

/* linux/fs.h of 6.7, which Debian 12 does not have. */
#define CATEGORY_FILE (UINT64_C(1) << 2)
#define CATEGORY_PRESENT (UINT64_C(1) << 3)
#define CATEGORY_SWAPPED (UINT64_C(1) << 4)
#define CATEGORY_ZERO (UINT64_C(1) << 5)
#define CATEGORY_HUGE (UINT64_C(1) << 6)

struct region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

struct scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};
#define SCAN _IOWR('f', 16, struct scan_arg)
static_assert(sizeof(struct scan_arg) == 96, "the first published size");

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

static unsigned flags_of(uint64_t categories)
{
	return ((categories & CATEGORY_PRESENT) == 0 ? HL_RESIDENT_SWAPPED : 0) |
	       ((categories & CATEGORY_HUGE) != 0 ? HL_RESIDENT_HUGE : 0) |
	       ((categories & CATEGORY_ZERO) != 0 ? HL_RESIDENT_ZERO : 0);
}

/* One piece. -ENOTTY if this kernel cannot. */
static int scan_piece(
	struct pagemap *pagemap, uint64_t start, uint64_t end, pagemap_take *take, void *context)
{
	struct region regions[REGIONS];

	while (start < end) {
		struct scan_arg arg = {
			.size = sizeof(arg),
			.start = start,
			.end = end,
			.vec = (uint64_t)(uintptr_t)regions,
			.vec_len = REGIONS,
			.category_anyof_mask = CATEGORY_PRESENT | CATEGORY_SWAPPED,
			.return_mask = CATEGORY_FILE | CATEGORY_PRESENT | CATEGORY_SWAPPED |
				       CATEGORY_ZERO | CATEGORY_HUGE,
		};
		int count = ioctl(pagemap->fd, SCAN, &arg), rc = 0;

		if (count < 0)
			return -errno;
		for (int i = 0; rc == 0 && i < count; i++)
			rc = take(context, &(struct pagemap_run){regions[i].start, regions[i].end,
						   flags_of(regions[i].categories),
						   (regions[i].categories & CATEGORY_FILE) != 0});
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
