/* SPDX-License-Identifier: MIT
 *
 * See processes.h. What targets write is not trusted: a program's wild store can hit the shared
 * pages, so numbers are bounded and records are walked before they are passed on.
 */
#include "processes.h"
#include "sample.h"

#include "heapledger/settings.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SCAN_BEYOND 64u /* unused slots looked at beyond the last used one */
#define UNIT_BYTES 4096u
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

static void note_error(struct processes *all, int rc)
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
	note_error(all, rc);
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
		note_error(all, rc);
		return;
	}
	process = calloc(1, sizeof(*process));
	if (process == NULL || copy_command(process, slot) != 0) {
		free(process);
		note_error(all, -ENOMEM);
		return;
	}
	process->slot = number;
	process->serial = serial;
	process->pid = (pid_t)slot->pid;
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

/* The high-water mark of what this process touched in one page of the pool. */
static void touch(struct processes *all, struct process *process, uint32_t number, uint32_t used)
{
	size_t bytes = sizeof(struct hl_page) + used * sizeof(struct hl_packed);
	uint8_t units = (uint8_t)((bytes + UNIT_BYTES - 1) / UNIT_BYTES);

	if (process->touched == NULL) {
		process->touched = calloc(all->session->map->page_count, 1);
		if (process->touched == NULL)
			return;
	}
	if (units > process->touched[number]) {
		process->touched_bytes += (uint64_t)(units - process->touched[number]) * UNIT_BYTES;
		process->touched[number] = units;
	}
}

/* What attaching maps: the header, the process's slot and the links of its pages, each with the
 * pages around it that the kernel maps along. */
uint64_t processes_recorder_bytes(const struct processes *all, const struct process *process)
{
	uint64_t head = (uint64_t)(process->slot + 1) * sizeof(struct hl_process) + UNIT_BYTES;
	uint64_t links = (session_fresh_pages(all->session) * sizeof(uint32_t)) / UNIT_BYTES + 1;

	head = (head + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
	return head + links * UNIT_BYTES + process->touched_bytes;
}

static uint32_t used_slots(const struct hl_page *page)
{
	uint32_t used = atomic_load_explicit(&page->used, memory_order_acquire);

	return used < HL_PAGE_SLOTS ? used : HL_PAGE_SLOTS;
}

void processes_count_owned(struct processes *all)
{
	uint32_t fresh = session_fresh_pages(all->session);

	for (uint32_t i = 0; i < fresh; i++) {
		const struct hl_page *page = session_page(all->session, i);
		struct process *process;

		if (atomic_load_explicit(&page->state, memory_order_acquire) == HL_PAGE_FREE)
			continue;
		process = processes_by_serial(all, page->serial);
		if (process != NULL && process->alive)
			touch(all, process, i, used_slots(page));
	}
}

/* Words of a record lie where they lie in record.h, but for the first two, which change places. */
#define PACKED_WORD(type, member) (((uint64_t *)(void *)slots)[2 * at + offsetof(type, member) / 8])

/* Counts the events of slots; returns how many slots hold whole, known records. */
static uint32_t walk(
	struct processes *all, struct process *process, struct hl_packed *slots, uint32_t used)
{
	uint64_t calls = 0, syscalls = 0;
	uint32_t at = 0;

	while (at < used) {
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		unsigned length = hl_packed_slots(slots[at].word[0]);

		if (length == 0 || length > used - at)
			break;
		if (kind < HL_KIND_brk)
			calls++;
		else if (kind < HL_KIND_other)
			syscalls += (PACKED_WORD(struct hl_syscall_record, cause) >> 8 & 0xff) !=
				    HL_REASON_recorder;
		else if (kind == HL_KIND_sample)
			PACKED_WORD(struct hl_sample_record, recorder) =
				processes_recorder_bytes(all, process);
		at += length;
	}
	process->events += calls + syscalls;
	process->syscalls += syscalls;
	return at;
}

void processes_set_level(struct processes *all, int level)
{
	all->level = level;
}

/* Whether a record of this kind has a tick of its own, which holds for what follows (packed.h). */
static bool is_timed(unsigned kind)
{
	return kind >= HL_KIND_brk && kind != HL_KIND_realloc_begin;
}

/* How many slots hold records of no later time than `cut`. What one thread does after such a time
 * is not needed to understand what is kept: a thread reads the time anew before it does anything
 * with a block that another one may have had. */
static uint32_t before(const struct hl_packed *slots, uint32_t used, uint64_t tick, uint64_t cut)
{
	uint32_t at = 0;

	while (at < used) {
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		unsigned width = hl_packed_slots(slots[at].word[0]);

		if (width == 0 || width > used - at)
			break;
		if (is_timed(kind))
			tick = slots[at].word[1];
		else if (width < used - at &&
			 hl_packed_kind(slots[at + width].word[0]) == HL_PACKED_TICK_BACK)
			tick = slots[at + width].word[1];
		if (tick > cut)
			return at;
		at += width;
	}
	return used;
}

/* Those of before the recording's begin, or of before the last cut, are written, but are no events of
 * the stream. */
static uint32_t walk_page(struct processes *all, struct process *process, struct hl_packed *slots,
	uint32_t used, uint64_t tick)
{
	uint64_t events = process->events, syscalls = process->syscalls;
	uint32_t early = 0, sound;

	if (all->begin_tick == UINT64_MAX)
		early = used;
	else if (process->begin_tick != 0)
		early = before(slots, used, tick, process->begin_tick);
	sound = walk(all, process, slots, early);
	if (all->begin_tick == 0) /* with --ring they were events */
		processes_overwrite(all, process, process->events - events,
			process->syscalls - syscalls);
	process->events = events;
	process->syscalls = syscalls;
	if (sound == early)
		sound += walk(all, process, slots + early, used - early);
	return sound;
}

/* Takes records that follow each other in a page, from `tick` on. */
static void take_slots(struct processes *all, struct process *process, uint32_t tid, uint64_t tick,
	struct hl_packed *slots, uint32_t used)
{
	uint32_t sound;

	if (all->cut_tick != 0)
		used = before(slots, used, tick, all->cut_tick);
	sound = walk_page(all, process, slots, used, tick);
	if (sound != used)
		process->damaged = true;
	if (all->error != 0 || process->stream == NULL || sound == 0)
		return;
	if (all->stacks != NULL)
		note_error(all, stacks_file_catch_up(all->stacks));
	stream_set_level(process->stream, all->level);
	note_error(all, stream_append_packed(process->stream, tid, tick, slots, sound));
}

void processes_take_page(struct processes *all, uint32_t number)
{
	struct hl_page *page = session_page(all->session, number);
	struct hl_packed *slots = (struct hl_packed *)(page + 1);
	struct process *process = processes_by_serial(all, page->serial);
	uint32_t used = used_slots(page);
	struct taken taken = {.tick = page->tick};

	all->pages++;
	if (all->taken != NULL && all->taken[number].slots != 0) {
		taken = all->taken[number];
		all->taken[number] = (struct taken){0};
	}
	if (process == NULL || !process->alive) {
		all->lost_pages++;
		return;
	}
	touch(all, process, number, used);
	if (used > taken.slots)
		take_slots(all, process, page->tid, taken.tick, slots + taken.slots,
			used - taken.slots);
}

/* How many slots can be taken though others may follow: not a call at the end, whose time may still
 * be moved. Sets the tick that holds for what follows. */
static uint32_t settled(const struct hl_packed *slots, uint32_t used, uint64_t *tick)
{
	uint32_t at = 0, last = 0;
	uint64_t before_last = *tick;
	bool timed = true;

	while (at < used) {
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		unsigned width = hl_packed_slots(slots[at].word[0]);

		if (width == 0 || width > used - at)
			return at;
		last = at;
		before_last = *tick;
		timed = is_timed(kind);
		if (timed)
			*tick = slots[at].word[1];
		at += width;
	}
	if (!timed)
		*tick = before_last;
	return timed ? used : last;
}

static bool is_filled_by(const struct hl_page *page, const struct process *process)
{
	return atomic_load_explicit(&page->state, memory_order_acquire) == HL_PAGE_OWNED &&
	       page->serial == process->serial;
}

int processes_look_ahead(struct processes *all, const struct process *process)
{
	uint32_t fresh = session_fresh_pages(all->session);

	if (all->taken == NULL)
		all->taken = calloc(all->session->map->page_count, sizeof(*all->taken));
	if (all->taken == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < fresh; i++) {
		const struct hl_page *page = session_page(all->session, i);
		bool filled = is_filled_by(page, process);

		all->taken[i].seen = filled ? used_slots(page) : 0;
		all->taken[i].sequence = filled ? page->sequence : 0;
	}
	return 0;
}

int processes_take_ahead(struct processes *all, struct process *process)
{
	uint32_t fresh = session_fresh_pages(all->session);

	for (uint32_t i = 0; i < fresh && all->error == 0; i++) {
		struct hl_page *page = session_page(all->session, i);
		struct taken *taken = &all->taken[i];
		struct hl_packed *slots = (struct hl_packed *)(page + 1) + taken->slots;
		uint64_t tick = taken->slots != 0 ? taken->tick : page->tick, next = tick;
		uint32_t count;

		if (taken->seen <= taken->slots || !is_filled_by(page, process) ||
			page->sequence != taken->sequence)
			continue;
		count = settled(slots, taken->seen - taken->slots, &next);
		if (count == 0)
			continue;
		take_slots(all, process, page->tid, tick, slots, count);
		taken->slots += count;
		taken->tick = next;
	}
	return all->error;
}

void processes_put(
	struct processes *all, struct process *process, const void *record, unsigned slots)
{
	if (all->error == 0 && process->stream != NULL)
		note_error(all, stream_append(process->stream, 0, record, slots));
}

void processes_put_clock(struct processes *all, struct process *process)
{
	struct hl_mark_record clock = {.kind_addr = hl_kind_addr(HL_KIND_clock, 0)};

	if (process->header.mode >= HL_MODE_ATTACHED)
		return; /* its ticks are that clock */
	clock.tick = session_tick(all->session);
	clock.size = session_monotonic();
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
			note_error(all, stream_flush(p->stream));
	}
}

struct owned {
	uint64_t sequence;
	uint32_t number;
};

static int by_sequence(const void *a, const void *b)
{
	const struct owned *left = a, *right = b;

	return (left->sequence > right->sequence) - (left->sequence < right->sequence);
}

/* The pages of the dead: those being filled, and those that it could not push any more. What it
 * pushed was drained before. A detached process goes on writing: its pages are left to it. */
static void take_owned(struct processes *all, const struct process *process, bool detached)
{
	uint32_t fresh = session_fresh_pages(all->session), count = 0, size = 0;
	struct owned *owned = NULL, *grown;

	for (uint32_t i = 0; i < fresh; i++) {
		const struct hl_page *page = session_page(all->session, i);

		if (page->serial != process->serial ||
			atomic_load_explicit(&page->state, memory_order_acquire) == HL_PAGE_FREE)
			continue;
		if (count == size) {
			size = size == 0 ? 64 : size * 2;
			grown = realloc(owned, size * sizeof(*owned));
			if (grown == NULL) {
				note_error(all, -ENOMEM);
				break;
			}
			owned = grown;
		}
		owned[count++] = (struct owned){page->sequence, i};
	}
	if (count > 0)
		qsort(owned, count, sizeof(*owned), by_sequence);
	for (uint32_t i = 0; i < count; i++) {
		processes_take_page(all, owned[i].number);
		if (!detached)
			session_free_page(all->session, owned[i].number);
	}
	free(owned);
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
	note_error(all, rc);
	rc = stream_close(process->stream, whole, (enum hl_trace_end)process->header.end,
		process->header.end_status, end_tick, process->lost, NULL, 0);
	note_error(all, rc);
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
	take_owned(all, process, end == HL_TRACE_END_DETACHED);
	process->lost = atomic_load(&slot->lost);
	if (end == HL_TRACE_END_UNKNOWN && slot->exited != 0)
		how.end = HL_TRACE_END_EXIT; /* its exit handlers ran; the status was not seen */
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
