/* SPDX-License-Identifier: MIT
 *
 * The tables that calls.def becomes for the tools.
 */
#include "names.h"
#include "heapledger/record.h"

#include <stddef.h>

#define LOOK_UP(table, number) ((number) < sizeof(table) / sizeof((table)[0]) ? (table)[number] : 0)

const char *name_kind(unsigned kind)
{
	static const char *const names[] = {
#define HL_CALL(number, name, shape) [number] = #name,
#define HL_SYSCALL(number, name) [number] = #name,
#define HL_MARK(number, name) [number] = #name,
#include "heapledger/calls.def"
	};
	return LOOK_UP(names, kind);
}

const char *name_reason(unsigned reason)
{
	static const char *const names[] = {
#define HL_REASON(number, name, text) [number] = #name,
#include "heapledger/calls.def"
	};
	return LOOK_UP(names, reason);
}

const char *name_reason_text(unsigned reason)
{
	static const char *const texts[] = {
#define HL_REASON(number, name, text) [number] = text,
#include "heapledger/calls.def"
	};
	return LOOK_UP(texts, reason);
}

const char *name_region(unsigned region)
{
	static const char *const names[] = {
#define HL_REGION(number, name) [number] = #name,
#include "heapledger/calls.def"
	};
	return LOOK_UP(names, region);
}

const char *name_resident(unsigned reason)
{
	static const char *const names[] = {
#define HL_RESIDENT(number, name) [number] = #name,
#include "heapledger/calls.def"
	};
	return LOOK_UP(names, reason);
}

const char *name_policy(unsigned policy)
{
	static const char *const names[] = {
#define HL_POLICY(number, name) [number] = #name,
#include "heapledger/settings.def"
	};
	return LOOK_UP(names, policy);
}

const char *name_mode(unsigned mode)
{
	static const char *const names[] = {
		"allocator", "observe", "imported", "attached", "attached"};
	return LOOK_UP(names, mode);
}

const char *name_kept(unsigned what)
{
	switch (what) {
	case HL_KEPT_CACHE:
		return "cache";
	case HL_KEPT_FAST:
		return "fast";
	case HL_KEPT_TABLE:
		return "table";
	case HL_KEPT_LENT:
		return "lent";
	default:
		return "unknown";
	}
}
