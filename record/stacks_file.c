/* SPDX-License-Identifier: MIT
 *
 * See stacks_file.h. The tables are written to while we read them. An entry that is claimed and not
 * yet complete is passed over and looked at again each time; its thread may have been killed.
 */
#include "stacks_file.h"

#include "heapledger/callstack.h"
#include "heapledger/trace.h"
#include "varint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define HOLES 4096u /* more threads than that are not killed in the middle of a stack */
#define BLOCK_BYTES (HL_STACKS_RAW_LIMIT / 2)
#define ZSTD_LEVEL 3
#define LONGEST (VARINT_BYTES * (HL_STACK_MOST_FRAMES + 8) + sizeof(struct hl_module))

struct stacks_file {
	const struct session *session;
	int dirfd;
	int fd; /* -1 until there is something to write */
	int error;
	uint64_t offset;
	uint32_t next; /* stacks below have been written, but for the holes */
	uint32_t hole[HOLES];
	uint32_t holes;
	uint32_t modules_seen;
	ZSTD_CCtx *zstd;
	/* The block being built. */
	struct encode_column column;
	enum hl_stacks_content content;
	uint32_t count;
	uint32_t last_number;
	uint64_t last_frame[HL_STACK_MOST_FRAMES];
};

static int write_all(struct stacks_file *file, const void *bytes, size_t length)
{
	const char *at = bytes;

	while (length > 0) {
		ssize_t n = pwrite(file->fd, at, length, (off_t)file->offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		file->offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static int fail(struct stacks_file *file, int rc)
{
	if (file->error == 0)
		file->error = rc;
	return file->error;
}

static int open_file(struct stacks_file *file)
{
	struct hl_stacks_header header = {
		.magic = HL_STACKS_MAGIC,
		.version = HL_STACKS_VERSION,
		.depth = (uint16_t)file->session->map->stack_depth,
	};

	file->fd = openat(
		file->dirfd, HL_STACKS_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file->fd < 0)
		return -errno;
	header.crc = (uint32_t)crc32(0, (const Bytef *)&header, sizeof(header));
	return write_all(file, &header, sizeof(header));
}

/* A block that does not fit on the disk is cut off again; readers would bear with it, too. */
static int write_block(struct stacks_file *file, const struct hl_stacks_block *header,
	const void *payload, size_t length)
{
	int rc = file->fd < 0 ? open_file(file) : 0;
	uint64_t start = file->offset;

	if (rc != 0)
		return fail(file, rc);
	rc = write_all(file, header, sizeof(*header));
	if (rc == 0)
		rc = write_all(file, payload, length);
	if (rc != 0) {
		file->offset = start;
		if (ftruncate(file->fd, (off_t)start) != 0)
			return fail(file, rc);
	}
	return rc == 0 ? 0 : fail(file, rc);
}

static int finish_block(struct stacks_file *file)
{
	struct hl_stacks_block header = {
		.magic = HL_STACKS_BLOCK_MAGIC,
		.content = (uint8_t)file->content,
		.compression = HL_BLOCK_ZSTD,
		.count = file->count,
		.raw_bytes = file->column.used,
	};
	const uint8_t *payload = file->column.data;
	size_t room = ZSTD_compressBound(header.raw_bytes), stored;
	uint8_t *packed;
	int rc;

	if (file->count == 0)
		return 0;
	packed = malloc(room);
	if (packed == NULL)
		return fail(file, -ENOMEM);
	stored = ZSTD_compressCCtx(file->zstd, packed, room, payload, header.raw_bytes, ZSTD_LEVEL);
	if (ZSTD_isError(stored) || stored >= header.raw_bytes) {
		header.compression = HL_BLOCK_STORED;
		stored = header.raw_bytes;
	} else {
		payload = packed;
	}
	header.stored_bytes = (uint32_t)stored;
	header.payload_crc = (uint32_t)crc32(0, payload, (uInt)stored);
	header.header_crc = (uint32_t)crc32(0, (const Bytef *)&header, sizeof(header));
	rc = write_block(file, &header, payload, stored);
	free(packed);
	file->column.used = 0;
	file->count = 0;
	file->last_number = 0;
	memset(file->last_frame, 0, sizeof(file->last_frame));
	return rc;
}

/* Room for one more entry in a block of this content. */
static int begin_entry(struct stacks_file *file, enum hl_stacks_content content)
{
	if (file->content != content || file->column.used > BLOCK_BYTES) {
		int rc = finish_block(file);

		if (rc != 0)
			return rc;
	}
	file->content = content;
	file->count++;
	return 0;
}

static struct hl_stack *stack_at(const struct stacks_file *file, uint32_t number)
{
	const struct hl_session *map = file->session->map;

	return (struct hl_stack *)((char *)map + map->stacks_offset +
				   (number - 1) * hl_stack_bytes(map->stack_depth));
}

/* Whether the stack was complete; it is counted in the block then. */
static bool put_stack(struct stacks_file *file, uint32_t number, int *rc)
{
	const struct hl_stack *stack = stack_at(file, number);
	uint64_t head = atomic_load_explicit(&stack->head, memory_order_acquire);
	unsigned count = hl_stack_count(head);

	if (head == 0)
		return false;
	if (count > file->session->map->stack_depth)
		count = file->session->map->stack_depth;
	*rc = begin_entry(file, HL_STACKS_STACKS);
	if (*rc != 0)
		return true;
	put_varint(&file->column, zigzag((uint64_t)number - file->last_number));
	put_varint(&file->column, (uint64_t)count << 2 | (hl_stack_end_of(head) & 3));
	for (unsigned i = 0; i < count; i++) {
		put_varint(&file->column, zigzag(stack->frame[i] - file->last_frame[i]));
		file->last_frame[i] = stack->frame[i];
	}
	file->last_number = number;
	return true;
}

static int put_holes(struct stacks_file *file)
{
	uint32_t kept = 0;
	int rc = 0;

	for (uint32_t i = 0; i < file->holes; i++)
		if (rc != 0 || !put_stack(file, file->hole[i], &rc))
			file->hole[kept++] = file->hole[i];
	file->holes = kept;
	return rc;
}

static int put_stacks(struct stacks_file *file)
{
	struct hl_session *map = file->session->map;
	uint32_t count = atomic_load_explicit(&map->stack_count, memory_order_acquire);
	int rc = file->holes > 0 ? put_holes(file) : 0;

	if (count > map->stack_limit)
		count = map->stack_limit;
	while (rc == 0 && file->next < count) {
		uint32_t number = file->next + 1;

		if (!put_stack(file, number, &rc)) {
			if (file->holes == HOLES)
				break;
			file->hole[file->holes++] = number;
		}
		file->next++;
	}
	return rc;
}

static int put_module(struct stacks_file *file, const struct hl_module *module)
{
	size_t id = module->build_id_bytes, length;
	int rc = begin_entry(file, HL_STACKS_MODULES);

	if (rc != 0)
		return rc;
	if (id > HL_BUILD_ID_BYTES)
		id = 0;
	length = strnlen(module->path, HL_MODULE_PATH_BYTES);
	put_varint(&file->column, module->serial);
	put_varint(&file->column, module->tick);
	put_varint(&file->column, module->start);
	put_varint(&file->column, module->end - module->start);
	put_varint(&file->column, module->bias);
	put_varint(&file->column, id);
	put_varint(&file->column, length);
	memcpy(file->column.data + file->column.used, module->build_id, id);
	memcpy(file->column.data + file->column.used + id, module->path, length);
	file->column.used += (uint32_t)(id + length);
	return 0;
}

static int put_modules(struct stacks_file *file)
{
	struct hl_session *map = file->session->map;
	struct hl_module *table = (struct hl_module *)((char *)map + map->modules_offset);
	uint32_t seen = atomic_load_explicit(&map->modules_new, memory_order_acquire);
	int rc = 0;

	if (seen == file->modules_seen)
		return 0;
	for (uint32_t i = 0; rc == 0 && i < map->module_limit; i++) {
		if (atomic_load_explicit(&table[i].state, memory_order_acquire) != HL_MODULE_READY)
			continue;
		rc = put_module(file, &table[i]);
		atomic_store(&table[i].state, HL_MODULE_FREE);
	}
	file->modules_seen = seen;
	return rc;
}

int stacks_file_catch_up(struct stacks_file *file)
{
	int rc = file->error;

	if (rc == 0)
		rc = put_modules(file);
	if (rc == 0)
		rc = put_stacks(file);
	if (rc == 0)
		rc = finish_block(file);
	return rc;
}

int stacks_file_create(struct stacks_file **out, const struct session *session, int dirfd)
{
	struct stacks_file *file;
	int rc = -ENOMEM;

	*out = NULL;
	file = calloc(1, sizeof(*file));
	if (file == NULL)
		return rc;
	file->session = session;
	file->dirfd = dirfd;
	file->fd = -1;
	file->column.capacity = BLOCK_BYTES + LONGEST + VARINT_SLACK;
	file->column.data = malloc(file->column.capacity);
	file->zstd = ZSTD_createCCtx();
	if (file->column.data != NULL && file->zstd != NULL)
		rc = session->map->stack_depth != 0 ? open_file(file) : 0;
	if (rc != 0) {
		stacks_file_close(file);
		return rc;
	}
	*out = file;
	return 0;
}

uint64_t stacks_file_bytes(const struct stacks_file *file)
{
	return file != NULL ? file->offset : 0;
}

void stacks_file_close(struct stacks_file *file)
{
	if (file == NULL)
		return;
	if (file->fd >= 0)
		close(file->fd);
	ZSTD_freeCCtx(file->zstd);
	free(file->column.data);
	free(file);
}
