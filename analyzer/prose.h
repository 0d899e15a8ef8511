/* SPDX-License-Identifier: MIT
 *
 * How the summary writes on the terminal: sentences broken to its width, headings, sizes and times.
 * Whatever names they hold, no control character reaches the terminal.
 */
#ifndef HEAPLEDGER_PROSE_H
#define HEAPLEDGER_PROSE_H

#include "analysis.h"

#include <stddef.h>
#include <stdint.h>

#define PROSE_COLUMNS 80

/* Empty unless standard output is a terminal that shows them. */
struct prose {
	const char *bold, *warn, *dim, *plain;
};
extern struct prose prose;

/* Finds out whether it is. */
void prose_begin(void);

void prose_heading(const char *text);

/* Of several processes it says which one it is about, and `which` that is. */
void prose_heading_of_main(const struct analysis *analysis, const char *text, const char *which);

/* A sentence of at most 1,023 bytes, indented by two columns. */
void prose_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same in the colour of warnings. */
void prose_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same as prose_say; the lines after the first are indented by `more` columns more. */
void prose_broken(const char *sentence, size_t more);

/* Exactly `width` columns. */
void prose_cell(const char *name, int width);

/* In one of a few static buffers: enough for one sentence. Less than nothing is nothing. */
const char *prose_size(int64_t bytes);
const char *prose_duration(uint64_t ns);

#endif
