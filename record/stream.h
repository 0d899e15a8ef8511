/* SPDX-License-Identifier: MIT
 *
 * Writes one stream file of a trace directory (heapledger/trace.h). Called by the collector; knows
 * nothing of sessions or processes. Every function returns 0 or -errno; after an error the stream
 * writes no more, and what is in the file stays readable.
 */
#ifndef HEAPLEDGER_STREAM_H
#define HEAPLEDGER_STREAM_H

#include "heapledger/packed.h"
#include "heapledger/record.h"
#include "heapledger/trace.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream;

/* Creates DIR/<pid>.<serial>.hlt. `header` gives everything but magic, version, lengths, flags and
 * crc; `command` is argv joined by NUL, command_bytes long. */
int stream_create(
	struct stream **out, int dirfd, const struct hl_trace_header *header, const char *command);

/* The same under another name. */
int stream_create_as(struct stream **out, int dirfd, const char *name,
	const struct hl_trace_header *header, const char *command);

/* Appends a block as it is in another stream, but for its number. */
int stream_append_block(
	struct stream *stream, const struct hl_block_header *header, const void *payload);

/* Appends records of one thread, complete records only, in the order they were made. They are
 * gathered in memory and written as blocks of up to about 256 KiB raw a thread. */
int stream_append(struct stream *stream, uint32_t tid, const struct hl_slot *slots, size_t count);

/* The same for the packed records of one page of one thread, whose tick it is. */
int stream_append_packed(struct stream *stream, uint32_t tid, uint64_t tick,
	const struct hl_packed *slots, size_t count);

/* How blocks are compressed from now on: zstd's level, STREAM_LEVEL at first. 0 = stored as they are.
 * Those that hold 4 bytes or more for each record are always compressed at STREAM_LEVEL. */
#define STREAM_LEVEL 1
#define STREAM_LEVEL_HASTE (-5) /* takes as long as storing, of `churn` a quarter less */
void stream_set_level(struct stream *stream, int level);

/* From now on writes to the file of `other`, which holds the same to be followed by what is gathered
 * here; frees `other`. */
int stream_go_on(struct stream *stream, struct stream *other);

/* Writes out what is gathered, for all threads. */
int stream_flush(struct stream *stream);

/* Flushes, completes the header (end, end_status, end_tick, lost, flags) and frees the stream.
 * INCOMPLETE is cleared when `complete` is not 0 and no write failed. */
int stream_close(struct stream *stream, int complete, enum hl_trace_end end, int32_t end_status,
	uint64_t end_tick, uint64_t lost, const char *command, uint32_t command_bytes);

/* Whether calls of malloc go elsewhere: the flag ELSEWHERE, as the given header has it, until a
 * packed record contradicts it. What is set is in the file once the stream is closed. */
void stream_set_elsewhere(struct stream *stream, bool elsewhere);
bool stream_is_elsewhere(const struct stream *stream);

/* Bytes written so far; for the summary. */
uint64_t stream_bytes(const struct stream *stream);

#endif
