/* SPDX-License-Identifier: MIT
 *
 * record --ring SIZE: keeps the newest SIZE bytes of records, and the heap as it was before them.
 * When there is half as much more, all streams are cut at one time (compact.h), one after the other
 * in a thread of its own, while the collector goes on writing. Called by the collector's loop.
 */
#ifndef HEAPLEDGER_RECORD_RING_H
#define HEAPLEDGER_RECORD_RING_H

#include "processes.h"

#include <stdbool.h>
#include <stdint.h>

struct ring;

/* 0 or -ENOMEM. The processes must outlive it. */
int ring_open(struct ring **out, struct processes *all, uint64_t bytes);

/* Does what is due; never waits. An error goes to all->error: the recording ends. */
void ring_round(struct ring *ring);

/* Whether records come so much faster than they can be cut off that no more should be taken now. */
bool ring_full(const struct ring *ring);

/* When all streams are closed: ends a cut that is under way, and makes the last one. */
void ring_end(struct ring *ring);

void ring_close(struct ring *ring);

#endif
