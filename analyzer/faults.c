/* SPDX-License-Identifier: MIT
 *
 * faults.h. Events of an image are kept in an array of its own, which is sorted as it is filled:
 * the reader gives them in the order in which they began, and only memory that a call fills is in
 * memory when that ends.
 */
#include "faults.h"
#include "room.h"

#include "heapledger/record.h"

#include <errno.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

#define LARGEST_PAGE (UINT64_C(1) << 30)

struct image {
	uint32_t pid;
	uint32_t image;
	uint64_t first_ns;
	struct faults_event *event;
	size_t count;
	size_t capacity;
};

struct faults {
	struct trace *trace;
	struct image *image;
	size_t count;
	size_t capacity;
	size_t last;                /* where the last event went */
	bool any;                   /* faults were recorded */
	struct faults_share *share; /* as trace->streams */
};

static struct image *image_of(struct faults *faults, uint32_t pid, uint32_t image, uint64_t ns)
{
	for (size_t i = 0; i < faults->count; i++) {
		size_t at = (faults->last + i) % faults->count;
		if (faults->image[at].pid == pid && faults->image[at].image == image) {
			faults->last = at;
			return &faults->image[at];
		}
	}
	struct image *list =
		room_for_one(faults->image, faults->count, &faults->capacity, sizeof(*list));
	if (!list)
		return NULL;
	faults->image = list;
	faults->last = faults->count++;
	list[faults->last] = (struct image){.pid = pid, .image = image, .first_ns = ns};
	return &list[faults->last];
}

static int put(struct image *image, const struct faults_event *event)
{
	struct faults_event *list =
		room_for_one(image->event, image->count, &image->capacity, sizeof(*list));
	size_t at = image->count;
	if (!list)
		return -ENOMEM;
	image->event = list;
	for (; at && list[at - 1].ns > event->ns; at--)
		list[at] = list[at - 1];
	list[at] = *event;
	image->count++;
	return 0;
}

/* ---- what a record means ----------------------------------------------------------------------
 */

static uint64_t page_up(uint64_t bytes)
{
	return (bytes + 4095) & ~UINT64_C(4095);
}

static int put_range(
	struct image *image, uint64_t ns, enum faults_what what, uint64_t start, uint64_t end)
{
	struct faults_event event = {.ns = ns, .start = start, .what = (uint8_t)what};
	if (end <= start || end > HL_ADDRESS_MASK)
		return 0;
	event.bytes = end - start;
	return put(image, &event);
}

static int put_fault(struct image *image, uint32_t tid, const struct hl_syscall_record *record)
{
	bool write = record->argument & HL_FAULT_WRITE;
	struct faults_event event = {
		.ns = record->tick,
		.start = hl_addr_of(record->kind_addr),
		.bytes = record->length,
		.tid = tid,
		.what = write ? FAULTS_TOUCHED : FAULTS_READ,
		.flags = (uint8_t)record->argument,
		.fault = true,
	};
	/* No page is larger; a trace may name any length at all. */
	return record->length > LARGEST_PAGE ? 0 : put(image, &event);
}

/* Whatever was there is gone. */
static int put_mmap(struct image *image, const struct hl_syscall_record *record)
{
	uint64_t start = (uint64_t)record->result, end = start + page_up(record->length);
	uint64_t flags = record->cause_size, ended = record->tick + record->duration;
	int rc = put_range(image, record->tick, FAULTS_GONE, start, end);
	if (!rc && (flags & MAP_POPULATE) && (flags & MAP_ANONYMOUS) && (flags & MAP_PRIVATE) &&
		(record->argument & PROT_WRITE))
		rc = put_range(image, ended, FAULTS_TOUCHED, start, end);
	return rc;
}

static int put_mremap(struct image *image, const struct hl_syscall_record *record)
{
	uint64_t from = hl_addr_of(record->kind_addr), to = (uint64_t)record->result;
	uint64_t before = page_up(record->length), after = page_up(record->argument);
	uint64_t kept = before < after ? before : after, ns = record->tick;
	int rc = put_range(image, ns, FAULTS_GONE, from + kept, from + before);
	if (!rc && to != from && kept) {
		rc = put_range(image, ns, FAULTS_MOVED, from, from + kept);
		if (!rc)
			rc = put_range(image, ns, FAULTS_MOVED_TO, to, to + kept);
	}
	return rc;
}

static int put_madvise(struct image *image, const struct hl_syscall_record *record)
{
	uint64_t start = hl_addr_of(record->kind_addr), end = start + page_up(record->length);
	/* Where nothing is mapped the call says so, and does the rest. */
	if (record->result != 0 && record->result != -ENOMEM)
		return 0;
	if (record->argument == MADV_DONTNEED || record->argument == MADV_DONTNEED_LOCKED)
		return put_range(image, record->tick, FAULTS_GONE, start, end);
	if (record->argument == MADV_POPULATE_WRITE && record->result == 0)
		return put_range(
			image, record->tick + record->duration, FAULTS_TOUCHED, start, end);
	return 0;
}

static int put_call(struct image *image, unsigned kind, const struct hl_syscall_record *record)
{
	uint64_t addr = hl_addr_of(record->kind_addr);
	if (record->result < 0 && kind != HL_KIND_madvise)
		return 0;
	switch (kind) {
	case HL_KIND_brk:
		return put_range(image, record->tick, FAULTS_GONE,
			page_up((uint64_t)record->result), page_up(addr));
	case HL_KIND_mmap:
		return put_mmap(image, record);
	case HL_KIND_munmap:
		return put_range(
			image, record->tick, FAULTS_GONE, addr, addr + page_up(record->length));
	case HL_KIND_mremap:
		return put_mremap(image, record);
	case HL_KIND_madvise:
		return put_madvise(image, record);
	default:
		return 0;
	}
}

static int take(void *context, const struct stream_event *event)
{
	struct faults *faults = context;
	const struct hl_syscall_record *record = &event->record.syscall;
	unsigned kind = hl_kind_of(record->kind_addr);
	if (kind != HL_KIND_fault && (kind < HL_KIND_brk || kind > HL_KIND_madvise))
		return 0;
	struct image *image = image_of(faults, (uint32_t)(record->cause >> 32),
		(uint32_t)(record->trim_threshold >> 32), record->tick);
	if (!image)
		return -ENOMEM;
	faults->any = faults->any || kind == HL_KIND_fault;
	return kind == HL_KIND_fault ? put_fault(image, event->tid, record)
				     : put_call(image, kind, record);
}

/* ---- whose they are ---------------------------------------------------------------------------
 */

static const struct faults_share *parent_of(const struct faults *faults, size_t stream)
{
	const struct trace *trace = faults->trace;
	uint32_t wanted = trace->streams[stream].info.header.parent_serial;
	for (size_t i = stream; wanted && i--;)
		if (trace->streams[i].info.header.serial == wanted)
			return &faults->share[i];
	return NULL;
}

/* An image that an exec began has had faults before it registers: it is the last one to have begun
 * by then. One that a fork began has its parent's number. */
static void find_share(struct faults *faults, size_t stream)
{
	struct trace_stream *from = &faults->trace->streams[stream];
	const struct hl_trace_header *header = &from->info.header;
	const struct faults_share *parent = parent_of(faults, stream);
	struct faults_share *share = &faults->share[stream];
	uint64_t start_ns = faults->trace->origin_ns + clock_ns(&from->clock, header->start_tick);
	const struct image *best = NULL;

	for (size_t i = 0; i < faults->count; i++) {
		const struct image *image = &faults->image[i];
		if (image->pid != header->pid)
			continue;
		if (header->parent_serial ? !parent || image->image != parent->image
					  : image->first_ns > start_ns)
			continue;
		if (!best || image->first_ns > best->first_ns)
			best = image;
	}
	*share = (struct faults_share){.found = best || (parent && parent->found)};
	if (parent)
		share->image = parent->image;
	if (!best)
		return;
	share->image = best->image;
	share->next = best->event;
	share->end = best->event + best->count;
}

struct faults_share faults_of(const struct faults *faults, size_t stream)
{
	return faults->share[stream];
}

/* NULL when the kernel's side is whole. */
static const char *missing(const struct trace *trace)
{
	for (size_t i = 0; i < trace->kernel_count; i++) {
		if (trace->kernel[i].info.header.lost)
			return "events of the kernel's record are lost";
		if (trace->kernel[i].info.header.flags & HL_TRACE_INCOMPLETE)
			return "the kernel's record was not closed whole";
	}
	return NULL;
}

/* Without session.json it is seen when they are read. */
static bool may_have(const struct trace *trace)
{
	return !trace->session ||
	       json_is_true(json_object_get(json_object_get(trace->session, "options"), "faults"));
}

int faults_read(struct faults **out, struct trace *trace, char *why, size_t why_bytes)
{
	const char *wrong = missing(trace);
	int rc = 0;

	*out = NULL;
	if (!trace->kernel_count || !trace->stream_count)
		return 0;
	if (!may_have(trace))
		return 0;
	if (wrong) {
		snprintf(why, why_bytes, "%s", wrong);
		return 0;
	}
	struct faults *faults = calloc(1, sizeof(*faults));
	if (faults)
		faults->share = calloc(trace->stream_count, sizeof(*faults->share));
	if (!faults || !faults->share) {
		free(faults);
		snprintf(trace->error, sizeof(trace->error), "not enough memory");
		return -ENOMEM;
	}
	faults->trace = trace;
	for (size_t i = 0; !rc && i < trace->kernel_count; i++)
		rc = trace_stream_read(trace, &trace->kernel[i], take, faults);
	for (size_t i = 0; !rc && i < trace->stream_count; i++)
		find_share(faults, i);
	if (rc || !faults->any) {
		faults_free(faults);
		return rc;
	}
	*out = faults;
	return 0;
}

void faults_free(struct faults *faults)
{
	if (!faults)
		return;
	for (size_t i = 0; i < faults->count; i++)
		free(faults->image[i].event);
	free(faults->image);
	free(faults->share);
	free(faults);
}
