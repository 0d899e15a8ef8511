/* SPDX-License-Identifier: MIT
 *
 * See stacks.h.
 */
#include "stacks.h"
#include "heapledger/trace.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define ENTRIES_MOST (UINT32_C(1) << 21) /* more than a recording makes */

/* A payload that is read from its start. After a read beyond its end `bad` is set, and everything
 * read is 0. */
struct payload {
	const uint8_t *at, *end;
	bool bad;
};

static const uint8_t *take(struct payload *payload, uint64_t bytes)
{
	const uint8_t *at = payload->at;

	if (bytes > (uint64_t)(payload->end - payload->at)) {
		payload->bad = true;
		payload->at = payload->end;
		return NULL;
	}
	payload->at += bytes;
	return at;
}

static uint64_t take_varint(struct payload *payload)
{
	const uint8_t *at = take(payload, 1);
	unsigned more = at == NULL ? 0 : at[0] ? (unsigned)__builtin_ctz(at[0]) : 8;
	uint64_t value = 0;

	if (at == NULL || take(payload, more) == NULL)
		return 0;
	for (unsigned i = more < 8 ? 0 : 1; i <= more; i++)
		value |= (uint64_t)at[i] << 8 * (more < 8 ? i : i - 1);
	return more < 8 ? value >> (more + 1) : value;
}

static uint64_t take_zigzag(struct payload *payload)
{
	uint64_t value = take_varint(payload);

	return value >> 1 ^ (0 - (value & 1));
}

/* Room for `more` elements behind `count`. */
static int make_room(void **list, size_t *room, size_t count, size_t more, size_t bytes)
{
	size_t wanted = *room ? *room : 64;
	void *grown;

	if (count + more <= *room)
		return 0;
	while (wanted < count + more)
		wanted *= 2;
	grown = realloc(*list, wanted * bytes);
	if (grown == NULL)
		return -ENOMEM;
	*list = grown;
	*room = wanted;
	return 0;
}

static int read_stack(
	struct stacks *stacks, struct payload *payload, uint32_t *number, uint64_t *last)
{
	struct stack stack = {.first = stacks->frame_count};
	uint64_t shape;
	int rc;

	stack.number = *number = *number + (uint32_t)take_zigzag(payload);
	shape = take_varint(payload);
	stack.end = shape & 3;
	stack.count = (uint8_t)(shape >> 2);
	if (payload->bad || shape >> 2 > HL_STACK_MOST_FRAMES || stack.end == 0 ||
		stack.number == 0 || stacks->count >= ENTRIES_MOST)
		return -EBADMSG;
	rc = make_room((void **)&stacks->frames, &stacks->frame_room, stacks->frame_count,
		stack.count, sizeof(*stacks->frames));
	if (rc == 0)
		rc = make_room((void **)&stacks->stacks, &stacks->stack_room, stacks->count, 1,
			sizeof(stack));
	if (rc != 0)
		return rc;
	for (unsigned i = 0; i < stack.count; i++) {
		last[i] += take_zigzag(payload);
		stacks->frames[stacks->frame_count + i] = last[i];
	}
	if (payload->bad)
		return -EBADMSG;
	stacks->frame_count += stack.count;
	stacks->stacks[stacks->count++] = stack;
	return 0;
}

static int read_module(struct stacks *stacks, struct payload *payload)
{
	struct stack_module module = {.order = (uint32_t)stacks->module_count};
	const uint8_t *id, *path;
	uint64_t id_bytes, path_bytes;
	int rc;

	module.serial = (uint32_t)take_varint(payload);
	module.tick = take_varint(payload);
	module.start = take_varint(payload);
	module.end = module.start + take_varint(payload);
	module.bias = take_varint(payload);
	id_bytes = take_varint(payload);
	path_bytes = take_varint(payload);
	id = take(payload, id_bytes);
	path = take(payload, path_bytes);
	if (payload->bad || id_bytes > HL_BUILD_ID_BYTES || path_bytes >= HL_MODULE_PATH_BYTES ||
		module.end < module.start || stacks->module_count >= ENTRIES_MOST)
		return -EBADMSG;
	rc = make_room((void **)&stacks->modules, &stacks->module_room, stacks->module_count, 1,
		sizeof(module));
	module.path = rc == 0 ? malloc(path_bytes + 1) : NULL;
	if (module.path == NULL)
		return -ENOMEM;
	memcpy(module.path, path, path_bytes);
	module.path[path_bytes] = '\0';
	memcpy(module.build_id, id, id_bytes);
	module.build_id_bytes = (uint8_t)id_bytes;
	stacks->modules[stacks->module_count++] = module;
	return 0;
}

static int read_payload(
	struct stacks *stacks, const struct hl_stacks_block *header, const uint8_t *raw)
{
	struct payload payload = {.at = raw, .end = raw + header->raw_bytes};
	uint64_t last[HL_STACK_MOST_FRAMES] = {0};
	uint32_t number = 0;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < header->count; i++)
		rc = header->content == HL_STACKS_STACKS
			     ? read_stack(stacks, &payload, &number, last)
			     : read_module(stacks, &payload);
	return rc == 0 && payload.at != payload.end ? -EBADMSG : rc;
}

static const char *check_block(const struct hl_stacks_block *header)
{
	struct hl_stacks_block copy = *header;

	if (header->magic != HL_STACKS_BLOCK_MAGIC)
		return "no block starts here (wrong magic)";
	copy.header_crc = 0;
	if (crc32(0, (const Bytef *)&copy, sizeof(copy)) != header->header_crc)
		return "the block's header is damaged (checksum)";
	if (header->compression > HL_BLOCK_ZSTD)
		return "the block is compressed in an unknown way";
	if (header->content != HL_STACKS_STACKS && header->content != HL_STACKS_MODULES)
		return "the block has unknown content";
	if (header->raw_bytes > HL_STACKS_RAW_LIMIT || header->stored_bytes > header->raw_bytes ||
		(header->compression == HL_BLOCK_STORED &&
			header->stored_bytes != header->raw_bytes))
		return "the block's size is impossible";
	return NULL;
}

static int read_block(struct stacks *stacks, const struct hl_stacks_block *header,
	const uint8_t *stored, const char **why)
{
	uint8_t *raw;
	int rc = -EBADMSG;

	*why = "the block is damaged (checksum)";
	if (crc32(0, stored, header->stored_bytes) != header->payload_crc)
		return rc;
	*why = "the block does not hold what its header says";
	if (header->compression == HL_BLOCK_STORED)
		return read_payload(stacks, header, stored);
	raw = malloc(header->raw_bytes + 1);
	if (raw == NULL)
		return -ENOMEM;
	if (ZSTD_decompress(raw, header->raw_bytes, stored, header->stored_bytes) ==
		header->raw_bytes)
		rc = read_payload(stacks, header, raw);
	free(raw);
	return rc;
}

static int by_number(const void *left, const void *right)
{
	const struct stack *a = left, *b = right;

	return (a->number > b->number) - (a->number < b->number);
}

static int by_serial(const void *left, const void *right)
{
	const struct stack_module *a = left, *b = right;

	if (a->serial != b->serial)
		return a->serial > b->serial ? 1 : -1;
	if (a->tick != b->tick)
		return a->tick > b->tick ? 1 : -1;
	return (a->order > b->order) - (a->order < b->order);
}

static const char *check_header(const uint8_t *bytes, size_t size, unsigned *depth)
{
	struct hl_stacks_header header;
	uint32_t crc;

	if (size < sizeof(header))
		return "too short for a header";
	memcpy(&header, bytes, sizeof(header));
	if (memcmp(header.magic, HL_STACKS_MAGIC, sizeof(header.magic)))
		return "not a file of stacks (wrong magic)";
	if (header.version != HL_STACKS_VERSION)
		return "written in another version of the format";
	crc = header.crc;
	header.crc = 0;
	*depth = header.depth;
	return crc32(0, (const Bytef *)&header, sizeof(header)) == crc
		       ? NULL
		       : "the header is damaged (checksum)";
}

static int read_blocks(struct stacks *stacks, const uint8_t *bytes, size_t size, const char **why,
	uint64_t *offset)
{
	struct hl_stacks_block header;
	size_t at = sizeof(struct hl_stacks_header);
	int rc = 0;

	while (rc == 0 && at < size) {
		*offset = at;
		stacks->tail_bytes = size - at;
		if (size - at < sizeof(header))
			break;
		memcpy(&header, bytes + at, sizeof(header));
		*why = check_block(&header);
		if (*why != NULL)
			return -EBADMSG;
		if (header.stored_bytes > size - at - sizeof(header))
			break;
		rc = read_block(stacks, &header, bytes + at + sizeof(header), why);
		at += sizeof(header) + header.stored_bytes;
		if (rc == 0)
			stacks->tail_bytes = 0;
	}
	return rc;
}

int stacks_read(struct stacks *stacks, const uint8_t *bytes, size_t size, const char **why,
	uint64_t *offset)
{
	int rc = -EBADMSG;

	*offset = 0;
	*why = check_header(bytes, size, &stacks->depth);
	if (*why == NULL)
		rc = read_blocks(stacks, bytes, size, why, offset);
	if (stacks->count > 0)
		qsort(stacks->stacks, stacks->count, sizeof(*stacks->stacks), by_number);
	if (stacks->module_count > 0)
		qsort(stacks->modules, stacks->module_count, sizeof(*stacks->modules), by_serial);
	return rc;
}

void stacks_free(struct stacks *stacks)
{
	for (size_t i = 0; i < stacks->module_count; i++)
		free(stacks->modules[i].path);
	free(stacks->modules);
	free(stacks->frames);
	free(stacks->stacks);
	*stacks = (struct stacks){0};
}

const struct stack *stacks_find(const struct stacks *stacks, uint32_t number)
{
	const struct stack key = {.number = number};

	/* Nearly always all of them are there. */
	if (number != 0 && number <= stacks->count && stacks->stacks[number - 1].number == number)
		return &stacks->stacks[number - 1];
	if (stacks->count == 0)
		return NULL;
	return bsearch(&key, stacks->stacks, stacks->count, sizeof(key), by_number);
}

const struct stack_module *stacks_module(
	const struct stacks *stacks, uint32_t serial, uint64_t tick, uint64_t address, bool later)
{
	const struct stack_module *found = NULL;
	size_t low = 0, high = stacks->module_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (stacks->modules[middle].serial < serial)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < stacks->module_count && stacks->modules[low].serial == serial; low++) {
		const struct stack_module *module = &stacks->modules[low];

		if (address < module->start || address >= module->end)
			continue;
		if ((found == NULL && later) || module->tick <= tick)
			found = module;
	}
	return found;
}
