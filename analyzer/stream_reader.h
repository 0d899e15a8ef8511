/* SPDX-License-Identifier: MIT
 *
 * Reads one stream of a trace: checks it, and gives its records in time order. Called by trace.c
 * and the commands; uses decode.c for everything that looks at bytes.
 *
 * Opening reads the headers of all blocks (no payload); the records are then merged from the blocks
 * that overlap in time, so memory is one block a live thread. Functions return 0 or -errno;
 * -EBADMSG is a malformed file. stream_reader_error says what was wrong, with file and offset.
 */
#ifndef HEAPLEDGER_STREAM_READER_H
#define HEAPLEDGER_STREAM_READER_H

#include "decode.h"

#include <stdbool.h>

struct stream_reader;

/* One of the two is read: `fd` (not closed by the reader), or `bytes` when that is not NULL. */
struct stream_input {
	int fd;
	const uint8_t *bytes;
	uint64_t size;
	const char *name; /* for messages */
};

/* What the headers say; valid until the reader is closed. */
struct stream_info {
	struct hl_trace_header header;
	const char *command; /* header.command_bytes, joined by NUL, and a NUL after it */
	uint64_t first_tick; /* of the records; both 0 when there are none */
	uint64_t last_tick;
	uint64_t records;
	uint64_t blocks;
	uint64_t size;       /* of the file */
	uint64_t tail_bytes; /* of an INCOMPLETE stream: bytes after its last whole block */
	uint64_t tail_offset;
};

/* A record with the thread it is from. */
struct stream_event {
	uint32_t tid;
	union decode_record record;
};

/* On failure *out may still hold a reader: only for stream_reader_error and _close. */
int stream_reader_open(struct stream_reader **out, const struct stream_input *input);
const struct stream_info *stream_reader_info(const struct stream_reader *reader);

/* The records from the first on: 1 = *event was set (valid until the next call), 0 = no more,
 * -errno. */
int stream_reader_next(struct stream_reader *reader, const struct stream_event **event);

/* Starts again from the first record; `tid_only` >= 0 leaves out all other threads' blocks. */
void stream_reader_rewind(struct stream_reader *reader, int64_t tid_only);

/* From now on blocks whose first record is later than this are left out, as a whole. */
void stream_reader_limit(struct stream_reader *reader, uint64_t tick);

const char *stream_reader_error(const struct stream_reader *reader);
void stream_reader_close(struct stream_reader *reader);

#endif
