/* SPDX-License-Identifier: MIT
 *
 * Where a function of an object file ends: its return instructions, and those of the functions that
 * it goes on to by a jump. Found by following its instructions without running them. For functions
 * that may end by an exception, which the kernel's own probes on returns would be in the way of.
 * Called by target.c.
 */
#ifndef HEAPLEDGER_RECORD_RETURNS_H
#define HEAPLEDGER_RECORD_RETURNS_H

#include <gelf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RETURNS 32

struct returns {
	uint64_t
		address[RETURNS]; /* of the instructions, as the object has it; sorted by nothing */
	size_t count;
};

/* Where a function begins after the jumps that are all of it: another name's function perhaps. */
uint64_t returns_begin(Elf *elf, uint64_t function);

/* Adds those of `function` to what is there already, if `returns` is not NULL. False if it cannot
 * be told: it jumps to where only the run would say, has more than there is room for, or jumps to
 * or calls by name one of the `others`, whose probes would tell the same call again. */
bool returns_add(struct returns *returns, Elf *elf, uint64_t function, const uint64_t *others,
	size_t other_count);

#endif
