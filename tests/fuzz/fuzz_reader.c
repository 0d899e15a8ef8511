/* SPDX-License-Identifier: MIT
 *
 * Feeds bytes to the reader, the ledger and the JSON of a result as if they were a stream's file,
 * or to the reader of stacks if they begin as that file does. With libFuzzer it is the target;
 * runner.c feeds it files.
 *
 * Checksums would stop nearly every mutation at the door, so they are made right before the bytes
 * are read: what is behind the door is what is tested. Every other input goes in untouched.
 */
#include "ledger.h"
#include "stacks.h"
#include "stream_reader.h"

#include <zlib.h>

#include <stdlib.h>
#include <string.h>

/* So that an input takes milliseconds whatever it claims. */
#define EVENTS_MOST 20000
#define PAGES_MOST 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend_blocks(uint8_t *bytes, size_t size, size_t at)
{
	struct hl_block_header header;
	while (at < size && size - at > sizeof(header)) {
		memcpy(&header, bytes + at, sizeof(header));
		if (header.stored_bytes > size - at - sizeof(header))
			return;
		uint8_t *payload = bytes + at + sizeof(header);
		header.payload_crc = (uint32_t)crc32(0, payload, header.stored_bytes);
		header.header_crc = 0;
		header.header_crc = (uint32_t)crc32(0, (const Bytef *)&header, sizeof(header));
		memcpy(bytes + at, &header, sizeof(header));
		at += sizeof(header) + header.stored_bytes;
	}
}

static void mend(uint8_t *bytes, size_t size)
{
	struct hl_trace_header header;
	if (size < sizeof(header))
		return;
	memcpy(&header, bytes, sizeof(header));
	if (header.header_bytes < sizeof(header) || header.header_bytes > size)
		return;
	header.crc = 0;
	memcpy(bytes, &header, sizeof(header));
	header.crc = (uint32_t)crc32(0, bytes, header.header_bytes);
	memcpy(bytes, &header, sizeof(header));
	mend_blocks(bytes, size, header.header_bytes);
}

static void mend_stacks(uint8_t *bytes, size_t size)
{
	struct hl_stacks_header header;
	struct hl_stacks_block block;
	size_t at = sizeof(header);

	if (size < sizeof(header))
		return;
	memcpy(&header, bytes, sizeof(header));
	header.crc = 0;
	header.crc = (uint32_t)crc32(0, (const Bytef *)&header, sizeof(header));
	memcpy(bytes, &header, sizeof(header));
	while (at < size && size - at > sizeof(block)) {
		memcpy(&block, bytes + at, sizeof(block));
		if (block.stored_bytes > size - at - sizeof(block))
			return;
		block.payload_crc =
			(uint32_t)crc32(0, bytes + at + sizeof(block), block.stored_bytes);
		block.header_crc = 0;
		block.header_crc = (uint32_t)crc32(0, (const Bytef *)&block, sizeof(block));
		memcpy(bytes + at, &block, sizeof(block));
		at += sizeof(block) + block.stored_bytes;
	}
}

/* Everything that was read must be there. */
static void read_stacks(const uint8_t *bytes, size_t size)
{
	struct stacks stacks = {0};
	const char *why = NULL;
	uint64_t offset, sum = 0;
	int rc = stacks_read(&stacks, bytes, size, &why, &offset);

	if (rc && (!why || !*why || offset > size))
		abort(); /* a refusal has a reason and a place */
	for (size_t i = 0; i < stacks.count; i++) {
		const struct stack *stack = stacks_find(&stacks, stacks.stacks[i].number);

		if (!stack || stack->number != stacks.stacks[i].number)
			abort();
		for (unsigned j = 0; j < stack->count; j++)
			sum += stacks_frames(&stacks, stack)[j];
	}
	for (size_t i = 0; i < stacks.module_count; i++) {
		const struct stack_module *module = &stacks.modules[i];

		sum += strlen(module->path);
		if (module->end > module->start &&
			!stacks_module(&stacks, module->serial, sum, module->start, true))
			abort();
	}
	stacks_free(&stacks);
}

static void read_all(struct stream_reader *reader)
{
	static struct ledger_result result;
	struct ledger ledger;
	struct clock clock = {0};
	const struct stream_info *info = stream_reader_info(reader);
	const struct stream_event *event;
	uint64_t last = 0;

	memset(&result, 0, sizeof(result));
	if (clock_add(&clock, info->header.clock_tick, info->header.clock_ns))
		return;
	clock_finish(&clock, info->header.tick_hz);
	ledger_start(&ledger, &result, &clock);
	ledger.pages.limit = PAGES_MOST;
	if (timeline_start(&ledger.timeline, info->first_tick, info->last_tick, 10))
		abort();
	for (unsigned i = 0; i < EVENTS_MOST && stream_reader_next(reader, &event) > 0; i++) {
		if (event->record.word[0] < last)
			abort(); /* records come in time order, whatever the file is */
		last = event->record.word[0];
		if (ledger_apply(&ledger, event))
			break;
	}
	ledger_finish(&ledger, info->last_tick, WAITS_SITES);
	timeline_free(&ledger.timeline);
	ledger_free(&ledger);
	ledger_result_free(&result);
	phases_free(&result.phases);
	clock_free(&clock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream_reader *reader;
	uint8_t *bytes = malloc(size ? size : 1);
	if (!bytes)
		return 0;
	if (size)
		memcpy(bytes, data, size);
	/* The last byte decides, so that the fuzzer can keep both kinds. */
	bool mended = size && !(data[size - 1] & 1);
	if (size >= 8 && !memcmp(data, HL_STACKS_MAGIC, 8)) {
		if (mended)
			mend_stacks(bytes, size);
		read_stacks(bytes, size);
		free(bytes);
		return 0;
	}
	if (mended)
		mend(bytes, size);
	struct stream_input input = {.fd = -1, .bytes = bytes, .size = size, .name = "input"};
	if (!stream_reader_open(&reader, &input))
		read_all(reader);
	else if (!*stream_reader_error(reader))
		abort(); /* a refusal has a reason */
	stream_reader_close(reader);
	free(bytes);
	return 0;
}
