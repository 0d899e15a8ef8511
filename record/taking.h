/* SPDX-License-Identifier: MIT
 *
 * Taking records out of the shared pages that targets fill, into the streams of their processes; and
 * what of these pages counts as a process's own memory. Called by the collector, the ring and
 * processes.c.
 */
#ifndef HEAPLEDGER_RECORD_TAKING_H
#define HEAPLEDGER_RECORD_TAKING_H

#include "processes.h"

/* Takes the records of one page; the page can be freed afterwards. */
void taking_page(struct processes *all, uint32_t number);

/* A thread that has nothing more to log does not give its page away. Notes what there is in pages that
 * are still being filled; when the ready pages, which came before them, have been taken since, takes
 * that. 0 or -errno. */
int taking_look_ahead(struct processes *all, const struct process *process);
int taking_ahead(struct processes *all, struct process *process);

/* The pages of the dead: those being filled, and those that it could not push any more. What it
 * pushed was drained before. A detached process goes on writing: its pages are left to it. */
void taking_owned(struct processes *all, const struct process *process, bool detached);

/* The level for all blocks from here on: stream_set_level. */
void taking_set_level(struct processes *all, int level);

/* Bytes of the session that this process has in memory. */
uint64_t taking_recorder_bytes(const struct processes *all, const struct process *process);

/* Counts the pages which living processes have in hand now into their touched pages. */
void taking_count_owned(struct processes *all);

#endif
