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
#define HL_TRACE_VERSION 5
#define HL_TRACE_SUFFIX ".hlt"
#define HL_TRACE_SESSION_FILE "session.json"
#define HL_TRACE_SESSION_SCHEMA "heapledger-session/1"

enum hl_trace_flags {
	HL_TRACE_INCOMPLETE = 1, /* set while recording, cleared when the stream was closed whole */
	HL_TRACE_ELSEWHERE = 2,  /* calls of malloc go to the program's own, and are not recorded */
};

enum hl_trace_source {
	HL_TRACE_TARGET = 0, /* written by the recorded process */
	HL_TRACE_KERNEL = 1, /* written by the kernel probe */
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
	uint8_t mode;          /* enum hl_mode */
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

/* The payload, after decompression: HL_COLUMN_LIMIT u32 column lengths, then the columns. Each
 * record appends a token to SITE: 0 = it is spelled out in OTHER, else the number of a definition
 * in this block. Definitions are numbered from 1 in the order in which they are first named, when
 * they are read from DEF. Within a block all "previous" values start at 0. A record has the current
 * tick: first_tick to begin with, moved by what is in OTHER. A varint is as docs/trace-format.md
 * says, not as elsewhere. */
enum hl_column {
	HL_COLUMN_SITE, /* varint */
	HL_COLUMN_DEF,  /* u8 kind with HL_DEFINE_*; unless VARIES: varint size and, unless NULL,
			   chunk; zigzag varint of caller - previous definition's caller; of ALIGNED
			   calls varint alignment */
	HL_COLUMN_SIZE, /* of records whose definition has VARIES: varint of size * 2 + 1 if the
			   chunk follows */
	HL_COLUMN_ADDR, /* of records with a definition without NULL, whose addr is a multiple of 16
			   and not 0: varint of n * 2 + 1 if addr is that of the record before the
			   n last ones here, else of 2 * zigzag(addr / 16 - previous addr / 16) */
	HL_COLUMN_OTHER, /* u8 kind; varint of tick - current tick; unless HL_TRACE_TICK: zigzag
			    varint of addr - previous addr here; calls: varint size, chunk, zigzag
			    varint of caller - previous caller here, varint alignment; marks:
			    varints; system calls and samples: varints, a result as zigzag */
	HL_COLUMN_LIMIT
};

#define HL_BLOCK_DEFINITIONS 1024
#define HL_BLOCK_RECENT 256 /* n in ADDR is below */

/* With the kind of a definition. */
#define HL_DEFINE_VARIES UINT8_C(0x80) /* the size comes with each record, from SIZE */
#define HL_DEFINE_NULL UINT8_C(0x40)   /* the address is 0, and the chunk */

/* In OTHER: no record (and not counted as one), it moves the current tick. */
#define HL_TRACE_TICK 62

/* Whether a call of this kind gives a block: its chunk is then stored as its distance to that of
 * hl_packed_chunk(size). The chunk of other kinds, or with addr 0, is stored as its distance to 0.
 */
#define HL_KIND_ALLOCATES(kind) ((kind) >= HL_KIND_malloc && (kind) <= HL_KIND_pvalloc)
/* A record of a call of the allocator, its beginning included; of a system call. */
#define HL_KIND_IS_CALL(kind) \
	(((kind) >= HL_KIND_malloc && (kind) <= HL_KIND_mallopt) || (kind) == HL_KIND_realloc_begin)
#define HL_KIND_IS_SYSCALL(kind) ((kind) >= HL_KIND_brk && (kind) <= HL_KIND_process_madvise)
#define HL_KIND_ALIGNED(kind) ((kind) >= HL_KIND_aligned_alloc && (kind) <= HL_KIND_pvalloc)

#endif
