/* SPDX-License-Identifier: MIT
 *
 * Which pages of a process are in memory, by /proc/PID/pagemap: its ioctl PAGEMAP_SCAN (Linux 6.7),
 * which passes over what is not there, or else by reading eight bytes for each page. Called by
 * resident.c; neither stops the process nor holds its memory's lock for long.
 */
#ifndef HEAPLEDGER_RECORD_PAGEMAP_H
#define HEAPLEDGER_RECORD_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pagemap {
	int fd;
	bool scans; /* there is PAGEMAP_SCAN */
};

/* Pages that follow each other and are alike, at least one. */
struct pagemap_run {
	uint64_t start;
	uint64_t end;
	unsigned flags; /* enum hl_resident_flags */
	bool file;      /* of a file, or shared: not the process's own */
};

/* What is not 0 ends the scan, which returns it. */
typedef int pagemap_take(void *context, const struct pagemap_run *run);

/* Of the memory that the process has now: an exec gives it another. 0 or -errno. */
int pagemap_open(struct pagemap *pagemap, pid_t pid);
void pagemap_close(struct pagemap *pagemap);

/* The runs of present or swapped pages in a range, in order. 0 or -errno. */
int pagemap_scan(
	struct pagemap *pagemap, uint64_t start, uint64_t end, pagemap_take *take, void *context);

/* Whether that memory is in use still: if so, all that was found was so. */
bool pagemap_alive(const struct pagemap *pagemap);

#endif
