/* SPDX-License-Identifier: MIT
 *
 * What the caches of all threads and the fast lists of all arenas hold, read by a thread of the
 * process while the others may run on. Called by kept.c; makes no system call while it reads, waits
 * for no lock.
 */
#ifndef HEAPLEDGER_OTHERS_H
#define HEAPLEDGER_OTHERS_H

#include <stddef.h>
#include <stdint.h>

struct others {
	uint64_t tick;   /* what was done before it had been done, and nothing else */
	uint64_t blocks; /* that others_tell will tell, tables included */
	uint32_t caches; /* there are */
	uint32_t unread; /* lists of caches and arenas of which nothing is known */
	/* See others.c. */
	uint64_t *word;
	size_t words, room;
	uint32_t read, arenas; /* caches and arenas that the words are of */
};

/* Not while a lock of the heap is held by this thread. others_drop is needed afterwards. */
void others_read(struct others *others);

/* One log_kept each. */
void others_tell(struct others *others);

void others_drop(struct others *others);

/* In a fork's child, where whoever may have been reading does not exist. */
void others_fork_child(void);

#endif
