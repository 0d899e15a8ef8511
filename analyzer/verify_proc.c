/* SPDX-License-Identifier: MIT
 *
 * What `record` saw in /proc of each process, out of session.json, for traces without the kernel's
 * side. Called by verify.c; verify_ranges.c holds the log's memory against it.
 */
#include "verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXEC_NS UINT64_C(10000000)

static uint64_t number(const json_t *object, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(object, name));

	return value > 0 ? (uint64_t)value : 0;
}

static int read_ranges(const json_t *array, struct ranges *ranges)
{
	size_t count = json_array_size(array);
	uint64_t changed;
	int rc = 0;

	for (size_t i = 0; !rc && i < count; i++) {
		const json_t *pair = json_array_get(array, i);
		json_int_t start = json_integer_value(json_array_get(pair, 0));
		json_int_t end = json_integer_value(json_array_get(pair, 1));

		if (start >= 0 && start < end)
			rc = ranges_add(ranges, (uint64_t)start, (uint64_t)end, &changed);
	}
	return rc;
}

static void read_resident(struct verify_proc *proc, const json_t *resident)
{
	uint64_t own = number(resident, "own_bytes");
	uint64_t anonymous = number(resident, "anonymous_bytes") + number(resident, "swap_bytes");

	if (!json_is_object(resident))
		return;
	proc->present += number(resident, "present_bytes");
	proc->anonymous += anonymous;
	if (json_is_true(json_object_get(resident, "quiet")) && own > anonymous)
		proc->resident_wrong++;
}

/* An image that exec replaces keeps its process number, and what was seen just then may have been
 * the next one's. */
static bool is_another_image(struct verify *verify, uint32_t stream, const struct verify_look *look)
{
	const struct trace *trace = verify->trace;
	const struct hl_trace_header *header = &trace->streams[stream].info.header;

	for (uint32_t i = stream + 1; i < trace->stream_count; i++)
		if (trace->streams[i].info.header.pid == header->pid)
			return look->to_ns + EXEC_NS > verify_stream_start(verify, i);
	return false;
}

static const json_t *find_proc(const struct trace *trace, uint32_t serial)
{
	const json_t *streams = json_object_get(trace->session, "streams");
	size_t count = json_array_size(streams);
	/* They are in the order of their serials, from 1. */
	size_t place = serial < count ? serial : count;

	while (place-- > 0) {
		const json_t *stream = json_array_get(streams, place);
		uint64_t there = number(stream, "serial");

		if (there == serial)
			return json_object_get(stream, "proc");
		if (there < serial)
			return NULL;
	}
	return NULL;
}

static int read_look(struct verify *verify, uint32_t stream)
{
	struct verify_look *look = &verify->looks[stream];
	const json_t *proc =
		find_proc(verify->trace, verify->trace->streams[stream].info.header.serial);

	if (!json_is_object(proc))
		return 0;
	look->from_ns = number(proc, "from_ns");
	look->to_ns = number(proc, "to_ns");
	look->heap_end = number(proc, "heap_end");
	if (!look->from_ns || look->to_ns < look->from_ns || is_another_image(verify, stream, look))
		return 0;
	look->there = true;
	verify->proc.looked++;
	read_resident(&verify->proc, json_object_get(proc, "resident"));
	return read_ranges(json_object_get(proc, "ranges"), &look->mapped);
}

/* The break as the log has it when the process is looked at. */
static void follow_break(struct verify *verify)
{
	for (size_t i = 0; i < verify->logged.count; i++) {
		const struct verify_call *call = &verify->logged.call[i];
		struct verify_look *look = &verify->looks[call->stream];

		if (call->kind != HL_KIND_brk || !look->there)
			continue;
		if (call->end_ns + VERIFY_CLOCK_NS < look->from_ns) {
			if (!look->has_break || call->start_ns >= look->break_ns) {
				look->break_ns = call->start_ns;
				look->heap_break = (uint64_t)call->result;
			}
			look->has_break = true;
		} else if (call->start_ns <= look->to_ns + VERIFY_CLOCK_NS) {
			look->moving = true;
		}
	}
}

static void check_breaks(struct verify *verify)
{
	struct verify_proc *proc = &verify->proc;

	for (uint32_t i = 0; i < verify->trace->stream_count; i++) {
		const struct verify_look *look = &verify->looks[i];
		uint64_t wanted = (look->heap_break + 4095) & ~UINT64_C(4095);

		if (!look->there || !look->has_break || look->moving)
			continue;
		proc->breaks++;
		/* A heap that has not grown yet is no mapping. */
		if (look->heap_end == wanted || !look->heap_end)
			continue;
		if (!proc->breaks_wrong++) {
			proc->wrong_stream = i;
			proc->wrong_break = look->heap_end;
		}
	}
}

/* What came before is in the log only as the heap that it made, mappings joined. */
static bool began_late(const struct trace *trace)
{
	for (size_t i = 0; i < trace->stream_count; i++)
		if (trace->streams[i].begin_tick)
			return true;
	return false;
}

int verify_read_proc(struct verify *verify)
{
	int rc = 0;

	if (began_late(verify->trace))
		return 0;

	verify->looks = calloc(verify->trace->stream_count + 1, sizeof(*verify->looks));
	if (!verify->looks)
		return -ENOMEM;
	for (uint32_t i = 0; !rc && i < verify->trace->stream_count; i++)
		rc = read_look(verify, i);
	if (!rc) {
		follow_break(verify);
		check_breaks(verify);
	}
	return rc;
}

void verify_free_proc(struct verify *verify)
{
	for (size_t i = 0; verify->looks && i < verify->trace->stream_count; i++) {
		ranges_free(&verify->looks[i].mapped);
		ranges_free(&verify->looks[i].recorder);
		ranges_free(&verify->looks[i].certain);
	}
	free(verify->looks);
}
