/* SPDX-License-Identifier: MIT
 *
 * A line for stderr, built and written without the heap and without stdio: what the library has to
 * say where neither may be used. What does not fit is left out. Called by fatal.c and tunables.c.
 */
#ifndef HEAPLEDGER_LINE_H
#define HEAPLEDGER_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 512

struct line {
	char text[LINE_BYTES];
	size_t used; /* the last byte is kept for the line's end */
};

/* Controls, those of 8 bits in UTF-8 too, would be obeyed by a terminal. */
static inline void line_add(struct line *line, const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes && line->used < LINE_BYTES - 1; i++) {
		unsigned char c = (unsigned char)text[i];
		bool after_c2 = i > 0 && (unsigned char)text[i - 1] == 0xc2;
		bool control = c < ' ' || c == 0x7f || (after_c2 && c < 0xa0);

		line->text[line->used++] = control ? '?' : text[i];
	}
}

static inline void line_text(struct line *line, const char *text)
{
	line_add(line, text, strlen(text));
}

static inline void line_number(struct line *line, uintptr_t value, unsigned base)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;

	digits[at] = '\0';
	do {
		digits[--at] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	line_text(line, base == 16 ? "0x" : "");
	line_text(line, digits + at);
}

/* False if nobody can be told. */
static inline bool line_write(struct line *line)
{
	line->text[line->used++] = '\n';
	return write(STDERR_FILENO, line->text, line->used) == (ssize_t)line->used;
}

#endif
