/* SPDX-License-Identifier: MIT
 *
 * The collector's end of the shared memory (heapledger/session.h): creating and removing the file,
 * pages and ticks. Knows nothing of processes or trace files.
 */
#ifndef HEAPLEDGER_RECORD_SESSION_H
#define HEAPLEDGER_RECORD_SESSION_H

#include "heapledger/session.h"

#include <stddef.h>
#include <stdint.h>

struct session {
	struct hl_session *map;
	struct hl_process *table;
	_Atomic uint32_t *links;
	char *pages;
	uint64_t bytes;
	int fd;
	uint32_t high_slot; /* slots of the table were never used from here on */
	char path[64];
	/* The clocks at the same instant, when the session began. */
	uint64_t tick;
	uint64_t clock_ns;
	uint64_t realtime_ns;
	uint64_t tick_hz;
};

/* pool_bytes and the tables of stacks are cut to what /dev/shm can hold. 0 or -errno. */
int session_create(struct session *session, uint64_t pool_bytes, enum hl_on_full on_full,
	unsigned stack_depth);
void session_destroy(struct session *session);

/* Has memory allocated for what targets may soon touch: call it in each round. When there is none
 * left they make do with what they have. */
void session_back(struct session *session);

uint64_t session_tick(const struct session *session);
uint64_t session_monotonic(void);

/* Both at the same instant: a pair that is off by a microsecond would put the calls of a whole second
 * beside those that the kernel tells of. */
void session_read_clocks(const struct session *session, uint64_t *tick, uint64_t *ns);

static inline struct hl_page *session_page(const struct session *session, uint32_t number)
{
	return (struct hl_page *)(session->pages + (size_t)number * HL_PAGE_BYTES);
}

uint32_t session_fresh_pages(const struct session *session);
void session_free_page(struct session *session, uint32_t number);

#endif
