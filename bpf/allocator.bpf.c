/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The calls of a running process's own allocator, by probes on the entries of its functions and on
 * their returns. Loaded and read by allocator.c, which says what each probe is on; decides nothing.
 *
 * An allocation is told after it is made, a free before it is done, a realloc by both. A call
 * within a call is the allocator's own and is not told: its stack pointer lies below that of the
 * call that its thread is in.
 *
 * A function that may end by an exception must find its return address as it was, where a probe on
 * a return puts another. So its return instructions are probed, and where exceptions begin.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <asm/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "event.h"

#define RING_BYTES (16 << 20)
#define THREADS 16384
#define PAGE_BYTES 4096

/* Numbers of calls.def. */
enum {
	MALLOC = 1,
	CALLOC = 2,
	REALLOC = 3,
	ALIGNED_ALLOC = 4,
	MEMALIGN = 5,
	POSIX_MEMALIGN = 6,
	VALLOC = 7,
	PVALLOC = 8,
	FREE = 9,
	REALLOC_BEGIN = 48,
	REALLOCARRAY = EVENT_REALLOCARRAY,
	NEW = EVENT_NEW,
	NEW_ALIGNED = EVENT_NEW_ALIGNED,
	UNWINDING = EVENT_UNWINDING,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct xol_area {
	unsigned long vaddr;
};

struct uprobes_state {
	struct xol_area *xol_area;
};

struct mm_struct {
	struct uprobes_state uprobes_state;
};

struct task_struct {
	struct mm_struct *mm;
	int pid;
	int tgid;
};
#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} allocations SEC(".maps");

/* probe.bpf.c's: it tells with each system call in which allocator call it was made. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct event_allocating);
} allocating SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event_allocator_counters);
} counters SEC(".maps");

/* Nothing is told before all probes are there, nor while they go: the record has one begin and one
 * end for all of them. */
volatile bool on;
volatile __u32 process;
volatile __u32 measuring; /* this thread of the recorder's, all the same */

static __always_inline struct event_allocator_counters *own_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline bool is_wanted(__u32 tid)
{
	return on || tid == measuring;
}

static __always_inline void count_hit(__u64 cookie)
{
	struct event_allocator_counters *own = own_counters();

	if (own)
		own->hit[cookie & EVENT_COOKIE_STEPPED ? EVENT_HIT_STEPPED : EVENT_HIT_EMULATED]++;
}

static __always_inline void count_lost(struct event_allocating *call)
{
	struct event_allocator_counters *own = own_counters();

	if (call)
		call->lost++;
	if (own) {
		own->made++;
		own->lost++;
	}
}

static __always_inline struct event_allocating *own_call(__u32 tid)
{
	struct event_allocating *call = bpf_map_lookup_elem(&allocating, &tid), none = {};

	if (call)
		return call;
	bpf_map_update_elem(&allocating, &tid, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&allocating, &tid);
}

static __always_inline void tell(
	__u32 kind, __u64 addr, struct event_allocating *call, const struct event_allocating *what)
{
	struct event_allocation *event = bpf_ringbuf_reserve(&allocations, sizeof(*event), 0);
	struct event_allocator_counters *own = own_counters();

	if (!event) {
		count_lost(call);
		return;
	}
	event->time_ns = bpf_ktime_get_ns();
	event->addr = addr;
	event->size = what->size;
	event->alignment = what->alignment;
	event->caller = what->caller;
	event->kind = kind;
	event->tid = (__u32)bpf_get_current_pid_tgid();
	event->lost = call->lost;
	event->padding = 0;
	call->lost = 0;
	if (own)
		own->made++;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* A function that was jumped to from the end of another one has its stack pointer, and the return
 * address there is by then that of the kernel's own page. */
static __always_inline bool is_jump(__u64 return_address)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return return_address == BPF_CORE_READ(task, mm, uprobes_state.xol_area, vaddr);
}

static __always_inline __u64 product(__u64 a, __u64 b)
{
	/* No division: a carry out of the high halves, or of their products with the low ones. */
	__u64 low = (__u32)a * (__u64)(__u32)b;
	__u64 middle = (a >> 32) * (__u32)b, other = (b >> 32) * (__u32)a;

	if (((a >> 32) && (b >> 32)) || middle >> 32 || other >> 32)
		return ~0ULL;
	middle = (middle + other) << 32;
	return low + middle < low ? ~0ULL : low + middle;
}

static __always_inline void read_arguments(
	struct event_allocating *call, __u32 kind, const struct pt_regs *regs)
{
	__u64 first = PT_REGS_PARM1(regs), second = PT_REGS_PARM2(regs);
	__u64 third = PT_REGS_PARM3(regs);

	call->alignment = 0;
	switch (kind) {
	case CALLOC:
		call->size = product(first, second);
		break;
	case REALLOC:
		call->size = second;
		break;
	case REALLOCARRAY:
		call->size = product(second, third);
		break;
	case ALIGNED_ALLOC:
	case MEMALIGN:
		call->alignment = first;
		call->size = second;
		break;
	case POSIX_MEMALIGN:
		call->result = first;
		call->alignment = second;
		call->size = third;
		break;
	case NEW_ALIGNED:
		call->alignment = second;
		call->size = first;
		break;
	case VALLOC:
	case PVALLOC:
		call->alignment = PAGE_BYTES;
		call->size = first;
		break;
	default:
		call->size = first;
	}
}

static __always_inline __u64 read_word(__u64 address)
{
	__u64 word = 0;

	bpf_probe_read_user(&word, sizeof(word), (const void *)address);
	return word;
}

/* While a call is under way the address that it will return to lies where it was: what ended by
 * another way is over. A function that was jumped to may be another kind of call. */
static __always_inline bool is_within(
	const struct event_allocating *call, __u64 stack, __u64 return_address, __u32 kind)
{
	if (!call->kind || stack > call->stack)
		return false;
	if (call->throws)
		return stack < call->stack ? read_word(call->stack) == call->caller
					   : return_address == call->caller && kind != call->kind;
	return stack < call->stack || is_jump(return_address);
}

static __always_inline __u32 kind_told(__u32 kind)
{
	switch (kind) {
	case REALLOCARRAY:
		return REALLOC;
	case NEW:
		return MALLOC;
	case NEW_ALIGNED:
		return ALIGNED_ALLOC;
	default:
		return kind;
	}
}

/* Whether an allocator in a library called its own function by the place where it lies, as glibc
 * does to empty the cache of a thread that ends. Nobody else can. */
static __always_inline bool is_own(__u64 cookie, const struct pt_regs *regs, __u64 return_address)
{
	struct {
		__u8 code;
		__s32 distance;
	} __attribute__((packed)) call = {};

	if (!(cookie & EVENT_COOKIE_SHARED))
		return false;
	bpf_probe_read_user(&call, sizeof(call), (const void *)(return_address - sizeof(call)));
	return call.code == 0xe8 &&
	       return_address + call.distance ==
		       PT_REGS_IP(regs) - (cookie >> EVENT_COOKIE_SKIPPED_SHIFT);
}

/* Of a function that returns a block: its return is probed as well. */
SEC("uprobe")
int enter(struct pt_regs *regs)
{
	__u64 cookie = bpf_get_attach_cookie(regs);
	__u32 tid = (__u32)bpf_get_current_pid_tgid(), kind = cookie & 0xff;
	__u64 stack = PT_REGS_SP(regs), return_address = read_word(stack);
	struct event_allocating *call, begun = {};

	count_hit(cookie);
	if (!is_wanted(tid) || is_own(cookie, regs, return_address))
		return 0;
	call = own_call(tid);
	if (!call) {
		count_lost(NULL);
		return 0;
	}
	if (is_within(call, stack, return_address, kind_told(kind)))
		return 0;
	if (call->kind)
		count_lost(call); /* it has not returned, and will not */
	call->stack = stack;
	call->caller = return_address;
	call->kind = kind_told(kind);
	call->throws = cookie & EVENT_COOKIE_THROWS;
	read_arguments(call, kind, regs);
	if (call->kind == REALLOC) {
		begun.caller = return_address;
		tell(REALLOC_BEGIN, PT_REGS_PARM1(regs), call, &begun);
	}
	return 0;
}

/* The thread's call, if it is in one that is to be told. */
static __always_inline struct event_allocating *under_way(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct event_allocating *call = bpf_map_lookup_elem(&allocating, &tid);

	return call && call->kind && is_wanted(tid) ? call : NULL;
}

static __always_inline void end(struct event_allocating *call, __u64 addr)
{
	tell(call->kind, addr, call, call);
	call->kind = 0;
}

SEC("uretprobe")
int leave(struct pt_regs *regs)
{
	struct event_allocating *call = under_way();
	struct event_allocator_counters *own = own_counters();
	__u64 addr = PT_REGS_RC(regs);

	if (own)
		own->hit[EVENT_HIT_RETURN]++;
	if (!call || PT_REGS_SP(regs) != call->stack + sizeof(__u64))
		return 0;
	if (call->kind == POSIX_MEMALIGN)
		addr = (__u32)addr == 0 ? read_word(call->result) : 0;
	end(call, addr);
	return 0;
}

/* The call may have come here by jumps; others return by this instruction, too. */
SEC("uprobe")
int returning(struct pt_regs *regs)
{
	struct event_allocating *call = under_way();

	count_hit(bpf_get_attach_cookie(regs));
	if (call && call->throws && PT_REGS_SP(regs) == call->stack)
		end(call, PT_REGS_RC(regs));
	return 0;
}

/* An operator new that fails, whether it throws the exception or catches it itself. */
SEC("uprobe")
int unwinding(struct pt_regs *regs)
{
	struct event_allocating *call = under_way();

	count_hit(bpf_get_attach_cookie(regs));
	if (call && call->throws && is_within(call, PT_REGS_SP(regs), 0, UNWINDING))
		end(call, 0);
	return 0;
}

SEC("uprobe")
int give_up(struct pt_regs *regs)
{
	__u64 cookie = bpf_get_attach_cookie(regs);
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 stack = PT_REGS_SP(regs), return_address = read_word(stack);
	struct event_allocating *call, what = {.caller = return_address};

	count_hit(cookie);
	if (!is_wanted(tid) || is_own(cookie, regs, return_address))
		return 0;
	call = own_call(tid);
	if (!call)
		count_lost(NULL);
	else if (!is_within(call, stack, return_address, FREE))
		tell(FREE, PT_REGS_PARM1(regs), call, &what);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(forget, struct task_struct *task)
{
	__u32 tid = task->pid;

	bpf_map_delete_elem(&allocating, &tid);
	return 0;
}

/* The probes would go on in the program that it executes, whose allocator is perhaps another. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(replace, struct task_struct *task)
{
	__u32 tid = task->pid;

	if ((__u32)task->tgid != process)
		return 0;
	on = false;
	bpf_map_delete_elem(&allocating, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
