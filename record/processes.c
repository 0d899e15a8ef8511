/* SPDX-License-Identifier: MIT
 *
 * See processes.h. What targets write is not trusted: a program's wild store can hit the shared
 * pages, so what they say of themselves is bounded. Their records are taking.c's.
 */
#include "processes.h"
#include "sample.h"
#include "taking.h"

#include "heapledger/settings.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SCAN_BEYOND 64u /* unused slots looked at beyond the last used one */
#define COPY_SHARE 1000 /* of a second: a fork's copy is made by then, surely */

int processes_open(struct processes *all, struct session *session, int dirfd, int poll_fd)
{
	struct stat ns;

	*all = (struct processes){.session = session, .dirfd = dirfd, .poll_fd = poll_fd};
	if (stat("/proc/self/ns/pid", &ns) == 0)
		all->pid_namespace = ns.st_ino;
	all->by_serial_size = 64;
	all->by_serial = calloc(all->by_serial_size, sizeof(*all->by_serial));
	if (all->by_serial == NULL)
		return -ENOMEM;
	return stacks_file_create(&all->stacks, session, dirfd);
}

void processes_free(struct processes *all)
{
	stacks_file_close(all->stacks);
	for (uint32_t i = 0; all->by_serial != NULL && i < all->by_serial_size; i++) {
		struct process *process = all->by_serial[i];

		if (process == NULL)
			continue;
		if (process->pidfd >= 0)
			close(process->pidfd);
		free(process->touched);
		free(process->command);
		look_free(&process->look);
		free(process);
	}
	free(all->taken);
	free(all->by_serial);
	all->by_serial = NULL;
}

void processes_note_error(struct processes *all, int rc)
{
	if (rc < 0 && all->error == 0)
		all->error = rc;
}

struct process *processes_by_serial(const struct processes *all, uint32_t serial)
{
	return serial < all->by_serial_size ? all->by_serial[serial] : NULL;
}

struct process *processes_by_pid(const struct processes *all, pid_t pid)
{
	struct process *newest = NULL;

	for (struct process *p = all->alive; p != NULL; p = p->next)
		if (p->pid == pid && !p->hidden && (newest == NULL || p->serial > newest->serial))
			newest = p;
	return newest;
}

bool processes_reaped(struct processes *all, pid_t pid)
{
	for (uint32_t i = 0; i < all->by_serial_size; i++) {
		struct process *process = all->by_serial[i];

		if (process == NULL || process->pid != pid || process->hidden || process->reaped)
			continue;
		process->reaped = true;
		return true;
	}
	return false;
}

static int make_room(struct processes *all, uint32_t serial)
{
	uint32_t size = all->by_serial_size;
	struct process **grown;

	if (serial > UINT32_MAX / 4)
		return -EINVAL;
	while (size <= serial)
		size *= 2;
	if (size == all->by_serial_size)
		return 0;
	grown = realloc(all->by_serial, size * sizeof(*grown));
	if (grown == NULL)
		return -ENOMEM;
	memset(grown + all->by_serial_size, 0, (size - all->by_serial_size) * sizeof(*grown));
	all->by_serial = grown;
	all->by_serial_size = size;
	return 0;
}

int processes_set_command(struct process *process, const char *command, size_t bytes)
{
	process->command = malloc(bytes + 1);
	if (process->command == NULL)
		return -ENOMEM;
	memcpy(process->command, command, bytes);
	process->command[bytes] = '\0';
	process->command_bytes = (uint32_t)bytes;
	return 0;
}

static int copy_command(struct process *process, const struct hl_process *slot)
{
	size_t length = HL_COMMAND_BYTES - 1;

	while (length > 0 && slot->command[length - 1] == '\0')
		length--;
	return processes_set_command(process, slot->command, length);
}

static void fill_header(struct process *process, const struct hl_process *slot)
{
	process->header = (struct hl_trace_header){
		.flags = slot->elsewhere != 0 ? HL_TRACE_ELSEWHERE : 0,
		.mode = slot->mode == HL_MODE_OBSERVE,
		.policy = slot->policy <= HL_POLICY_mmap ? slot->policy : 0,
		.pid = slot->pid,
		.ppid = slot->ppid,
		.parent_serial = slot->parent_serial,
		.fork_id = slot->fork_id,
		.start_tick = slot->start_tick,
	};
}

/* What all streams of the session have alike, and what follows from the process. */
static void complete_header(const struct processes *all, struct process *process)
{
	const struct session *session = all->session;
	struct hl_trace_header *header = &process->header;

	header->source = HL_TRACE_TARGET;
	header->clock = (uint8_t)session->map->clock;
	header->serial = process->serial;
	header->clock_tick = session->tick;
	header->clock_ns = session->clock_ns;
	header->realtime_ns = session->realtime_ns;
	header->tick_hz = session->tick_hz;
	header->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	header->command_bytes = process->command_bytes;
}

static bool has_ended(const struct process *process)
{
	struct pollfd ended = {.fd = process->pidfd, .events = POLLIN};

	if (process->hidden)
		return false;
	return process->pidfd < 0 || poll(&ended, 1, 0) > 0;
}

static void watch_pid(struct processes *all, struct process *process)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = process};

	process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
	if (process->pidfd >= 0)
		epoll_ctl(all->poll_fd, EPOLL_CTL_ADD, process->pidfd, &event);
}

/* A process in another pid namespace names itself by a pid that is somebody else's here, or
 * nobody's. Its end cannot be seen: it is closed when all our descendants have ended. */
static void watch(struct processes *all, struct process *process)
{
	uint64_t its = all->session->table[process->slot].pid_namespace;

	process->pidfd = -1;
	process->hidden = its != 0 && all->pid_namespace != 0 && its != all->pid_namespace;
	if (!process->hidden)
		watch_pid(all, process);
}

bool processes_visible(const struct processes *all)
{
	for (const struct process *p = all->alive; p != NULL; p = p->next)
		if (!p->hidden)
			return true;
	return false;
}

/* Whether an exec has put `newer` in the place of `older`, of the same pid. It has not if the older
 * died and the pid was used again. When both were dead before we saw them exec is what is likely.
 */
static bool replaces(
	const struct processes *all, const struct process *newer, const struct process *older)
{
	return newer->header.parent_serial == 0 && all->session->table[older->slot].exited == 0 &&
	       (!has_ended(older) || has_ended(newer));
}

/* Images are found in the order of their slots, which need not be that of their serials. */
static void mark_replaced(struct processes *all, struct process *process)
{
	for (struct process *p = all->alive; p != NULL; p = p->next) {
		if (p == process || p->pid != process->pid || p->hidden != process->hidden)
			continue;
		if (p->serial < process->serial && p->replaced == 0 && replaces(all, process, p))
			p->replaced = 1;
		if (p->serial > process->serial && process->replaced == 0 &&
			replaces(all, p, process))
			process->replaced = 1;
	}
}

static void enlist(struct processes *all, struct process *process)
{
	all->by_serial[process->serial] = process;
	all->found++;
	process->alive = true;
	process->next = all->alive;
	all->alive = process;
	all->alive_count++;
}

static void begin_stream(struct processes *all, struct process *process)
{
	int rc = all->error;

	complete_header(all, process);
	if (rc == 0)
		rc = stream_create(
			&process->stream, all->dirfd, &process->header, process->command);
	processes_note_error(all, rc);
	if (rc != 0)
		return;
	all->streams++;
	processes_put_clock(all, process);
}

int processes_add(struct processes *all, const struct process *given)
{
	struct process *process;
	int rc = make_room(all, given->serial);

	if (rc != 0)
		return rc;
	process = malloc(sizeof(*process));
	if (process == NULL)
		return -ENOMEM;
	*process = *given;
	watch_pid(all, process);
	enlist(all, process);
	begin_stream(all, process);
	return all->error;
}

static void add(struct processes *all, uint32_t number)
{
	const struct hl_process *slot = &all->session->table[number];
	uint32_t serial = atomic_load(&slot->serial);
	struct process *process;
	int rc = make_room(all, serial);

	if (rc != 0 || all->by_serial[serial] != NULL) {
		processes_note_error(all, rc);
		return;
	}
	process = calloc(1, sizeof(*process));
	if (process == NULL || copy_command(process, slot) != 0) {
		free(process);
		processes_note_error(all, -ENOMEM);
		return;
	}
	process->slot = number;
	process->serial = serial;
	process->pid = (pid_t)slot->pid;
	process->caches = slot->caches;
	fill_header(process, slot);
	watch(all, process);
	enlist(all, process);
	mark_replaced(all, process);
	begin_stream(all, process);
}

void processes_discover(struct processes *all)
{
	const struct hl_session *map = all->session->map;

	if (all->found == atomic_load(&all->session->map->next_serial) - 1)
		return;
	/* Slots are claimed from the first on, so the new ones are not far beyond the others. */
	for (uint32_t i = 0; i < map->process_count && i < all->session->high_slot + SCAN_BEYOND;
		i++) {
		struct hl_process *slot = &all->session->table[i];
		uint32_t serial;

		if (atomic_load_explicit(&slot->state, memory_order_acquire) != HL_PROCESS_LIVE)
			continue;
		if (i >= all->session->high_slot)
			all->session->high_slot = i + 1;
		serial = atomic_load(&slot->serial);
		if (processes_by_serial(all, serial) == NULL)
			add(all, i);
	}
}

void processes_put(
	struct processes *all, struct process *process, const void *record, unsigned slots)
{
	if (all->error == 0 && process->stream != NULL)
		processes_note_error(all, stream_append(process->stream, 0, record, slots));
}

void processes_put_clock(struct processes *all, struct process *process)
{
	struct hl_mark_record clock = {.kind_addr = hl_kind_addr(HL_KIND_clock, 0)};

	if (process->header.mode >= HL_MODE_ATTACHED)
		return; /* its ticks are that clock */
	session_read_clocks(all->session, &clock.tick, &clock.size);
	processes_put(all, process, &clock, 1);
}

static void put_begin(struct processes *all, struct process *process, uint64_t tick)
{
	struct hl_mark_record begin = {.tick = tick, .kind_addr = hl_kind_addr(HL_KIND_begin, 0)};

	process->begin_tick = tick;
	processes_put(all, process, &begin, 1);
}

void processes_begin(struct processes *all)
{
	processes_discover(all);
	all->begin_tick = session_tick(all->session);
	for (struct process *p = all->alive; p != NULL; p = p->next) {
		put_begin(all, p, all->begin_tick);
		residency_want(all->residency, p, HL_RESIDENT_begin);
		/* Without it, a recording that is killed would count all of before. */
		if (all->error == 0 && p->stream != NULL)
			processes_note_error(all, stream_flush(p->stream));
	}
}

static void unlink_alive(struct processes *all, struct process *process)
{
	struct process **link = &all->alive;

	while (*link != process)
		link = &(*link)->next;
	*link = process->next;
	all->alive_count--;
	process->alive = false;
}

static void close_stream(
	struct processes *all, struct process *process, bool whole, uint64_t end_tick)
{
	int rc;

	if (process->stream == NULL)
		return;
	process->end_tick = end_tick;
	processes_put_clock(all, process);
	if (all->begin_tick == UINT64_MAX) { /* all of it was before */
		process->early = true;
		put_begin(all, process, session_tick(all->session));
	}
	rc = stream_flush(process->stream);
	process->bytes = stream_bytes(process->stream);
	all->bytes += process->bytes;
	whole = whole && rc == 0 && all->error == 0;
	processes_note_error(all, rc);
	if (!stream_is_elsewhere(process->stream))
		process->header.flags &= ~(uint32_t)HL_TRACE_ELSEWHERE;
	rc = stream_close(process->stream, whole, (enum hl_trace_end)process->header.end,
		process->header.end_status, end_tick, process->lost, NULL, 0);
	processes_note_error(all, rc);
	process->complete = whole && rc == 0;
	process->stream = NULL;
}

void processes_finish(
	struct processes *all, struct process *process, const struct processes_end *how)
{
	process->header.end = how->end;
	process->header.end_status = how->status;
	close_stream(all, process, how->whole, how->tick);
	all->events += process->events;
	all->syscalls += process->syscalls;
	all->lost += process->lost;
	unlink_alive(all, process);
	if (process->pidfd >= 0)
		close(process->pidfd);
	process->pidfd = -1;
	free(process->touched);
	process->touched = NULL;
}

void processes_close(
	struct processes *all, struct process *process, enum hl_trace_end end, int32_t end_status)
{
	struct hl_process *slot = &all->session->table[process->slot];
	struct processes_end how = {.end = end, .status = end_status};

	residency_leave(all->residency, process);
	taking_owned(all, process, end == HL_TRACE_END_DETACHED);
	process->lost = atomic_load(&slot->lost);
	if (end == HL_TRACE_END_UNKNOWN && slot->exited != 0)
		how.end = HL_TRACE_END_EXIT; /* its exit handlers ran; the status was not seen */
	if (process->cut)
		how = (struct processes_end){.end = HL_TRACE_END_DETACHED, .status = -1};
	how.tick = all->cut_tick != 0 ? all->cut_tick : session_tick(all->session);
	how.whole = !process->damaged && (end != HL_TRACE_END_DETACHED || all->cut_tick != 0);
	processes_finish(all, process, &how);
	/* A detached process still uses its slot. */
	if (end != HL_TRACE_END_DETACHED)
		atomic_store(&slot->state, HL_PROCESS_FREE);
}

const char *processes_file_name(const struct process *process, char name[PROCESS_NAME_BYTES])
{
	snprintf(name, PROCESS_NAME_BYTES, "%d.%u" HL_TRACE_SUFFIX, (int)process->pid,
		process->serial);
	return name;
}

void processes_overwrite(
	struct processes *all, struct process *process, uint64_t events, uint64_t syscalls)
{
	process->events -= events;
	process->syscalls -= syscalls;
	all->overwritten += events;
	all->overwritten_syscalls += syscalls;
	if (process->alive)
		return;
	all->events -= events;
	all->syscalls -= syscalls;
}

static void remove_stream(struct processes *all, struct process *process)
{
	char name[PROCESS_NAME_BYTES];

	process->removed = true;
	all->bytes -= process->bytes;
	all->streams--;
	processes_overwrite(all, process, process->events, process->syscalls);
	unlinkat(all->dirfd, processes_file_name(process, name), 0);
}

/* A child's serial is higher than its parent's. */
void processes_remove_early(struct processes *all)
{
	for (uint32_t i = 0; i < all->by_serial_size; i++)
		if (all->by_serial[i] != NULL)
			all->by_serial[i]->needed = !all->by_serial[i]->early;
	for (uint32_t i = all->by_serial_size; i-- > 0;) {
		struct process *process = all->by_serial[i], *parent;

		if (process == NULL || !process->needed)
			continue;
		parent = processes_by_serial(all, process->header.parent_serial);
		if (parent != NULL && process->header.fork_id != 0)
			parent->needed = true;
	}
	for (uint32_t i = 0; i < all->by_serial_size; i++)
		if (all->by_serial[i] != NULL && !all->by_serial[i]->needed &&
			!all->by_serial[i]->removed)
			remove_stream(all, all->by_serial[i]);
}

size_t processes_children(
	const struct processes *all, const struct process *process, struct compact_child *list)
{
	size_t count = 0;

	for (uint32_t i = process->serial + 1; i < all->by_serial_size; i++) {
		const struct process *child = all->by_serial[i];

		if (child != NULL && child->header.fork_id != 0 &&
			child->header.parent_serial == process->serial)
			list[count++] = (struct compact_child){child->header.fork_id,
				child->header.start_tick + all->session->tick_hz / COPY_SHARE,
				child->removed};
	}
	return count;
}

static void compact_one(
	struct processes *all, struct process *process, struct compact_child *children)
{
	char name[PROCESS_NAME_BYTES];
	struct compact_request request = {.dirfd = all->dirfd,
		.name = processes_file_name(process, name),
		.children = children,
		.child_count = processes_children(all, process, children)};
	struct compact_result result;
	uint64_t bytes = process->bytes;
	int rc = compact_write(&request, &result);

	if (rc == 0)
		rc = compact_close(&request, &result, &bytes);
	if (rc != 0 && all->not_compacted == 0)
		all->not_compacted = rc;
	all->bytes += bytes - process->bytes;
	process->bytes = bytes;
}

void processes_compact(struct processes *all)
{
	struct compact_child *children;

	if (all->begin_tick == 0)
		return;
	children = calloc(all->by_serial_size, sizeof(*children));
	if (children == NULL || all->error != 0) {
		all->not_compacted = children == NULL ? -ENOMEM : all->error;
		free(children);
		return;
	}
	processes_remove_early(all);
	for (uint32_t i = 0; i < all->by_serial_size; i++) {
		struct process *process = all->by_serial[i];

		if (process != NULL && !process->removed && process->begin_tick != 0)
			compact_one(all, process, children);
	}
	free(children);
}

void processes_before_drain(struct processes *all)
{
	processes_discover(all);
	for (struct process *p = all->alive; p != NULL; p = p->next)
		if (p->replaced == 1)
			p->replaced = 2;
}

void processes_after_drain(struct processes *all)
{
	struct process *next;

	for (struct process *p = all->alive; p != NULL; p = next) {
		next = p->next;
		if (p->replaced == 2)
			processes_close(all, p, HL_TRACE_END_EXEC, -1);
	}
}
