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

/* Controls would be obeyed by a terminal; those of 8 bits are UTF-8's c2 80 to c2 9f. */
static inline bool line_is_control(const char *text, size_t left)
{
	unsigned char c = (unsigned char)text[0];

	return c < ' ' || c == 0x7f ||
	       (c == 0xc2 && left > 1 && (unsigned char)text[1] < 0xa0);
}

static inline void line_add(struct line *line, const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes && line->used < LINE_BYTES - 1; i++) {
		bool control = line_is_control(text + i, bytes - i);

		line->text[line->used++] = control ? '?' : text[i];
		i += control && (unsigned char)text[i] == 0xc2;
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
