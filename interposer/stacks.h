/* SPDX-License-Identifier: MIT
 *
 * The call stack of the call under way, as a number for its record (heapledger/callstack.h). Called
 * by log.c, within a bracket. Takes no lock, never allocates; reads no memory that it does not know
 * to be there.
 *
 * Most stacks have been seen before, in the same place of the same thread. How a stack is unwound
 * depends on the registers at its start and on the words that are read on the way: if these are
 * what they were, so is the stack. A thread's cache keeps them, and comparing 20 words costs less
 * than unwinding one frame.
 */
#ifndef HEAPLEDGER_STACKS_H
#define HEAPLEDGER_STACKS_H

#include <stddef.h>
#include <stdint.h>

/* What a thread remembers: stacks_cache_bytes() of zeroed memory, for stacks of so many frames. */
struct stacks_cache;
size_t stacks_cache_bytes(unsigned depth);

/* What the record's caller is to be: HL_CALLER_STACK and a number, or `caller` itself if the stack
 * cannot be told. Without a cache (a signal handler in the middle of a call) it takes longer. */
uint64_t stacks_capture(struct stacks_cache *cache, uint64_t caller);

#endif
