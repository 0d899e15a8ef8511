/* SPDX-License-Identifier: MIT
 *
 * The lines of a text, with their numbers, in bounded memory; and where the text comes from: a
 * file, plain or compressed with gzip or zstd. Called by import_text.c; knows nothing of what the
 * lines mean.
 */
#ifndef HEAPLEDGER_RECORD_TEXT_LINES_H
#define HEAPLEDGER_RECORD_TEXT_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TEXT_LINE_BYTES (64u << 10) /* longer ones are passed over */

struct text_line {
	const char *text; /* without its end; not terminated */
	size_t length;
	uint64_t number; /* from 1 */
	bool too_long;   /* `text` is its beginning */
	bool cut;        /* the text ends before the line does */
};

/* Up to `bytes` bytes of the text: their number, 0 at its end, or -errno. */
typedef ssize_t text_read(void *source, char *to, size_t bytes);

struct text_lines {
	text_read *read;
	void *source;
	char *buffer;
	size_t at; /* what was not given out yet: buffer[at] to buffer[end] */
	size_t end;
	uint64_t number;
	bool ended;
	bool inside; /* a line that was too long: its rest comes first */
};

/* 0 or -ENOMEM. */
int text_lines_open(struct text_lines *lines, text_read *read, void *source);

/* 1 = *line was set, valid until the next call; 0 = no more; -errno. */
int text_lines_next(struct text_lines *lines, struct text_line *line);

void text_lines_close(struct text_lines *lines);

/* A file as such a source, which closes it. *out may hold one after a failure, too, for
 * text_source_error. */
struct text_source;
int text_source_open(struct text_source **out, int fd);
text_read text_source_read;
const char *text_source_error(const struct text_source *source); /* after -errno; never NULL */
void text_source_close(struct text_source *source);

#endif
