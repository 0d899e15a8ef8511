/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The kernel's side without the kernel's types (BTF): what probe.bpf.c tells, as far as tracepoints
 * tell it by themselves. The tracepoints of the calls and task_newtask give their fields; of the
 * raw ones only that they were passed is used. Break, image, the number of threads and page faults
 * in user mode are kept here; resident memory, other faults and wait statuses are not known. Loaded
 * by load.c.
 */
#include "calls.bpf.h"

#define CLONE_VM 0x100 /* linux/sched.h */
#define CLONE_THREAD 0x10000

/* Of task:task_newtask, from its format in tracefs. */
const volatile __u32 pid_offset = 0;
const volatile __u32 flags_offset = 0;

/* What the last call left; 0 before the first one of an image. */
static __always_inline __u64 break_now(void)
{
	struct event_process *process = own_process();

	return process ? process->brk : 0;
}

static __always_inline __u32 image_now(void)
{
	struct event_process *process = own_process();

	return process ? process->image : 0;
}

static __always_inline __u32 allocating_now(__u32 tid)
{
	(void)tid;
	return 0;
}

static __always_inline void before_call(struct event_process *process, struct event_call *call)
{
	(void)process, (void)call;
}

/* Every result of brk is the break. The first call of an image asks for it, and changes nothing. */
static __always_inline void keep_break(__u64 now)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct event_call *call = bpf_map_lookup_elem(&calls, &tid);
	struct event_process *process = own_process();

	if (call && call->number == __NR_brk && !call->brk && !call->argument[0])
		call->brk = now;
	if (process)
		process->brk = now;
}

SEC("tracepoint")
int leave(struct leave_context *context)
{
	__u32 number = (__u32)context->number;

	if (number == __NR_brk)
		keep_break(context->result);
	return end(number, context->result);
}

static __always_inline void add_process(const struct event_process *parent, __u32 tgid, bool shares)
{
	struct event_process child = {.brk = parent->brk, .image = parent->image, .threads = 1};
	struct event_call what = {.argument = {tgid, shares}};
	struct event_counters *own;

	if (bpf_map_update_elem(&processes, &tgid, &child, BPF_ANY) != 0) {
		own = own_counters();
		if (own)
			own->unfollowed++;
	}
	tell(EVENT_PROCESS_FORK, &what);
}

/* Before the new thread runs. */
SEC("tracepoint")
int follow(const char *context)
{
	struct event_process *process = own_process();
	__u64 flags = 0;
	__u32 pid = 0;

	if (!process)
		return 0;
	bpf_probe_read_kernel(&pid, sizeof(pid), context + pid_offset);
	bpf_probe_read_kernel(&flags, sizeof(flags), context + flags_offset);
	if (flags & CLONE_THREAD)
		__sync_fetch_and_add(&process->threads, 1);
	else
		add_process(process, pid, flags & CLONE_VM);
	return 0;
}

SEC("raw_tp/page_fault_user")
int fault(void *context)
{
	struct event_process *process = own_process();

	(void)context;
	if (process)
		__sync_fetch_and_add(&process->faults, 1);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int replace(void *context)
{
	struct event_process *process = own_process();
	struct event_call what = {};

	(void)context;
	if (!process)
		return 0;
	process->brk = 0;
	process->image++;
	bpf_get_current_comm(what.argument, EVENT_NAME_BYTES);
	tell(EVENT_PROCESS_EXEC, &what);
	return 0;
}

/* Of threads that end at the same time only one takes the process out of the table. */
SEC("raw_tp/sched_process_exit")
int forget(void *context)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tgid = id >> 32;
	struct event_process *process = own_process();
	struct event_call what = {.argument = {EVENT_UNKNOWN, EVENT_UNKNOWN}};

	(void)context;
	if (!process)
		return 0;
	forget_thread((__u32)id);
	__sync_fetch_and_add(&process->threads, -1);
	what.argument[2] = process->faults;
	what.image = process->image;
	if (process->threads <= 0 && bpf_map_delete_elem(&processes, &tgid) == 0)
		tell(EVENT_PROCESS_EXIT, &what);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
