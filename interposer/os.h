/* SPDX-License-Identifier: MIT
 *
 * Every system call the heap makes on memory, each logged with its reason, region and arena. The
 * only callers of sbrk, mmap, munmap, mremap, madvise and mprotect in the library.
 *
 * Addresses and lengths are multiples of the page size (os_sbrk: any increment). A refusal that
 * the kernel may answer to a correct request (no memory, no map count, locked pages) is returned;
 * any other is a bug and fatal. errno is kept.
 */
#ifndef HEAPLEDGER_OS_H
#define HEAPLEDGER_OS_H

#include "heapledger/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OS_PAGE_BYTES ((size_t)4096)

struct os_why {
	enum hl_reason reason;
	enum hl_region region;
	unsigned arena;
};

static inline size_t os_page_up(size_t bytes)
{
	return (bytes + OS_PAGE_BYTES - 1) & ~(OS_PAGE_BYTES - 1);
}

static inline size_t os_page_down(size_t bytes)
{
	return bytes & ~(OS_PAGE_BYTES - 1);
}

/* The break before the move; NULL if it could not be moved. os_break() is where it is now. */
void *os_sbrk(intptr_t increment, struct os_why why);
void *os_break(void);

void *os_map(void *hint, size_t bytes, struct os_why why);     /* read and write; NULL = refused */
void *os_reserve(void *hint, size_t bytes, struct os_why why); /* no access; NULL = refused */
bool os_unmap(void *address, size_t bytes, struct os_why why);
void *os_remap(void *address, size_t old_bytes, size_t new_bytes, struct os_why why);
bool os_open(void *address, size_t bytes, struct os_why why);    /* read and write from now */
bool os_discard(void *address, size_t bytes, struct os_why why); /* reads as zero afterwards */
bool os_close(void *address, size_t bytes, struct os_why why);   /* reserve again in place */

/* For memory that is new: huge pages, if they are wanted (tunables.huge_bytes) and it can hold one.
 * From the page that the address lies in. */
void os_advise_huge(void *address, size_t bytes, struct os_why why);

/* vm.overcommit_memory is 2: reserve counts, so closing is the only way to give memory back. */
bool os_commit_is_strict(void);
unsigned os_cores(void);

/* Of the huge pages that the kernel gives to whoever asks for them; 0: it gives none, or all get
 * them. */
size_t os_huge_page_bytes(void);

uint64_t os_clock_ms(void);

#endif
