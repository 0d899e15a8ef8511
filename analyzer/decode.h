/* SPDX-License-Identifier: MIT
 *
 * Pure functions over the bytes of a trace file: they check everything a file claims and turn a
 * block's payload back into records. No I/O, no allocation; the fuzz target runs them directly.
 * Called by stream_reader.c.
 */
#ifndef HEAPLEDGER_DECODE_H
#define HEAPLEDGER_DECODE_H

#include "heapledger/record.h"
#include "heapledger/trace.h"

#include <stddef.h>
#include <stdint.h>

/* Bytes that must be readable (and 0) after a payload, so that the decoder need not look where it
 * is before every load; it never uses what it read there. */
#define DECODE_PADDING_BYTES 256

#define DECODE_COMMAND_LIMIT (UINT32_C(1) << 20)

/* A record as record.h lays it out, up to three slots. */
union decode_record {
	uint64_t word[12];
	struct hl_call_record call;
	struct hl_mark_record mark;
	struct hl_syscall_record syscall;
	struct hl_sample_record sample;
	struct hl_phase_record phase;
};

/* What calls have in common. The masks are all ones or 0, so that a record is put together without
 * a branch. */
struct decode_definition {
	uint64_t kind;   /* in the place that it has in a record */
	uint64_t size;   /* 0 if it varies */
	uint64_t chunk;  /* if the size varies, a mask for the chunk that this size would have */
	uint64_t varies; /* mask: the size comes from SIZE */
	uint64_t placed; /* mask: the address comes from ADDR */
	uint64_t caller;
	uint64_t alignment;
};

/* About 60 KiB, of which only the definitions that a block has are touched. */
struct decode_cursor {
	const uint8_t *at[HL_COLUMN_LIMIT];
	const uint8_t *end[HL_COLUMN_LIMIT];
	uint64_t tick;
	uint64_t last_tick;
	uint64_t other_addr;
	uint64_t other_caller;
	uint64_t defined_caller;
	uint32_t records;
	uint32_t left; /* records */
	uint32_t definitions;
	uint32_t recent;                 /* addresses from ADDR so far */
	uint64_t place[HL_BLOCK_RECENT]; /* the last ones, divided by 16, a ring */
	struct decode_definition definition[HL_BLOCK_DEFINITIONS];
};

/* What is wrong, as a sentence without the file's name; NULL if nothing is. `bytes` of the header
 * check is the fixed part; decode_check_command takes header and command in one piece. */
const char *decode_check_header(const struct hl_trace_header *header);
const char *decode_check_command(const uint8_t *bytes, const struct hl_trace_header *header);
const char *decode_check_block(const struct hl_block_header *header);
const char *decode_check_payload(const struct hl_block_header *header, const uint8_t *stored);

/* Starts on a decompressed payload of header->raw_bytes, followed by the padding. */
const char *decode_start(
	struct decode_cursor *cursor, const struct hl_block_header *header, const uint8_t *raw);

/* The next record; cursor->left must not be 0. After the last one it also checks that every column
 * was used up. */
const char *decode_next(struct decode_cursor *cursor, union decode_record *record);

#endif
