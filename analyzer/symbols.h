/* SPDX-License-Identifier: MIT
 *
 * Names for addresses in the code of recorded processes: function, file and line, and the functions
 * that were inlined there. Uses elfutils (with separate debug files, by build id, and debuginfod if
 * DEBUGINFOD_URLS is set); names of C++ and Rust are demangled. A file that is not the one that was
 * recorded, by its build id, gives no names. Called by the commands.
 */
#ifndef HEAPLEDGER_SYMBOLS_H
#define HEAPLEDGER_SYMBOLS_H

#include "trace.h"

/* One function at an address. Strings live as long as the symbols; NULL = not known. */
struct symbol {
	const char *function;
	const char *file;
	unsigned line; /* 0 = not known */
	bool inlined;  /* into the next one */
};

/* The functions at an address, the innermost first; none if nothing is known of it. */
struct symbol_place {
	const struct stack_module *module; /* NULL = not known */
	uint64_t offset;                   /* of the address in the module's file */
	const struct symbol *symbols;
	unsigned count;
	const char *why; /* why there are none, if the module is known: a word or two */
};

struct symbols;

/* NULL when there is no memory. The trace must stay open. */
struct symbols *symbols_open(const struct trace *trace);
void symbols_close(struct symbols *symbols);

/* What a frame of a stack is, for a process at a time (a record's tick). 0 or -ENOMEM. */
int symbols_find(struct symbols *symbols, const struct trace_stream *stream, uint64_t tick,
	uint64_t frame, struct symbol_place *place);

#endif
