/* SPDX-License-Identifier: MIT
 *
 * From one frame of the stack to the one that called it: the rule for a place in the code, out of
 * the unwind tables (.eh_frame) that every object carries. Used by stacks.c. Takes no lock, makes
 * no system call, never allocates, follows no pointer out of the tables' own segment.
 *
 * Only what compilers make of ordinary functions is understood; for anything else there is no rule,
 * and a stack ends there.
 */
#ifndef HEAPLEDGER_UNWIND_H
#define HEAPLEDGER_UNWIND_H

#include <stdbool.h>
#include <stdint.h>

/* Where the CFA is, which is the stack pointer of the calling frame. */
enum unwind_cfa {
	UNWIND_NONE = 0, /* not known */
	UNWIND_END,      /* nobody called this one */
	UNWIND_SP,       /* stack pointer + offset */
	UNWIND_FP,       /* frame pointer (rbp) + offset */
	UNWIND_FP_WORD,  /* the word at frame pointer + offset */
	UNWIND_SIGNAL, /* a signal interrupted the caller: its registers are at the stack pointer */
};

/* Where the calling frame's frame pointer is. */
enum unwind_fp {
	UNWIND_FP_KEPT = 0, /* in the register */
	UNWIND_FP_AT_CFA,   /* at CFA + fp_offset */
	UNWIND_FP_AT_FP,    /* at frame pointer + fp_offset */
	UNWIND_FP_LOST,
};

/* The return address is at CFA - 8. */
struct unwind_rule {
	int32_t cfa_offset;
	int16_t fp_offset;
	uint8_t cfa; /* enum unwind_cfa */
	uint8_t fp;  /* enum unwind_fp */
};

/* The unwind tables of one object: its PT_GNU_EH_FRAME, and the segment that holds it. */
struct unwind_tables {
	const uint8_t *index;
	const uint8_t *start, *end;
};

/* The rule for the code at `place`, which must lie in the object of these tables. */
struct unwind_rule unwind_find(const struct unwind_tables *tables, uintptr_t place);

#endif
