/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What probe.bpf.c and classic.bpf.c have in common, without the kernel's types: the maps, a call
 * from its beginning to its end, and the way of an event into the ring. The includer says what only
 * the kernel's structures, or a substitute for them, can tell.
 */
#ifndef HEAPLEDGER_CALLS_BPF_H
#define HEAPLEDGER_CALLS_BPF_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <asm/unistd.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "event.h"

#define RING_BYTES (16 << 20)
#define PROCESSES 32768
#define THREADS 16384

/* Of the includer: the break of the current process, the number of its image, the kind of the
 * allocator call that the thread is in, and what it does before a call that it will see end. */
static __always_inline __u64 break_now(void);
static __always_inline __u32 image_now(void);
static __always_inline __u32 allocating_now(__u32 tid);
static __always_inline void before_call(struct event_process *process, struct event_call *call);

/* The contexts of the classic tracepoints syscalls:sys_enter_* and sys_exit_*. */
struct enter_context {
	__u64 common;
	__s64 number;
	__u64 argument[6];
};

struct leave_context {
	__u64 common;
	__s64 number;
	__s64 result;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} ring SEC(".maps");

/* The recorded process tree, by thread group. probe.c puts the root in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROCESSES);
	__type(key, __u32);
	__type(value, struct event_process);
} processes SEC(".maps");

/* The call each thread is in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct event_call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event_counters);
} counters SEC(".maps");

static __always_inline struct event_counters *own_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

/* Numbers of calls.def: HL_SYSCALL. 0 = not ours. */
static __always_inline __u32 kind_of(__u64 number)
{
	switch (number) {
	case __NR_brk:
		return 32;
	case __NR_mmap:
		return 33;
	case __NR_munmap:
		return 34;
	case __NR_mremap:
		return 35;
	case __NR_madvise:
		return 36;
	case __NR_mprotect:
		return 37;
	case __NR_process_madvise:
		return 39;
	default:
		return 0;
	}
}

static __always_inline bool is_recorded(__u32 tgid)
{
	return bpf_map_lookup_elem(&processes, &tgid) != NULL;
}

static __always_inline struct event_process *own_process(void)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	return bpf_map_lookup_elem(&processes, &tgid);
}

/* Where the calling thread keeps its call; NULL if there is no room. */
static __always_inline struct event_call *own_call(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct event_call *call = bpf_map_lookup_elem(&calls, &tid);
	struct event_call none = {.number = EVENT_NO_CALL};

	if (call)
		return call;
	bpf_map_update_elem(&calls, &tid, &none, BPF_ANY);
	return bpf_map_lookup_elem(&calls, &tid);
}

/* NULL if it is not a thread of ours or there is no room, and then the end of the call is counted
 * as unpaired. */
static __always_inline struct event_call *begin(void)
{
	struct event_process *process = own_process();
	struct event_call *call = process ? own_call() : NULL;

	if (call)
		before_call(process, call);
	return call;
}

static __always_inline int begun(struct event_call *call, __u64 number)
{
	struct event_counters *own = own_counters();

	if (number == __NR_brk)
		call->brk = break_now();
	call->number = number;
	call->image = image_now();
	if (own)
		own->entered++;
	call->start_ns = bpf_ktime_get_ns();
	return 0;
}

/* Everything that happens is counted here, and whether there was room for it. */
static __always_inline void send(__u32 kind, const struct event_call *call, __s64 result,
	__u64 end_ns, struct event_counters *own)
{
	__u64 id = bpf_get_current_pid_tgid(), sequence = own->sequence++;
	struct event_total *total = &own->total[(kind - EVENT_FIRST_KIND) & (EVENT_KINDS - 1)];
	struct event *event = call ? bpf_ringbuf_reserve(&ring, sizeof(*event), 0) : NULL;

	total->ended++;
	if (!event) {
		total->dropped++;
		return;
	}
	event->start_ns = call->start_ns;
	event->end_ns = end_ns;
	__builtin_memcpy(event->argument, call->argument, sizeof(event->argument));
	event->brk = call->brk;
	event->result = result;
	event->sequence = sequence;
	event->cpu = bpf_get_smp_processor_id();
	event->kind = kind;
	event->tgid = id >> 32;
	event->tid = (__u32)id;
	event->image = call->image;
	event->allocating = allocating_now(event->tid);
	bpf_ringbuf_submit(
		event, BPF_RB_NO_WAKEUP); /* probe.c polls: the program pays no wake-up */
}

/* Whether a call that ends in a thread without an entry is the first one that is seen of it: it
 * began before its process was followed, and is not counted. A thread that finds no room for an
 * entry has one missing. */
static __always_inline bool began_before(__u32 tid)
{
	struct event_call none = {.number = EVENT_NO_CALL};

	return bpf_map_update_elem(&calls, &tid, &none, BPF_NOEXIST) == 0;
}

static __always_inline int end(__u64 number, __s64 result)
{
	__u64 end_ns = bpf_ktime_get_ns();
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)id, kind = kind_of(number);
	struct event_call *call = bpf_map_lookup_elem(&calls, &tid);
	struct event_counters *own = own_counters();
	bool paired = call && call->number == number;

	if (!own || !kind || (!paired && !is_recorded(id >> 32)))
		return 0;
	if (paired) {
		send(kind, call, result, end_ns, own);
		call->number = EVENT_NO_CALL;
	} else if (call || !began_before(tid)) {
		own->unpaired++;
		send(kind, NULL, result, end_ns, own);
	}
	return 0;
}

/* What is no system call: it has a kind, a time and what `event` is given beforehand. */
static __always_inline void tell(__u32 kind, struct event_call *what)
{
	struct event_counters *own = own_counters();

	if (!own)
		return;
	own->others++;
	what->start_ns = bpf_ktime_get_ns();
	if (!what->image)
		what->image = image_now();
	send(kind, what, 0, what->start_ns, own);
}

static __always_inline void forget_thread(__u32 tid)
{
	struct event_call *call = bpf_map_lookup_elem(&calls, &tid);
	struct event_counters *own = own_counters();

	if (call && call->number != EVENT_NO_CALL && own)
		own->abandoned++;
	bpf_map_delete_elem(&calls, &tid);
}

/* Direct reads from the context: the kernel refuses the program where a call has fewer arguments
 * than it reads, and so there is one for each call. */
#define ENTER(name, count)                                                                         \
	SEC("tracepoint")                                                                          \
	int enter_##name(struct enter_context *context)                                            \
	{                                                                                          \
		struct event_call *call = begin();                                                 \
                                                                                                   \
		if (!call)                                                                         \
			return 0;                                                                  \
		for (int i = 0; i < count; i++)                                                    \
			call->argument[i] = context->argument[i];                                  \
		return begun(call, __NR_##name);                                                   \
	}

ENTER(brk, 1)
ENTER(mmap, 5)
ENTER(munmap, 2)
ENTER(mremap, 5)
ENTER(madvise, 3)
ENTER(mprotect, 3)
ENTER(process_madvise, 5)

#endif
