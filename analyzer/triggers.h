/* SPDX-License-Identifier: MIT
 *
 * The system calls that gave memory back, by what triggered them: kind, reason, the allocator call
 * under way and the place in the code that made it. Filled by mapping.c, read by the outputs.
 */
#ifndef HEAPLEDGER_TRIGGERS_H
#define HEAPLEDGER_TRIGGERS_H

#include <stddef.h>
#include <stdint.h>

#define TRIGGERS_MOST 50 /* are put out, unless so many are asked for */

struct trigger {
	uint64_t caller; /* as a record has it */
	uint8_t syscall; /* enum hl_kind */
	uint8_t reason;
	uint8_t call; /* enum hl_kind, 0 = none */
	uint64_t count;
	uint64_t returned; /* bytes */
	uint64_t ticks;
};

struct triggers {
	struct trigger *list;
	size_t count;
	size_t capacity;
	uint32_t *table; /* open addressing: index + 1 */
	size_t table_size;
	uint64_t all; /* before triggers_finish */
};

/* Adds to the entry of the same caller, kind, reason and call. 0 or -ENOMEM. */
int triggers_add(struct triggers *triggers, const struct trigger *add);

/* Puts those that returned the most first, and leaves so many. */
void triggers_finish(struct triggers *triggers, size_t most);
void triggers_free(struct triggers *triggers);

#endif
