/* SPDX-License-Identifier: MIT
 *
 * Pairs the calls of the log with those of the kernel, one by one: same process, same thread, same
 * call, same arguments, same result, the same time and the same order. Called by verify.c.
 *
 * The kernel's times lie inside the log's, for both are CLOCK_MONOTONIC in the end; but the log's
 * come from ticks through pairs taken now and then, so a pair may be CLOCK_SLACK_NS apart. The
 * arguments decide, the time only keeps alike calls from being paired across a long distance.
 */
#include "verify.h"

#include <stdlib.h>

#define CLOCK_SLACK_NS UINT64_C(10000000)

static int by_thread(const void *left, const void *right)
{
	const struct verify_call *a = left, *b = right;

	if (a->pid != b->pid)
		return a->pid < b->pid ? -1 : 1;
	if (a->tid != b->tid)
		return a->tid < b->tid ? -1 : 1;
	if (a->start_ns != b->start_ns)
		return a->start_ns < b->start_ns ? -1 : 1;
	return 0;
}

static bool same_thread(const struct verify_call *a, const struct verify_call *b)
{
	return a->pid == b->pid && a->tid == b->tid;
}

/* brk: the log has the break that libc remembers, which is not an argument. mmap by the recorder:
 * logged without the address it asked for. */
static bool same_call(const struct verify_call *logged, const struct verify_call *seen)
{
	bool any_address = logged->kind == HL_KIND_brk ||
			   (logged->kind == HL_KIND_mmap && logged->reason == HL_REASON_recorder);

	return logged->kind == seen->kind && logged->result == seen->result &&
	       logged->argument == seen->argument && logged->length == seen->length &&
	       (any_address || logged->addr == seen->addr);
}

static uint64_t outside(const struct verify_call *logged, const struct verify_call *seen)
{
	uint64_t early = logged->start_ns > seen->start_ns ? logged->start_ns - seen->start_ns : 0;
	uint64_t late = seen->end_ns > logged->end_ns ? seen->end_ns - logged->end_ns : 0;

	return early > late ? early : late;
}

static void pair(struct verify *verify, struct verify_call *logged, struct verify_call *seen)
{
	uint64_t skew = outside(logged, seen);

	logged->matched = true;
	seen->matched = true;
	seen->stream = logged->stream;
	if (skew > verify->skew_ns)
		verify->skew_ns = skew;
}

/* The candidate that is next in order and close in time; otherwise the closest that is further on;
 * otherwise the closest of all, and then the order is wrong. `end` if there is none. */
static struct verify_call *find_call(const struct verify_call *call, struct verify_call *from,
	const struct verify_call *newest, struct verify_call *end, bool lossy)
{
	struct verify_call *best = end;
	/* Where events are lost, the next call that is alike may be the next but one. */
	uint64_t far = lossy ? VERIFY_CLOCK_NS : UINT64_MAX;
	uint64_t close = lossy ? 0 : VERIFY_CLOCK_NS;

	for (struct verify_call *at = from;
		at < end && at->start_ns <= call->end_ns + CLOCK_SLACK_NS; at++) {
		bool in_order = at > newest || call->nested;

		if (at->matched || !same_call(call, at) || outside(call, at) > far ||
			(lossy && !in_order))
			continue;
		if (in_order && outside(call, at) <= close)
			return at;
		if (best == end || (in_order && best <= newest) ||
			outside(call, at) < outside(call, best))
			best = at;
	}
	return best;
}

/* One thread's calls. A signal handler inside the allocator makes its calls before the one that it
 * interrupted, whose stamp is older: such a call may be found before the last one. */
static void match_thread(struct verify *verify, struct verify_call *logged, size_t logged_count,
	struct verify_call *seen, size_t seen_count)
{
	struct verify_call *end = seen + seen_count, *window = seen, *newest = NULL;

	for (struct verify_call *call = logged; call < logged + logged_count; call++) {
		struct verify_call *found;

		while (window < end &&
			(window->matched || window->start_ns + CLOCK_SLACK_NS < call->start_ns))
			window++;
		found = find_call(call, window, newest, end, verify->kernel_lost != 0);
		if (found == end) {
			verify_found(verify, VERIFY_MISSING, call);
			continue;
		}
		if (found < newest && !call->nested)
			verify_found(verify, VERIFY_ORDER, call);
		if (found > newest)
			newest = found;
		pair(verify, call, found);
	}
}

static size_t thread_length(const struct verify_call *call, const struct verify_call *end)
{
	const struct verify_call *at = call;

	while (at < end && same_thread(at, call))
		at++;
	return (size_t)(at - call);
}

static void match_all(struct verify *verify)
{
	struct verify_call *logged = verify->logged.call, *seen = verify->kernel.call;
	struct verify_call *logged_end = logged + verify->logged.count;
	struct verify_call *seen_end = seen + verify->kernel.count;

	while (logged < logged_end) {
		size_t logged_count = thread_length(logged, logged_end), seen_count;

		while (seen < seen_end && by_thread(seen, logged) < 0 && !same_thread(seen, logged))
			seen++;
		seen_count = seen < seen_end && same_thread(seen, logged)
				     ? thread_length(seen, seen_end)
				     : 0;
		match_thread(verify, logged, logged_count, seen, seen_count);
		logged += logged_count;
		seen += seen_count;
	}
}

static void mark_last(struct verify_calls *seen)
{
	for (size_t i = 0; i < seen->count; i++) {
		struct verify_call *call = &seen->call[i];

		call->last = i + 1 == seen->count || !same_thread(call, call + 1) ||
			     call->image != call[1].image;
	}
}

static void count(struct verify *verify)
{
	for (size_t i = 0; i < verify->logged.count; i++) {
		const struct verify_call *call = &verify->logged.call[i];
		struct verify_count *line = &verify->count[call->kind - VERIFY_FIRST_SYSCALL];

		line->logged++;
		line->matched += call->matched;
		line->missing += !call->matched;
	}
	for (size_t i = 0; i < verify->kernel.count; i++) {
		const struct verify_call *call = &verify->kernel.call[i];
		struct verify_count *line = &verify->count[call->kind - VERIFY_FIRST_SYSCALL];

		line->seen++;
		line->foreign += !call->matched;
	}
}

void verify_match(struct verify *verify)
{
	if (verify->logged.count)
		qsort(verify->logged.call, verify->logged.count, sizeof(struct verify_call),
			by_thread);
	if (verify->kernel.count)
		qsort(verify->kernel.call, verify->kernel.count, sizeof(struct verify_call),
			by_thread);
	mark_last(&verify->kernel);
	match_all(verify);
	count(verify);
}
