/* SPDX-License-Identifier: MIT
 *
 * `heapledger verify DIR`: the kernel's account of a recording against its log, and a verdict.
 *
 *   VERIFIED    every logged system call is in the kernel's account, and nothing else touched the
 *               heap's memory                                                            exit 0
 *   INCOMPLETE  the two differ (exit 1), or events are lost on one side, so that what differs
 *               may be what was lost (exit 4)
 *   UNVERIFIED  there is nothing to compare                                              exit 4
 */
#include "verify.h"

#include "heapledger/session.h"
#include "names.h"
#include "import.h"
#include "tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define COMMAND "verify"

static const char *const finding_text[VERIFY_FINDINGS] = {
	[VERIFY_MISSING] = "logged, but the kernel has not seen it",
	[VERIFY_ORDER] = "in another order than the kernel saw",
	[VERIFY_FOREIGN_BREAK] = "the break was moved by a call that is not in the log",
	[VERIFY_INTRUSION] = "a call that is not in the log reached into the heap's memory",
	[VERIFY_UNOWNED] = "logged for memory that no logged call had obtained",
	[VERIFY_UNMAPPED] = "blocks in mappings that no logged call had obtained",
};

/* What `record` wrote about the probe: the reason why there is no kernel's side. */
static const char *absence(const struct trace *trace)
{
	const json_t *kernel = json_object_get(trace->session, "kernel");
	const char *why = json_string_value(json_object_get(kernel, "why"));
	const char *state = json_string_value(json_object_get(kernel, "state"));

	if (state && !strcmp(state, "recorded"))
		return "the kernel's stream was recorded, and is not there";
	return why ? why : "the reason was not recorded";
}

static uint64_t lost(const struct verify *verify)
{
	return verify->kernel_lost + verify->log_lost + verify->kernel_incomplete +
	       verify->log_incomplete;
}

/* Findings that no loss can explain: a call that the kernel's side lacks may be lost there, and one
 * that the log lacks may be lost here. */
static uint64_t certain_findings(const struct verify *verify)
{
	const uint64_t *found = verify->found;
	uint64_t certain = found[VERIFY_ORDER];

	if (!verify->kernel_lost && !verify->kernel_incomplete)
		certain += found[VERIFY_MISSING];
	if (!verify->log_lost && !verify->log_incomplete)
		certain += found[VERIFY_FOREIGN_BREAK] + found[VERIFY_INTRUSION] +
			   found[VERIFY_UNOWNED] + found[VERIFY_UNMAPPED];
	return certain;
}

static uint64_t all_findings(const struct verify *verify)
{
	uint64_t sum = 0;

	for (int i = 0; i < VERIFY_FINDINGS; i++)
		sum += verify->found[i];
	return sum;
}

static int print_verdict(const struct verify *verify)
{
	uint64_t matched = verify->logged.count - verify->found[VERIFY_MISSING];

	if (all_findings(verify)) {
		printf("INCOMPLETE: %" PRIu64 " of %zu logged calls match the kernel's; %" PRIu64
		       " findings\n",
			matched, verify->logged.count, all_findings(verify));
		return certain_findings(verify) ? TOOL_FINDING : TOOL_NO_EVIDENCE;
	}
	if (lost(verify)) {
		printf("INCOMPLETE: all %" PRIu64
		       " logged system calls match, but events are lost\n",
			matched);
		return TOOL_NO_EVIDENCE;
	}
	printf("VERIFIED: the kernel saw all %" PRIu64 " logged system calls, one by one\n",
		matched);
	return TOOL_OK;
}

static void print_table(const struct verify *verify)
{
	printf("\n%-10s %12s %12s %12s %12s %12s\n", "call", "logged", "matched", "missing",
		"foreign", "kernel saw");
	for (unsigned i = 0; i < VERIFY_SYSCALLS; i++) {
		const struct verify_count *line = &verify->count[i];

		if (line->logged || line->seen)
			printf("%-10s %12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12" PRIu64
			       " %12" PRIu64 "\n",
				name_kind(VERIFY_FIRST_SYSCALL + i), line->logged, line->matched,
				line->missing, line->foreign, line->seen);
	}
	puts("\nForeign calls are not the heap's: ld.so, thread stacks, the program itself.");
}

static void print_if(uint64_t count, const char *text)
{
	if (count)
		printf("%8" PRIu64 "  %s\n", count, text);
}

static void print_log_loss(uint64_t events, uint64_t streams)
{
	print_if(events, "events lost by the log");
	print_if(streams, "streams not there, not closed whole, or without their parent's");
}

/* What is missing is said even when nothing can be compared. */
static int print_unverified(const struct trace *trace, const char *why)
{
	uint64_t events = 0, streams = trace->missing_count;

	for (uint32_t i = 0; i < trace->stream_count; i++) {
		const struct hl_trace_header *header = &trace->streams[i].info.header;

		events += header->lost;
		streams += (header->flags & HL_TRACE_INCOMPLETE) != 0;
	}
	printf("UNVERIFIED: %s\n", why);
	print_log_loss(events, streams);
	return TOOL_NO_EVIDENCE;
}

/* Time, process/thread, call. */
static void print_example(const struct verify *verify, const struct verify_call *call)
{
	const struct trace *trace = verify->trace;
	uint64_t ns = call->start_ns > trace->origin_ns ? call->start_ns - trace->origin_ns : 0;

	printf("  %" PRIu64 ".%06" PRIu64 " s %" PRIu32 "/%" PRIu32 " ", ns / 1000000000,
		ns % 1000000000 / 1000, call->pid, call->tid);
	if (call->kind == HL_KIND_brk)
		printf("brk(0x%" PRIx64 ")", call->argument);
	else if (!name_is_syscall(call->kind))
		printf("%s(%" PRIu64 ")", name_kind(call->kind), call->length);
	else
		printf("%s(0x%" PRIx64 ", %" PRIu64 ", %" PRIu64 ")", name_kind(call->kind),
			call->addr, call->length, call->argument);
	if (call->result < 0 && call->result >= -4095)
		printf(" = %" PRId64 "\n", call->result);
	else
		printf(" = 0x%" PRIx64 "\n", (uint64_t)call->result);
}

static void print_findings(const struct verify *verify)
{
	for (int i = 0; i < VERIFY_FINDINGS; i++) {
		print_if(verify->found[i], finding_text[i]);
		for (uint64_t j = 0; j < verify->found[i] && j < VERIFY_EXAMPLES; j++)
			print_example(verify, &verify->example[i][j]);
	}
	print_if(verify->kernel_lost, "events lost by the kernel probe");
	print_if(verify->kernel_incomplete, "kernel streams that were not closed whole");
	print_log_loss(verify->log_lost, verify->log_incomplete);
	print_if(verify->unfinished,
		"calls during which the thread was ended, too late to be logged");
	print_if(verify->unlogged, "calls by program images that logged none of their own");
}

static int judge(struct verify *verify)
{
	int code;

	verify_match(verify);
	if (verify_ranges(verify))
		return tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory");
	code = print_verdict(verify);
	print_table(verify);
	print_findings(verify);
	printf("Clocks: the kernel's times lie inside the log's, or at most %" PRIu64 ".%03" PRIu64
	       " us outside.\n",
		verify->skew_ns / 1000, verify->skew_ns % 1000);
	return code;
}

/* The log of an observed process has no system call that could be compared. */
static bool is_observed(const struct trace *trace)
{
	for (size_t i = 0; i < trace->stream_count; i++)
		if (trace->streams[i].info.header.mode == HL_MODE_OBSERVE)
			return true;
	return false;
}

static int verify_trace(struct trace *trace)
{
	struct verify verify = {.trace = trace};
	int code;

	if (!trace->kernel_count)
		return print_unverified(trace, absence(trace));
	if (is_observed(trace))
		return print_unverified(trace,
			"the program's own allocator was observed (record --observe): its system "
			"calls are known from the kernel alone");
	if (verify_read(&verify))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace->error);
	else if (!verify.logged.count)
		code = print_unverified(trace, "the log holds no system call of the heap");
	else
		code = judge(&verify);
	verify_free(&verify);
	return code;
}

int cmd_verify(int argc, char **argv)
{
	struct trace trace;
	int code;

	if (argc != 2 || argv[1][0] == '-')
		return tool_fail(TOOL_USAGE, COMMAND, "one trace directory is needed");
	code = import_directory(argv[1], COMMAND, NULL);
	if (code)
		return code;
	if (trace_open(&trace, argv[1]))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace.error);
	else
		code = verify_trace(&trace);
	trace_close(&trace);
	return code;
}
