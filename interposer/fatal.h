/* SPDX-License-Identifier: MIT
 *
 * The end of a process whose heap cannot be trusted any more: one line on stderr by write(2), then
 * abort. No stdio, no malloc.
 */
#ifndef HEAPLEDGER_FATAL_H
#define HEAPLEDGER_FATAL_H

/* Never part of the function that found the fault, however much that takes in. */
#define FATAL _Noreturn __attribute__((noinline, cold))

/* "heapledger: FAULT: block ADDRESS, called from CALLER". The caller is the return address of the
 * public entry point, as fatal_set_caller noted it; 0 if none did. */
FATAL void fatal_block(const char *fault, const void *block);

/* "heapledger: check: INVARIANT: arena N, address ADDRESS[, called from CALLER]" */
FATAL void fatal_check(const char *invariant, unsigned arena, const void *address);

/* "heapledger: CALL(ADDRESS, BYTES) failed: errno N" */
FATAL void fatal_os(const char *call, const void *address, unsigned long bytes, int error);

extern __thread const void *fatal_caller __attribute__((tls_model("initial-exec")));

/* Noted by each entry point that can find a fault. */
static inline void fatal_set_caller(const void *caller)
{
	fatal_caller = caller;
}

#endif
