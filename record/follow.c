/* SPDX-License-Identifier: MIT
 *
 * See follow.h. Events come in the order in which the kernel reserved their places: a fork before
 * anything of the child, an exit after everything of the process.
 */
#include "follow.h"

#include "sample.h"
#include "tool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUSY_ROUND_MS 1
#define IDLE_ROUND_MS 10
#define EVENTS 64

/* ---- streams ------------------------------------------------------------------------------- */

struct beginning {
	pid_t pid;
	pid_t parent;
	uint32_t parent_serial; /* 0: by exec, or attached to */
	uint64_t fork_id;
	uint64_t tick;
	enum hl_mode mode;
};

/* A copy by fork has its parent's command; one that is gone by now has left none otherwise. */
static int set_command(struct process *process, const struct process *parent)
{
	char command[HL_COMMAND_BYTES] = "";

	if (parent != NULL)
		return processes_set_command(process, parent->command, parent->command_bytes);
	return processes_set_command(process, command, target_command(process->pid, command));
}

static int begin_process(struct follow *follow, const struct beginning *how)
{
	struct processes *all = &follow->collector.processes;
	struct process process = {
		.pid = how->pid,
		.serial = follow->map.next_serial++,
		.header = {
			.mode = (uint8_t)how->mode,
			.pid = (uint32_t)how->pid,
			.ppid = (uint32_t)how->parent,
			.parent_serial = how->parent_serial,
			.fork_id = how->fork_id,
			.start_tick = how->tick,
		},
	};
	int rc = set_command(&process, processes_by_serial(all, how->parent_serial));

	if (rc != 0)
		return rc;
	return processes_add(all, &process);
}

static void put_mark(struct follow *follow, struct process *process, uint32_t tid,
	enum hl_kind kind, uint64_t tick, uint64_t size)
{
	union {
		struct hl_mark_record mark;
		struct hl_slot slot;
	} record = {.mark = {.tick = tick, .kind_addr = hl_kind_addr(kind, 0), .size = size}};
	struct processes *all = &follow->collector.processes;

	if (all->error == 0 && process->stream != NULL)
		all->error = stream_append(process->stream, tid, &record.slot, 1);
}

static void end_process(struct follow *follow, struct process *process, enum hl_trace_end end,
	int32_t status, uint64_t tick)
{
	struct processes_end how = {.end = end,
		.status = status,
		.tick = tick,
		.whole = process != follow->root || !follow->blind};

	if (process == follow->root) {
		if (follow->allocator != NULL)
			allocator_count(follow->allocator, &follow->account);
		process->lost = follow->account.lost;
	}
	processes_finish(&follow->collector.processes, process, &how);
}

/* ---- what the kernel tells ----------------------------------------------------------------- */

static void on_fork(struct follow *follow, struct process *parent, uint32_t tid,
	const struct hl_syscall_record *record)
{
	bool shares_memory = record->length != 0;
	struct beginning how = {
		.pid = (pid_t)record->argument,
		.parent = parent->pid,
		.parent_serial = parent->serial,
		.fork_id = shares_memory ? 0 : ++follow->next_fork_id,
		.tick = record->tick,
		.mode = HL_MODE_ATTACHED,
	};
	int rc;

	if (!shares_memory)
		put_mark(follow, parent, tid, HL_KIND_fork, record->tick, how.fork_id);
	rc = begin_process(follow, &how);
	if (rc != 0 && follow->collector.processes.error == 0)
		follow->collector.processes.error = rc;
}

static void on_exec(
	struct follow *follow, struct process *process, const struct hl_syscall_record *record)
{
	struct beginning how = {
		.pid = process->pid,
		.parent = (pid_t)process->header.ppid,
		.tick = record->tick,
		.mode = HL_MODE_ATTACHED,
	};
	int rc;

	end_process(follow, process, HL_TRACE_END_EXEC, -1, record->tick);
	if (process == follow->root && follow->allocator != NULL) {
		allocator_close(follow->allocator, &follow->account);
		follow->allocator = NULL;
	}
	rc = begin_process(follow, &how);
	if (rc != 0 && follow->collector.processes.error == 0)
		follow->collector.processes.error = rc;
}

static void note_root_end(struct follow *follow, const struct process *process, int status)
{
	if (process->pid != follow->collector.child)
		return;
	follow->root_ended = true;
	follow->collector.child_ended = true;
	follow->collector.child_status = status;
}

static void on_end(
	struct follow *follow, struct process *process, const struct hl_syscall_record *record)
{
	int status = (int)record->argument;
	int32_t end_status;
	enum hl_trace_end end = sample_wait_status(status, &end_status);

	note_root_end(follow, process, status);
	end_process(follow, process, end, end_status, record->tick);
}

static bool is_late(const struct follow *follow, uint64_t tick)
{
	return follow->cut_ns != 0 && tick > follow->cut_ns;
}

static void on_event(void *context, uint32_t tid, const struct hl_syscall_record *record)
{
	struct follow *follow = context;
	struct process *process =
		processes_by_pid(&follow->collector.processes, (pid_t)(record->cause >> 32));
	unsigned kind = hl_kind_of(record->kind_addr);

	if (process == NULL || is_late(follow, record->tick))
		return;
	if (kind == HL_KIND_process_fork) {
		on_fork(follow, process, tid, record);
	} else if (kind == HL_KIND_process_exec) {
		on_exec(follow, process, record);
	} else if (kind == HL_KIND_process_exit) {
		on_end(follow, process, record);
	} else if (kind <= HL_KIND_mprotect &&
		   record->tick + record->duration >= process->begin_tick) {
		process->events++;
		process->syscalls++;
	}
}

/* ---- what the allocator's probes tell ------------------------------------------------------ */

static void on_allocation(void *context, const struct event_allocation *event)
{
	struct follow *follow = context;
	struct processes *all = &follow->collector.processes;
	struct process *process = follow->root;
	union {
		struct hl_call_record call;
		struct hl_slot slots[2];
	} record = {.call = {
			    .tick = event->time_ns,
			    .kind_addr = hl_kind_addr((enum hl_kind)event->kind, event->addr),
			    .size = event->size,
			    .caller = event->caller,
			    .alignment = event->alignment,
		    }};

	if (!process->alive || process->stream == NULL || all->error != 0 ||
		is_late(follow, event->time_ns))
		return;
	if (event->lost > 0)
		put_mark(follow, process, event->tid, HL_KIND_lost, event->time_ns, event->lost);
	all->error = stream_append(process->stream, event->tid, record.slots, 2);
	process->events += event->kind < HL_KIND_brk;
}

/* ---- what there was before ----------------------------------------------------------------- */

static void put_mapping(void *context, const struct look_mapping *mapping)
{
	struct follow *follow = context;
	uint64_t bytes = mapping->end - mapping->start;
	struct hl_syscall_record record = {
		.tick = follow->root->look.from_ns,
		.kind_addr = hl_kind_addr(HL_KIND_mmap, 0),
		.length = bytes,
		.argument = mapping->accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
		.result = (int64_t)mapping->start,
		.cause = hl_cause_pack(0, HL_REASON_unknown, HL_REGION_arena, 0),
	};

	if (mapping->at_break) {
		record.kind_addr = hl_kind_addr(HL_KIND_brk, mapping->start);
		record.length = 0;
		record.argument = mapping->end;
		record.result = (int64_t)mapping->end;
		record.cause = hl_cause_pack(0, HL_REASON_unknown, HL_REGION_break, 0);
	}
	processes_put(&follow->collector.processes, follow->root, &record, 3);
}

/* The probe tells already of every call, so each that was made while maps was read is applied to
 * what maps said, and it comes out right whether maps had it or not. The recording begins after. */
static void put_memory(struct follow *follow)
{
	struct process *root = follow->root;
	int rc;

	root->look.from_ns = session_monotonic();
	rc = look_each(&root->look, root->pid, put_mapping, follow);
	follow->mapped_known = rc == 0;
	root->begin_tick = session_monotonic();
	root->look = (struct look){0};
	if (rc == 0)
		put_mark(follow, root, 0, HL_KIND_begin, root->begin_tick, 0);
}

/* ---- samples ------------------------------------------------------------------------------- */

static uint64_t sample_one(struct follow *follow, struct process *process)
{
	struct hl_sample_record sample;
	uint64_t tick = session_monotonic(), rss;

	if (process->gone)
		return 0;
	if (sample_read(&sample, process->pid) != 0) {
		if (process == follow->root && follow->allocator != NULL)
			follow->blind = follow->blind || target_has_threads(process->pid);
		return 0;
	}
	sample.tick = tick;
	rss = sample.rss_anon + sample.rss_file + sample.rss_shmem;
	processes_put(&follow->collector.processes, process, &sample, 3);
	if (process->pid == follow->collector.child) {
		follow->faults = sample.minor_faults + sample.major_faults;
		follow->last_rss = rss;
	}
	return rss;
}

static void sample_all(struct follow *follow, uint64_t now)
{
	struct collector *collector = &follow->collector;
	uint64_t rss = 0;

	for (struct process *p = collector->processes.alive; p != NULL; p = p->next)
		rss += sample_one(follow, p);
	live_set_resident(&collector->live, rss, now);
	collector_sampled(collector, now);
}

/* ---- the loop ------------------------------------------------------------------------------ */

static int take_all(struct follow *follow)
{
	int taken = follow->allocator != NULL ? allocator_poll(follow->allocator) : 0;

	kernel_poll(follow->collector.probe);
	return taken;
}

/* Those that have ended without the kernel's telling so. */
static void close_gone(struct follow *follow)
{
	struct process *next;
	int32_t status;

	for (struct process *p = follow->collector.processes.alive; p != NULL; p = next) {
		enum hl_trace_end end;

		next = p->next;
		if (p->pidfd < 0 && kill(p->pid, 0) != 0 && errno == ESRCH)
			p->gone = true;
		if (!p->gone)
			continue;
		end = sample_end(p->pid, p->pidfd, &status);
		note_root_end(follow, p,
			end == HL_TRACE_END_SIGNAL ? status
			: status >= 0              ? status << 8
						   : 0);
		if (p->pid == follow->collector.child && end == HL_TRACE_END_UNKNOWN)
			follow->collector.child_ended = false; /* how is not known */
		end_process(follow, p, end, status, session_monotonic());
	}
}

static void read_signals(struct follow *follow)
{
	struct signalfd_siginfo info;

	while (read(follow->collector.signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		follow->quit = true;
}

static void wait_events(struct follow *follow, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(follow->collector.poll_fd, events, EVENTS, timeout_ms);

	for (int i = 0; i < count; i++) {
		struct process *process = events[i].data.ptr;

		if (process != NULL)
			process->gone = true;
		else
			read_signals(follow);
	}
}

static bool is_over(const struct follow *follow, uint64_t now)
{
	const struct collector *collector = &follow->collector;

	return collector->duration_ns != 0 && now - collector->started_ns >= collector->duration_ns;
}

static int next_timeout(const struct follow *follow, uint64_t now, bool busy)
{
	const struct collector *collector = &follow->collector;
	uint64_t due = collector->next_sample_ns, until;

	if (collector->duration_ns != 0 && collector->started_ns + collector->duration_ns < due)
		due = collector->started_ns + collector->duration_ns;
	until = due > now ? (due - now + 999999) / 1000000 : 0;
	if (busy && until > BUSY_ROUND_MS)
		return BUSY_ROUND_MS;
	return until < IDLE_ROUND_MS ? (int)until : IDLE_ROUND_MS;
}

static void check_failure(struct follow *follow)
{
	struct collector *collector = &follow->collector;

	if (collector->failed || collector->processes.error == 0)
		return;
	collector->failed = true;
	tool_fail(TOOL_OK, "attach", "writing to %s: %s; what was written is readable",
		collector->directory, strerror(-collector->processes.error));
}

static void detach(struct follow *follow)
{
	struct processes *all = &follow->collector.processes;
	sample_all(follow, session_monotonic());
	follow->cut_ns = session_monotonic();
	follow->collector.ended_ns = follow->cut_ns;
	if (follow->allocator != NULL)
		allocator_close(follow->allocator, &follow->account);
	follow->allocator = NULL;
	kernel_close(&follow->kernel, follow->collector.probe);
	follow->collector.probe = NULL;
	while (all->alive != NULL)
		end_process(follow, all->alive, HL_TRACE_END_DETACHED, -1, follow->cut_ns);
}

void follow_run(struct follow *follow)
{
	struct collector *collector = &follow->collector;
	uint64_t now = session_monotonic();
	bool busy = true;

	while (!follow->quit && !follow->root_ended && !collector->failed &&
		!is_over(follow, now)) {
		wait_events(follow, next_timeout(follow, now, busy));
		busy = take_all(follow) > 0;
		close_gone(follow);
		now = session_monotonic();
		if (now >= collector->next_sample_ns)
			sample_all(follow, now);
		live_round(&collector->live, &collector->processes, now);
		check_failure(follow);
	}
	collector->stopped = !follow->root_ended;
	detach(follow);
	check_failure(follow);
}

/* ---- beginning and end --------------------------------------------------------------------- */

static void start_clock(struct follow *follow)
{
	struct session *session = &follow->collector.session;
	struct timespec now;

	session->map = &follow->map;
	session->fd = -1;
	session->tick = session_monotonic();
	clock_gettime(CLOCK_REALTIME, &now);
	session->clock_ns = session->tick;
	session->realtime_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	session->tick_hz = 1000000000;
	follow->map.clock = HL_CLOCK_MONOTONIC;
	follow->map.next_serial = 1;
}

static int open_streams(struct follow *follow)
{
	struct collector *collector = &follow->collector;
	struct epoll_event event = {.events = EPOLLIN};
	struct beginning how = {.pid = collector->child,
		.parent = target_parent(collector->child),
		.mode = follow->target != NULL ? HL_MODE_ATTACHED_CALLS : HL_MODE_ATTACHED};
	int rc;

	collector->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (collector->poll_fd < 0 ||
		epoll_ctl(collector->poll_fd, EPOLL_CTL_ADD, collector->signal_fd, &event) != 0)
		return -errno;
	rc = processes_open(
		&collector->processes, &collector->session, collector->dirfd, collector->poll_fd);
	if (rc != 0)
		return rc;
	how.tick = session_monotonic();
	rc = begin_process(follow, &how);
	follow->root = collector->processes.alive;
	return rc;
}

static int open_allocator(struct follow *follow, char *why, size_t why_bytes)
{
	const struct target_allocator *target = follow->target;
	char text[256];
	int rc;

	if (target == NULL)
		return 0;
	if (follow->collector.probe == NULL) {
		snprintf(why, why_bytes, "--malloc needs the kernel's probes: %s",
			follow->kernel.why);
		return TOOL_NO_EVIDENCE;
	}
	rc = allocator_open(&follow->allocator, follow->collector.probe, follow->collector.child,
		target->path, target->point, target->count, on_allocation, follow, text,
		sizeof(text));
	if (rc == 0)
		return 0;
	snprintf(why, why_bytes, "--malloc: %.200s: %s", target->name, text);
	return TOOL_NO_EVIDENCE;
}

int follow_open(struct follow *follow, char *why, size_t why_bytes)
{
	struct collector *collector = &follow->collector;
	struct probe_sink sink = {
		.event = on_event, .context = follow, .with_allocator = follow->target != NULL};
	int rc;

	start_clock(follow);
	rc = open_streams(follow);
	if (rc != 0) {
		snprintf(why, why_bytes, "writing to %s: %s", collector->directory, strerror(-rc));
		return TOOL_USAGE;
	}
	collector->probe =
		kernel_follow(&follow->kernel, collector->dirfd, collector->child, &sink);
	rc = open_allocator(follow, why, why_bytes);
	if (rc != 0)
		return rc;
	put_memory(follow);
	if (follow->allocator != NULL)
		allocator_start(follow->allocator);
	collector->started_ns = session_monotonic();
	sample_all(follow, collector->started_ns);
	follow->faults_before = follow->faults;
	follow->first_rss = follow->last_rss;
	return 0;
}

void follow_close(struct follow *follow)
{
	if (follow->allocator != NULL)
		allocator_close(follow->allocator, &follow->account);
	if (follow->collector.probe != NULL)
		kernel_close(&follow->kernel, follow->collector.probe);
	kernel_free(&follow->kernel);
	processes_free(&follow->collector.processes);
	if (follow->collector.poll_fd >= 0)
		close(follow->collector.poll_fd);
}
