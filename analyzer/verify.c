/* SPDX-License-Identifier: MIT
 *
 * `heapledger verify DIR`: the kernel's account of a recording against its log, and a verdict.
 *
 *   VERIFIED    every logged system call is in the kernel's account, nothing else touched the heap's
 *               memory, and each block that is freed had been allocated                  exit 0
 *   INCOMPLETE  the two differ (exit 1), or events are lost on one side, so that what differs
 *               may be what was lost (exit 4)
 *   UNVERIFIED  there is nothing to compare                                              exit 4
 *
 * Without the kernel's account what `record` saw in /proc stands in for it, and the verdict says
 * so.
 */
#include "verify.h"
#include "escape.h"

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
	[VERIFY_UNKNOWN] = "frees of blocks that no logged call had allocated",
	[VERIFY_TWICE] = "blocks allocated anew that no logged call had freed",
};

/* What `record` wrote about the probe: the reason why there is no kernel's side. */
static const char *absence(const struct trace *trace)
{
	const json_t *kernel = json_object_get(trace->session, "kernel");
	const char *why = json_string_value(json_object_get(kernel, "why"));
	const char *state = json_string_value(json_object_get(kernel, "state"));
	static char text[512];

	if (state && !strcmp(state, "recorded"))
		return "the kernel's stream was recorded, and is not there";
	if (!why)
		return "the reason was not recorded";
	escape_copy(text, sizeof(text), why, strlen(why));
	return text;
}

static uint64_t lost(const struct verify *verify)
{
	return verify->kernel_lost + verify->log_lost + verify->kernel_incomplete +
	       verify->log_incomplete + !verify->account.known;
}

/* Findings that no loss can explain: a call that the kernel's side lacks may be lost there, one
 * that the log lacks may be lost here, and where events are missing a call may have been paired
 * with another one that is alike. */
static uint64_t certain_findings(const struct verify *verify)
{
	const uint64_t *found = verify->found;
	bool kernel_whole = !verify->kernel_lost && !verify->kernel_incomplete;
	bool log_whole = !verify->log_lost && !verify->log_incomplete;
	uint64_t certain = verify->account.more + verify->account.bad_sequences;

	if (kernel_whole)
		certain += found[VERIFY_MISSING] + found[VERIFY_ORDER] + verify->account.fewer +
			   verify->wrong_forks + verify->wrong_ends;
	if (log_whole)
		certain += found[VERIFY_UNOWNED] + found[VERIFY_UNMAPPED] +
			   found[VERIFY_UNKNOWN] + found[VERIFY_TWICE];
	if (kernel_whole && log_whole)
		certain += found[VERIFY_FOREIGN_BREAK] + found[VERIFY_INTRUSION];
	return certain;
}

static uint64_t all_findings(const struct verify *verify)
{
	const struct verify_account *account = &verify->account;
	uint64_t sum = account->fewer + account->more + account->bad_sequences +
		       verify->wrong_forks + verify->wrong_ends;

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
	printf("\n%-10s %9s %9s %9s %9s %9s %9s %9s\n", "call", "logged", "matched", "missing",
		"foreign", "events", "dropped", "ended");
	for (unsigned i = 0; i < VERIFY_SYSCALLS; i++) {
		const struct verify_count *line = &verify->count[i];
		const struct verify_account *account = &verify->account;

		if (!line->logged && !line->seen && !account->ended[i])
			continue;
		printf("%-10s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9" PRIu64,
			name_kind(VERIFY_FIRST_SYSCALL + i), line->logged, line->matched,
			line->missing, line->foreign, line->seen);
		if (account->known)
			printf(" %9" PRIu64 " %9" PRIu64, account->dropped[i], account->ended[i]);
		putchar('\n');
	}
	puts("\nForeign calls are not the heap's: ld.so, thread stacks, the program itself.");
}

static uint64_t sum_of(const uint64_t kinds[VERIFY_KINDS])
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < VERIFY_KINDS; i++)
		sum += kinds[i];
	return sum;
}

#define KIND(table, name) ((table)[HL_KIND_##name - VERIFY_FIRST_SYSCALL])

/* Of the processes that have ended; of classic tracepoints those in user mode are known. */
static void print_page_faults(const struct verify *verify)
{
	const struct verify_calls *others = &verify->others;
	uint64_t sum = 0;
	bool user = false;

	for (size_t i = 0; i < others->count; i++) {
		const struct verify_call *call = &others->call[i];
		if (call->kind != HL_KIND_process_exit)
			continue;
		user = user || call->length == UINT64_MAX;
		sum += call->length == UINT64_MAX ? (uint64_t)call->result : call->length;
	}
	printf(", %" PRIu64 " page faults%s\n", sum, user ? " in user mode" : "");
}

static bool has_unknown_end(const struct verify *verify)
{
	const struct verify_calls *others = &verify->others;

	for (size_t i = 0; i < others->count; i++)
		if (others->call[i].kind == HL_KIND_process_exit &&
			others->call[i].argument == UINT64_MAX)
			return true;
	return false;
}

/* matched + foreign are all calls among the events, so this ties the log to the kernel's count of
 * every call. */
static void print_account(const struct verify *verify)
{
	const struct verify_account *account = &verify->account;

	if (!account->known) {
		puts("The kernel's count of all events is not in session.json.");
		return;
	}
	printf("%zu events + %" PRIu64 " dropped = %" PRIu64 " that the kernel counted%s\n",
		verify->kernel.count + verify->others.count, sum_of(account->dropped),
		sum_of(account->ended), account->fewer || account->more ? ": WRONG" : "");
	printf("%" PRIu64 " forks, %" PRIu64 " execs, %" PRIu64 " exits",
		KIND(account->ended, process_fork), KIND(account->ended, process_exec),
		KIND(account->ended, process_exit));
	print_page_faults(verify);
	if (has_unknown_end(verify))
		puts("How processes ended is unknown: the probe used classic tracepoints.");
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
	uint64_t events = 0, streams = trace_absent(trace);

	for (uint32_t i = 0; i < trace->stream_count; i++) {
		const struct hl_trace_header *header = &trace->streams[i].info.header;

		events += header->lost;
		streams += (header->flags & HL_TRACE_INCOMPLETE) != 0;
	}
	printf("UNVERIFIED: %s\n", why);
	print_log_loss(events, streams);
	return TOOL_NO_EVIDENCE;
}

static bool frees(unsigned kind)
{
	return name_shape(kind) == NAME_SHAPE_FREE || kind == HL_KIND_realloc_begin;
}

/* Time, process/thread, call. */
static void print_example(const struct verify *verify, const struct verify_call *call)
{
	const struct trace *trace = verify->trace;
	uint64_t ns = call->start_ns > trace->origin_ns ? call->start_ns - trace->origin_ns : 0;

	printf("  %" PRIu64 ".%06" PRIu64 " s %" PRIu32 "/%" PRIu32 " ", ns / 1000000000,
		ns % 1000000000 / 1000, call->pid, call->tid);
	if (frees(call->kind)) {
		printf("%s(0x%" PRIx64 ")\n",
			call->kind == HL_KIND_realloc_begin ? "realloc" : name_kind(call->kind),
			call->addr);
		return;
	}
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
	print_if(verify->account.fewer,
		"events that the kernel counted and neither sent nor dropped");
	print_if(verify->account.more, "events more than the kernel counted");
	print_if(verify->account.bad_sequences, "events with a number that no event can have");
	print_if(verify->wrong_forks, "processes that the kernel has not seen being forked");
	print_if(verify->wrong_ends, "processes that the kernel saw end in another way");
	print_if(verify->kernel_lost, "events lost by the kernel probe");
	print_if(verify->kernel_incomplete, "kernel streams that were not closed whole");
	print_log_loss(verify->log_lost, verify->log_incomplete);
	print_if(verify->unfinished,
		"calls during which the thread was ended, too late to be logged");
	print_if(verify->unlogged, "calls by program images that logged none of their own");
}

/* ---- by /proc ------------------------------------------------------------------------------ */

static uint64_t proc_findings(const struct verify *verify)
{
	const struct verify_proc *proc = &verify->proc;

	return proc->unmapped + proc->breaks_wrong + proc->resident_wrong +
	       verify->found[VERIFY_UNOWNED] + verify->found[VERIFY_UNMAPPED] +
	       verify->found[VERIFY_UNKNOWN] + verify->found[VERIFY_TWICE];
}

static int print_proc_verdict(const struct verify *verify)
{
	uint64_t findings = proc_findings(verify);
	bool log_whole = !verify->log_lost && !verify->log_incomplete;
	size_t all = verify->trace->stream_count;

	if (findings) {
		printf("INCOMPLETE by /proc, not by the kernel's trace: %" PRIu64 " findings\n",
			findings);
		return log_whole ? TOOL_FINDING : TOOL_NO_EVIDENCE;
	}
	if (!log_whole || verify->proc.looked < all) {
		printf("INCOMPLETE by /proc, not by the kernel's trace: %" PRIu32
		       " of %zu processes seen\n",
			verify->proc.looked, all);
		return TOOL_NO_EVIDENCE;
	}
	printf("VERIFIED by /proc, not by the kernel's trace: process%s as logged\n",
		all == 1 ? "" : "es");
	return TOOL_OK;
}

static void print_proc_findings(const struct verify *verify)
{
	const struct verify_proc *proc = &verify->proc;
	const struct trace_stream *streams = verify->trace->streams;

	print_if(proc->unmapped, "ranges that the log holds and that are not in maps");
	if (proc->unmapped)
		printf("  %" PRIu32 " 0x%" PRIx64 "-0x%" PRIx64 "\n",
			streams[proc->unmapped_stream].info.header.pid, proc->unmapped_range.start,
			proc->unmapped_range.end);
	print_if(proc->breaks_wrong, "breaks that are not where the log left them");
	if (proc->breaks_wrong)
		printf("  %" PRIu32 " [heap] ends at 0x%" PRIx64 ", by the log at 0x%" PRIx64 "\n",
			streams[proc->wrong_stream].info.header.pid, proc->wrong_break,
			verify->looks[proc->wrong_stream].heap_break);
	print_if(proc->resident_wrong, "processes with more in pagemap than in smaps_rollup");
}

/* How long before the end of its process the last look was, at most. */
static uint64_t longest_unseen(struct verify *verify)
{
	uint64_t longest = 0;

	for (uint32_t i = 0; i < verify->trace->stream_count; i++) {
		const struct verify_look *look = &verify->looks[i];
		uint64_t end = look->there ? verify_stream_end(verify, i) : 0;

		if (end > look->to_ns && end - look->to_ns > longest)
			longest = end - look->to_ns;
	}
	return longest;
}

static int judge_by_proc(struct verify *verify)
{
	const struct verify_proc *proc = &verify->proc;
	uint64_t unseen = longest_unseen(verify);
	int code;

	if (verify_ranges(verify))
		return tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory");
	code = print_proc_verdict(verify);
	printf("No kernel's trace:\n  %s\n", absence(verify->trace));
	printf("\nmaps            %" PRIu64 " KiB that the log held are where it says\n",
		proc->held >> 10);
	printf("[heap]          %" PRIu64 " breaks are compared with the log's\n", proc->breaks);
	printf("pagemap         %" PRIu64 " KiB of anonymous memory resident or swapped\n",
		proc->present >> 10);
	printf("smaps_rollup    %" PRIu64 " KiB, private copies of files included\n",
		proc->anonymous >> 10);
	printf("\nThe last look was up to %" PRIu64 ".%03" PRIu64
	       " s before the end. Single calls are not in /proc.\n",
		unseen / 1000000000, unseen % 1000000000 / 1000000);
	print_proc_findings(verify);
	print_findings(verify);
	return code;
}

static int judge(struct verify *verify)
{
	int code;

	verify_match(verify);
	if (verify_ranges(verify) || verify_check_account(verify) || verify_check_processes(verify))
		return tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory");
	code = print_verdict(verify);
	print_table(verify);
	print_account(verify);
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
		if (trace->streams[i].info.header.mode != HL_MODE_ALLOCATOR)
			return true;
	return false;
}

static const char *observed_text(const struct trace *trace)
{
	if (trace->stream_count && trace->streams[0].info.header.mode >= HL_MODE_ATTACHED)
		return "the process was attached to (heapledger attach): its system calls are "
		       "known from the kernel alone";
	return "the program's own allocator was observed (record --observe): its system calls are "
	       "known from the kernel alone";
}

static int verify_trace(struct trace *trace)
{
	struct verify verify = {.trace = trace};
	int code;

	if (is_observed(trace))
		return print_unverified(
			trace, trace->kernel_count ? observed_text(trace) : absence(trace));
	if (verify_read(&verify) || verify_blocks(&verify))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "%s", trace->error);
	else if (!trace->kernel_count && verify_read_proc(&verify))
		code = tool_fail(TOOL_UNREADABLE, COMMAND, "not enough memory");
	else if (!trace->kernel_count && !verify.proc.looked)
		code = print_unverified(trace, absence(trace));
	else if (!verify.logged.count)
		code = print_unverified(trace, "the log holds no system call of the heap");
	else
		code = trace->kernel_count ? judge(&verify) : judge_by_proc(&verify);
	verify_free(&verify);
	return code;
}

int cmd_verify(int argc, char **argv)
{
	struct trace trace;
	int code;

	if (argc > 1 && argv[1][0] == '-')
		return tool_fail(TOOL_USAGE, COMMAND,
			"unknown option %s (see heapledger verify --help)", argv[1]);
	if (argc != 2)
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
