/* SPDX-License-Identifier: MIT
 *
 * Writes one stream file: gathers the records of each thread into a block of its own and appends
 * whole blocks to the file. Called by the collector through stream.h; knows nothing of sessions.
 *
 * What is gathered by all threads of a stream is bounded: past GATHER_LIMIT_BYTES the block that
 * was begun first is written, however small. After the first failed write the file is cut back to
 * its last whole block and nothing more is written but the header.
 */
#include "stream.h"
#include "encode.h"
#include "heapledger/session.h"

#include <zlib.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STORED_RECORD_BYTES 4 /* a block with more for each is never stored as it is */
#define BLOCK_BYTES (UINT32_C(256) << 10)
#define GATHER_LIMIT_BYTES (UINT64_C(16) << 20)
#define KEEP_THREADS 64 /* with more, a written block's memory is given back */

/* A thread seen in this stream. It is never forgotten: its sequence must go on. */
struct thread {
	uint32_t tid;
	uint64_t sequence;
	uint64_t begun; /* order in which the current block was begun, 0 = empty */
	struct encode_block block;
};

struct stream {
	int fd;
	int error;       /* the first failure, -errno */
	int level;       /* zstd's, 0 = store */
	uint64_t offset; /* end of the last whole block */
	uint64_t gathered;
	uint64_t begun;
	struct hl_trace_header header;
	char *command; /* header.header_bytes - sizeof(header), padded with 0 */
	struct thread **threads;
	size_t thread_count;
	struct thread **index; /* hash of tid, open addressing */
	size_t index_size;     /* a power of two */
	struct thread *last;
};

static int write_at(int fd, const void *bytes, size_t length, uint64_t offset)
{
	const uint8_t *p = bytes;
	while (length) {
		ssize_t n = pwrite(fd, p, length, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static size_t command_room(const struct stream *stream)
{
	return stream->header.header_bytes - sizeof(stream->header);
}

static void set_command(struct stream *stream, const char *command, uint32_t bytes)
{
	size_t room = command_room(stream);
	if (bytes > room)
		bytes = (uint32_t)room;
	memset(stream->command, 0, room);
	if (bytes)
		memcpy(stream->command, command, bytes);
	stream->header.command_bytes = bytes;
}

static int write_header(struct stream *stream)
{
	size_t room = command_room(stream);
	stream->header.crc = 0;
	uLong crc = crc32(0, (const Bytef *)&stream->header, sizeof(stream->header));
	stream->header.crc = (uint32_t)crc32(crc, (const Bytef *)stream->command, (uInt)room);

	uint8_t *bytes = malloc(sizeof(stream->header) + room);
	if (!bytes)
		return -ENOMEM;
	memcpy(bytes, &stream->header, sizeof(stream->header));
	memcpy(bytes + sizeof(stream->header), stream->command, room);
	int rc = write_at(stream->fd, bytes, sizeof(stream->header) + room, 0);
	free(bytes);
	return rc;
}

static void stream_free(struct stream *stream)
{
	for (size_t i = 0; i < stream->thread_count; i++) {
		encode_free(&stream->threads[i]->block);
		free(stream->threads[i]);
	}
	free(stream->threads);
	free(stream->index);
	free(stream->command);
	free(stream);
}

/* The command may become known, or longer, while recording: there is always room for as much of it
 * as the process table holds. */
static int stream_start(struct stream *stream, const char *command)
{
	struct hl_trace_header *header = &stream->header;
	uint32_t bytes = command ? header->command_bytes : 0;
	uint32_t room = bytes > HL_COMMAND_BYTES ? bytes : HL_COMMAND_BYTES;

	if (room > UINT32_C(1) << 20)
		return -E2BIG;
	memcpy(header->magic, HL_TRACE_MAGIC, sizeof(header->magic));
	header->version = HL_TRACE_VERSION;
	header->fixed_bytes = sizeof(*header);
	header->header_bytes = (uint32_t)sizeof(*header) + ((room + 7) & ~UINT32_C(7));
	header->flags = HL_TRACE_INCOMPLETE | (header->flags & HL_TRACE_ELSEWHERE);
	header->end_tick = 0;
	stream->command = malloc(command_room(stream));
	if (!stream->command)
		return -ENOMEM;
	set_command(stream, command, bytes);
	stream->offset = header->header_bytes;
	return write_header(stream);
}

int stream_create(
	struct stream **out, int dirfd, const struct hl_trace_header *header, const char *command)
{
	char name[64];
	snprintf(name, sizeof(name), "%u.%u%s" HL_TRACE_SUFFIX, header->pid, header->serial,
		header->source == HL_TRACE_KERNEL ? ".kernel" : "");
	return stream_create_as(out, dirfd, name, header, command);
}

int stream_create_as(struct stream **out, int dirfd, const char *name,
	const struct hl_trace_header *header, const char *command)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	if (!stream)
		return -ENOMEM;
	stream->header = *header;
	stream->level = STREAM_LEVEL;
	stream->fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = stream->fd < 0 ? -errno : stream_start(stream, command);
	if (rc) {
		if (stream->fd >= 0) {
			close(stream->fd);
			unlinkat(dirfd, name, 0);
		}
		stream_free(stream);
		return rc;
	}
	*out = stream;
	return 0;
}

static size_t index_slot(const struct stream *stream, uint32_t tid)
{
	size_t mask = stream->index_size - 1;
	size_t slot = (size_t)(tid * UINT64_C(0x9e3779b97f4a7c15) >> 32) & mask;
	while (stream->index[slot] && stream->index[slot]->tid != tid)
		slot = (slot + 1) & mask;
	return slot;
}

static int index_grow(struct stream *stream)
{
	size_t size = stream->index_size ? stream->index_size * 2 : 16;
	struct thread **index = calloc(size, sizeof(struct thread *));
	struct thread **threads = realloc(stream->threads, size / 2 * sizeof(struct thread *));
	if (threads)
		stream->threads = threads;
	if (!index || !threads) {
		free(index);
		return -ENOMEM;
	}
	free(stream->index);
	stream->index = index;
	stream->index_size = size;
	for (size_t i = 0; i < stream->thread_count; i++)
		index[index_slot(stream, threads[i]->tid)] = threads[i];
	return 0;
}

static struct thread *thread_find(struct stream *stream, uint32_t tid)
{
	if (stream->last && stream->last->tid == tid)
		return stream->last;
	if (stream->thread_count >= stream->index_size / 2 && index_grow(stream))
		return NULL;
	struct thread **place = &stream->index[index_slot(stream, tid)];
	if (!*place) {
		*place = calloc(1, sizeof(struct thread));
		if (!*place)
			return NULL;
		(*place)->tid = tid;
		stream->threads[stream->thread_count++] = *place;
	}
	return stream->last = *place;
}

static int fail(struct stream *stream, int rc)
{
	if (!stream->error) {
		stream->error = rc;
		/* The space of a half-written block; if even this fails the reader leaves it out.
		 */
		if (ftruncate(stream->fd, (off_t)stream->offset))
			return rc;
	}
	return rc;
}

/* Threads that hand blocks over leave a tick with every other record, 6 bytes for each: level 1 takes
 * a tenth longer there and halves it. */
static int block_level(const struct stream *stream, const struct encode_block *block)
{
	bool large = block->raw_bytes / block->records >= STORED_RECORD_BYTES;

	return large ? STREAM_LEVEL : stream->level;
}

static int thread_write(struct stream *stream, struct thread *thread)
{
	if (!thread->block.records)
		return 0;
	const void *bytes;
	size_t length;
	int rc = encode_finish(&thread->block, thread->tid, thread->sequence,
		block_level(stream, &thread->block), &bytes, &length);
	if (!rc)
		rc = write_at(stream->fd, bytes, length, stream->offset);
	if (rc)
		return fail(stream, rc);
	stream->offset += length;
	stream->gathered -= thread->block.raw_bytes;
	thread->sequence++;
	thread->begun = 0;
	if (stream->thread_count > KEEP_THREADS)
		encode_free(&thread->block);
	else
		encode_reset(&thread->block);
	return 0;
}

static int write_oldest(struct stream *stream)
{
	struct thread *oldest = NULL;
	for (size_t i = 0; i < stream->thread_count; i++) {
		struct thread *thread = stream->threads[i];
		if (thread->begun && (!oldest || thread->begun < oldest->begun))
			oldest = thread;
	}
	return oldest ? thread_write(stream, oldest) : 0;
}

void stream_set_level(struct stream *stream, int level)
{
	stream->level = level;
}

/* After records went into the thread's block: writes it if it is full, or if more must follow it
 * (`cut`), and others if all of them are too many. */
static int appended(struct stream *stream, struct thread *thread, uint32_t before, bool cut)
{
	int rc = 0;
	stream->gathered += thread->block.raw_bytes - before;
	if (!thread->begun && thread->block.records)
		thread->begun = ++stream->begun;
	if (cut || thread->block.raw_bytes >= BLOCK_BYTES)
		rc = thread_write(stream, thread);
	while (!rc && stream->gathered > GATHER_LIMIT_BYTES)
		rc = write_oldest(stream);
	return rc;
}

int stream_append(struct stream *stream, uint32_t tid, const struct hl_slot *slots, size_t count)
{
	if (stream->error)
		return stream->error;
	struct thread *thread = thread_find(stream, tid);
	int rc = thread ? 0 : fail(stream, -ENOMEM);
	while (!rc && count) {
		uint32_t before = thread->block.raw_bytes;
		ptrdiff_t taken = encode_append(&thread->block, slots, count, BLOCK_BYTES);
		if (taken < 0)
			return fail(stream, (int)taken);
		slots += taken;
		count -= (size_t)taken;
		rc = appended(stream, thread, before, count != 0);
	}
	return rc;
}

/* A program that defines malloc, calloc and realloc, as it must to be whole, passes calls on. */
static bool are_passed_on(const struct hl_packed *slots, size_t count)
{
	for (size_t at = 0; at < count;) {
		unsigned width = hl_packed_slots(slots[at].word[0]);
		unsigned kind = hl_packed_kind(slots[at].word[0]);
		if (kind == HL_KIND_malloc || kind == HL_KIND_calloc || kind == HL_KIND_realloc)
			return true;
		at += width ? width : count;
	}
	return false;
}

int stream_append_packed(struct stream *stream, uint32_t tid, uint64_t tick,
	const struct hl_packed *slots, size_t count)
{
	if (stream->error)
		return stream->error;
	struct thread *thread = thread_find(stream, tid);
	int rc = thread ? 0 : fail(stream, -ENOMEM);
	if (!rc && stream_is_elsewhere(stream) && are_passed_on(slots, count)) {
		stream_set_elsewhere(stream, false);
		rc = write_header(stream);
	}
	while (!rc && count) {
		uint32_t before = thread->block.raw_bytes;
		ptrdiff_t taken =
			encode_append_packed(&thread->block, &tick, slots, count, BLOCK_BYTES);
		if (taken < 0)
			return fail(stream, (int)taken);
		slots += taken;
		count -= (size_t)taken;
		rc = appended(stream, thread, before, count != 0);
	}
	return rc;
}

int stream_append_block(
	struct stream *stream, const struct hl_block_header *header, const void *payload)
{
	struct hl_block_header copy = *header;
	struct thread *thread = stream->error ? NULL : thread_find(stream, header->tid);
	int rc = stream->error ? stream->error : thread ? 0 : fail(stream, -ENOMEM);
	if (!rc)
		rc = thread_write(stream, thread);
	if (rc)
		return rc;
	copy.sequence = thread->sequence;
	copy.header_crc = 0;
	copy.header_crc = (uint32_t)crc32(0, (const Bytef *)&copy, sizeof(copy));
	rc = write_at(stream->fd, &copy, sizeof(copy), stream->offset);
	if (!rc)
		rc = write_at(
			stream->fd, payload, copy.stored_bytes, stream->offset + sizeof(copy));
	if (rc)
		return fail(stream, rc);
	stream->offset += sizeof(copy) + copy.stored_bytes;
	thread->sequence++;
	return 0;
}

int stream_go_on(struct stream *stream, struct stream *other)
{
	int rc = 0;
	for (size_t i = 0; i < stream->thread_count; i++)
		stream->threads[i]->sequence = 0;
	for (size_t i = 0; i < other->thread_count; i++) {
		struct thread *thread = thread_find(stream, other->threads[i]->tid);
		if (thread)
			thread->sequence = other->threads[i]->sequence;
		else
			rc = -ENOMEM;
	}
	close(stream->fd);
	stream->fd = other->fd;
	stream->offset = other->offset;
	stream_free(other);
	return rc ? fail(stream, rc) : 0;
}

int stream_flush(struct stream *stream)
{
	int rc = stream->error;
	for (size_t i = 0; !rc && i < stream->thread_count; i++)
		rc = thread_write(stream, stream->threads[i]);
	return rc;
}

int stream_close(struct stream *stream, int complete, enum hl_trace_end end, int32_t end_status,
	uint64_t end_tick, uint64_t lost, const char *command, uint32_t command_bytes)
{
	int rc = stream_flush(stream);

	stream->header.end = end;
	stream->header.end_status = end_status;
	stream->header.end_tick = end_tick;
	stream->header.lost = lost;
	if (!rc && complete)
		stream->header.flags &= ~(uint32_t)HL_TRACE_INCOMPLETE;
	if (command)
		set_command(stream, command, command_bytes);
	/* In place, so it works on a full disk too. */
	int header_rc = write_header(stream);
	if (close(stream->fd) && !rc)
		rc = -errno;
	stream_free(stream);
	return rc ? rc : header_rc;
}

void stream_set_elsewhere(struct stream *stream, bool elsewhere)
{
	uint32_t flags = stream->header.flags & ~(uint32_t)HL_TRACE_ELSEWHERE;
	stream->header.flags = flags | (elsewhere ? HL_TRACE_ELSEWHERE : 0);
}

bool stream_is_elsewhere(const struct stream *stream)
{
	return (stream->header.flags & HL_TRACE_ELSEWHERE) != 0;
}

uint64_t stream_bytes(const struct stream *stream)
{
	return stream->offset;
}
