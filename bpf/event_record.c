/* SPDX-License-Identifier: MIT
 *
 * See event_record.h.
 */
#include "event_record.h"

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* How many arguments each call has; the rest of event.argument means nothing. */
static unsigned argument_count(unsigned kind)
{
	switch (kind) {
	case HL_KIND_brk:
		return 1;
	case HL_KIND_munmap:
		return 2;
	case HL_KIND_madvise:
	case HL_KIND_mprotect:
		return 3;
	default:
		return EVENT_ARGUMENTS;
	}
}

static void fill_call(struct hl_syscall_record *record, const struct event *event)
{
	bool is_brk = event->kind == HL_KIND_brk;
	uint64_t argument[EVENT_ARGUMENTS] = {0};

	for (unsigned i = 0; i < argument_count(event->kind); i++)
		argument[i] = event->argument[i];
	record->kind_addr =
		hl_kind_addr((enum hl_kind)event->kind, is_brk ? event->brk : argument[0]);
	record->length = is_brk ? 0 : argument[1];
	record->argument = is_brk ? argument[0] : argument[2];
	record->result = event->result;
	record->cause_size = argument[3];
	record->top_pad = argument[4];
}

static void fill_memory(struct hl_syscall_record *record, const struct event *event)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	record->kind_addr = hl_kind_addr(HL_KIND_memory, 0);
	record->length = event->argument[0];
	record->result = (int64_t)(event->argument[1] * page);
	record->argument = event->argument[2] * page;
	record->top_pad = event->argument[3] * page;
	record->cause_size = event->argument[4] * page;
}

static void fill_fault(struct hl_syscall_record *record, const struct event *event)
{
	record->kind_addr = hl_kind_addr(HL_KIND_fault, event->argument[0]);
	record->length = event->argument[1];
	record->argument = event->argument[2];
}

void event_record(struct hl_syscall_record *record, const struct event *event)
{
	memset(record, 0, sizeof(*record));
	if (event->kind == HL_KIND_memory) {
		fill_memory(record, event);
	} else if (event->kind == HL_KIND_fault) {
		fill_fault(record, event);
	} else if (event->kind >= HL_KIND_process_fork) {
		record->kind_addr = hl_kind_addr((enum hl_kind)event->kind, 0);
		record->argument = event->argument[0];
		record->length = event->argument[1];
		record->result = (int64_t)event->argument[2];
	} else {
		fill_call(record, event);
	}
	record->tick = event->start_ns;
	record->duration = event->end_ns - event->start_ns;
	record->cause =
		hl_cause_pack(event->allocating, HL_REASON_unknown, HL_REGION_none, event->tgid);
	record->mmap_threshold = event->sequence;
	record->trim_threshold = (uint64_t)event->image << 32 | event->cpu;
}
