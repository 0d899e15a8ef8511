/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The kernel's side of the ledger: the memory system calls of the recorded process tree, each with
 * arguments, result and times; forks, execs and exits; page faults and resident memory. Loaded by
 * load.c, read by probe.c; decides nothing. Where the kernel has no BTF, classic.bpf.c is in its
 * place.
 *
 * Two ways in, and load.c loads one of them: a tracepoint for each system call (enter_brk ...,
 * leave), which costs other system calls next to nothing but needs tracefs, or the two raw
 * tracepoints that every system call passes (enter_raw, leave_raw).
 *
 * Kernel structures are declared here with the few members that are used; their offsets come from
 * the running kernel's BTF when the program is loaded.
 */
#include "calls.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define TS_COMPAT 2 /* thread_info.status: inside a 32-bit system call */

/* A process's memory is told not more often than this. */
#define MEMORY_NS 1000000

/* Bits of a page fault's error code, which the processor has defined, and of a page's gfp flags. */
#define FAULT_WRITE 0x2
#define FAULT_USER 0x4
#define FAULT_INSTRUCTION 0x10
#define GFP_MOVABLE 0x8 /* ___GFP_MOVABLE since Linux 2.6.24: for a process, not for the kernel */
#define PAGE_BYTES 4096

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs {
	unsigned long di, si, dx, r10, r8, orig_ax, ip;
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
	unsigned long min_flt, maj_flt;
	unsigned long long self_exec_id;
};
#pragma clang attribute pop

/* The allocator call each thread is in, if a process's allocator is probed; filled by
 * allocator.bpf.c, and looked at only then. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct event_allocating);
} allocating SEC(".maps");

const volatile bool with_allocator = false;

static __always_inline __u32 allocating_now(__u32 tid)
{
	struct event_allocating *call;

	if (!with_allocator)
		return 0;
	call = bpf_map_lookup_elem(&allocating, &tid);
	return call ? call->kind : 0;
}

static __always_inline __u64 break_now(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, mm, brk);
}

static __always_inline __u32 image_now(void)
{
	return bpf_get_current_task_btf()->self_exec_id;
}

SEC("tracepoint")
int leave(struct leave_context *context)
{
	return end((__u32)context->number, context->result);
}

static __always_inline bool is_compat(void)
{
	return bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
}

/* Arguments that a call does not have are whatever the registers held: event_record.c leaves them
 * out. */
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

/* Page faults are counted by the kernel anyway, a thread at a time: to read its counts now and then
 * costs a program nothing, where to be called at each fault would take a twentieth of it. `call` is
 * NULL if the thread has none yet. */
static __always_inline void settle(
	struct event_process *process, struct event_call *call, const struct task_struct *task)
{
	__u64 faults = task->min_flt + task->maj_flt;

	__sync_fetch_and_add(&process->faults, faults - (call ? call->faults : 0));
	if (call)
		call->faults = faults;
}

static __always_inline __u64 faults_of(const struct event_process *process)
{
	return process->ran ? EVENT_UNKNOWN : process->faults;
}

static __always_inline __u64 send_memory(__u64 faults)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct event_call what = {.argument = {faults}};

	if (mm) {
		what.argument[1] = RESIDENT(mm, 0);
		what.argument[2] = RESIDENT(mm, 1);
		what.argument[3] = RESIDENT(mm, 2);
		what.argument[4] = RESIDENT(mm, 3);
	}
	tell(EVENT_MEMORY, &what);
	return what.start_ns;
}

static __always_inline void tell_memory(struct event_process *process, struct event_call *call)
{
	if (!call) /* no room: the next one would count its faults again */
		return;
	settle(process, call, bpf_get_current_task_btf());
	process->told_ns = send_memory(faults_of(process));
}

/* So that what a call gives back is still there. */
static __always_inline void before_call(struct event_process *process, struct event_call *call)
{
	if (bpf_ktime_get_ns() - process->told_ns >= MEMORY_NS)
		tell_memory(process, call);
}

/* ---- page faults, one by one: loaded if that is wanted --------------------------------------- */

/* The fault in user mode that a CPU has seen last. */
struct last_fault {
	__u64 address;
	__u64 ip; /* of the instruction that had it */
	__u32 tid;
	__u32 write;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct last_fault);
} last_faults SEC(".maps");

static __always_inline struct last_fault *own_last_fault(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&last_faults, &zero);
}

/* When it begins; what memory it is on the analyzer knows. Code is no heap. */
static __always_inline void tell_fault(__u64 address, __u64 error, __u64 ip)
{
	struct event_call what = {.argument = {address, PAGE_BYTES,
					  (error & FAULT_WRITE ? EVENT_FAULT_WRITE : 0) |
						  (error & FAULT_USER ? EVENT_FAULT_USER : 0)}};
	struct last_fault *last = own_last_fault();

	if ((error & FAULT_INSTRUCTION) || (__s64)address < 0)
		return;
	if (last) {
		last->address = address;
		last->ip = ip;
		last->tid = (__u32)bpf_get_current_pid_tgid();
		last->write = error & FAULT_WRITE;
	}
	tell(EVENT_FAULT, &what);
}

/* When it begins, so that the count of faults has all before it. */
SEC("tp_btf/page_fault_user")
int BPF_PROG(fault, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	struct event_process *process = own_process();

	if (!process)
		return 0;
	tell_fault(address, error, regs->ip);
	if (bpf_ktime_get_ns() - process->told_ns >= MEMORY_NS)
		tell_memory(process, own_call());
	return 0;
}

/* By a system call that reads or writes the program's memory. */
SEC("tp_btf/page_fault_kernel")
int BPF_PROG(fault_in_call, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	if (is_recorded(bpf_get_current_pid_tgid() >> 32))
		tell_fault(address, error, 0);
	return 0;
}

/* A larger page for a fault is told of besides: the thread must have come into the kernel by the
 * fault that its CPU saw last, as system calls take larger pages for files. */
SEC("tp_btf/mm_page_alloc")
int BPF_PROG(give, void *page, unsigned int order, unsigned int gfp)
{
	__u64 id = bpf_get_current_pid_tgid(), bytes = (__u64)PAGE_BYTES << (order & 15);
	struct event_call what = {
		.argument = {0, bytes, EVENT_FAULT_LARGE | EVENT_FAULT_WRITE | EVENT_FAULT_USER}};
	struct last_fault *last;
	struct pt_regs *regs;

	if (!order || !(gfp & GFP_MOVABLE) || !is_recorded(id >> 32))
		return 0;
	last = own_last_fault();
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (!last || last->tid != (__u32)id || !last->write || last->ip != regs->ip)
		return 0;
	what.argument[0] = last->address & ~(bytes - 1);
	tell(EVENT_FAULT, &what);
	return 0;
}

/* ---- processes ------------------------------------------------------------------------------ */

/* Fires for threads too; a process of its own is one with another thread group. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(follow, struct task_struct *parent, struct task_struct *child)
{
	__u32 tgid = child->tgid, parent_tgid = parent->tgid;
	struct event_process *process = bpf_map_lookup_elem(&processes, &parent_tgid);
	struct event_process alone = {.threads = 1};
	struct event_call what = {.argument = {tgid, child->mm == parent->mm}};
	struct event_counters *own;

	if (!process)
		return 0;
	if (tgid == parent_tgid) {
		__sync_fetch_and_add(&process->threads, 1);
		return 0;
	}
	if (bpf_map_update_elem(&processes, &tgid, &alone, BPF_ANY) != 0) {
		own = own_counters();
		if (own)
			own->unfollowed++;
	}
	tell(EVENT_PROCESS_FORK, &what);
	return 0;
}

/* Of several threads the one that executes goes on under the number of the first. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(replace, struct task_struct *task, int old_tid)
{
	__u32 old = old_tid, tid = task->pid;
	struct event_call *call, what = {};

	if (!is_recorded(task->tgid))
		return 0;
	call = old == tid ? NULL : bpf_map_lookup_elem(&calls, &old);
	if (call) {
		bpf_map_update_elem(&calls, &tid, call, BPF_ANY);
		bpf_map_delete_elem(&calls, &old);
	}
	bpf_get_current_comm(what.argument, EVENT_NAME_BYTES);
	tell(EVENT_PROCESS_EXEC, &what);
	return 0;
}

/* Each thread has told of its faults before it is counted off, so the last one to be so has them
 * all. That no thread is left to live says the kernel before all of them have come here. */
static __always_inline bool is_last(struct event_process *process, const struct task_struct *task)
{
	if (process->ran)
		return task->signal->live.counter == 0;
	__sync_fetch_and_add(&process->threads, -1);
	return process->threads <= 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(forget, struct task_struct *task)
{
	__u32 tgid = task->tgid, tid = task->pid;
	struct event_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct event_call what = {};

	if (!process)
		return 0;
	settle(process, bpf_map_lookup_elem(&calls, &tid), task);
	forget_thread(tid);
	if (!is_last(process, task))
		return 0;
	what.argument[0] = task->group_leader->exit_code;
	what.argument[1] = faults_of(process);
	if (bpf_map_delete_elem(&processes, &tgid) != 0) /* by another that ended just now */
		return 0;
	send_memory(what.argument[1]);
	tell(EVENT_PROCESS_EXIT, &what);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
