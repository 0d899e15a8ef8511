/* SPDX-License-Identifier: MIT
 *
 * `heapledger dump`: one event a line, in time order within a stream, the streams one after the
 * other. The words of a line and their order are documented in docs/trace-format.md ("The text
 * form") and kept stable, for grep and diff.
 */
#include "import.h"
#include "names.h"
#include "suggest.h"
#include "symbols.h"
#include "writer.h"
#include "trace.h"
#include "tool.h"

#include "heapledger/session.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "dump"

/* A thread id in a block is Linux's, and above it the depth of the signal handler that interrupted
 * the allocator, if one did. */
#define TID_BITS 24
#define TID_MASK ((UINT32_C(1) << TID_BITS) - 1)

struct dump {
	struct writer out;
	const char *stream; /* NULL = all */
	bool kinds[HL_KIND_LIMIT];
	bool some_kinds;
	bool no_time;
	bool kernel; /* the stream is the kernel probe's */
	bool stacks; /* frames are wanted */
	struct clock *clock;
	const struct trace *trace;
	const struct trace_stream *from;
	struct symbols *symbols; /* if stacks */
};

static void put_number(struct writer *out, const char *label, uint64_t value)
{
	writer_text(out, label);
	writer_u64(out, value);
}

static void put_address(struct writer *out, const char *label, uint64_t value)
{
	writer_text(out, label);
	writer_hex(out, value);
}

static void put_named(struct writer *out, const char *label, const char *name, uint64_t number)
{
	writer_text(out, label);
	if (name)
		writer_text(out, name);
	else
		writer_u64(out, number);
}

static void put_block(struct dump *dump, const struct hl_call_record *call)
{
	struct writer *out = &dump->out;

	put_address(out, " = ", hl_addr_of(call->kind_addr));
	if (dump->from->info.header.mode == HL_MODE_IMPORTED)
		writer_text(out, " chunk=unknown");
	else
		put_number(out, " chunk=", call->chunk & HL_ADDRESS_MASK);
	if (call->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED)
		writer_text(out, " mmapped");
}

static void put_caller(struct dump *dump, uint64_t caller)
{
	const struct stacks *stacks = &dump->trace->stacks;
	uint32_t number = hl_caller_stack(caller);
	const struct stack *stack = number ? stacks_find(stacks, number) : NULL;

	if (number)
		caller = stack && stack->count ? stacks_frames(stacks, stack)[0] : 0;
	if (caller)
		put_address(&dump->out, " caller=", caller);
	if (number)
		put_number(&dump->out, " stack=", number);
}

static void put_symbol(struct writer *out, const struct symbol *symbol)
{
	if (symbol->function) {
		writer_char(out, ' ');
		writer_printable(out, symbol->function);
	}
	if (symbol->file) {
		writer_text(out, " at ");
		writer_printable(out, symbol->file);
	}
	if (symbol->line)
		put_number(out, ":", symbol->line);
	if (symbol->inlined)
		writer_text(out, " (inlined)");
}

/* A line for the frame, and one for each function that was inlined there. */
static void put_place(struct dump *dump, uint64_t frame, const struct symbol_place *place)
{
	struct writer *out = &dump->out;

	for (unsigned i = 0; i == 0 || i < place->count; i++) {
		put_address(out, "    ", frame);
		if (place->count)
			put_symbol(out, &place->symbols[i]);
		if (place->module) {
			writer_text(out, " in ");
			writer_printable(out, place->module->path);
			put_address(out, "+", place->offset);
			if (place->why) {
				writer_text(out, ", which ");
				writer_text(out, place->why);
			}
		}
		writer_char(out, '\n');
	}
}

static int put_frame(struct dump *dump, uint64_t tick, uint64_t frame)
{
	struct symbol_place place;
	int rc = symbols_find(dump->symbols, dump->from, tick, frame, &place);

	if (!rc)
		put_place(dump, frame, &place);
	return rc;
}

/* Where no stacks were recorded the caller is a frame like one, if it is known what it is in. */
static int put_lone_caller(struct dump *dump, uint64_t tick, uint64_t caller)
{
	struct symbol_place place;
	int rc = symbols_find(dump->symbols, dump->from, tick, caller, &place);

	if (!rc && place.module)
		put_place(dump, caller, &place);
	return rc;
}

static int put_stack(struct dump *dump, uint64_t tick, uint64_t caller)
{
	const struct stacks *stacks = &dump->trace->stacks;
	uint32_t number = hl_caller_stack(caller);
	const struct stack *stack = number ? stacks_find(stacks, number) : NULL;
	int rc = 0;

	if (!stack)
		return stacks->depth ? 0 : put_lone_caller(dump, tick, caller);
	for (unsigned i = 0; !rc && i < stack->count; i++)
		rc = put_frame(dump, tick, stacks_frames(stacks, stack)[i]);
	if (stack->end == HL_STACK_CUT)
		writer_text(&dump->out, "    ...\n");
	if (stack->end == HL_STACK_BROKEN)
		writer_text(&dump->out, "    ? no unwind tables for this one\n");
	return rc;
}

static void put_call(struct dump *dump, unsigned kind, const struct hl_call_record *call)
{
	struct writer *out = &dump->out;

	switch (name_shape(kind)) {
	case NAME_SHAPE_ALIGNED:
		put_number(out, " alignment=", call->alignment);
		/* fall through */
	case NAME_SHAPE_ALLOC:
	case NAME_SHAPE_REALLOC:
		put_number(out, " size=", call->size);
		put_block(dump, call);
		break;
	case NAME_SHAPE_FREE:
		put_address(out, " ", hl_addr_of(call->kind_addr));
		if (kind == HL_KIND_free_sized || kind == HL_KIND_free_aligned_sized)
			put_number(out, " size=", call->size);
		break;
	default:
		if (kind == HL_KIND_mallopt) {
			writer_text(out, " parameter=");
			writer_i64(out, (int32_t)call->size);
			writer_text(out, " value=");
			writer_i64(out, (int32_t)(call->size >> 32));
		} else {
			put_number(out, " pad=", call->size);
		}
		put_number(out, " = ", call->chunk);
	}
	put_caller(dump, call->caller);
}

static void put_syscall_arguments(
	struct writer *out, unsigned kind, const struct hl_syscall_record *record)
{
	uint64_t addr = hl_addr_of(record->kind_addr);
	if (kind == HL_KIND_brk) {
		put_address(out, " from=", addr);
		put_address(out, " to=", record->argument);
	} else if (kind == HL_KIND_process_madvise) {
		put_number(out, " pidfd=", addr);
		put_address(out, " ranges=", record->length);
		put_number(out, " count=", record->argument);
		put_number(out, " advice=", record->cause_size);
	} else if (kind != HL_KIND_other) {
		put_address(out, " addr=", addr);
		put_number(out, " length=", record->length);
	}
	if (kind == HL_KIND_mmap || kind == HL_KIND_mprotect)
		put_number(out, " prot=", record->argument);
	if (kind == HL_KIND_mremap)
		put_number(out, " new_length=", record->argument);
	if (kind == HL_KIND_madvise)
		put_number(out, " advice=", record->argument);
	writer_text(out, " = ");
	if (record->result < 0)
		writer_i64(out, record->result);
	else if (kind == HL_KIND_brk || kind == HL_KIND_mmap || kind == HL_KIND_mremap)
		writer_hex(out, (uint64_t)record->result);
	else
		writer_i64(out, record->result);
}

/* In a kernel stream the words of the cause hold what else the kernel knows. */
static void put_kernel_words(
	struct writer *out, unsigned kind, const struct hl_syscall_record *record)
{
	unsigned call = record->cause & 0xff;

	if (kind == HL_KIND_mmap || kind == HL_KIND_mremap)
		put_number(out, " flags=", record->cause_size);
	if (call)
		put_named(out, " call=", name_kind(call), call);
	put_number(out, " pid=", record->cause >> 32);
	put_number(out, " image=", record->trim_threshold >> 32);
	put_number(out, " cpu=", record->trim_threshold & UINT32_MAX);
	put_number(out, " sequence=", record->mmap_threshold);
}

static void put_faults(struct writer *out, uint64_t faults)
{
	if (faults == UINT64_MAX)
		writer_text(out, " faults=unknown");
	else
		put_number(out, " faults=", faults);
}

/* Forks, execs, exits and memory, by the kernel. */
/* All that a terminal could take for more than a letter is escaped, so a name is one word. */
static void put_name(struct writer *out, const char *name, unsigned limit)
{
	static const char digits[] = "0123456789abcdef";

	writer_text(out, " name=\"");
	for (unsigned i = 0; i < limit && name[i]; i++) {
		unsigned char c = (unsigned char)name[i];
		bool plain = c >= ' ' && c < 0x7f;
		if (!plain) {
			writer_text(out, "\\x");
			writer_char(out, digits[c >> 4]);
			writer_char(out, digits[c & 15]);
			continue;
		}
		if (c == '"' || c == '\\')
			writer_char(out, '\\');
		writer_char(out, (char)c);
	}
	writer_char(out, '"');
}

static void put_kernel_mark(
	struct writer *out, unsigned kind, const struct hl_syscall_record *record)
{
	uint64_t name[2] = {record->argument, record->length};

	switch (kind) {
	case HL_KIND_process_fork:
		put_number(out, " child=", record->argument);
		break;
	case HL_KIND_process_exec:
		put_name(out, (const char *)name, sizeof(name));
		break;
	case HL_KIND_process_exit:
		if (record->argument == UINT64_MAX)
			writer_text(out, " wait_status=unknown");
		else
			put_number(out, " wait_status=", record->argument);
		if (record->length == UINT64_MAX && record->result)
			put_number(out, " user_faults=", (uint64_t)record->result);
		else
			put_faults(out, record->length);
		break;
	case HL_KIND_memory:
		put_faults(out, record->length);
		put_number(out, " rss_anon=", record->argument);
		put_number(out, " rss_file=", (uint64_t)record->result);
		put_number(out, " rss_shmem=", record->cause_size);
		put_number(out, " swap=", record->top_pad);
		break;
	case HL_KIND_fault:
		put_address(out, " ", hl_addr_of(record->kind_addr));
		put_number(out, " length=", record->length);
		writer_text(out, record->argument & HL_FAULT_WRITE ? " write" : " read");
		writer_text(out, record->argument & HL_FAULT_USER ? " user" : " kernel");
		if (record->argument & HL_FAULT_LARGE)
			writer_text(out, " large");
		break;
	default:
		break;
	}
	put_kernel_words(out, kind, record);
}

static void put_cause(struct dump *dump, const struct hl_syscall_record *record)
{
	struct writer *out = &dump->out;
	unsigned call = record->cause & 0xff, reason = record->cause >> 8 & 0xff;
	unsigned region = record->cause >> 16 & 0xff;

	put_named(out, " reason=", name_reason(reason), reason);
	put_named(out, " region=", name_region(region), region);
	put_number(out, " arena=", record->cause >> 32);
	put_named(out, " call=", call ? name_kind(call) : "none", call);
	put_number(out, " call_size=", record->cause_size);
	put_number(out, " mmap_threshold=", record->mmap_threshold);
	if (record->trim_threshold == UINT64_MAX)
		writer_text(out, " trim_threshold=never");
	else
		put_number(out, " trim_threshold=", record->trim_threshold);
	put_number(out, " top_pad=", record->top_pad);
	put_caller(dump, record->caller);
}

static void put_syscall(struct dump *dump, unsigned kind, const struct hl_syscall_record *record)
{
	struct writer *out = &dump->out;

	put_syscall_arguments(out, kind, record);
	if (dump->kernel)
		put_kernel_words(out, kind, record);
	else
		put_cause(dump, record);
	if (!dump->no_time)
		put_number(out, " ns=", clock_span(dump->clock, record->duration));
}

static void put_sample(struct writer *out, const struct hl_sample_record *sample)
{
	put_number(out, " rss_anon=", sample->rss_anon);
	put_number(out, " rss_file=", sample->rss_file);
	put_number(out, " rss_shmem=", sample->rss_shmem);
	put_number(out, " swap=", sample->swap);
	put_number(out, " rss_peak=", sample->rss_peak);
	put_number(out, " recorder=", sample->recorder);
	put_number(out, " minor_faults=", sample->minor_faults);
	put_number(out, " major_faults=", sample->major_faults);
	if (!sample->anonymous)
		return;
	put_number(out, " anonymous=", sample->anonymous);
	put_number(out, " anon_huge=", sample->anon_huge);
}

static void put_resident_begin(struct dump *dump, const struct hl_mark_record *record)
{
	struct writer *out = &dump->out;
	uint64_t word = hl_addr_of(record->kind_addr);
	unsigned reason = (unsigned)(word & HL_RESIDENT_REASON_MASK);

	put_named(out, " reason=", name_resident(reason), reason);
	put_number(out, " runs=", record->chunk);
	if (word & HL_RESIDENT_CUT)
		writer_text(out, " cut");
	if (!dump->no_time)
		put_number(out, " ns=", clock_span(dump->clock, record->size));
}

static void put_resident_run(struct writer *out, const struct hl_mark_record *record)
{
	put_address(out, " ", hl_addr_of(record->kind_addr));
	put_number(out, " length=", record->size);
	if (record->chunk & HL_RESIDENT_SWAPPED)
		writer_text(out, " swapped");
	if (record->chunk & HL_RESIDENT_HUGE)
		writer_text(out, " huge");
	if (record->chunk & HL_RESIDENT_ZERO)
		writer_text(out, " zero");
	if (record->chunk & HL_RESIDENT_OTHER)
		writer_text(out, " other");
}

static void put_kept(struct writer *out, const struct hl_mark_record *mark)
{
	uint64_t addr = hl_addr_of(mark->kind_addr);
	if (!addr) {
		put_number(out, " blocks=", mark->size);
		writer_text(out, mark->chunk & HL_KEPT_ALL ? " all" : " some");
		writer_text(out, mark->chunk & HL_KEPT_MOMENT ? " now" : "");
		put_number(out, " caches=", hl_kept_caches(mark->chunk));
		if (hl_kept_unread(mark->chunk))
			put_number(out, " unread=", hl_kept_unread(mark->chunk));
		return;
	}
	put_address(out, " ", addr);
	put_number(out, " chunk=", mark->size);
	writer_char(out, ' ');
	writer_text(out, name_kept(hl_kept_what(mark->chunk)));
	writer_text(out, mark->chunk & HL_KEPT_PART ? " part" : "");
	if (hl_kept_tid(mark->chunk))
		put_number(out, " thread=", hl_kept_tid(mark->chunk));
}

static void put_mark(struct dump *dump, unsigned kind, const union decode_record *record)
{
	struct writer *out = &dump->out;

	switch (kind) {
	case HL_KIND_realloc_begin:
		put_address(out, " ", hl_addr_of(record->call.kind_addr));
		put_caller(dump, record->call.caller);
		break;
	case HL_KIND_fork:
		put_number(out, " id=", record->mark.size);
		break;
	case HL_KIND_lost:
		put_number(out, " events=", record->mark.size);
		break;
	case HL_KIND_kept:
		put_kept(out, &record->mark);
		break;
	case HL_KIND_clock:
		put_number(out, " monotonic_ns=", record->mark.size);
		break;
	case HL_KIND_sample:
		put_sample(out, &record->sample);
		break;
	case HL_KIND_phase:
		put_name(out, record->phase.name, HL_PHASE_NAME_BYTES);
		break;
	case HL_KIND_resident_begin:
		put_resident_begin(dump, &record->mark);
		break;
	case HL_KIND_resident_run:
		put_resident_run(out, &record->mark);
		break;
	case HL_KIND_process_fork:
	case HL_KIND_process_exec:
	case HL_KIND_process_exit:
	case HL_KIND_memory:
	case HL_KIND_fault:
		put_kernel_mark(out, kind, &record->syscall);
		break;
	default:
		break;
	}
}

/* What the stack of an event is called by in its record; 0 if it has none. */
static uint64_t caller_of(unsigned kind, const union decode_record *record)
{
	if (name_is_syscall(kind))
		return record->syscall.caller;
	if (name_shape(kind) != NAME_SHAPE_NONE || kind == HL_KIND_realloc_begin)
		return record->call.caller;
	return 0;
}

/* Seconds, or the number of the event where there is no time. */
static void put_time(struct dump *dump, uint64_t tick)
{
	struct writer *out = &dump->out;
	uint64_t before = clock_ns_before(dump->clock, tick);
	uint64_t ns = before ? before : clock_ns(dump->clock, tick);

	if (!trace_has_times(dump->from)) {
		put_number(out, " ", tick);
		return;
	}
	put_number(out, before ? " -" : " ", ns / 1000000000);
	writer_char(out, '.');
	writer_fraction(out, ns % 1000000000, 9);
}

static int put_event(struct dump *dump, const char *name, const struct stream_event *event)
{
	struct writer *out = &dump->out;
	const union decode_record *record = &event->record;
	unsigned kind = hl_kind_of(record->word[1]);

	writer_text(out, name);
	if (!dump->no_time)
		put_time(dump, record->word[0]);
	put_number(out, " ", event->tid & TID_MASK);
	if (event->tid & ~TID_MASK)
		put_number(out, "/", event->tid >> TID_BITS);
	put_named(out, " ", name_kind(kind), kind);
	if (name_is_syscall(kind))
		put_syscall(dump, kind, &record->syscall);
	else if (name_shape(kind) != NAME_SHAPE_NONE)
		put_call(dump, kind, &record->call);
	else
		put_mark(dump, kind, record);
	writer_char(out, '\n');
	if (!dump->stacks || dump->kernel)
		return 0;
	return put_stack(dump, record->word[0], caller_of(kind, record));
}

static int dump_stream(struct dump *dump, struct trace *trace, struct trace_stream *stream)
{
	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	int rc = trace_stream_open(trace, stream, &reader, &fd);

	dump->clock = &stream->clock;
	dump->from = stream;
	dump->kernel = stream->info.header.source == HL_TRACE_KERNEL;
	if (!rc) {
		while (!dump->out.error && (rc = stream_reader_next(reader, &event)) > 0) {
			unsigned kind = hl_kind_of(event->record.word[1]);
			if (dump->some_kinds && !dump->kinds[kind])
				continue;
			rc = put_event(dump, stream->name, event);
			if (rc)
				break;
		}
	}
	return trace_stream_close(trace, reader, fd, rc);
}

static bool wanted(const struct dump *dump, const struct trace_stream *stream)
{
	size_t length = strlen(stream->name);
	return !dump->stream ||
	       (!strncmp(dump->stream, stream->name, length) &&
		       (!dump->stream[length] || !strcmp(dump->stream + length, HL_TRACE_SUFFIX)));
}

static int dump_list(struct dump *dump, struct trace *trace, struct trace_stream *list,
	size_t count, size_t *found)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < count; i++) {
		if (!wanted(dump, &list[i]))
			continue;
		rc = dump_stream(dump, trace, &list[i]);
		++*found;
	}
	return rc;
}

static int dump_trace(struct dump *dump, struct trace *trace)
{
	char text[640];
	const char *note;
	size_t found = 0;

	for (unsigned i = 0; i < 10 && (note = trace_note(trace, i, text, sizeof(text))); i++)
		tool_fail(TOOL_OK, COMMAND, "note: %s", note);
	dump->trace = trace;
	int rc = trace_read_stacks(trace);
	if (!rc && dump->stacks && !(dump->symbols = symbols_open(trace)))
		rc = -ENOMEM;
	if (rc == -ENOMEM)
		snprintf(trace->error, sizeof(trace->error), "not enough memory");
	if (!rc)
		rc = dump_list(dump, trace, trace->streams, trace->stream_count, &found);
	if (!rc)
		rc = dump_list(dump, trace, trace->kernel, trace->kernel_count, &found);
	symbols_close(dump->symbols);
	int out_rc = writer_close(&dump->out, 1);
	if (rc)
		return tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace->error);
	if (dump->stream && !found)
		return tool_fail(TOOL_USAGE, COMMAND, "%s: no stream %s in this trace", trace->path,
			dump->stream);
	if (out_rc == -EPIPE)
		return TOOL_OK; /* `| head` has seen enough */
	if (out_rc)
		return tool_fail(TOOL_USAGE, COMMAND, "cannot write: %s", strerror(-out_rc));
	return TOOL_OK;
}

static int no_such_kind(const char *name)
{
	const char *meant = suggest_of(name, name_kind, HL_KIND_LIMIT);
	if (meant)
		return tool_fail(TOOL_USAGE, COMMAND,
			"--kind: \"%s\" is not a kind of event; did you mean %s?", name, meant);
	return tool_fail(TOOL_USAGE, COMMAND,
		"--kind: \"%s\" is not a kind of event (see heapledger help dump)", name);
}

static int add_kinds(struct dump *dump, char *list)
{
	char *rest = list;
	for (char *name; (name = strsep(&rest, ","));) {
		unsigned kind = 1;
		while (kind < HL_KIND_LIMIT && (!name_kind(kind) || strcmp(name_kind(kind), name)))
			kind++;
		if (kind == HL_KIND_LIMIT)
			return no_such_kind(name);
		dump->kinds[kind] = true;
		dump->some_kinds = true;
	}
	return 0;
}

int cmd_dump(int argc, char **argv)
{
	static const struct option options[] = {
		{"stream", required_argument, NULL, 's'},
		{"kind", required_argument, NULL, 'k'},
		{"no-time", no_argument, NULL, 't'},
		{"stacks", no_argument, NULL, 'S'},
		{NULL, 0, NULL, 0},
	};
	struct dump *dump = calloc(1, sizeof(*dump));
	int option, code = 0;

	if (!dump)
		return tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory");
	opterr = 0;
	while (!code && (option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (option == 's')
			dump->stream = optarg;
		else if (option == 'k')
			code = add_kinds(dump, optarg);
		else if (option == 't')
			dump->no_time = true;
		else if (option == 'S')
			dump->stacks = true;
		else
			code = tool_bad_option(COMMAND, option, argv, options);
	}
	if (!code)
		code = tool_one_trace(COMMAND, argc, argv);
	if (!code)
		code = import_directory(argv[optind], COMMAND, NULL);
	if (!code) {
		struct trace trace;
		signal(SIGPIPE, SIG_IGN);
		writer_open(&dump->out, "-");
		if (trace_open(&trace, argv[optind]))
			code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace.error);
		else
			code = dump_trace(dump, &trace);
		trace_close(&trace);
	}
	free(dump);
	return code;
}
