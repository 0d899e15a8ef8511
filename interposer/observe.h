/* SPDX-License-Identifier: MIT
 *
 * What the exports of the observing library share: the bracket around a call of the real allocator
 * and its records. Between observe_made or observe_given and the end of the bracket nothing may
 * wait.
 */
#ifndef HEAPLEDGER_OBSERVE_H
#define HEAPLEDGER_OBSERVE_H

#include "heapledger/record.h"

#include <stddef.h>

void observe_enter(enum hl_kind kind, size_t size, const void *caller);
void observe_leave(void);

/* A block that was just taken, NULL if it failed; one that is about to be given back. The real call
 * stands between the record of the latter, or observe_enter, and observe_made or observe_leave. */
void observe_made(enum hl_kind kind, void *block, size_t size, size_t alignment);
void observe_given(enum hl_kind kind, void *block, size_t size);

#endif
