/* SPDX-License-Identifier: MIT
 *
 * The trace directory: created before the program runs, never over anything that is not a trace.
 * Called by cmd_record.c; import.c lists directories by it, too.
 */
#ifndef HEAPLEDGER_RECORD_OUTPUT_H
#define HEAPLEDGER_RECORD_OUTPUT_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>

/* Creates the directory, or with `force` empties one that holds a trace and nothing else. Returns
 * its descriptor, or -errno and a line in `why`. `created`: it did not exist. */
int output_open(const char *path, bool force, bool *created, char *why, size_t why_bytes);

/* The entries of a directory, from the first on; NULL and errno. dirfd stays open. */
DIR *output_list(int dirfd);

/* What root makes in a directory of another user, as when importing, is that user's. */
void output_hand_over(int dirfd, int fd);

/* Removes what output_open and the recording made, for a program that could not be started. */
void output_remove(const char *path, int dirfd, bool created);

#endif
