/* SPDX-License-Identifier: MIT
 *
 * The heap as a whole: what preload.c exports as malloc and its kin, and what the unit tests call.
 * Never defines malloc. Does not log calls; the system calls beneath are logged by os.c.
 */
#ifndef HEAPLEDGER_HEAP_H
#define HEAPLEDGER_HEAP_H

#include <stdbool.h>
#include <stddef.h>

/* NULL with errno ENOMEM when there is no memory; errno untouched otherwise. */
void *heap_alloc(size_t bytes);
void *heap_calloc(size_t bytes);
void *heap_realloc(void *block, size_t bytes);      /* realloc(block, 0) frees it, as glibc does */
void *heap_aligned(size_t alignment, size_t bytes); /* rounds up to a power of two; EINVAL */
void heap_free(void *block);

/* The same for a signal handler that interrupted one of the calls above in its own thread: no lock,
 * no cache, nothing that may be half changed. Blocks get a mapping of their own. */
void *heap_alloc_aside(size_t bytes);
void *heap_calloc_aside(size_t bytes);
void *heap_realloc_aside(void *block, size_t bytes);
void *heap_aligned_aside(size_t alignment, size_t bytes);
void heap_free_aside(void *block);

size_t heap_usable(const void *block);

/* Bytes a block takes from the heap, and whether it has a mapping of its own. 0 for NULL. */
size_t heap_taken(const void *block, bool *mapped);

int heap_option(int parameter, int value); /* mallopt */
int heap_trim(size_t pad);                 /* malloc_trim: 1 if memory was returned */

/* Process and thread life; heap_start registers the fork handlers and the thread destructor. */
/* Logs what the caches of the calling thread and of the arenas hold: at the end of the process, or,
 * if it runs on, as it is now. */
void heap_log_kept(bool runs_on);

void heap_start(void);
void heap_thread_begin(void); /* before a thread's first call; may itself allocate */

#endif
