/* SPDX-License-Identifier: MIT
 *
 * The target's hold on the session (heapledger/session.h): attaching, registering the process,
 * taking and giving pages. Used by log.c alone. Raw system calls only, because libc's wrappers can
 * be interposed, are cancellation points and set errno; no allocation, no lock.
 */
#ifndef HEAPLEDGER_ATTACH_H
#define HEAPLEDGER_ATTACH_H

#include "heapledger/callstack.h"
#include "heapledger/pagemap.h"
#include "heapledger/record.h"
#include "heapledger/session.h"

#include "alone.h"
#include "vdso.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <x86intrin.h>

#pragma GCC visibility push(hidden)

/* The recorder's own calls at attach, to be logged with the first page. */
#define ATTACH_CALLS 32

struct attachment {
	struct hl_session *session;
	bool alone; /* it is empty: the process writes a file of its own (alone.h) */
	struct hl_process *process;
	uint32_t serial;
	bool clock_known; /* before, ticks are the TSC without more ado */
	bool tsc;
	vdso_clock clock; /* where there is no tsc; NULL: ask by a system call */
	_Atomic bool recording;
	_Atomic uint64_t sequence; /* of the process's next page */
	_Atomic uint32_t forks;
	struct hl_syscall_record calls[ATTACH_CALLS];
	_Atomic uint32_t call_count;
};

extern struct attachment attached;

/* Which library this is, enum hl_mode. */
extern const uint8_t attach_mode;

/* Its caches, for the collector; NULL: its allocator is not ours. */
struct hl_caches;
extern const struct hl_caches *const attach_caches;

/* Points to a word that is 0 when attach_process must run: before the first event, and in a copy
 * of the process that no fork handler saw (_Fork, raw clone), where the kernel has wiped it. */
extern const uint32_t *attach_token;

/* The same word, but for a hold: from before a fork's mark until after the fork attach_token leads
 * to a 0, so that every thread comes off the hot path and waits, as its events would belong to
 * neither side of the mark. A wait is bounded: the fork may wait for a lock of that thread's. */
extern const uint32_t *attach_token_real;
void attach_hold(void);
void attach_release(void);
void attach_wait_release(void);

/* The token's value is otherwise any number, and every thread compares it with the one it saw last:
 * changing it takes them all off the hot path once. */
void attach_change_token(void);

/* The collector's coarse clock, never 0. */
extern const _Atomic uint32_t *attach_round;

/* Registers this process, as a new image or as a copy of the one registered before. interrupted:
 * the copy goes on with a call that was interrupted by a signal handler and may be about to write
 * to its parent's page. */
void attach_process(uint64_t fork_id, bool interrupted);

/* The path of the program; empty if it is not known or no stacks are wanted. */
const char *attach_program(void);

/* A page for this thread, header filled; NULL if there is none or recording is off. `calls` gets
 * the recorder's own calls, to be logged there. */
struct hl_page *attach_take_page(uint32_t tid, bool may_wait, struct alone_calls *calls);
void attach_give_page(struct hl_page *page);

/* False for a page that a call took which a handler then interrupted and forked: the parent's. */
bool attach_has_page(const struct hl_page *page);

/* One of the recorder's own calls: makes it and describes it in `record`. */
int64_t attach_call(struct hl_syscall_record *record, enum hl_kind kind, long number, uint64_t a,
	uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f);

/* The same, kept until there is a page to log it to: while attaching. */
int64_t attach_early(enum hl_kind kind, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
	uint64_t e, uint64_t f);

/* Fills the final sample; `calls` describes the ATTACH_SAMPLE_CALLS calls which that took. */
#define ATTACH_SAMPLE_CALLS 4
bool attach_sample(struct hl_sample_record *sample, struct hl_syscall_record *calls);

/* The process's anonymous pages that are in memory or swap, as PAGEMAP_SCAN of Linux 6.7 gives them, in
 * one piece or, where there are many, in two. `call` describes the calls which that took. */
#define ATTACH_PAGES_CALLS 6
struct attach_pages {
	struct {
		const struct hl_pagemap_region *run;
		uint64_t count;
	} piece[2]; /* of the first, 0: the kernel does not tell */
	uint64_t room; /* of the second, for so many */
	uint64_t tick;
	uint64_t took; /* ticks */
	bool cut;
	unsigned calls;
	struct hl_syscall_record call[ATTACH_PAGES_CALLS];
};
void attach_pages(struct attach_pages *pages);

/* The runs are not needed any more: how many calls that took, 0 or 1; `call[0]` describes it. */
unsigned attach_pages_done(struct attach_pages *pages);

/* A tick. Blocks pass between threads, and the trace must show each free before the address is
 * handed out again and after it was handed out. So a stamp must not be read ahead of earlier loads
 * (the one that took the block from a list, or the one by which the program got it from another
 * thread): rdtscp waits for those, rdtsc does not. And it is read before a later store (the one
 * that gives the block away) can be seen, because stores become visible only after what stands
 * before them is done. */
static inline uint64_t attach_tick(void);

static inline int64_t attach_raw(
	long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	register uint64_t r10 __asm__("r10") = d;
	register uint64_t r8 __asm__("r8") = e;
	register uint64_t r9 __asm__("r9") = f;
	int64_t result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* Where the TSC cannot be trusted. */
static inline uint64_t attach_monotonic(void)
{
	struct timespec now = {0};

	if (attached.clock != NULL)
		attached.clock(CLOCK_MONOTONIC, &now);
	else
		attach_raw(
			SYS_clock_gettime, CLOCK_MONOTONIC, (uint64_t)(uintptr_t)&now, 0, 0, 0, 0);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint64_t attach_tick(void)
{
	unsigned core;

	if (__builtin_expect(attached.tsc, 1))
		return __rdtscp(&core);
	return attached.clock_known ? attach_monotonic() : __rdtsc();
}

#pragma GCC visibility pop

#endif
