/* SPDX-License-Identifier: MIT
 *
 * Call stacks, with `record --stacks N`, and modules: how a record names a stack, the tables in the
 * session through which targets hand them over, and the file stacks.hls that `record` writes them to
 * (docs/trace-format.md). A stack is written once for the whole recording; it is N return addresses
 * at most, the innermost first. What an address means depends on the process and on the time: that
 * is what modules are for.
 */
#ifndef HEAPLEDGER_CALLSTACK_H
#define HEAPLEDGER_CALLSTACK_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

/* Bit 47 of a record's caller, which no user address has: the low 32 bits are the number of a stack
 * (from 1) whose first frame is the caller. */
#define HL_CALLER_STACK (UINT64_C(1) << 47)
#define HL_STACK_MOST_FRAMES 64

static inline uint32_t hl_caller_stack(uint64_t caller)
{
	return caller & HL_CALLER_STACK ? (uint32_t)caller : 0;
}

/* Why a stack has no more frames. */
enum hl_stack_end {
	HL_STACK_WHOLE = 1,  /* the last one was called by nobody */
	HL_STACK_CUT = 2,    /* N frames are in */
	HL_STACK_BROKEN = 3, /* there are no unwind tables for the last one, or no such memory */
};

/* A return address; of a frame that a signal interrupted, the place + 1. So address - 1 is always
 * in the instruction that was under way.
 *
 * In the session a stack takes a fixed room for session.stack_depth frames; stack n is the (n -
 * 1)th. Its head is 0 until all is written. The index has the numbers of the newest stacks by their
 * hash, 0 = none; `below` leads to the older ones. */
struct hl_stack {
	_Atomic uint64_t head;
	_Atomic uint32_t below;
	uint32_t reserved;
	uint64_t frame[];
};

#define HL_STACK_INDEX_BITS 16
#define HL_STACK_HASH_MASK (~UINT64_C(0xffff))

static inline uint64_t hl_stack_bytes(unsigned depth)
{
	return sizeof(struct hl_stack) + depth * sizeof(uint64_t);
}

static inline uint64_t hl_stack_head(uint64_t hash, unsigned count, enum hl_stack_end end)
{
	return (hash & HL_STACK_HASH_MASK) | count << 8 | end;
}

static inline unsigned hl_stack_count(uint64_t head)
{
	return (unsigned)(head >> 8) & 0xff;
}

static inline enum hl_stack_end hl_stack_end_of(uint64_t head)
{
	return (enum hl_stack_end)(head & 0xff);
}

/* A module is an object that the dynamic linker has loaded, noted when the first frame in it is
 * seen; without stacks at the process's start, and at its end if nothing was unloaded. It hides those of the same process that it overlaps, and is its children's, too, if it was
 * noted before their fork. The target claims an entry, fills it and makes it READY; the collector
 * writes it out and makes it FREE again. */
enum hl_module_state { HL_MODULE_FREE = 0, HL_MODULE_CLAIMED = 1, HL_MODULE_READY = 2 };

#define HL_BUILD_ID_BYTES 32
#define HL_MODULE_PATH_BYTES 424

struct hl_module {
	_Atomic uint32_t state;
	uint32_t serial; /* of the process */
	uint64_t tick;
	uint64_t start, end; /* of its mappings */
	uint64_t bias;       /* address in memory - address in the file */
	uint32_t build_id_bytes;
	uint32_t reserved;
	uint8_t build_id[HL_BUILD_ID_BYTES];
	uint64_t reserved2;
	char path[HL_MODULE_PATH_BYTES]; /* as the dynamic linker knows it; the last byte is NUL */
};
static_assert(sizeof(struct hl_module) == 512, "a module takes 512 bytes");

/* The file: a header, then blocks. What a stream's records refer to is in the file before them. */
#define HL_STACKS_FILE "stacks.hls"
#define HL_STACKS_MAGIC "HLSTACK\n"
#define HL_STACKS_VERSION 1

struct hl_stacks_header {
	char magic[8];
	uint16_t version;
	uint16_t depth; /* N */
	uint32_t crc;   /* crc32 of these 16 bytes with this field 0 */
};
static_assert(sizeof(struct hl_stacks_header) == 16, "the header of stacks.hls");

#define HL_STACKS_BLOCK_MAGIC UINT32_C(0x42534c48) /* "HLSB" */
#define HL_STACKS_RAW_LIMIT (UINT32_C(1) << 20)

enum hl_stacks_content { HL_STACKS_STACKS = 1, HL_STACKS_MODULES = 2 };

struct hl_stacks_block {
	uint32_t magic;
	uint8_t content;     /* enum hl_stacks_content */
	uint8_t compression; /* enum hl_block_compression */
	uint16_t reserved;
	uint32_t count;        /* of stacks or modules */
	uint32_t raw_bytes;    /* payload before compression, <= HL_STACKS_RAW_LIMIT */
	uint32_t stored_bytes; /* payload in the file */
	uint32_t payload_crc;  /* crc32 of the payload in the file */
	uint32_t reserved2;
	uint32_t header_crc; /* crc32 of this header with this field 0 */
};
static_assert(sizeof(struct hl_stacks_block) == 32, "block header of stacks.hls");

#endif
