/* SPDX-License-Identifier: MIT
 *
 * The trace files: <pid>.<serial>.hlt, one stream a process image. docs/trace-format.md explains
 * them byte by byte. All integers little-endian. A file is one header, then blocks to its end.
 */
#ifndef HEAPLEDGER_TRACE_H
#define HEAPLEDGER_TRACE_H

#include <assert.h>
#include <stdint.h>

#define HL_TRACE_MAGIC "HLTRACE\n"
#define HL_TRACE_VERSION 1
#define HL_TRACE_SUFFIX ".hlt"
#define HL_TRACE_SESSION_FILE "session.json"
#define HL_TRACE_SESSION_SCHEMA "heapledger-session/1"

enum hl_trace_flags {
	HL_TRACE_INCOMPLETE = 1, /* set while recording, cleared when the stream was closed whole */
};

enum hl_trace_source {
	HL_TRACE_TARGET = 0, /* written by the recorded process */
	HL_TRACE_KERNEL = 1, /* written by the kernel probe: system call records only */
};

enum hl_trace_end {
	HL_TRACE_END_UNKNOWN = 0,
	HL_TRACE_END_EXIT = 1,     /* end_status = exit status, -1 if it could not be seen */
	HL_TRACE_END_SIGNAL = 2,   /* end_status = signal number */
	HL_TRACE_END_EXEC = 3,     /* the process replaced its image */
	HL_TRACE_END_DETACHED = 4, /* the recording ended first */
};

struct hl_trace_header {
	char magic[8];
	uint16_t version;
	uint16_t fixed_bytes;  /* sizeof(struct hl_trace_header) */
	uint32_t header_bytes; /* fixed part + command, a multiple of 8: where the blocks start */
	uint32_t flags;        /* enum hl_trace_flags */
	uint8_t source;        /* enum hl_trace_source */
	uint8_t mode;          /* 0 = our allocator, 1 = observe */
	uint8_t policy;        /* 0 = hybrid, 1 = brk, 2 = mmap */
	uint8_t clock;         /* enum hl_clock */
	uint32_t pid;
	uint32_t ppid;
	uint32_t serial;        /* of this stream in the trace directory */
	uint32_t parent_serial; /* stream of the forking process, 0 = started by exec */
	uint64_t fork_id;       /* which fork mark of the parent, 0 = unknown */
	uint64_t start_tick;
	uint64_t end_tick;    /* 0 while INCOMPLETE */
	uint64_t clock_tick;  /* this tick was this CLOCK_MONOTONIC ... */
	uint64_t clock_ns;    /* ... in ns; later pairs are clock marks */
	uint64_t realtime_ns; /* ... and this CLOCK_REALTIME in ns */
	uint64_t tick_hz;     /* ticks a second, as estimated at the start of the recording */
	uint64_t lost;        /* events known to be lost */
	uint32_t end;         /* enum hl_trace_end */
	int32_t end_status;
	uint32_t page_bytes;    /* of the machine's memory pages */
	uint32_t command_bytes; /* argv joined by NUL, follows the fixed part */
	uint32_t reserved;
	uint32_t crc; /* crc32 (zlib) of all header_bytes with this field 0 */
};
static_assert(sizeof(struct hl_trace_header) == 128, "the fixed part of the header");

#define HL_BLOCK_MAGIC UINT32_C(0x4b424c48) /* "HLBK" */
#define HL_BLOCK_RAW_LIMIT (UINT32_C(1) << 20)

enum hl_block_compression { HL_BLOCK_STORED = 0, HL_BLOCK_ZSTD = 1 };

/* A block holds consecutive records of one thread, whose ticks never go back: where they would (a
 * signal handler's records, gathered on a page of their own) the writer starts another block. */
struct hl_block_header {
	uint32_t magic;
	uint16_t header_bytes;
	uint8_t compression; /* enum hl_block_compression */
	uint8_t reserved;
	uint32_t tid;          /* 0 = written by `record` itself (samples, clock) */
	uint32_t records;      /* number of records */
	uint64_t sequence;     /* of this block among those of the thread, from 0 */
	uint64_t first_tick;   /* of its first record ... */
	uint64_t last_tick;    /* ... and of its last */
	uint32_t raw_bytes;    /* payload before compression, <= HL_BLOCK_RAW_LIMIT */
	uint32_t stored_bytes; /* payload in the file */
	uint32_t payload_crc;  /* crc32 of the payload in the file */
	uint32_t header_crc;   /* crc32 of this header with this field 0 */
};
static_assert(sizeof(struct hl_block_header) == 56, "block header");

/* The payload, after decompression: HL_COLUMN_LIMIT u32 column lengths, then the columns.
 * Each record appends to them: its kind to KIND, its tick to TICK, its addr to ADDR. One-slot and
 * ALIGNED records append their size and chunk to SIZE and CHUNK, unless both are 0, which the bit
 * HL_KIND_BARE in KIND says. All other words go to PLAIN. Within a block the "previous" values
 * start at first_tick and 0. */
enum hl_column {
	HL_COLUMN_KIND,  /* u8: kind, HL_KIND_BARE */
	HL_COLUMN_TICK,  /* varint of tick - previous tick */
	HL_COLUMN_ADDR,  /* zigzag varint of addr - previous addr */
	HL_COLUMN_SIZE,  /* varint */
	HL_COLUMN_CHUNK, /* varint of zigzag(chunk bytes - size, 56 bits) * 2 + 1 if there are flags,
			    then varint of the flags if there are */
	HL_COLUMN_PLAIN, /* varint; the result of a system call as zigzag */
	HL_COLUMN_LIMIT
};
#define HL_KIND_BARE UINT8_C(0x80)

#endif
