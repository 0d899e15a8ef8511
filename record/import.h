/* SPDX-License-Identifier: MIT
 *
 * Makes streams and session.json of the raw files that processes left with LD_PRELOAD alone
 * (heapledger/raw.h). Called by every command that reads a trace, and by `heapledger import`.
 */
#ifndef HEAPLEDGER_IMPORT_H
#define HEAPLEDGER_IMPORT_H

#include <stdbool.h>

/* Imports what is in this directory, if there is anything, and removes the raw files of processes
 * that have ended. Says what it did, or what is wrong, in the name of `command`. Returns an exit
 * code; TOOL_OK also for what is no directory. `found`, if not NULL: whether there was anything. */
int import_directory(const char *path, const char *command, bool *found);

#endif
