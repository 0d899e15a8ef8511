/* SPDX-License-Identifier: MIT
 *
 * The ioctl PAGEMAP_SCAN of /proc/PID/pagemap, from linux/fs.h of 6.7, which Debian 12 does not have:
 * which pages of a process are in memory, in runs of alike ones. Asked by the recorder about a
 * process that runs, and by a process about itself at its end.
 */
#ifndef HEAPLEDGER_PAGEMAP_SCAN_H
#define HEAPLEDGER_PAGEMAP_SCAN_H

#include "heapledger/record.h"

#include <assert.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* Categories of a page. */
#define HL_PAGEMAP_FILE (UINT64_C(1) << 2) /* of a file, or shared: not the process's own */
#define HL_PAGEMAP_PRESENT (UINT64_C(1) << 3)
#define HL_PAGEMAP_SWAPPED (UINT64_C(1) << 4)
#define HL_PAGEMAP_ZERO (UINT64_C(1) << 5)
#define HL_PAGEMAP_HUGE (UINT64_C(1) << 6)

struct hl_pagemap_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

struct hl_pagemap_scan {
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
static_assert(sizeof(struct hl_pagemap_scan) == 96, "the first published size");

#define HL_PAGEMAP_SCAN _IOWR('f', 16, struct hl_pagemap_scan)

/* enum hl_resident_flags; of categories that were asked for. */
static inline unsigned hl_pagemap_flags(uint64_t categories)
{
	return ((categories & HL_PAGEMAP_PRESENT) == 0 ? HL_RESIDENT_SWAPPED : 0u) |
	       ((categories & HL_PAGEMAP_HUGE) != 0 ? HL_RESIDENT_HUGE : 0u) |
	       ((categories & HL_PAGEMAP_ZERO) != 0 ? HL_RESIDENT_ZERO : 0u);
}

#endif
