/* SPDX-License-Identifier: MIT
 *
 * The stacks and modules of a recording: reads stacks.hls (heapledger/callstack.h). Called by
 * trace.c; symbols.c makes names of what is found here. No I/O: the bytes are given, and checked.
 */
#ifndef HEAPLEDGER_STACKS_READER_H
#define HEAPLEDGER_STACKS_READER_H

#include "heapledger/callstack.h"

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

struct stack {
	uint32_t number;
	uint8_t end; /* enum hl_stack_end */
	uint8_t count;
	uint64_t first; /* of its frames among all */
};

struct stack_module {
	uint32_t serial; /* of the process that noted it */
	uint32_t order;  /* in the file */
	uint64_t tick;
	uint64_t start, end;
	uint64_t bias;
	uint8_t build_id_bytes;
	uint8_t build_id[HL_BUILD_ID_BYTES];
	char *path;
};

/* All zero holds nothing. */
struct stacks {
	struct stack *stacks; /* by number */
	size_t count, stack_room;
	uint64_t *frames;
	size_t frame_count, frame_room;
	struct stack_module *modules; /* by serial, then as they were noted */
	size_t module_count, module_room;
	unsigned depth; /* frames at most; 0: only callers are known, and the modules to name them by */
	uint64_t tail_bytes; /* after the last whole block, as a killed recorder leaves them */
};

/* 0; -ENOMEM; or -EBADMSG with *why and *offset set: then what was read before is there. */
int stacks_read(struct stacks *stacks, const uint8_t *bytes, size_t size, const char **why,
	uint64_t *offset);
void stacks_free(struct stacks *stacks);

/* NULL if there is no such stack. */
const struct stack *stacks_find(const struct stacks *stacks, uint32_t number);

static inline const uint64_t *stacks_frames(const struct stacks *stacks, const struct stack *stack)
{
	return stacks->frames + stack->first;
}

/* The module of a process that an address was in: the last one noted up to `tick`, or the first one
 * after if `later`, since a tick is only the earliest time. NULL if there is none. Does not look at
 * parents: what they loaded after the fork is not their child's. */
const struct stack_module *stacks_module(
	const struct stacks *stacks, uint32_t serial, uint64_t tick, uint64_t address, bool later);

#endif
