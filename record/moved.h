/* SPDX-License-Identifier: MIT
 *
 * Which threads of a process have logged something between two moments, and for which small sizes
 * they were given blocks meanwhile: what a cache holds may then be what it held, and have been
 * something else in between. Called by caches.c; reads the pages of the session, which the threads
 * write on.
 */
#ifndef HEAPLEDGER_RECORD_MOVED_H
#define HEAPLEDGER_RECORD_MOVED_H

#include "session.h"

#include <stddef.h>
#include <stdint.h>

struct moved_page {
	uint32_t number;
	uint32_t tid; /* with the depth */
	uint32_t used;
};

struct moved_thread {
	uint32_t tid;
	uint64_t bins; /* a bit each: hl_cache; all of them if it is not known */
};

/* All zero before the first time. */
struct moved {
	struct moved_page *page; /* that the process's threads were writing */
	size_t pages, page_room;
	struct moved_thread *thread;
	size_t threads, thread_room;
	uint64_t bins; /* of all threads */
};

/* The first moment, and the second: then `thread` has those that have moved. 0 or -ENOMEM. */
int moved_begin(struct moved *moved, const struct session *session, uint32_t serial);
int moved_end(struct moved *moved, const struct session *session, uint32_t serial);
void moved_free(struct moved *moved);

/* Of one thread; 0 = not known which: of all. */
uint64_t moved_bins(const struct moved *moved, uint32_t tid);

#endif
