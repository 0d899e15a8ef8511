/* SPDX-License-Identifier: MIT
 *
 * Recording without `heapledger record`: the process writes a file of its own (heapledger/raw.h)
 * into the directory that HEAPLEDGER_OUT names. Called by attach.c alone, in whose place it takes
 * and gives pages. Raw system calls only; no allocation, no lock.
 *
 * The file grows by chunks of pages, each reserved on the disk before it is mapped: a full disk
 * ends the recording by an error and never the program by SIGBUS. A chunk is unmapped when all of
 * its pages are full, and a full one that still has a page in some thread's hand leaves memory but
 * for that, so resident memory does not grow with the log. System calls are made only where a chunk
 * is opened, about one for each MiB of log. No descriptor is kept: the program may close any.
 */
#ifndef HEAPLEDGER_ALONE_H
#define HEAPLEDGER_ALONE_H

#include "heapledger/raw.h"
#include "heapledger/record.h"

#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* The calls of one opening of a chunk, for the log. */
#define ALONE_CALLS 10
struct alone_calls {
	uint32_t count;
	struct hl_syscall_record call[ALONE_CALLS];
};

/* Whether the environment names a directory. A relative name becomes absolute, here and for the
 * programs that this one starts. */
bool alone_find(char **envp);

/* What ticks are; and a pair of both clocks. */
bool alone_trusts_tsc(void);
void alone_read_clocks(uint64_t *tick, uint64_t *ns);

/* Creates this process's file. Returns its entry, whose serial is set, or NULL after a line on
 * stderr. */
struct hl_process *alone_create(void);

/* In a copy of the process: lets go of the parent's file; interrupted as in attach_process. */
bool alone_leave_parent(bool interrupted);

/* A fresh page, or NULL: the recording has ended, or too many threads hold pages. */
struct hl_page *alone_take_page(struct alone_calls *calls);
void alone_give_page(struct hl_page *page);
bool alone_has_page(const struct hl_page *page);

/* Bytes of the file that are in the process's memory. */
uint64_t alone_resident_bytes(void);

#pragma GCC visibility pop

#endif
