/* SPDX-License-Identifier: MIT
 *
 * Makes a trace of the log that another tool has written as text (text_formats.h): an ordinary
 * directory, in which everything the log does not say is unknown. Called by `heapledger import`.
 */
#ifndef HEAPLEDGER_RECORD_IMPORT_TEXT_H
#define HEAPLEDGER_RECORD_IMPORT_TEXT_H

#include <stdbool.h>

struct text_import_options {
	const char *path;      /* "-": standard input */
	const char *format;    /* NULL: as its lines tell */
	const char *directory; /* of the trace; NULL: named for the file */
	bool force;            /* replace a trace that is there */
};

/* Says what it did, or what is wrong, in the name of `command`. Returns an exit code: TOOL_FINDING
 * when lines were left out. After a failure there is no directory. */
int import_text(const struct text_import_options *options, const char *command);

#endif
