/* SPDX-License-Identifier: MIT
 *
 * See text_lines.h. The buffer holds the longest line and what a read brings beyond it.
 */
#include "text_lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES (4 * (size_t)TEXT_LINE_BYTES)

int text_lines_open(struct text_lines *lines, text_read *read, void *source)
{
	*lines = (struct text_lines){.read = read, .source = source};
	lines->buffer = malloc(BUFFER_BYTES);
	return lines->buffer != NULL ? 0 : -ENOMEM;
}

void text_lines_close(struct text_lines *lines)
{
	free(lines->buffer);
	lines->buffer = NULL;
}

/* Reads more behind what is there; 0 when there is no more, or no room. */
static ssize_t fill(struct text_lines *lines)
{
	ssize_t n;

	if (lines->ended)
		return 0;
	if (lines->at > 0) {
		memmove(lines->buffer, lines->buffer + lines->at, lines->end - lines->at);
		lines->end -= lines->at;
		lines->at = 0;
	}
	n = lines->read(lines->source, lines->buffer + lines->end, BUFFER_BYTES - lines->end);
	if (n > 0)
		lines->end += (size_t)n;
	lines->ended = n == 0;
	return n;
}

/* The rest of a line that was too long. */
static int pass_over(struct text_lines *lines)
{
	for (;;) {
		char *from = lines->buffer + lines->at;
		char *newline = memchr(from, '\n', lines->end - lines->at);
		ssize_t n;

		lines->at = newline != NULL ? (size_t)(newline - lines->buffer) + 1 : lines->end;
		if (newline != NULL || lines->ended)
			return 0;
		n = fill(lines);
		if (n < 0)
			return (int)n;
	}
}

int text_lines_next(struct text_lines *lines, struct text_line *line)
{
	int rc = lines->inside ? pass_over(lines) : 0;
	size_t seen = 0;
	char *newline;

	lines->inside = false;
	if (rc != 0)
		return rc;
	for (;;) {
		size_t there = lines->end - lines->at;
		ssize_t n;

		newline = memchr(lines->buffer + lines->at + seen, '\n', there - seen);
		if (newline != NULL || there > TEXT_LINE_BYTES)
			break;
		seen = there;
		n = fill(lines);
		if (n < 0)
			return (int)n;
		if (n == 0 && there == 0)
			return 0;
		if (n == 0)
			break;
	}
	*line = (struct text_line){.text = lines->buffer + lines->at, .number = ++lines->number};
	line->length = newline != NULL ? (size_t)(newline - line->text) : lines->end - lines->at;
	line->too_long = line->length > TEXT_LINE_BYTES;
	line->cut = newline == NULL && !line->too_long;
	lines->inside = newline == NULL && line->too_long;
	lines->at += line->length + (newline != NULL);
	return 1;
}
