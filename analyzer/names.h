/* SPDX-License-Identifier: MIT
 *
 * Names of what records hold, from calls.def. Every function answers NULL for a number that has no
 * name. Used by every output.
 */
#ifndef HEAPLEDGER_NAMES_H
#define HEAPLEDGER_NAMES_H

#include "heapledger/record.h"

#include <stdbool.h>

enum name_shape {
	NAME_SHAPE_NONE, /* not an allocator call */
	NAME_SHAPE_ALLOC,
	NAME_SHAPE_ALIGNED,
	NAME_SHAPE_REALLOC,
	NAME_SHAPE_FREE,
	NAME_SHAPE_CONTROL,
};

const char *name_kind(unsigned kind);
/* Who holds a freed block: `cache`, `fast`, `table`, `lent`. */
const char *name_kept(unsigned what);

const char *name_reason(unsigned reason);
const char *name_reason_text(unsigned reason);
const char *name_region(unsigned region);
const char *name_resident(unsigned reason);
const char *name_policy(unsigned policy);
const char *name_mode(unsigned mode);

static inline enum name_shape name_shape(unsigned kind)
{
	static const unsigned char shapes[HL_KIND_LIMIT] = {
#define HL_CALL(number, name, shape) [number] = NAME_SHAPE_##shape,
#include "heapledger/calls.def"
	};
	return kind < HL_KIND_LIMIT ? (enum name_shape)shapes[kind] : NAME_SHAPE_NONE;
}

static inline bool name_is_syscall(unsigned kind)
{
	return kind >= HL_KIND_brk && kind <= HL_KIND_process_madvise;
}

#endif
