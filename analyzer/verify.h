/* SPDX-License-Identifier: MIT
 *
 * What the parts of `heapledger verify` share: the system calls of both sides and what was found.
 * verify_calls.c reads them, verify_account.c counts them, verify_match.c pairs them,
 * verify_ranges.c looks for others' hands in our memory, verify_blocks.c at each block's life,
 * verify.c gives the verdict.
 */
#ifndef HEAPLEDGER_VERIFY_H
#define HEAPLEDGER_VERIFY_H

#include "ranges.h"
#include "trace.h"

#include <stdbool.h>

#define VERIFY_FIRST_SYSCALL HL_KIND_brk
#define VERIFY_SYSCALLS (HL_KIND_process_madvise - HL_KIND_brk + 1)
#define VERIFY_KINDS (HL_KIND_LIMIT - HL_KIND_brk) /* all that kernel streams can hold */
#define VERIFY_NO_STREAM UINT32_MAX
#define VERIFY_CLOCK_NS UINT64_C(20000) /* what the pairs of a clock are good for */

/* A call as one side has it. Times are CLOCK_MONOTONIC; addr of brk is the break before it. */
struct verify_call {
	uint64_t start_ns;
	uint64_t end_ns;
	uint64_t addr;
	uint64_t length;
	uint64_t argument;
	int64_t result;
	uint32_t pid;
	uint32_t tid;
	uint32_t image; /* the kernel's side only: execs of the process and its ancestors, ... */
	uint32_t cpu;   /* ... where it ended, and its number among the ends there */
	uint64_t sequence;
	uint32_t stream; /* index in trace->streams */
	uint8_t kind;
	uint8_t reason;
	bool nested; /* by a signal handler inside the allocator: may start before it is its turn */
	bool matched;
	bool reached; /* a foreign call that found the heap's memory when it began */
	bool last;    /* of its thread in this image, on the kernel's side */
};

struct verify_calls {
	struct verify_call *call;
	size_t count;
	size_t capacity;
};

/* Where a child's memory branches off its parent's. */
struct verify_fork {
	uint32_t parent; /* index of stream */
	uint32_t child;
	uint32_t tid;      /* the thread that forks, 0 = not known */
	uint64_t ns;       /* of the mark; other threads may still be at work then ... */
	uint64_t begun_ns; /* ... but the copy was made before the child began */
};

struct verify_count {
	uint64_t logged;
	uint64_t seen; /* by the kernel */
	uint64_t matched;
	uint64_t missing; /* logged, not seen by the kernel */
	uint64_t foreign; /* seen, not logged */
};

enum verify_finding {
	VERIFY_MISSING,       /* logged, but the kernel has not seen it */
	VERIFY_ORDER,         /* in another order than the kernel's */
	VERIFY_FOREIGN_BREAK, /* the break moved, not by the log's hand, after the heap began */
	VERIFY_INTRUSION,     /* a call that is not in the log reached into the heap's memory */
	VERIFY_UNOWNED,       /* a logged call on memory that no logged call had obtained */
	VERIFY_UNMAPPED, /* a block said to have a mapping of its own, which is not in the log */
	VERIFY_UNKNOWN,  /* freed, and no logged call had allocated it */
	VERIFY_TWICE,    /* allocated, and no logged call had freed it before */
	VERIFY_FINDINGS
};

#define VERIFY_EXAMPLES 3

/* The kernel's own count of what happened, kept whether or not there was room for it. */
struct verify_account {
	bool known; /* session.json has it */
	unsigned cpus;
	uint64_t ended[VERIFY_KINDS];
	uint64_t dropped[VERIFY_KINDS];
	uint64_t fewer; /* events are neither there nor counted as dropped */
	uint64_t more;  /* events than have ended */
	uint64_t bad_sequences;
};

/* What `record` saw of a process in /proc, between two times. */
struct verify_look {
	bool there;
	bool has_break; /* the log has moved it before ... */
	bool moving;    /* ... or just then, and where it is cannot be told */
	uint64_t from_ns;
	uint64_t to_ns;
	uint64_t heap_end; /* of the mapping [heap]; 0 = there was none */
	uint64_t heap_break;
	uint64_t break_ns;
	struct ranges mapped;   /* anonymous memory, and the recording's */
	struct ranges recorder; /* mapped for the recording */
	struct ranges certain;  /* what the log holds all the while */
};

struct verify_proc {
	uint32_t looked; /* processes that were seen */
	uint64_t held;   /* bytes that the log held of them, then */
	uint64_t present;
	uint64_t anonymous;
	uint64_t breaks;   /* that could be compared */
	uint64_t unmapped; /* ranges that the log holds where there is no such memory, ... */
	uint64_t breaks_wrong;
	uint64_t resident_wrong;     /* more in pagemap than smaps_rollup has */
	struct range unmapped_range; /* ... the first of each, and whose they are */
	uint32_t unmapped_stream;
	uint32_t wrong_stream;
	uint64_t wrong_break;
};

struct verify {
	struct trace *trace;
	struct verify_calls logged;
	struct verify_calls kernel;
	struct verify_calls others; /* of the kernel: what is no system call */
	struct verify_calls
		blocks; /* allocations with a mapping of their own: kind, addr, length */
	struct verify_fork *forks;
	size_t fork_count;
	struct verify_count count[VERIFY_SYSCALLS];
	struct verify_account account;
	struct verify_look *looks; /* one a stream, or NULL: the kernel's side is there */
	struct verify_proc proc;
	uint64_t found[VERIFY_FINDINGS];
	struct verify_call example[VERIFY_FINDINGS][VERIFY_EXAMPLES];
	uint64_t wrong_forks; /* processes whose parent has not forked, says the kernel ... */
	uint64_t wrong_ends;  /* ... or that have ended in another way */
	uint64_t unlogged;    /* kernel events of processes that have no stream */
	uint64_t unfinished;  /* the program was ended inside a call, before it could log it */
	uint64_t kernel_lost;
	uint64_t log_lost;
	uint64_t kernel_incomplete; /* streams */
	uint64_t log_incomplete;
	uint64_t skew_ns; /* the furthest that a kernel time lay outside the log's */
};

/* Reads both sides. 0, or -errno with a sentence in trace->error. */
int verify_read(struct verify *verify);
void verify_free(struct verify *verify);

/* When a process registered and when it ended, CLOCK_MONOTONIC. */
uint64_t verify_stream_start(struct verify *verify, uint32_t stream);
uint64_t verify_stream_end(struct verify *verify, uint32_t stream);

/* Reads what was seen in /proc, and compares the breaks. 0 or -ENOMEM. */
int verify_read_proc(struct verify *verify);
void verify_free_proc(struct verify *verify);

/* Pairs the two sides, thread by thread; sorts both by process, thread and time. */
void verify_match(struct verify *verify);

/* Holds the events against the kernel's own count of them. 0 or -ENOMEM. */
int verify_check_account(struct verify *verify);

/* Holds beginnings and ends of processes against the kernel's. 0 or -ENOMEM. */
int verify_check_processes(struct verify *verify);

/* Follows what the heap owns through all processes. 0 or -ENOMEM. */
int verify_ranges(struct verify *verify);

/* Whether each block that is freed had been allocated, and none is allocated twice. 0, or -errno with
 * a sentence in trace->error. */
int verify_blocks(struct verify *verify);

void verify_found(struct verify *verify, enum verify_finding what, const struct verify_call *call);

#endif
