/* SPDX-License-Identifier: MIT
 *
 * The session: memory shared between `heapledger record` and every process it records.
 *
 * `record` creates one sparse file (in /dev/shm), names it in HEAPLEDGER_SESSION, and maps it; each
 * recorded process maps the same file at its first allocator call and never touches another file
 * to be traced. The file holds a header, a table of processes, a table of page links, and a pool of
 * pages. A thread owns one page at a time, fills it with records and pushes it on `ready`; the
 * collector drains it and pushes it back on `free`. Both lists are lock-free stacks of page
 * numbers whose links live outside the pages, so an idle page is never touched.
 *
 * The target waits for the collector when every page is in use, and when so many are ready that a
 * fresh one would only spread the backlog over more memory than a cache holds; only as long as the
 * collector is alive (collector_beat moves). No record is lost when the target dies: what
 * `used` counts is complete, and the collector reads the pages of the dead.
 */
#ifndef HEAPLEDGER_SESSION_H
#define HEAPLEDGER_SESSION_H

#include "heapledger/packed.h"

#include <stdatomic.h>
#include <stdint.h>

#define HL_SESSION_MAGIC UINT64_C(0x315345534c504c48) /* "HLPLSES1" */
#define HL_SESSION_VERSION 9
#define HL_SESSION_ENV "HEAPLEDGER_SESSION"

#define HL_PAGE_BYTES 16384
#define HL_PAGE_SLOTS ((HL_PAGE_BYTES - sizeof(struct hl_page)) / sizeof(struct hl_packed))
#define HL_COMMAND_BYTES 448

/* In hl_page.tid and in the trace, bits 24.. of a thread id are the depth: 0, or 1 and 2 for calls
 * made by a signal handler that interrupted the allocator. Each is a sequence of its own. Linux
 * thread ids stay below 1 << 22. */
#define HL_TID_DEPTH_SHIFT 24

/* Of traces only, written by no process: imported logs (docs/imports.md), and what ran before it was
 * attached to, without and with the calls of its allocator. */
enum hl_clock { HL_CLOCK_MONOTONIC = 0, HL_CLOCK_TSC = 1, HL_CLOCK_EVENTS = 2 };
enum hl_mode {
	HL_MODE_ALLOCATOR = 0,
	HL_MODE_OBSERVE = 1,
	HL_MODE_IMPORTED = 2,
	HL_MODE_ATTACHED = 3,
	HL_MODE_ATTACHED_CALLS = 4
};
enum hl_on_full { HL_ON_FULL_WAIT = 0, HL_ON_FULL_DROP = 1 };
enum hl_session_state { HL_SESSION_OPEN = 1, HL_SESSION_CLOSED = 2 };

/* A slot of the process table. The target claims it (FREE -> CLAIMED by compare-and-swap), fills
 * it and publishes it (-> LIVE); only the collector makes it FREE again. */
enum hl_process_state { HL_PROCESS_FREE = 0, HL_PROCESS_CLAIMED = 1, HL_PROCESS_LIVE = 2 };

struct hl_process {
	_Atomic uint32_t state;
	uint32_t pid;
	uint32_t ppid;
	uint32_t parent_serial; /* serial of the forking process, 0 = started by exec */
	uint64_t fork_id;       /* as in the parent's fork mark; 0 = unknown (no handlers ran) */
	uint64_t start_tick;
	_Atomic uint64_t lost;   /* events that could not be logged, whatever the reason */
	_Atomic uint32_t serial; /* unique in the session, from next_serial; names the stream */
	uint8_t exited;          /* 1 when exit handlers ran */
	uint8_t elsewhere;       /* 1: the program defines malloc, whose calls do not come here */
	uint8_t policy;          /* enum hl_policy */
	uint8_t mode;            /* enum hl_mode: which library is in it */
	uint64_t pid_namespace;  /* inode of the pid namespace that pid is of, 0 = unknown */
	char command[HL_COMMAND_BYTES]; /* argv joined by NUL, cut to fit, last byte NUL */
	uint64_t caches; /* address of its struct hl_caches; 0 = its allocator is not ours */
};
static_assert(sizeof(struct hl_process) == 512, "a process takes 512 bytes");

enum hl_page_state { HL_PAGE_FREE = 0, HL_PAGE_OWNED = 1, HL_PAGE_READY = 2 };

/* The first 32 bytes of a page; packed records follow up to the end. */
struct hl_page {
	_Atomic uint32_t state;
	_Atomic uint32_t used; /* complete slots, written by the owner after each record */
	uint32_t serial;       /* of the process */
	uint32_t tid;
	uint64_t sequence; /* of this page among those of the process, in the order of taking */
	uint64_t tick;     /* when it was taken: all its records were made later */
};
static_assert(sizeof(struct hl_page) % sizeof(struct hl_packed) == 0, "header takes whole slots");

struct hl_session {
	uint64_t magic;
	uint32_t version;
	uint32_t collector_pid;
	_Atomic uint32_t state;          /* HL_SESSION_CLOSED: stop logging, run on untraced */
	uint32_t on_full;                /* enum hl_on_full */
	uint32_t clock;                  /* enum hl_clock: what ticks are */
	uint32_t process_count;          /* size of the process table */
	uint32_t page_count;             /* size of the pool */
	uint32_t header_bytes;           /* offset of the process table */
	uint64_t links_offset;           /* page_count links of 4 bytes */
	uint64_t pages_offset;           /* the pool */
	uint64_t session_bytes;          /* size of the file */
	_Atomic uint32_t next_serial;    /* next process serial, from 1 */
	_Atomic uint32_t unregistered;   /* processes that found the table full */
	_Atomic uint64_t collector_beat; /* moves at each round of the collector */
	_Atomic uint64_t free_pages;     /* stack head: tag << 32 | page number + 1, 0 = empty */
	_Atomic uint64_t ready_pages;    /* the same */
	_Atomic uint32_t fresh_pages;    /* pages from here on were never used */
	_Atomic uint32_t waiting;        /* threads waiting for a page */
	uint32_t backlog_limit;          /* a thread that may wait takes no fresh page beyond ... */
	_Atomic uint32_t backlog;        /* ... this many pages given and not yet drained */
	/* Call stacks and modules: heapledger/callstack.h. */
	uint32_t stack_depth;  /* frames at most, 0 = only callers are recorded */
	uint32_t stack_limit;  /* room for so many stacks */
	uint32_t module_limit; /* room for so many modules */
	uint64_t stacks_offset;
	uint64_t stack_index_offset;
	uint64_t modules_offset;
	_Atomic uint32_t stack_count;    /* claimed */
	_Atomic uint32_t stacks_dropped; /* calls whose stack had no room, known by caller only */
	_Atomic uint32_t modules_new;    /* moves when a module is READY */
	/* The file is sparse, and a touch of memory that its file system has no room for is a
	 * SIGBUS. Targets touch only what the collector has had allocated: the header, the links,
	 * the index of stacks and the modules, and so many pages, slots of the table and stacks. */
	_Atomic uint32_t backed_pages;
	_Atomic uint32_t backed_processes;
	_Atomic uint32_t backed_stacks;
	uint32_t time_calls; /* observed calls that may have made system calls say how long they
				took: the kernel's record is there to be matched with */
	uint32_t pages_at_exit; /* a process logs at its end which of its pages are in memory */
	/* The collector's coarse clock: changes with each of its rounds. A thread whose last tick
	 * was read before the change reads the time anew; it says so in `stamped`, without which
	 * the collector lets its rounds become longer. On cache lines of their own. */
	_Atomic uint32_t stamped __attribute__((aligned(64)));
	_Atomic uint32_t round __attribute__((aligned(64)));
};

#endif
