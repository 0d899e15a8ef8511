/* SPDX-License-Identifier: MIT
 *
 * heap_log.h. Room is given out as the real log promises it: LOG_ROOM_SLOTS after log_enter or
 * log_make_room, and a system call that finds none fails the test.
 */
#include "heap_log.h"

#include "log_fast.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Atomic unsigned counts[HL_KIND_LIMIT][HL_REASON_LIMIT];
static _Atomic unsigned failed[HL_KIND_LIMIT];
static _Atomic unsigned rooms;
static __thread struct hl_syscall_record last;
static __thread unsigned depth;
static __thread unsigned room = LOG_ROOM_SLOTS;

static struct hl_mark_record kept[HEAP_LOG_KEPT_MOST];
static size_t kept_count; /* by the thread that tells */
static unsigned borrowed;

size_t heap_log_kept_list(const struct hl_mark_record **list)
{
	*list = kept;
	return kept_count;
}

unsigned heap_log_borrowed(void)
{
	return borrowed;
}

unsigned heap_log_count(enum hl_kind kind, enum hl_reason reason)
{
	return counts[kind][reason];
}

unsigned heap_log_failed(enum hl_kind kind)
{
	return failed[kind];
}

struct hl_syscall_record heap_log_last(void)
{
	return last;
}

unsigned heap_log_rooms(void)
{
	return rooms;
}

__thread uint32_t log_depth __attribute__((tls_model("initial-exec")));
__thread struct log_hot log_hot __attribute__((tls_model("initial-exec")));
_Atomic bool log_off; /* never: then the guard asks log_enter */

void log_enter(enum hl_kind kind, size_t size, const void *caller)
{
	(void)kind;
	(void)size;
	(void)caller;
	room = LOG_ROOM_SLOTS;
	depth++;
}

void log_leave(void)
{
	depth--;
}

void log_restamp(void)
{
}

void log_restamp_all(void)
{
}

uint64_t log_tick(void)
{
	return 1;
}

void log_syscall(struct hl_syscall_record *record, uint64_t start_tick)
{
	unsigned kind = hl_kind_of(record->kind_addr);

	record->tick = start_tick;
	counts[kind][record->cause >> 8 & 0xff]++;
	if (record->result < 0 || (kind == HL_KIND_brk && record->argument != 0 &&
					  record->argument != (uint64_t)record->result))
		failed[kind]++;
	if (depth > 0) {
		if (room < LOG_SYSCALL_SLOTS) {
			fprintf(stderr, "a call logged more than its room\n");
			abort();
		}
		room -= LOG_SYSCALL_SLOTS;
	}
	last = *record;
}

bool log_kept(uint64_t tick, uint64_t block, uint64_t bytes, uint64_t chunk)
{
	if (block == 0)
		kept_count = 0;
	if (kept_count == HEAP_LOG_KEPT_MOST)
		return false;
	kept[kept_count++] =
		(struct hl_mark_record){tick, hl_kind_addr(HL_KIND_kept, block), bytes, chunk};
	return true;
}

uint64_t log_thread(void)
{
	return UINT64_C(1) << 32 | (uint32_t)gettid();
}

void *log_borrow(size_t bytes)
{
	borrowed++;
	return malloc(bytes);
}

void log_give_back(void *memory, size_t bytes)
{
	(void)bytes;
	free(memory);
}

bool log_has_room(void)
{
	return depth == 0 || room >= LOG_ROOM_SLOTS;
}

void log_make_room(void)
{
	rooms++;
	room = LOG_ROOM_SLOTS;
}

void log_thread_exit(void)
{
}

void log_fork_prepare(void)
{
}

void log_fork_hold(void)
{
}

void log_fork_parent(void)
{
}

void log_fork_child(bool interrupted)
{
	(void)interrupted;
}
