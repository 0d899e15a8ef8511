/* SPDX-License-Identifier: MIT
 *
 * See compact.h. What came and went before the cut is left out: a block with its free, a mapping
 * with its unmapping. A child that stays needs the heap as of its fork mark, so what is there at
 * the mark is pinned: it stays, and so does its end. Memory is that of the live set.
 *
 * In a stream that is still written, records of before the cut may follow: a thread keeps what it
 * has logged until its page is full. Nothing is wrong with what is made without them. Of a block
 * that such a record makes or frees, the other half is kept, and its half joins it.
 */
#include "compact.h"

#include "analyzer/ledger.h"
#include "analyzer/live.h"
#include "analyzer/mapping.h"
#include "analyzer/names.h"
#include "analyzer/stream_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct kept {
	uint64_t order;
	uint32_t tid;
	bool pinned;
	bool dead;
	union decode_record record;
};

struct list {
	struct kept *entry;
	size_t count;
	size_t capacity;
	size_t dead;
};

/* A realloc under way, whose block others can have from its begin on. Pinned: its begin is kept as it
 * is, so its end must be. */
struct pending {
	uint32_t tid;
	bool pinned;
	bool known;             /* the old block is */
	struct live_block old;
	union decode_record begin;
};

struct compact {
	const struct compact_child *children;
	size_t child_count;
	struct list calls; /* and marks */
	struct list maps;
	struct live live; /* address -> place in calls, as its size */
	struct pending *pending;
	size_t pending_count;
	size_t pending_capacity;
	uint64_t order;
	/* Until the copy of a pinned fork is surely made, nothing is left out. */
	bool copying;
	uint32_t copying_tid;
	uint64_t copying_until;
	bool has_phase;
	struct kept phase;
	uint64_t previous; /* see compact_request */
	uint64_t awaited;
	uint64_t events;
	uint64_t syscalls;
};

static uint64_t addr_of(const union decode_record *record)
{
	return hl_addr_of(record->call.kind_addr);
}

static unsigned kind_of(const union decode_record *record)
{
	return hl_kind_of(record->call.kind_addr);
}

static int put(
	struct compact *compact, struct list *list, uint32_t tid, const union decode_record *record)
{
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? list->capacity * 2 : 64;
		void *entry = realloc(list->entry, capacity * sizeof(*list->entry));
		if (!entry)
			return -ENOMEM;
		list->entry = entry;
		list->capacity = capacity;
	}
	list->entry[list->count++] = (struct kept){.order = compact->order++,
		.tid = tid,
		.pinned = compact->copying,
		.record = *record};
	return 0;
}

static void kill_entry(struct list *list, size_t i)
{
	list->entry[i].dead = true;
	list->dead++;
}

static void move_pending(struct compact *compact, size_t from, size_t to)
{
	for (size_t i = 0; i < compact->pending_count; i++)
		if (compact->pending[i].known && compact->pending[i].old.size == from)
			compact->pending[i].old.size = to;
}

/* Moves what is left together when most is dead. */
static int sweep(struct compact *compact, struct list *list)
{
	size_t kept = 0;
	if (list->dead < 1024 || list->dead < list->count / 2)
		return 0;
	for (size_t i = 0; i < list->count; i++) {
		if (list->entry[i].dead)
			continue;
		const struct live_block *live =
			list == &compact->calls
				? live_find(&compact->live, addr_of(&list->entry[i].record))
				: NULL;
		if (live && live->size == i) {
			struct live_block moved = *live, old;
			moved.size = kept;
			if (live_add(&compact->live, &moved, &old) < 0)
				return -ENOMEM;
		}
		if (list == &compact->calls)
			move_pending(compact, i, kept);
		list->entry[kept++] = list->entry[i];
	}
	list->count = kept;
	list->dead = 0;
	return 0;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static int block_made(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	struct live_block block = {.addr = addr_of(record), .size = compact->calls.count}, old;
	int rc = put(compact, &compact->calls, tid, record);
	if (!rc && live_add(&compact->live, &block, &old) < 0)
		rc = -ENOMEM;
	return rc;
}

/* `record` is the free of this block, or of one that is not known (NULL). */
static int block_gone(struct compact *compact, uint32_t tid, const union decode_record *record,
	const struct live_block *block)
{
	if (!block || compact->copying || compact->calls.entry[block->size].pinned)
		return put(compact, &compact->calls, tid, record);
	kill_entry(&compact->calls, block->size);
	return sweep(compact, &compact->calls);
}

static int block_freed(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	struct live_block block;
	bool known = live_take(&compact->live, addr_of(record), &block);

	return block_gone(compact, tid, record, known ? &block : NULL);
}

static int realloc_begins(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	if (compact->pending_count == compact->pending_capacity) {
		size_t capacity = compact->pending_capacity ? compact->pending_capacity * 2 : 8;
		void *list = realloc(compact->pending, capacity * sizeof(*compact->pending));
		if (!list)
			return -ENOMEM;
		compact->pending = list;
		compact->pending_capacity = capacity;
	}
	struct pending *pending = &compact->pending[compact->pending_count++];
	*pending = (struct pending){.tid = tid, .pinned = compact->copying, .begin = *record};
	pending->known =
		addr_of(record) && live_take(&compact->live, addr_of(record), &pending->old);
	return compact->copying ? put(compact, &compact->calls, tid, record) : 0;
}

static union decode_record as_kind(const union decode_record *record, enum hl_kind kind)
{
	union decode_record other = *record;
	other.call.kind_addr = hl_kind_addr(kind, addr_of(record));
	return other;
}

/* The old block is freed and another one made: a realloc says no more of the heap. */
static int realloc_replaced(struct compact *compact, const struct pending *pending,
	const union decode_record *record)
{
	union decode_record gone = as_kind(&pending->begin, HL_KIND_free);
	union decode_record made = as_kind(record, HL_KIND_malloc);
	int rc = 0;
	gone.call.size = gone.call.chunk = 0;
	if (addr_of(&gone))
		rc = block_gone(compact, pending->tid, &gone,
			pending->known ? &pending->old : NULL);
	return rc || !addr_of(record) ? rc : block_made(compact, pending->tid, &made);
}

static int realloc_failed(struct compact *compact, const struct pending *pending,
	const union decode_record *record)
{
	struct live_block old;
	if (pending->known && live_add(&compact->live, &pending->old, &old) < 0)
		return -ENOMEM;
	return pending->pinned ? put(compact, &compact->calls, pending->tid, record) : 0;
}

static int realloc_ends(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	size_t i = compact->pending_count;
	while (i && compact->pending[i - 1].tid != tid)
		i--;
	if (!i)
		return addr_of(record) ? block_made(compact, tid, record) : 0;
	struct pending pending = compact->pending[--i];
	compact->pending[i] = compact->pending[--compact->pending_count];
	if (!addr_of(record) && record->call.size)
		return realloc_failed(compact, &pending, record);
	if (!pending.pinned)
		return realloc_replaced(compact, &pending, record);
	int rc = addr_of(record) ? block_made(compact, tid, record)
				 : put(compact, &compact->calls, tid, record);
	compact->calls.entry[compact->calls.count - 1].pinned = true;
	return rc;
}

/* ---- mappings -------------------------------------------------------------------------------- */

static unsigned region_of(const struct hl_syscall_record *record)
{
	return record->cause >> 16 & 0xff;
}

/* The newest mapping of this region at exactly this place that may be left out. */
static struct kept *find_mapping(
	struct compact *compact, unsigned region, uint64_t start, uint64_t length)
{
	for (size_t i = compact->maps.count; i--;) {
		struct kept *kept = &compact->maps.entry[i];
		const struct hl_syscall_record *record = &kept->record.syscall;
		if (!kept->dead && !kept->pinned && kind_of(&kept->record) == HL_KIND_mmap &&
			region_of(record) == region && (uint64_t)record->result == start &&
			record->length == length)
			return kept;
	}
	return NULL;
}

static int brk_moved(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	if (!addr_of(record))
		return 0;
	for (size_t i = compact->maps.count; i-- && !compact->copying;) {
		struct kept *kept = &compact->maps.entry[i];
		if (kept->dead || kind_of(&kept->record) != HL_KIND_brk)
			continue;
		if (kept->pinned || (uint64_t)kept->record.syscall.result != addr_of(record))
			break;
		kept->record.syscall.argument = record->syscall.argument;
		kept->record.syscall.result = record->syscall.result;
		return 0;
	}
	return put(compact, &compact->maps, tid, record);
}

static int arena_changed(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	uint64_t start = addr_of(record), end = start + record->syscall.length;
	for (size_t i = compact->maps.count; i-- && kind_of(record) != HL_KIND_mmap;) {
		struct kept *kept = &compact->maps.entry[i];
		uint64_t from = addr_of(&kept->record);
		if (!kept->dead && !kept->pinned && !compact->copying &&
			kind_of(&kept->record) == HL_KIND_mprotect && from >= start &&
			from + kept->record.syscall.length <= end)
			kill_entry(&compact->maps, i);
	}
	int rc = put(compact, &compact->maps, tid, record);
	return rc ? rc : sweep(compact, &compact->maps);
}

static int mapping_changed(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	const struct hl_syscall_record *call = &record->syscall;
	unsigned kind = kind_of(record), region = region_of(call);
	struct kept *old;

	if (!mapping_succeeded(call) || kind == HL_KIND_madvise)
		return 0;
	if (kind == HL_KIND_brk)
		return brk_moved(compact, tid, record);
	if (region == HL_REGION_arena)
		return arena_changed(compact, tid, record);
	if (kind == HL_KIND_mprotect)
		return 0;
	old = kind == HL_KIND_mmap || compact->copying
		      ? NULL
		      : find_mapping(compact, region, addr_of(record), call->length);
	if (!old)
		return put(compact, &compact->maps, tid, record);
	if (kind == HL_KIND_mremap) {
		old->record.syscall.result = call->result;
		old->record.syscall.length = call->argument;
		return 0;
	}
	kill_entry(&compact->maps, (size_t)(old - compact->maps.entry));
	return sweep(compact, &compact->maps);
}

/* ---- marks ----------------------------------------------------------------------------------- */

static void pin(struct list *list)
{
	for (size_t i = 0; i < list->count; i++)
		list->entry[i].pinned = true;
}

static int pin_pending(struct compact *compact)
{
	for (size_t i = 0; i < compact->pending_count; i++) {
		struct pending *pending = &compact->pending[i];
		if (pending->pinned)
			continue;
		int rc = put(compact, &compact->calls, pending->tid, &pending->begin);
		if (rc)
			return rc;
		pending->pinned = true;
	}
	return 0;
}

static int keep_fork(struct compact *compact, uint32_t tid, const union decode_record *record,
	uint64_t copied)
{
	int rc = pin_pending(compact);
	pin(&compact->calls);
	pin(&compact->maps);
	if (!compact->copying || copied > compact->copying_until)
		compact->copying_until = copied;
	compact->copying = true;
	compact->copying_tid = tid;
	return rc ? rc : put(compact, &compact->calls, tid, record);
}

static int forked(struct compact *compact, uint32_t tid, const union decode_record *record)
{
	for (size_t i = 0; i < compact->child_count; i++) {
		const struct compact_child *child = &compact->children[i];
		if (child->fork_id == record->mark.size)
			return child->gone ? 0
					   : keep_fork(compact, tid, record, child->start_tick);
	}
	if (!compact->awaited || record->word[0] <= compact->awaited)
		return 0;
	return keep_fork(compact, tid, record, UINT64_MAX);
}

/* What is left out, counted as processes.c counts what it takes. */
static void count(struct compact *compact, const union decode_record *record)
{
	unsigned kind = kind_of(record);
	bool syscall = name_is_syscall(kind);

	if (record->word[0] <= compact->previous || kind >= HL_KIND_other ||
		(syscall && (record->syscall.cause >> 8 & 0xff) == HL_REASON_recorder))
		return;
	compact->events++;
	compact->syscalls += syscall;
}

static int before_cut(struct compact *compact, const struct stream_event *event)
{
	const union decode_record *record = &event->record;
	unsigned kind = kind_of(record);

	count(compact, record);
	if (compact->copying &&
		(ledger_same_thread(event->tid, compact->copying_tid) ||
			record->word[0] >= compact->copying_until))
		compact->copying = false;
	switch (name_shape(kind)) {
	case NAME_SHAPE_ALLOC:
	case NAME_SHAPE_ALIGNED:
		return addr_of(record) ? block_made(compact, event->tid, record) : 0;
	case NAME_SHAPE_REALLOC:
		return realloc_ends(compact, event->tid, record);
	case NAME_SHAPE_FREE:
		return addr_of(record) ? block_freed(compact, event->tid, record) : 0;
	case NAME_SHAPE_CONTROL:
		return 0;
	default:
		break;
	}
	if (name_is_syscall(kind))
		return mapping_changed(compact, event->tid, record);
	if (kind == HL_KIND_realloc_begin)
		return realloc_begins(compact, event->tid, record);
	if (kind == HL_KIND_fork)
		return forked(compact, event->tid, record);
	if (kind == HL_KIND_phase) {
		compact->has_phase = true;
		compact->phase = (struct kept){
			.order = compact->order++, .tid = event->tid, .record = *record};
	}
	return 0;
}

/* ---- the new file ---------------------------------------------------------------------------- */

static int by_tick(const void *left, const void *right)
{
	const struct kept *a = left, *b = right;
	if (a->record.word[0] != b->record.word[0])
		return a->record.word[0] < b->record.word[0] ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

static int append(struct stream *stream, uint32_t tid, const union decode_record *record)
{
	return stream_append(stream, tid, (const struct hl_slot *)(const void *)record,
		hl_kind_slots(kind_of(record)));
}

static int write_heap(struct compact *compact, struct stream *stream)
{
	struct list *calls = &compact->calls;
	int rc = pin_pending(compact);
	for (size_t i = 0; !rc && i < compact->maps.count; i++) {
		const struct kept *map = &compact->maps.entry[i];
		if (map->dead)
			continue;
		rc = put(compact, calls, map->tid, &map->record);
		calls->entry[calls->count - 1].order = map->order;
	}
	if (!rc && compact->has_phase)
		rc = put(compact, calls, compact->phase.tid, &compact->phase.record);
	if (!rc && calls->count)
		qsort(calls->entry, calls->count, sizeof(*calls->entry), by_tick);
	for (size_t i = 0; !rc && i < calls->count; i++)
		if (!calls->entry[i].dead)
			rc = append(stream, calls->entry[i].tid, &calls->entry[i].record);
	return rc;
}

static int write_begin(struct stream *stream, uint64_t tick)
{
	union decode_record begin = {
		.mark = {.tick = tick, .kind_addr = hl_kind_addr(HL_KIND_begin, 0)}};

	return append(stream, 0, &begin);
}

/* The heap, and the mark if there is none. Its blocks end here. */
static int write_start(
	struct compact *compact, struct compact_result *result, uint64_t cut, bool marked)
{
	int rc = write_heap(compact, result->stream);

	if (!rc && !marked)
		rc = write_begin(result->stream, cut);
	if (!rc)
		rc = stream_flush(result->stream);
	result->heap_bytes = stream_bytes(result->stream);
	return rc;
}

/* The records up to the cut become the heap; those of the same blocks after it follow. `marked`: the
 * cut is at the begin mark, and not behind all that has its tick. */
static int rewrite(struct compact *compact, struct stream_reader *reader,
	struct compact_result *result, uint64_t cut, bool marked)
{
	const struct stream_event *event;
	bool begun = false;
	int rc;

	stream_reader_rewind(reader, -1);
	stream_reader_limit(reader, cut);
	while ((rc = stream_reader_next(reader, &event)) > 0) {
		rc = 0;
		if (!begun && (marked ? kind_of(&event->record) == HL_KIND_begin
				      : event->record.word[0] > cut)) {
			begun = true;
			rc = write_start(compact, result, cut, marked);
		}
		if (!rc)
			rc = begun ? append(result->stream, event->tid, &event->record)
				   : before_cut(compact, event);
		if (rc)
			return rc;
	}
	if (rc || begun)
		return rc;
	return marked ? -ENODATA : write_start(compact, result, cut, marked);
}

static int copy_block(struct stream *stream, int fd, const struct hl_block_header *header,
	uint64_t offset, uint8_t **buffer)
{
	uint8_t *grown = realloc(*buffer, header->stored_bytes);
	if (!grown)
		return -ENOMEM;
	*buffer = grown;
	if (pread(fd, grown, header->stored_bytes, (off_t)(offset + sizeof(*header))) !=
		(ssize_t)header->stored_bytes)
		return -EIO;
	return stream_append_block(stream, header, grown);
}

/* The blocks between two offsets that begin after the cut, as they are. */
static int copy_blocks(struct stream *stream, int fd, uint64_t from, uint64_t to, uint64_t cut)
{
	uint8_t *buffer = NULL;
	int rc = 0;
	for (uint64_t at = from; !rc && at < to;) {
		struct hl_block_header header;
		if (pread(fd, &header, sizeof(header), (off_t)at) != sizeof(header) ||
			decode_check_block(&header))
			rc = -EIO;
		else if (header.first_tick > cut)
			rc = copy_block(stream, fd, &header, at, &buffer);
		at += sizeof(header) + header.stored_bytes;
	}
	free(buffer);
	return rc;
}

static int find_begin(struct stream_reader *reader, uint64_t *tick)
{
	const struct stream_event *event;
	int rc;
	stream_reader_rewind(reader, 0);
	while ((rc = stream_reader_next(reader, &event)) > 0)
		if (kind_of(&event->record) == HL_KIND_begin) {
			*tick = event->record.word[0];
			return 0;
		}
	return rc ? rc : -ENODATA;
}

static void compact_free(struct compact *compact)
{
	free(compact->calls.entry);
	free(compact->maps.entry);
	free(compact->pending);
	live_free(&compact->live);
}

static int write_file(const struct compact_request *request, struct compact_result *result, int fd,
	struct stream_reader *reader)
{
	struct compact compact = {.children = request->children,
		.child_count = request->child_count,
		.previous = request->previous,
		.awaited = request->awaited};
	const struct stream_info *info = stream_reader_info(reader);
	uint64_t cut = request->cut;
	int rc = cut ? 0 : find_begin(reader, &cut);

	result->header = info->header;
	if (!rc)
		rc = stream_create_as(&result->stream, request->dirfd, COMPACT_TEMPORARY,
			&info->header, info->command);
	if (!rc)
		rc = rewrite(&compact, reader, result, cut, !request->cut);
	if (!rc)
		rc = stream_flush(result->stream);
	if (!rc)
		rc = copy_blocks(
			result->stream, fd, info->header.header_bytes, info->size, cut);
	result->events = compact.events;
	result->syscalls = compact.syscalls;
	compact_free(&compact);
	return rc;
}

static int open_file(const struct compact_request *request, uint64_t *size)
{
	struct stat status;
	int fd = openat(request->dirfd, request->name, O_RDONLY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	*size = (uint64_t)status.st_size;
	return fd;
}

int compact_write(const struct compact_request *request, struct compact_result *result)
{
	struct stream_reader *reader = NULL;
	struct stream_input input = {.name = request->name};
	int rc;

	*result = (struct compact_result){0};
	input.fd = open_file(request, &input.size);
	if (input.fd < 0)
		return input.fd;
	if (request->size)
		input.size = request->size;
	rc = stream_reader_open(&reader, &input);
	if (!rc)
		rc = write_file(request, result, input.fd, reader);
	stream_reader_close(reader);
	close(input.fd);
	if (rc)
		compact_drop(request, result);
	return rc;
}

int compact_copy(
	const struct compact_request *request, struct compact_result *result, uint64_t size)
{
	struct hl_trace_header *header = &result->header;
	uint64_t file_size;
	int fd = open_file(request, &file_size), rc;

	if (fd < 0)
		return fd;
	rc = copy_blocks(result->stream, fd, request->size, size, 0);
	if (rc == 0 && pread(fd, header, sizeof(*header), 0) != sizeof(*header))
		rc = -EIO;
	close(fd);
	return rc;
}

static int replace(const struct compact_request *request)
{
	if (renameat(request->dirfd, COMPACT_TEMPORARY, request->dirfd, request->name) == 0)
		return 0;
	int rc = -errno;
	unlinkat(request->dirfd, COMPACT_TEMPORARY, 0);
	return rc;
}

int compact_close(
	const struct compact_request *request, struct compact_result *result, uint64_t *bytes)
{
	const struct hl_trace_header *header = &result->header;
	uint64_t size = stream_bytes(result->stream);
	int rc;

	stream_set_elsewhere(result->stream, header->flags & HL_TRACE_ELSEWHERE);
	rc = stream_close(result->stream, !(header->flags & HL_TRACE_INCOMPLETE),
		(enum hl_trace_end)header->end, header->end_status, header->end_tick, header->lost,
		NULL, 0);

	result->stream = NULL;
	if (!rc)
		rc = replace(request);
	else
		unlinkat(request->dirfd, COMPACT_TEMPORARY, 0);
	if (!rc)
		*bytes = size;
	return rc;
}

int compact_go_on(const struct compact_request *request, struct compact_result *result,
	struct stream *stream)
{
	int rc = replace(request);

	if (rc) {
		compact_drop(request, result);
		return rc;
	}
	rc = stream_go_on(stream, result->stream);
	result->stream = NULL;
	return rc;
}

void compact_drop(const struct compact_request *request, struct compact_result *result)
{
	if (!result->stream)
		return;
	stream_close(result->stream, 0, HL_TRACE_END_UNKNOWN, -1, 0, 0, NULL, 0);
	result->stream = NULL;
	unlinkat(request->dirfd, COMPACT_TEMPORARY, 0);
}
