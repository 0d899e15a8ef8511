/* SPDX-License-Identifier: MIT
 *
 * The raw file: what a process writes with LD_PRELOAD alone, without `heapledger record`, into the
 * directory that HEAPLEDGER_OUT names. docs/raw-file.md explains it. The process maps the file
 * shared, so what is in it outlives the process; record/import.c makes a stream of it.
 *
 * <pid>.<serial>.hlraw is one header, then pages (struct hl_page of session.h, with packed records)
 * up to its end, one after the other, in any order, used once. The serial is taken from the length
 * of HL_RAW_SERIALS, to which each process appends one byte.
 */
#ifndef HEAPLEDGER_RAW_H
#define HEAPLEDGER_RAW_H

#include "heapledger/session.h"

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HL_RAW_ENV "HEAPLEDGER_OUT"
#define HL_RAW_MAGIC UINT64_C(0x315741524c504c48) /* "HLPLRAW1" */
#define HL_RAW_VERSION 1
#define HL_RAW_SUFFIX ".hlraw"
#define HL_RAW_SERIALS "heapledger.serials"
#define HL_RAW_HEADER_BYTES HL_PAGE_BYTES
#define HL_RAW_SETTINGS 24

struct hl_raw {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes; /* where the pages start */
	uint32_t page_bytes;   /* of one of them */
	uint32_t clock;        /* enum hl_clock: what ticks are */
	uint64_t clock_tick;   /* this tick was this CLOCK_MONOTONIC ... */
	uint64_t clock_ns;     /* ... in ns; later pairs are clock marks */
	uint64_t realtime_ns;  /* ... and this CLOCK_REALTIME in ns */
	uint32_t memory_page_bytes;
	_Atomic uint32_t stopped; /* errno for which the recording ended early; 0 = it did not */
	_Atomic uint64_t reserved_bytes; /* the file has room up to here, at least */
	uint64_t check;                  /* of struct settings, as the rest */
	uint64_t setting[HL_RAW_SETTINGS];
	uint32_t setting_count;
	uint32_t settings_given;
	uint64_t unused[22]; /* 0 */
	struct hl_process
		process; /* as in a session; HL_PROCESS_LIVE once all above is filled in */
};
static_assert(offsetof(struct hl_raw, process) == 448, "the process table of one");
static_assert(sizeof(struct hl_raw) == 960, "the header");

#endif
