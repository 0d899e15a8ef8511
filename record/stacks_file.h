/* SPDX-License-Identifier: MIT
 *
 * Writes stacks.hls (heapledger/callstack.h): the stacks and modules that the session's tables
 * hold, once each; `dirfd` stays the caller's. Called by processes.c before it takes records that may name them.
 */
#ifndef HEAPLEDGER_RECORD_STACKS_FILE_H
#define HEAPLEDGER_RECORD_STACKS_FILE_H

#include "session.h"

#include <stdint.h>

struct stacks_file;

/* Without stacks the file begins with the first module. 0 or -errno. */
int stacks_file_create(struct stacks_file **out, const struct session *session, int dirfd);

/* Writes what is new. After an error nothing is written any more. */
int stacks_file_catch_up(struct stacks_file *file);

uint64_t stacks_file_bytes(const struct stacks_file *file);

/* Does nothing with NULL. */
void stacks_file_close(struct stacks_file *file);

#endif
