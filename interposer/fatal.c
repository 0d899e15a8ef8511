/* SPDX-License-Identifier: MIT
 *
 * fatal.h. Called from anywhere in the heap, with locks held or not: nothing here may use the heap.
 */
#include "fatal.h"
#include "line.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__thread const void *fatal_caller __attribute__((tls_model("initial-exec")));

static _Noreturn void line_die(struct line *line)
{
	line_write(line); /* whether or not anybody reads it */
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
