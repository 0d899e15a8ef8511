/* SPDX-License-Identifier: MIT
 *
 * The line that tells how far a long reading is, and how long it will take still. Called by
 * analyze.c, which owns it, and by analysis.c for each record. It is drawn on standard error if
 * that is a terminal which can erase a line, from half a second on.
 */
#ifndef HEAPLEDGER_PROGRESS_H
#define HEAPLEDGER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#define PROGRESS_STEP 65536 /* records between looks at the clock */

struct progress {
	void (*draw)(struct progress *progress); /* NULL = there is no such terminal */
	uint64_t total;                          /* records */
	uint64_t done;
	uint64_t start_ns;
	uint64_t next_ns;
	bool at_most; /* the reading may end before the last record */
	bool shown;
};

void progress_open(struct progress *progress, uint64_t total, bool at_most);

static inline void progress_step(struct progress *progress)
{
	if (++progress->done % PROGRESS_STEP == 0 && progress->draw)
		progress->draw(progress);
}

/* Erases the line, so that what is printed then stands alone. */
void progress_close(struct progress *progress);

#endif
