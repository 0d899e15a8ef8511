/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The kernel's side of the ledger: the memory system calls of the recorded process tree, each with
 * arguments, result and times; forks, execs and exits; page faults and resident memory. Loaded and
 * read by probe.c; decides nothing.
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

/* Page faults are many, so there is an event for several of them: not more often than this. */
#define MEMORY_NS 1000000
#define MEMORY_FAULTS 16 /* a power of two: how often a thread looks at the clock */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs {
	unsigned long di, si, dx, r10, r8, orig_ax;
};

struct thread_info {
	__u32 status;
};

struct percpu_counter {
	__s64 count;
};

struct mm_struct {
	unsigned long brk;
	struct percpu_counter rss_stat[4]; /* file, anonymous, swap, shared */
};

/* Before 6.2. */
struct mm_rss_stat {
	long count[4];
};

struct mm_struct___before {
	struct mm_rss_stat rss_stat;
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
	int exit_code;
	struct task_struct *group_leader;
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

/* The allocator call each thread is in, if a process's allocator is probed; filled by
 * allocator.bpf.c, and looked at only then. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct event_allocating);
} allocating SEC(".maps");

const volatile bool with_allocator = false;

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

static __always_inline __u32 kind_under_way(__u32 tid)
{
	struct event_allocating *call;

	if (!with_allocator)
		return 0;
	call = bpf_map_lookup_elem(&allocating, &tid);
	return call ? call->kind : 0;
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
	event->image = bpf_get_current_task_btf()->self_exec_id;
	event->allocating = kind_under_way(event->tid);
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
	send(kind, what, 0, what->start_ns, own);
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

/* Pages as the kernel counts them where it need not look at each CPU: some may be missing. A macro,
 * because the place of an element is known to BTF only if its number is a constant. To ask whether
 * the old type exists would have modules searched for it, which takes CAP_SYS_ADMIN. */
#define RESIDENT(mm, what)                                                                         \
	not_below_0(                                                                               \
		bpf_core_field_exists(((struct mm_struct___before *)(mm))->rss_stat.count)         \
			? BPF_CORE_READ((struct mm_struct___before *)(mm), rss_stat.count[what])   \
			: BPF_CORE_READ(mm, rss_stat[what].count))

static __always_inline __u64 not_below_0(__s64 pages)
{
	return pages > 0 ? pages : 0;
}

static __always_inline void tell_memory(struct event_process *process)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct event_call what = {.argument = {process->faults}};

	if (mm) {
		what.argument[1] = RESIDENT(mm, 0);
		what.argument[2] = RESIDENT(mm, 1);
		what.argument[3] = RESIDENT(mm, 2);
		what.argument[4] = RESIDENT(mm, 3);
	}
	tell(EVENT_MEMORY, &what);
	process->told_ns = what.start_ns;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(fault)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct event_process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return 0;
	__sync_fetch_and_add(&process->faults, 1);
	if (process->faults % MEMORY_FAULTS == 0 &&
		bpf_ktime_get_ns() - process->told_ns >= MEMORY_NS)
		tell_memory(process);
	return 0;
}

/* Fires for threads too; a process of its own is one with another thread group. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(follow, struct task_struct *parent, struct task_struct *child)
{
	__u32 tgid = child->tgid;
	struct event_process none = {};
	struct event_call what = {.argument = {tgid, child->mm == parent->mm}};
	struct event_counters *own;

	if (tgid == (__u32)parent->tgid || !is_recorded(parent->tgid))
		return 0;
	if (bpf_map_update_elem(&processes, &tgid, &none, BPF_ANY) != 0) {
		own = own_counters();
		if (own)
			own->unfollowed++;
	}
	tell(EVENT_PROCESS_FORK, &what);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(replace, struct task_struct *task)
{
	struct event_call what = {};

	if (is_recorded(task->tgid))
		tell(EVENT_PROCESS_EXEC, &what);
	return 0;
}

static __always_inline void forget_thread(__u32 tid)
{
	struct event_call *call = bpf_map_lookup_elem(&calls, &tid);
	struct event_counters *own = own_counters();

	if (call && call->number != EVENT_NO_CALL && own)
		own->abandoned++;
	bpf_map_delete_elem(&calls, &tid);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(forget, struct task_struct *task)
{
	__u32 tgid = task->tgid;
	struct event_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct event_call what = {};

	if (!process)
		return 0;
	forget_thread(task->pid);
	if (task->signal->live.counter != 0)
		return 0;
	tell_memory(process);
	what.argument[0] = task->group_leader->exit_code;
	what.argument[1] = process->faults;
	tell(EVENT_PROCESS_EXIT, &what);
	bpf_map_delete_elem(&processes, &tgid);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
