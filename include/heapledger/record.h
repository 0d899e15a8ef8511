/* SPDX-License-Identifier: MIT
 *
 * The record: what is known of each allocator call and each system call beneath it, as readers of a
 * trace get it. Trace files hold the same words in compressed form (docs/trace-format.md); a target
 * writes a shorter form, heapledger/packed.h. Little-endian, x86-64.
 *
 * A record is one or more 32-byte slots. The first two words of every record are the tick and the
 * kind with an address; the kind tells how many slots follow and what their words mean.
 *
 * The ticks of system calls, samples and marks are exact. That of a call says "not before": it is
 * the latest time that its thread had read. A thread reads it anew where a block passes from or to
 * another thread, after each round of the collector (1 to 10 ms) and after 128 records; so by tick,
 * all threads' records are in the order in which blocks were handed on.
 */
#ifndef HEAPLEDGER_RECORD_H
#define HEAPLEDGER_RECORD_H

#include <assert.h>
#include <stdint.h>

enum hl_kind {
	HL_KIND_FILLER = 0, /* skip one slot */
#define HL_CALL(number, name, shape) HL_KIND_##name = number,
#define HL_SYSCALL(number, name) HL_KIND_##name = number,
#define HL_MARK(number, name) HL_KIND_##name = number,
#include "heapledger/calls.def"
	HL_KIND_LIMIT = 68 /* one more than the largest kind */
};

enum hl_reason {
#define HL_REASON(number, name, text) HL_REASON_##name = number,
#include "heapledger/calls.def"
	HL_REASON_LIMIT
};

enum hl_region {
#define HL_REGION(number, name) HL_REGION_##name = number,
#include "heapledger/calls.def"
	HL_REGION_LIMIT
};

enum hl_resident {
#define HL_RESIDENT(number, name) HL_RESIDENT_##name = number,
#include "heapledger/calls.def"
	HL_RESIDENT_LIMIT
};

/* hl_mark_record.addr of a resident_begin: enum hl_resident and these. */
#define HL_RESIDENT_REASON_MASK UINT64_C(0xff)
#define HL_RESIDENT_CUT UINT64_C(0x100) /* of what is behind the last run nothing is known */

/* hl_mark_record.chunk of a resident_run. */
enum hl_resident_flags {
	HL_RESIDENT_SWAPPED = 1, /* not in memory, but in swap */
	HL_RESIDENT_HUGE = 2,    /* mapped as huge pages, if that was known */
	HL_RESIDENT_ZERO = 4,    /* read, never written: the one page of zeros, if that was known */
	HL_RESIDENT_OTHER = 8,   /* no heap's: [stack], and the process's own copies of file pages */
};

/* Of a `fault`, in its argument. */
#define HL_FAULT_WRITE 1u
#define HL_FAULT_USER 2u  /* by an instruction in user mode, else in a system call */
#define HL_FAULT_LARGE 4u /* the page that the kernel took for the fault is this large */

#define HL_ADDRESS_BITS 56
#define HL_ADDRESS_MASK ((UINT64_C(1) << HL_ADDRESS_BITS) - 1)

/* Bits 56..63 of hl_call_record.chunk. */
#define HL_CHUNK_MMAPPED UINT8_C(1) /* the block has a mapping of its own */

/* In mode observe a chunk is what malloc_usable_size says and this, so that glibc's is the usual
 * one; 0 = it could not be asked. */
#define HL_OBSERVED_HEADER_BYTES 8u

struct hl_slot {
	uint64_t word[4];
};

/* Calls and `realloc_begin`: two slots.
 *
 * addr      the block (result of an allocation, argument of a free); 0 = failed or NULL.
 * size      bytes requested (calloc: n * size, or UINT64_MAX if that overflows; malloc_trim: pad;
 *           mallopt: the parameter number as int32 in the low half, the value in the high half).
 * chunk     bytes the block takes from the heap, header and rounding included (a mapped block: its
 *           whole mapping), flags in the top byte; 0 for failed calls and frees. CONTROL: result.
 * caller    the return address of the call; 0 = not known.
 * alignment of ALIGNED calls: bytes, as the program asked; else 0.
 *
 * Allocations are stamped after they are made and frees before they are done, so an address never
 * appears twice without its free between. A realloc is two records: REALLOC_BEGIN (stamped before)
 * takes the old block away, realloc (stamped after) gives the new one; if realloc failed (addr 0,
 * size > 0) the old block stays as it was. realloc(NULL, n) has REALLOC_BEGIN with addr 0. */
struct hl_call_record {
	uint64_t tick;
	uint64_t kind_addr; /* kind << 56 | addr */
	uint64_t size;
	uint64_t chunk;
	uint64_t caller;
	uint64_t alignment;
	uint64_t reserved[2];
};

/* What `kept` says: addr = block, size = bytes of its chunk, chunk = hl_kept_pack of one of these. With
 * addr 0 the list begins anew: size = how many blocks follow, chunk = hl_kept_head of the flags below. */
enum hl_kept {
	HL_KEPT_CACHE = 1, /* in a thread's cache */
	HL_KEPT_FAST = 2,  /* in a fast list of its arena */
	HL_KEPT_TABLE = 3, /* the allocator's own: a thread's cache itself */
	HL_KEPT_LENT = 4   /* in a thread's cache, beyond what glibc's would hold: until the next trim */
};

#define HL_KEPT_ALL 1u    /* no cache is missing in it */
#define HL_KEPT_MOMENT 2u /* the process runs on: it holds until the next call */
#define HL_KEPT_PART 128u /* of a table: not all lists of that cache could be read */

/* tid: of the thread whose cache it is, which nobody else changes; 0 = not known, or in a fast list. */
static inline uint64_t hl_kept_pack(unsigned what, uint32_t tid)
{
	return (uint64_t)tid << 8 | what;
}

static inline unsigned hl_kept_what(uint64_t chunk)
{
	return chunk & (HL_KEPT_PART - 1);
}

static inline uint32_t hl_kept_tid(uint64_t chunk)
{
	return (uint32_t)(chunk >> 8);
}

/* count: caches that there are, up to 2^24 - 1; unread: lists of theirs, and of arenas, that could not be
 * read, those of caches that are missing as a whole included. */
static inline uint64_t hl_kept_head(unsigned flags, uint32_t count, uint32_t unread)
{
	return (uint64_t)unread << 32 | (uint64_t)(count & 0xffffff) << 8 | flags;
}

static inline uint32_t hl_kept_caches(uint64_t chunk)
{
	return chunk >> 8 & 0xffffff;
}

static inline uint32_t hl_kept_unread(uint64_t chunk)
{
	return (uint32_t)(chunk >> 32);
}

/* All marks but `realloc_begin`, `sample`, `phase` and those of kernel streams: one slot. */
struct hl_mark_record {
	uint64_t tick;
	uint64_t kind_addr;
	uint64_t size;
	uint64_t chunk;
};

/* System calls, and the marks of kernel streams: three slots. docs/trace-format.md, "Kernel
 * streams", says what their words mean there. tick is the start of the call.
 * addr = first argument (brk: the break before the call); for RECORDER `other`, 0. */
struct hl_syscall_record {
	uint64_t tick;
	uint64_t kind_addr;
	uint64_t length;   /* second argument; brk: unused, 0 */
	uint64_t argument; /* brk: break asked for; mmap, mprotect: prot; mremap: new length;
			      madvise: advice */
	int64_t result;    /* address or 0; -errno when it failed; brk: the break after the call */
	uint64_t duration; /* ticks */
	uint64_t cause_size;     /* size of the call that caused it, as in its own record */
	uint64_t cause;          /* hl_cause_pack() */
	uint64_t mmap_threshold; /* bytes, in force when the call was made */
	uint64_t trim_threshold; /* bytes; UINT64_MAX = never trim */
	uint64_t top_pad;        /* bytes */
	uint64_t caller;         /* return address of the call that caused it; 0 = none */
};

/* Resident memory: three slots, all in bytes; written by `record` (thread 0) at intervals and by
 * the target at its exit. recorder = the part of shmem that is the recording's own buffers. */
struct hl_sample_record {
	uint64_t tick;
	uint64_t kind_addr; /* addr 0 */
	uint64_t rss_anon;
	uint64_t rss_file;
	uint64_t rss_shmem;
	uint64_t swap;
	uint64_t rss_peak; /* VmHWM */
	uint64_t recorder;
	uint64_t minor_faults; /* since the start of the process, 0 if not read */
	uint64_t major_faults;
	uint64_t anonymous; /* as smaps_rollup has it; 0 = it was not read */
	uint64_t anon_huge; /* of that in huge pages, if it was read */
};

/* A phase begins: three slots. Written by the program (heapledger/mark.h) or by `record` (thread
 * 0). The name is any bytes but NUL, filled up with NUL, the last of which is always there. */
#define HL_PHASE_NAME_BYTES 80
struct hl_phase_record {
	uint64_t tick;
	uint64_t kind_addr; /* addr 0 */
	char name[HL_PHASE_NAME_BYTES];
};

static_assert(sizeof(struct hl_call_record) == 2 * sizeof(struct hl_slot), "two slots");
static_assert(sizeof(struct hl_mark_record) == 1 * sizeof(struct hl_slot), "one slot");
static_assert(sizeof(struct hl_syscall_record) == 3 * sizeof(struct hl_slot), "three slots");
static_assert(sizeof(struct hl_sample_record) == 3 * sizeof(struct hl_slot), "three slots");
static_assert(sizeof(struct hl_phase_record) == 3 * sizeof(struct hl_slot), "three slots");

static inline uint64_t hl_kind_addr(enum hl_kind kind, uint64_t addr)
{
	return (uint64_t)kind << HL_ADDRESS_BITS | (addr & HL_ADDRESS_MASK);
}

static inline unsigned hl_kind_of(uint64_t kind_addr)
{
	return (unsigned)(kind_addr >> HL_ADDRESS_BITS);
}

static inline uint64_t hl_addr_of(uint64_t kind_addr)
{
	return kind_addr & HL_ADDRESS_MASK;
}

/* The cause of a system call: the kind of the allocator call under way (0 = none: start-up or
 * thread exit), the reason, the region, and the arena's number (0 = the main heap). */
static inline uint64_t hl_cause_pack(
	unsigned kind, unsigned reason, unsigned region, unsigned arena)
{
	return (uint64_t)arena << 32 | region << 16 | reason << 8 | kind;
}

/* Puts a name into a record that is all 0; of a longer one what fits, no part of a character. */
static inline void hl_phase_name(struct hl_phase_record *record, const char *name)
{
	unsigned length = 0;

	while (length < HL_PHASE_NAME_BYTES && name[length] != '\0')
		length++;
	if (length == HL_PHASE_NAME_BYTES)
		do
			length--;
		while (length > 0 && (name[length] & 0xc0) == 0x80);
	for (unsigned i = 0; i < length; i++)
		record->name[i] = name[i];
}

/* Slots a record of this kind takes; 0 for a kind that does not exist. */
static inline unsigned hl_kind_slots(unsigned kind)
{
	switch (kind) {
#define HL_CALL(number, name, shape)                                                               \
	case number:                                                                               \
		return 2;
#define HL_SYSCALL(number, name)                                                                   \
	case number:                                                                               \
		return 3;
#define HL_MARK(number, name)                                                                      \
	case number:                                                                               \
		return number == HL_KIND_sample || number == HL_KIND_phase ||                      \
				       number == HL_KIND_fault ||                                  \
				       (number >= HL_KIND_process_fork &&                          \
					       number <= HL_KIND_memory)                           \
			       ? 3                                                                 \
		       : number == HL_KIND_realloc_begin ? 2                                       \
							 : 1;
#include "heapledger/calls.def"
	case HL_KIND_FILLER:
		return 1;
	default:
		return 0;
	}
}

#endif
