/* SPDX-License-Identifier: MIT
 *
 * One stream: its header, the list of its blocks, and the merge of its threads by tick.
 *
 * A block becomes a lane when the merge reaches its first tick and is dropped after its last
 * record. The lanes are a binary heap ordered by (tick, tid, sequence); the top lane is drained for
 * as long as it stays below the next one, which for one thread is a plain loop.
 */
#include "stream_reader.h"

#include <zstd.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct block {
	uint64_t offset; /* of its header */
	uint64_t first_tick;
	uint64_t sequence;
	uint32_t tid;
};

struct lane {
	struct decode_cursor cursor;
	struct stream_event event; /* the next one to give out */
	uint64_t sequence;
	uint64_t offset;
	uint8_t *raw;
	size_t raw_capacity;
};

struct stream_reader {
	struct stream_input input;
	struct stream_info info;
	char *command;
	struct block *blocks; /* sorted by (first_tick, tid, sequence) */
	size_t block_capacity;
	size_t next_block;
	int64_t tid_only;
	uint64_t limit; /* blocks that begin later are left out */
	struct lane **heap;
	size_t lane_count;
	size_t lane_capacity;
	struct lane *spare; /* one lane's memory kept for the next block */
	bool given;         /* the top lane's event was given out: move on first */
	ZSTD_DCtx *zstd;
	uint8_t *stored;
	size_t stored_capacity;
	char error[512];
};

static int fail(struct stream_reader *reader, int rc, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct stream_reader *reader, int rc, const char *format, ...)
{
	int at = snprintf(reader->error, sizeof(reader->error), "%.300s: ", reader->input.name);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(reader->error + at, sizeof(reader->error) - (size_t)at, format, arguments);
	va_end(arguments);
	return rc;
}

static int fail_at(struct stream_reader *reader, uint64_t offset, const char *what)
{
	return fail(reader, -EBADMSG, "offset %llu: %s", (unsigned long long)offset, what);
}

static int read_at(struct stream_reader *reader, void *to, size_t length, uint64_t offset)
{
	const struct stream_input *input = &reader->input;
	if (offset > input->size || length > input->size - offset)
		return fail_at(reader, offset, "the file ends here");
	if (input->bytes) {
		memcpy(to, input->bytes + offset, length);
		return 0;
	}
	for (uint8_t *p = to; length;) {
		ssize_t n = pread(input->fd, p, length, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(reader, -errno, "offset %llu: %s", (unsigned long long)offset,
				strerror(errno));
		if (!n)
			return fail_at(reader, offset, "the file became shorter while it was read");
		p += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static int resize(struct stream_reader *reader, void *pointer, size_t bytes)
{
	void **at = pointer;
	void *moved = realloc(*at, bytes ? bytes : 1);
	if (!moved)
		return fail(reader, -ENOMEM, "not enough memory");
	*at = moved;
	return 0;
}

static int read_header(struct stream_reader *reader)
{
	struct hl_trace_header *header = &reader->info.header;
	if (reader->input.size < sizeof(*header))
		return fail(reader, -EBADMSG, "offset 0: too short for a trace (%llu bytes)",
			(unsigned long long)reader->input.size);
	int rc = read_at(reader, header, sizeof(*header), 0);
	if (rc)
		return rc;
	const char *wrong = decode_check_header(header);
	if (wrong && header->version != HL_TRACE_VERSION &&
		!memcmp(header->magic, HL_TRACE_MAGIC, sizeof(header->magic)))
		return fail(reader, -EBADMSG,
			"offset 8: trace format version %u; this heapledger reads version %u only",
			header->version, HL_TRACE_VERSION);
	if (wrong)
		return fail_at(reader, 0, wrong);
	if (header->header_bytes > reader->input.size)
		return fail_at(reader, 0, "the file ends inside its header");
	rc = resize(reader, &reader->command, (size_t)header->header_bytes + 1);
	if (!rc)
		rc = read_at(reader, reader->command, header->header_bytes, 0);
	if (rc)
		return rc;
	wrong = decode_check_command((const uint8_t *)reader->command, header);
	if (wrong)
		return fail_at(reader, 0, wrong);
	reader->command[sizeof(*header) + header->command_bytes] = 0;
	reader->info.command = reader->command + sizeof(*header);
	return 0;
}

static int add_block(
	struct stream_reader *reader, const struct hl_block_header *header, uint64_t offset)
{
	struct stream_info *info = &reader->info;
	if (info->blocks == reader->block_capacity) {
		size_t capacity = reader->block_capacity ? reader->block_capacity * 2 : 16;
		int rc = resize(reader, &reader->blocks, capacity * sizeof(struct block));
		if (rc)
			return rc;
		reader->block_capacity = capacity;
	}
	reader->blocks[info->blocks] = (struct block){
		.offset = offset,
		.first_tick = header->first_tick,
		.sequence = header->sequence,
		.tid = header->tid,
	};
	if (!info->blocks || header->first_tick < info->first_tick)
		info->first_tick = header->first_tick;
	if (header->last_tick > info->last_tick)
		info->last_tick = header->last_tick;
	info->records += header->records;
	info->blocks++;
	return 0;
}

static int tail(struct stream_reader *reader, uint64_t offset)
{
	if (!(reader->info.header.flags & HL_TRACE_INCOMPLETE))
		return fail_at(reader, offset, "the file ends inside a block");
	reader->info.tail_offset = offset;
	reader->info.tail_bytes = reader->input.size - offset;
	return 0;
}

static int scan_blocks(struct stream_reader *reader)
{
	uint64_t size = reader->input.size;
	for (uint64_t offset = reader->info.header.header_bytes; offset < size;) {
		struct hl_block_header header;
		if (size - offset < sizeof(header))
			return tail(reader, offset);
		int rc = read_at(reader, &header, sizeof(header), offset);
		if (rc)
			return rc;
		const char *wrong = decode_check_block(&header);
		if (wrong)
			return fail_at(reader, offset, wrong);
		if (header.stored_bytes > size - offset - sizeof(header))
			return tail(reader, offset);
		rc = add_block(reader, &header, offset);
		if (rc)
			return rc;
		offset += sizeof(header) + header.stored_bytes;
	}
	return 0;
}

static int by_thread(const void *left, const void *right)
{
	const struct block *a = left, *b = right;
	if (a->tid != b->tid)
		return a->tid < b->tid ? -1 : 1;
	if (a->sequence != b->sequence)
		return a->sequence < b->sequence ? -1 : 1;
	return a->offset < b->offset ? -1 : 1;
}

static int by_time(const void *left, const void *right)
{
	const struct block *a = left, *b = right;
	if (a->first_tick != b->first_tick)
		return a->first_tick < b->first_tick ? -1 : 1;
	return by_thread(left, right);
}

/* Every thread's blocks are there, once each: a cut in the middle of a file is not silent. */
static int check_sequences(struct stream_reader *reader)
{
	struct block *blocks = reader->blocks;
	size_t count = reader->info.blocks;
	if (!count)
		return 0;
	qsort(blocks, count, sizeof(*blocks), by_thread);
	for (size_t i = 0; i < count; i++) {
		bool first = !i || blocks[i].tid != blocks[i - 1].tid;
		if (blocks[i].sequence != (first ? 0 : blocks[i - 1].sequence + 1))
			return fail_at(reader, blocks[i].offset,
				"a block of this thread is missing before this one");
	}
	qsort(blocks, count, sizeof(*blocks), by_time);
	return 0;
}

int stream_reader_open(struct stream_reader **out, const struct stream_input *input)
{
	struct stream_reader *reader = calloc(1, sizeof(*reader));
	*out = reader;
	if (!reader)
		return -ENOMEM;
	reader->input = *input;
	reader->info.size = input->size;
	reader->tid_only = -1;
	reader->limit = UINT64_MAX;
	int rc = read_header(reader);
	if (!rc)
		rc = scan_blocks(reader);
	if (!rc)
		rc = check_sequences(reader);
	return rc;
}

const struct stream_info *stream_reader_info(const struct stream_reader *reader)
{
	return &reader->info;
}

const char *stream_reader_error(const struct stream_reader *reader)
{
	return reader ? reader->error : "not enough memory";
}

static void lane_free(struct lane *lane)
{
	if (lane)
		free(lane->raw);
	free(lane);
}

void stream_reader_close(struct stream_reader *reader)
{
	if (!reader)
		return;
	for (size_t i = 0; i < reader->lane_count; i++)
		lane_free(reader->heap[i]);
	lane_free(reader->spare);
	free(reader->heap);
	free(reader->blocks);
	free(reader->command);
	free(reader->stored);
	ZSTD_freeDCtx(reader->zstd);
	free(reader);
}

/* Thread 0 is last: what has the tick of a begin mark came before it. */
static inline bool lane_before(const struct lane *a, const struct lane *b)
{
	if (a->cursor.tick != b->cursor.tick)
		return a->cursor.tick < b->cursor.tick;
	if (a->event.tid != b->event.tid)
		return a->event.tid - 1 < b->event.tid - 1;
	return a->sequence < b->sequence;
}

static void sift_down(struct stream_reader *reader)
{
	struct lane **heap = reader->heap;
	struct lane *moving = heap[0];
	size_t at = 0;
	for (;;) {
		size_t child = 2 * at + 1;
		if (child >= reader->lane_count)
			break;
		if (child + 1 < reader->lane_count && lane_before(heap[child + 1], heap[child]))
			child++;
		if (!lane_before(heap[child], moving))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moving;
}

static void sift_up(struct stream_reader *reader)
{
	struct lane **heap = reader->heap;
	size_t at = reader->lane_count - 1;
	struct lane *moving = heap[at];
	while (at && lane_before(moving, heap[(at - 1) / 2])) {
		heap[at] = heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap[at] = moving;
}

static int decompress(
	struct stream_reader *reader, struct lane *lane, const struct hl_block_header *header)
{
	if (lane->raw_capacity < header->raw_bytes) {
		int rc = resize(
			reader, &lane->raw, (size_t)header->raw_bytes + DECODE_PADDING_BYTES);
		if (rc)
			return rc;
		lane->raw_capacity = header->raw_bytes;
	}
	memset(lane->raw + header->raw_bytes, 0, DECODE_PADDING_BYTES);
	if (header->compression == HL_BLOCK_STORED) {
		memcpy(lane->raw, reader->stored, header->raw_bytes);
		return 0;
	}
	if (!reader->zstd && !(reader->zstd = ZSTD_createDCtx()))
		return fail(reader, -ENOMEM, "not enough memory");
	size_t n = ZSTD_decompressDCtx(
		reader->zstd, lane->raw, header->raw_bytes, reader->stored, header->stored_bytes);
	if (n != header->raw_bytes)
		return fail_at(reader, lane->offset, "the block cannot be decompressed");
	return 0;
}

static int lane_next(struct stream_reader *reader, struct lane *lane)
{
	const char *wrong = decode_next(&lane->cursor, &lane->event.record);
	return wrong ? fail_at(reader, lane->offset, wrong) : 0;
}

static int lane_load(struct stream_reader *reader, struct lane *lane, const struct block *block)
{
	struct hl_block_header header;
	lane->offset = block->offset;
	int rc = read_at(reader, &header, sizeof(header), block->offset);
	if (rc)
		return rc;
	const char *wrong = decode_check_block(&header);
	if (wrong)
		return fail_at(reader, block->offset, wrong);
	if (reader->stored_capacity < header.stored_bytes) {
		rc = resize(reader, &reader->stored, header.stored_bytes);
		if (rc)
			return rc;
		reader->stored_capacity = header.stored_bytes;
	}
	rc = read_at(reader, reader->stored, header.stored_bytes, block->offset + sizeof(header));
	if (rc)
		return rc;
	wrong = decode_check_payload(&header, reader->stored);
	if (wrong)
		return fail_at(reader, block->offset, wrong);
	rc = decompress(reader, lane, &header);
	if (rc)
		return rc;
	wrong = decode_start(&lane->cursor, &header, lane->raw);
	if (wrong)
		return fail_at(reader, block->offset, wrong);
	lane->event.tid = header.tid;
	lane->sequence = header.sequence;
	return lane_next(reader, lane);
}

static int lane_add(struct stream_reader *reader, const struct block *block)
{
	if (reader->lane_count == reader->lane_capacity) {
		size_t capacity = reader->lane_capacity ? reader->lane_capacity * 2 : 8;
		int rc = resize(reader, &reader->heap, capacity * sizeof(struct lane *));
		if (rc)
			return rc;
		reader->lane_capacity = capacity;
	}
	struct lane *lane = reader->spare ? reader->spare : calloc(1, sizeof(*lane));
	if (!lane)
		return fail(reader, -ENOMEM, "not enough memory");
	reader->spare = NULL;
	int rc = lane_load(reader, lane, block);
	if (rc) {
		lane_free(lane);
		return rc;
	}
	reader->heap[reader->lane_count++] = lane;
	sift_up(reader);
	return 0;
}

static void lane_drop(struct stream_reader *reader)
{
	struct lane *lane = reader->heap[0];
	reader->heap[0] = reader->heap[--reader->lane_count];
	if (reader->lane_count)
		sift_down(reader);
	lane_free(reader->spare);
	reader->spare = lane;
}

/* Opens the blocks that begin at or before the next record. */
static int open_blocks(struct stream_reader *reader)
{
	while (reader->next_block < reader->info.blocks) {
		const struct block *block = &reader->blocks[reader->next_block];
		if (reader->lane_count && block->first_tick > reader->heap[0]->cursor.tick)
			break;
		if (block->first_tick > reader->limit)
			break;
		reader->next_block++;
		if (reader->tid_only >= 0 && block->tid != reader->tid_only)
			continue;
		int rc = lane_add(reader, block);
		if (rc)
			return rc;
	}
	return 0;
}

int stream_reader_next(struct stream_reader *reader, const struct stream_event **event)
{
	if (reader->given) {
		struct lane *lane = reader->heap[0];
		if (lane->cursor.left) {
			int rc = lane_next(reader, lane);
			if (rc)
				return rc;
			if (reader->lane_count > 1)
				sift_down(reader);
		} else {
			lane_drop(reader);
		}
		reader->given = false;
	}
	int rc = open_blocks(reader);
	if (rc)
		return rc;
	if (!reader->lane_count)
		return 0;
	*event = &reader->heap[0]->event;
	reader->given = true;
	return 1;
}

void stream_reader_limit(struct stream_reader *reader, uint64_t tick)
{
	reader->limit = tick;
}

void stream_reader_rewind(struct stream_reader *reader, int64_t tid_only)
{
	while (reader->lane_count)
		lane_drop(reader);
	reader->next_block = 0;
	reader->given = false;
	reader->tid_only = tid_only;
}
