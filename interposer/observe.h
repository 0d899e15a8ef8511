/* SPDX-License-Identifier: MIT
 *
 * The calls of the real allocator, as observe.c makes and logs them, for the operators of C++.
 */
#ifndef HEAPLEDGER_OBSERVE_H
#define HEAPLEDGER_OBSERVE_H

#include "heapledger/record.h"

#include <stdbool.h>
#include <stddef.h>

/* Whether a function is of the object that the program's malloc is of. */
bool observe_has(const void *function);

/* What the exports of the same names do. */
void *observe_malloc(size_t size, const void *caller);
void *observe_memalign(size_t alignment, size_t size, const void *caller);
void observe_free(enum hl_kind kind, void *block, size_t size, const void *caller);

/* A block that came by another way, and the last one of this thread that did not. */
void observe_found(
	enum hl_kind kind, void *block, size_t size, size_t alignment, const void *caller);
extern __thread const void *observe_last __attribute__((tls_model("initial-exec")));

#endif
