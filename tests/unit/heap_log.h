/* SPDX-License-Identifier: MIT
 *
 * A log that only counts, for unit tests of the heap: stands in for interposer/log.c.
 */
#ifndef HEAPLEDGER_TESTS_HEAP_LOG_H
#define HEAPLEDGER_TESTS_HEAP_LOG_H

#include "heapledger/record.h"

#include <stddef.h>

/* System calls of that kind and reason so far, failed ones included. */
unsigned heap_log_count(enum hl_kind kind, enum hl_reason reason);
unsigned heap_log_failed(enum hl_kind kind);

/* The calling thread's last system call. */
struct hl_syscall_record heap_log_last(void);

/* How often the heap asked for more room than a call is given. */
unsigned heap_log_rooms(void);

/* The last list of what caches hold, its head first. Only one thread may tell at a time. */
#define HEAP_LOG_KEPT_MOST 200000
size_t heap_log_kept_list(const struct hl_mark_record **list);

/* How often memory was borrowed for that. */
unsigned heap_log_borrowed(void);

#endif
