/* SPDX-License-Identifier: MIT
 *
 * fatal.h. Called from anywhere in the heap, with locks held or not: nothing here may use the heap.
 */
#include "fatal.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FATAL_LINE_BYTES 320

__thread const void *fatal_caller __attribute__((tls_model("initial-exec")));

struct line {
	char text[FATAL_LINE_BYTES];
	size_t used;
};

static void line_text(struct line *line, const char *text)
{
	size_t bytes = strlen(text);

	if (bytes > FATAL_LINE_BYTES - line->used)
		bytes = FATAL_LINE_BYTES - line->used;
	memcpy(line->text + line->used, text, bytes);
	line->used += bytes;
}

static void line_number(struct line *line, uintptr_t value, unsigned base)
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

static _Noreturn void line_die(struct line *line)
{
	line_text(line, "\n");
	if (write(STDERR_FILENO, line->text, line->used) < 0)
		line->used = 0; /* nobody can be told */
	abort();
}

void fatal_block(const char *fault, const void *block)
{
	struct line line = {.used = 0};

	line_text(&line, "heapledger: ");
	line_text(&line, fault);
	line_text(&line, ": block ");
	line_number(&line, (uintptr_t)block, 16);
	line_text(&line, ", called from ");
	line_number(&line, (uintptr_t)fatal_caller, 16);
	line_die(&line);
}

void fatal_check(const char *invariant, unsigned arena, const void *address)
{
	struct line line = {.used = 0};

	line_text(&line, "heapledger: check: ");
	line_text(&line, invariant);
	line_text(&line, ": arena ");
	line_number(&line, arena, 10);
	line_text(&line, ", address ");
	line_number(&line, (uintptr_t)address, 16);
	if (fatal_caller != NULL) { /* not at the end of the process */
		line_text(&line, ", called from ");
		line_number(&line, (uintptr_t)fatal_caller, 16);
	}
	line_die(&line);
}

void fatal_os(const char *call, const void *address, unsigned long bytes, int error)
{
	struct line line = {.used = 0};

	line_text(&line, "heapledger: ");
	line_text(&line, call);
	line_text(&line, "(");
	line_number(&line, (uintptr_t)address, 16);
	line_text(&line, ", ");
	line_number(&line, bytes, 10);
	line_text(&line, ") failed: errno ");
	line_number(&line, (uintptr_t)error, 10);
	line_die(&line);
}
