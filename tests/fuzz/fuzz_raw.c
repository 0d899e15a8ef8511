/* SPDX-License-Identifier: MIT
 *
 * Feeds bytes to the reader of raw files, and what that lets through to the encoder, as an import
 * does. With libFuzzer it is the target; runner.c feeds it files. The last byte decides whether time
 * ends early, as for a process that runs.
 */
#include "encode.h"
#include "raw_reader.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (UINT32_C(64) << 10)
#define PAGES_MOST 8 /* so that an input takes milliseconds whatever it claims */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void finish(struct encode_block *block)
{
	const void *bytes;
	size_t length;

	if (block->records != 0 && encode_finish(block, 1, 0, 0, &bytes, &length) != 0)
		abort();
	encode_reset(block);
}

static void encode(struct encode_block *block, const struct raw_page *page)
{
	uint64_t tick = page->tick;
	size_t at = 0;

	while (at < page->count) {
		ptrdiff_t taken = encode_append_packed(
			block, &tick, page->slots + at, page->count - at, BLOCK_BYTES);

		if (taken < 0)
			abort(); /* the reader lets whole records through and nothing else */
		at += (size_t)taken;
		if (at < page->count)
			finish(block);
	}
}

static void read_pages(struct raw_reader *reader)
{
	struct encode_block block = {0};
	const struct raw_page *page;
	uint64_t tick, ns;
	int rc = 0;

	raw_reader_last_clock(reader, &tick, &ns);
	for (int i = 0; i < PAGES_MOST && (rc = raw_reader_next(reader, &page)) > 0; i++)
		encode(&block, page);
	if (rc < 0 && *raw_reader_error(reader) == '\0')
		abort();
	finish(&block);
	encode_free(&block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size != 0 ? size : 1);
	struct raw_input input = {
		.fd = -1, .bytes = bytes, .size = size, .name = "input", .latest_tick = UINT64_MAX};
	struct raw_reader *reader;

	if (bytes == NULL)
		return 0;
	if (size != 0)
		memcpy(bytes, data, size);
	if (size >= sizeof(struct hl_raw) && (data[size - 1] & 1) != 0)
		memcpy(&input.latest_tick, data + offsetof(struct hl_raw, unused),
			sizeof(input.latest_tick));
	if (raw_reader_open(&reader, &input) == 0)
		read_pages(reader);
	else if (*raw_reader_error(reader) == '\0')
		abort(); /* a refusal has a reason */
	raw_reader_close(reader);
	free(bytes);
	return 0;
}
