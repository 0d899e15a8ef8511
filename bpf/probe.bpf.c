/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The kernel's side of the ledger: brk, mmap, munmap, mremap, madvise and mprotect of the recorded
 * process tree, each with arguments, result and times. Loaded and read by probe.c; decides nothing.
 *
 * Two ways in, and probe.c loads one of them: a tracepoint for each system call (enter_brk ...,
 * leave), which costs other system calls next to nothing but needs tracefs, or the two raw
 * tracepoints that every system call passes (enter_raw, leave_raw).
 *
 * Kernel structures are declared here with the few members that are used; their offsets come from
 * the running kernel's BTF when the program is loaded.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <asm/unistd.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "event.h"

#define TS_COMPAT 2 /* thread_info.status: inside a 32-bit system call */

#define RING_BYTES (16 << 20)
#define PROCESSES 32768
#define THREADS 16384

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs {
	unsigned long di, si, dx, r10, r8, orig_ax;
};

struct thread_info {
	__u32 status;
};

struct mm_struct {
	unsigned long brk;
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

struct task_struct {
	struct thread_info thread_info;
	struct mm_struct *mm;
	int pid;
	int tgid;
	struct signal_struct *signal;
	unsigned long long self_exec_id;
};
#pragma clang attribute pop

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
	__type(value, __u8);
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
	default:
		return 0;
	}
}

static __always_inline bool is_recorded(__u32 tgid)
{
	return bpf_map_lookup_elem(&processes, &tgid) != NULL;
}

/* Where the calling thread keeps its call; NULL if it is not one of ours or there is no room, and
 * then the end of the call is counted as unpaired. */
static __always_inline struct event_call *begin(void)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)id;
	struct event_call *call, none = {.number = EVENT_NO_CALL};

	if (!is_recorded(id >> 32))
		return NULL;
	call = bpf_map_lookup_elem(&calls, &tid);
	if (call)
		return call;
	bpf_map_update_elem(&calls, &tid, &none, BPF_ANY);
	return bpf_map_lookup_elem(&calls, &tid);
}

static __always_inline int begun(struct event_call *call, __u64 number)
{
	struct event_counters *own = own_counters();
	struct task_struct *task;

	if (number == __NR_brk) {
		task = (struct task_struct *)bpf_get_current_task();
		call->brk = BPF_CORE_READ(task, mm, brk);
	}
	call->number = number;
	if (own)
		own->entered++;
	call->start_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline bool send(
	const struct event_call *call, __s64 result, __u64 end_ns, __u64 id, __u64 sequence)
{
	struct event *event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);

	if (!event)
		return false;
	event->start_ns = call->start_ns;
	event->end_ns = end_ns;
	__builtin_memcpy(event->argument, call->argument, sizeof(event->argument));
	event->brk = call->brk;
	event->result = result;
	event->sequence = sequence;
	event->cpu = bpf_get_smp_processor_id();
	event->kind = kind_of(call->number);
	event->tgid = id >> 32;
	event->tid = (__u32)id;
	event->image = bpf_get_current_task_btf()->self_exec_id;
	event->padding = 0;
	bpf_ringbuf_submit(
		event, BPF_RB_NO_WAKEUP); /* probe.c polls: the program pays no wake-up */
	return true;
}

static __always_inline int end(__u64 number, __s64 result)
{
	__u64 end_ns = bpf_ktime_get_ns();
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)id, index = kind_of(number) - EVENT_FIRST_KIND;
	struct event_call *call = bpf_map_lookup_elem(&calls, &tid);
	struct event_counters *own = own_counters();
	bool paired = call && call->number == number;
	__u64 sequence;

	if (!own || index >= EVENT_CALLS || (!paired && !is_recorded(id >> 32)))
		return 0;
	own->total[index].ended++;
	sequence = own->sequence++;
	if (!paired)
		own->unpaired++;
	if (!paired || !send(call, result, end_ns, id, sequence))
		own->total[index].dropped++;
	if (paired)
		call->number = EVENT_NO_CALL;
	return 0;
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

SEC("tracepoint")
int leave(struct leave_context *context)
{
	return end((__u32)context->number, context->result);
}

static __always_inline bool is_compat(void)
{
	return bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
}

/* Arguments that a call does not have are whatever the registers held: probe.c leaves them out. */
SEC("tp_btf/sys_enter")
int BPF_PROG(enter_raw, struct pt_regs *regs, long number)
{
	struct event_call *call;

	if (!kind_of(number) || is_compat())
		return 0;
	call = begin();
	if (!call)
		return 0;
	call->argument[0] = regs->di;
	call->argument[1] = regs->si;
	call->argument[2] = regs->dx;
	call->argument[3] = regs->r10;
	call->argument[4] = regs->r8;
	return begun(call, number);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(leave_raw, struct pt_regs *regs, long result)
{
	__u64 number = regs->orig_ax;

	if (!kind_of(number) || !is_recorded(bpf_get_current_pid_tgid() >> 32) || is_compat())
		return 0;
	return end(number, result);
}

/* Fires for threads too; a process of its own is one with another thread group. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(follow, struct task_struct *parent, struct task_struct *child)
{
	__u32 tgid = child->tgid;
	__u8 yes = 1;
	struct event_counters *own;

	if (tgid == (__u32)parent->tgid || !is_recorded(parent->tgid))
		return 0;
	if (bpf_map_update_elem(&processes, &tgid, &yes, BPF_ANY) != 0) {
		own = own_counters();
		if (own)
			own->unfollowed++;
	}
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(forget, struct task_struct *task)
{
	__u32 tgid = task->tgid, tid = task->pid;
	struct event_counters *own = own_counters();
	struct event_call *call;

	if (!is_recorded(tgid))
		return 0;
	call = bpf_map_lookup_elem(&calls, &tid);
	if (call && call->number != EVENT_NO_CALL && own)
		own->abandoned++;
	bpf_map_delete_elem(&calls, &tid);
	if (task->signal->live.counter == 0)
		bpf_map_delete_elem(&processes, &tgid);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
