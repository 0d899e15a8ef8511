/* SPDX-License-Identifier: MIT
 *
 * Starts the commands that are Python scripts (reports/). Called by main.c.
 */
#ifndef HEAPLEDGER_SCRIPT_H
#define HEAPLEDGER_SCRIPT_H

/* Replaces this process by the script with argv[1...]; HEAPLEDGER_BIN tells it where we are.
 * Returns an exit code if that failed. */
int script_run(const char *script, int argc, char **argv);

#endif
