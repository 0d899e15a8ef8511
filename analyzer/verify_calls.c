/* SPDX-License-Identifier: MIT
 *
 * Reads the system calls of all streams, the program's and the kernel's, into two arrays of the
 * same form. Called by verify.c. Judges nothing.
 */
#include "ledger.h"
#include "verify.h"

#include "heapledger/session.h"
#include "names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>


static struct verify_call *add_call(struct verify_calls *calls)
{
	if (calls->count == calls->capacity) {
		size_t capacity = calls->capacity ? calls->capacity * 2 : 1024;
		struct verify_call *grown = realloc(calls->call, capacity * sizeof(*grown));

		if (!grown)
			return NULL;
		calls->call = grown;
		calls->capacity = capacity;
	}
	return &calls->call[calls->count++];
}

static void fill(struct verify_call *call, const struct stream_event *event)
{
	const struct hl_syscall_record *record = &event->record.syscall;

	*call = (struct verify_call){
		.addr = hl_addr_of(record->kind_addr),
		.length = record->length,
		.argument = record->argument,
		.result = record->result,
		.tid = event->tid & LEDGER_TID_MASK,
		.kind = (uint8_t)hl_kind_of(record->kind_addr),
		.nested = event->tid > LEDGER_TID_MASK,
	};
}

/* Kernel streams: docs/trace-format.md says which words mean something else. */
static int take_kernel(struct verify *verify, const struct stream_event *event)
{
	const struct hl_syscall_record *record = &event->record.syscall;
	bool is_call = name_is_syscall(hl_kind_of(record->kind_addr));
	struct verify_call *call = add_call(is_call ? &verify->kernel : &verify->others);

	if (!call)
		return -ENOMEM;
	fill(call, event);
	call->start_ns = record->tick;
	call->end_ns = record->tick + record->duration;
	call->image = (uint32_t)(record->trim_threshold >> 32);
	call->cpu = (uint32_t)record->trim_threshold;
	call->sequence = record->mmap_threshold;
	call->pid = (uint32_t)(record->cause >> 32);
	call->stream = VERIFY_NO_STREAM;
	return 0;
}

static uint64_t log_ns(struct verify *verify, uint32_t stream, uint64_t tick)
{
	return verify->trace->origin_ns + clock_ns(&verify->trace->streams[stream].clock, tick);
}

uint64_t verify_stream_start(struct verify *verify, uint32_t stream)
{
	return log_ns(verify, stream, verify->trace->streams[stream].info.header.start_tick);
}

uint64_t verify_stream_end(struct verify *verify, uint32_t stream)
{
	return log_ns(verify, stream, verify->trace->streams[stream].info.header.end_tick);
}

static int take_logged(struct verify *verify, uint32_t stream, const struct stream_event *event)
{
	const struct hl_syscall_record *record = &event->record.syscall;
	struct verify_call *call = add_call(&verify->logged);

	if (!call)
		return -ENOMEM;
	fill(call, event);
	call->start_ns = log_ns(verify, stream, record->tick);
	call->end_ns = log_ns(verify, stream, record->tick + record->duration);
	call->pid = verify->trace->streams[stream].info.header.pid;
	call->stream = stream;
	call->reason = (uint8_t)(record->cause >> 8);
	return 0;
}

static void take_mark(
	struct verify *verify, struct verify_fork *fork, const struct stream_event *event)
{
	uint64_t ns = log_ns(verify, fork->parent, event->record.call.tick);

	fork->ns = ns < fork->begun_ns ? ns : fork->begun_ns;
	fork->tid = event->tid & LEDGER_TID_MASK;
}

/* The mark says when; a child that ran no fork handlers branches off where its stream starts. */
static void take_fork(struct verify *verify, uint32_t stream, const struct stream_event *event)
{
	const struct trace_stream *streams = verify->trace->streams;

	for (size_t i = 0; i < verify->fork_count; i++) {
		struct verify_fork *fork = &verify->forks[i];

		if (fork->parent == stream && event->record.call.size &&
			streams[fork->child].info.header.fork_id == event->record.call.size)
			take_mark(verify, fork, event);
	}
}

/* When a block was there for sure. Its tick says "not before" and may be that of the start of the
 * system call that made its mapping, the last one that its thread had read. */
static uint64_t block_ns(
	const struct verify *verify, uint32_t stream, uint32_t tid, uint64_t tick_ns)
{
	for (size_t i = verify->logged.count; i-- > 0;) {
		const struct verify_call *call = &verify->logged.call[i];
		if (call->stream != stream || call->start_ns < tick_ns)
			break;
		if (call->tid == tid)
			return call->end_ns > tick_ns ? call->end_ns : tick_ns;
	}
	return tick_ns;
}

static int take_block(struct verify *verify, uint32_t stream, const struct stream_event *event)
{
	const struct hl_call_record *record = &event->record.call;
	uint32_t tid = event->tid & LEDGER_TID_MASK;
	struct verify_call *call;

	if (!hl_addr_of(record->kind_addr) ||
		!(record->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED))
		return 0;
	call = add_call(&verify->blocks);
	if (!call)
		return -ENOMEM;
	*call = (struct verify_call){
		.start_ns = block_ns(verify, stream, tid, log_ns(verify, stream, record->tick)),
		.addr = hl_addr_of(record->kind_addr),
		.length = record->size,
		.result = (int64_t)hl_addr_of(record->kind_addr),
		.pid = verify->trace->streams[stream].info.header.pid,
		.tid = tid,
		.stream = stream,
		.kind = (uint8_t)hl_kind_of(record->kind_addr),
	};
	return 0;
}

static int take(struct verify *verify, uint32_t stream, const struct stream_event *event)
{
	unsigned kind = hl_kind_of(event->record.word[1]);

	if (kind == HL_KIND_fork && stream != VERIFY_NO_STREAM)
		take_fork(verify, stream, event);
	if (name_shape(kind) != NAME_SHAPE_NONE && stream != VERIFY_NO_STREAM)
		return take_block(verify, stream, event);
	if (stream == VERIFY_NO_STREAM && kind >= HL_KIND_process_fork)
		return take_kernel(verify, event);
	if (!name_is_syscall(kind) || kind == HL_KIND_other)
		return 0;
	return stream == VERIFY_NO_STREAM ? take_kernel(verify, event)
					  : take_logged(verify, stream, event);
}

static int read_stream(struct verify *verify, const struct trace_stream *from, uint32_t stream)
{
	struct trace *trace = verify->trace;
	const struct stream_event *event;
	struct stream_reader *reader;
	int fd;
	int rc = trace_stream_open(trace, from, &reader, &fd);

	if (!rc) {
		while ((rc = stream_reader_next(reader, &event)) > 0) {
			rc = take(verify, stream, event);
			if (rc)
				break;
		}
	}
	return trace_stream_close(trace, reader, fd, rc);
}

/* Streams are sorted by serial, and a parent's is smaller than its child's. */
static uint32_t find_parent(const struct trace *trace, uint32_t child)
{
	uint32_t wanted = trace->streams[child].info.header.parent_serial;

	for (uint32_t i = child; wanted && i-- > 0;)
		if (trace->streams[i].info.header.serial == wanted)
			return i;
	return VERIFY_NO_STREAM;
}

static int find_forks(struct verify *verify)
{
	struct trace *trace = verify->trace;

	verify->forks = calloc(trace->stream_count + 1, sizeof(*verify->forks));
	if (!verify->forks)
		return -ENOMEM;
	for (uint32_t i = 0; i < trace->stream_count; i++) {
		uint32_t parent = find_parent(trace, i);

		if (parent == VERIFY_NO_STREAM) {
			/* What it inherited is not known. */
			verify->log_incomplete += trace->streams[i].info.header.parent_serial != 0;
			continue;
		}
		uint64_t begun_ns = log_ns(verify, i, trace->streams[i].info.header.start_tick);
		verify->forks[verify->fork_count++] = (struct verify_fork){
			.parent = parent,
			.child = i,
			.ns = begun_ns,
			.begun_ns = begun_ns,
		};
	}
	return 0;
}

static void count_loss(const struct trace_stream *stream, uint64_t *lost, uint64_t *incomplete)
{
	*lost += stream->info.header.lost;
	*incomplete += (stream->info.header.flags & HL_TRACE_INCOMPLETE) != 0;
}

int verify_read(struct verify *verify)
{
	struct trace *trace = verify->trace;
	int rc = find_forks(verify);

	if (rc)
		snprintf(trace->error, sizeof(trace->error), "not enough memory");
	verify->log_incomplete += trace_absent(trace);
	for (uint32_t i = 0; !rc && i < trace->stream_count; i++) {
		count_loss(&trace->streams[i], &verify->log_lost, &verify->log_incomplete);
		rc = read_stream(verify, &trace->streams[i], i);
	}
	for (uint32_t i = 0; !rc && i < trace->kernel_count; i++) {
		count_loss(&trace->kernel[i], &verify->kernel_lost, &verify->kernel_incomplete);
		rc = read_stream(verify, &trace->kernel[i], VERIFY_NO_STREAM);
	}
	return rc;
}

void verify_free(struct verify *verify)
{
	free(verify->logged.call);
	free(verify->kernel.call);
	free(verify->others.call);
	free(verify->blocks.call);
	free(verify->forks);
	verify_free_proc(verify);
}

void verify_found(struct verify *verify, enum verify_finding what, const struct verify_call *call)
{
	uint64_t place = verify->found[what]++;

	if (place < VERIFY_EXAMPLES)
		verify->example[what][place] = *call;
}
