/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What probe.bpf.c or classic.bpf.c hands to probe.c: one event for each system call that ended,
 * for what becomes of processes and, now and then, for their memory; and the counters that say
 * whether an event is missing, which do not depend on the ring. Included by both; fixed-width types
 * come from the includer.
 */
#ifndef HEAPLEDGER_EVENT_H
#define HEAPLEDGER_EVENT_H

#define EVENT_ARGUMENTS 5

/* Kinds of calls.def, of all that there are events of: from EVENT_FIRST_KIND up to EVENT_KINDS
 * more. EVENT_KINDS is a power of two, for the verifier. */
#define EVENT_FIRST_KIND 32
#define EVENT_KINDS 64
#define EVENT_PROCESS_FORK 58 /* argument: child, 1 if it shares the parent's memory */
#define EVENT_PROCESS_EXEC 59 /* arguments 0 and 1: the name of the new image, as ps shows it */
#define EVENT_NAME_BYTES 16   /* NUL and all */
/* argument: wait status; page faults, and those in user mode where only these are known;
 * EVENT_UNKNOWN */
#define EVENT_PROCESS_EXIT 60
#define EVENT_MEMORY 61 /* argument: faults; pages of file, anonymous, swap, shared */
#define EVENT_FAULT 67  /* argument: address, bytes of the page, EVENT_FAULT_* */
#define EVENT_FAULT_WRITE 1
#define EVENT_FAULT_USER 2  /* by an instruction in user mode, else in a system call */
#define EVENT_FAULT_LARGE 4 /* the page that the kernel took for it is this large */

struct event {
	__u64 start_ns; /* CLOCK_MONOTONIC */
	__u64 end_ns;
	__u64 argument[EVENT_ARGUMENTS];
	__u64 brk; /* brk: the break when the call began */
	__s64 result;
	__u64 sequence; /* among the events of this CPU, those that were dropped included */
	__u32 cpu;
	__u32 kind; /* enum hl_kind */
	__u32 tgid;
	__u32 tid;
	__u32 image;      /* changes with each exec */
	__u32 allocating; /* enum hl_kind of the allocator call under way in the thread, 0 = none */
};

/* The call a thread is in. `number` ties its end to its beginning; EVENT_NO_CALL between calls: the
 * entry stays until the thread exits, which is cheaper than making it anew for each call. */
struct event_call {
	__u64 start_ns;
	__u64 brk;
	__u64 argument[EVENT_ARGUMENTS];
	__u64 number;
	__u64 image;  /* when it began */
	__u64 faults; /* of the thread, that its process was told of */
};
#define EVENT_NO_CALL (~0ULL)
#define EVENT_UNKNOWN (~0ULL)

/* The allocator call that a thread is in (allocator.bpf.c), and what is kept of it between its
 * calls. `stack` is the stack pointer where it began: calls further down are calls within. */
struct event_allocating {
	__u64 stack;
	__u64 caller;
	__u64 size;
	__u64 alignment;
	__u64 result; /* posix_memalign: where it puts the block */
	__u32 kind;   /* 0 between calls */
	__u32 lost;   /* events since the last one that there was room for */
	__u32 throws; /* EVENT_COOKIE_THROWS, of the call */
	__u32 padding;
};

/* What allocator.bpf.c hands to allocator.c. */
struct event_allocation {
	__u64 time_ns; /* after a block was made, before one is given up */
	__u64 addr;
	__u64 size;
	__u64 alignment;
	__u64 caller;
	__u32 kind; /* enum hl_kind */
	__u32 tid;
	__u32 lost; /* by this thread, just before */
	__u32 padding;
};

/* The cookie of a probe: the kind of call in the low byte, and what else is known of its place. */
#define EVENT_COOKIE_STEPPED 0x100
#define EVENT_COOKIE_SHARED 0x200
#define EVENT_COOKIE_THROWS 0x400 /* it returns by an instruction that is probed, or not at all */
#define EVENT_COOKIE_SKIPPED_SHIFT 16

/* No kinds of record: a realloc with the size in two arguments; operator new, which is told as a
 * malloc, and with an alignment, as an aligned_alloc whose arguments are the other way round; an
 * instruction by which functions return; the beginning of an exception. */
#define EVENT_REALLOCARRAY 0x83
#define EVENT_NEW 0x84
#define EVENT_NEW_ALIGNED 0x85
#define EVENT_RETURNING 0x86
#define EVENT_UNWINDING 0x87

/* Probe hits by what they cost (allocator.h). */
#define EVENT_HIT_EMULATED 0 /* the kernel does the instruction's work itself ... */
#define EVENT_HIT_STEPPED 1  /* ... or has the processor do it, with two traps more */
#define EVENT_HIT_RETURN 2
#define EVENT_HITS 3

struct event_allocator_counters {
	__u64 hit[EVENT_HITS];
	__u64 made; /* events, those lost included */
	__u64 lost; /* no room in the ring or the table, or a call whose end was not seen */
};

/* Always counted: ended = events in the ring + dropped. What is no system call ends at once. */
struct event_total {
	__u64 ended;
	__u64 dropped; /* the ring was full, or the beginning had not been seen */
};

/* A process of the recorded tree. */
struct event_process {
	__u64 faults;  /* that its threads have told of */
	__u64 told_ns; /* the last EVENT_MEMORY */
	__s32 threads; /* alive */
	__u32 ran;     /* before it was followed: neither is known of it */
	/* What classic.bpf.c cannot ask the kernel for. */
	__u64 brk; /* 0 = not known yet */
	__u32 image;
	__u32 padding;
};

/* One set a CPU. At the end: entered + unpaired + others = sequence + abandoned + under way. */
struct event_counters {
	__u64 entered;    /* calls seen to begin */
	__u64 others;     /* events that are no system calls */
	__u64 sequence;   /* all events */
	__u64 abandoned;  /* the thread died inside the call */
	__u64 unpaired;   /* calls that ended without having been seen to begin */
	__u64 unfollowed; /* processes that found no room in the table */
	struct event_total total[EVENT_KINDS];
};

#endif
